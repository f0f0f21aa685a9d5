"""vLLM's attention on a CPU, which ours derives from. Imports much of vLLM: only what builds an engine asks for it."""

from __future__ import annotations

from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadata,
)

__all__ = ["CPUAttentionBackend", "CPUAttentionBackendImpl", "CPUAttentionMetadata"]
