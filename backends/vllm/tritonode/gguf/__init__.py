"""GGUF files: reading them, and what they hold in the words of Hugging Face's checkpoints. Knows no vLLM."""
