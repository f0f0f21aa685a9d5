"""The contract of Triton's vLLM backend: its tensors, requests, responses and sampling parameters."""
