"""What vLLM imports while it builds an engine on the CPU, for a child that has time before it has a model."""

from __future__ import annotations

import functools

from . import versions

# Found as the difference of `sys.modules` before and after an engine was built. These import the rest.
_ON_CPU = (
    "vllm.lora.worker_manager",
    "vllm.model_executor.kernels.linear",
    "vllm.model_executor.layers.pooler",
    "vllm.model_executor.layers.rotary_embedding",
    "vllm.model_executor.models.llama",
    "vllm.renderers.hf",
    "vllm.utils.cpu_triton_utils",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.v1.core.sched.scheduler",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
)


def import_early() -> None:
    """Import them. One that another version of vLLM does not have is left out."""
    versions.import_present(_ON_CPU)
    _replace_kernels_early()


@functools.cache
def _replace_kernels_early() -> None:
    """Let vLLM put its C++ functions in the place of kernels for GPUs now.

    Each worker does it when it starts, and looks through every module for that. Once is enough: a module that is
    imported later finds the functions where the kernels were.
    """
    from .platform import current_platform

    platform = type(current_platform)
    replace = getattr(platform, "register_triton_kernel_overrides", None)
    if replace is not None:
        replace()
        setattr(platform, "register_triton_kernel_overrides", classmethod(lambda cls: None))  # noqa: B010
