"""vLLM's platform: what it computes on. Imports little of vLLM, so that this can come before the rest."""

from __future__ import annotations

from vllm.platforms import current_platform

__all__ = ["compile_eagerly", "current_platform", "device_memory", "is_cpu"]


def is_cpu() -> bool:
    """Whether the installed vLLM computes on the CPU."""
    return bool(current_platform.is_cpu())


def device_memory() -> int:
    """Bytes of the first GPU's memory in all. Asks the driver, without a CUDA context."""
    return int(current_platform.get_device_total_memory())


def compile_eagerly() -> None:
    """Keep vLLM from compiling helpers of its sampler at their first use. Call it before other modules are imported.

    On a CPU vLLM hands a handful of one-line functions to torch's inductor when they are first called: the first
    request with logprobs took 10 s here, and would fail on a machine without a C++ compiler. The decorators read this
    attribute when their modules are imported.
    """
    if current_platform.is_cpu():
        current_platform.simple_compile_backend = "eager"
