"""Reads GGUF files and converts their contents to the formats of Hugging Face's checkpoints. Does not use vLLM."""
