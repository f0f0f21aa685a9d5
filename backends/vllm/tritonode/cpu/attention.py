"""Attention whose results do not depend on a request's neighbours in the batch.

vLLM's CPU kernels split a sequence between threads by what else is in the step, so the same request gets other bits
alone than in a batch. The kernels of ``native/punica/attention.inl`` add everything up in one order, however a prompt
is cut into steps and whatever else is in a step. They keep the KV cache in a layout of their own, in the memory that
vLLM gives a layer.

What they do not know (attention sinks, ALiBi, an fp8 cache, encoders, MLA) stays with vLLM's kernels.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import torch

VARIABLE = "TRITONODE_CPU_ATTENTION"
PATH = "tritonode.cpu.attention_backend.AttentionBackend"
_KERNELS = ("tritonode", "vllm")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def wanted() -> bool:
    """Whether the environment leaves attention to our kernels.

    Raises:
        ValueError: ``TRITONODE_CPU_ATTENTION`` names kernels that do not exist.
    """
    name = os.environ.get(VARIABLE) or _KERNELS[0]
    if name not in _KERNELS:
        raise ValueError(f"{VARIABLE}={name!r}: wanted one of {', '.join(_KERNELS)}")
    return name == _KERNELS[0]


def extend_platform(platform_class: Any) -> None:
    """Let vLLM's CPU platform choose :mod:`attention_backend` where its kernels know what a layer asks for.

    Args:
        platform_class: vLLM's CPU platform.
    """
    theirs = platform_class.get_attn_backend_cls

    @functools.wraps(theirs)
    def get_attn_backend_cls(cls: type, selected_backend: Any, attn_selector_config: Any, **options: Any) -> str:
        path: str = theirs(selected_backend, attn_selector_config=attn_selector_config, **options)
        known = path.endswith(".CPUAttentionBackend") and knows(attn_selector_config)
        return PATH if known and wanted() else path

    platform_class.get_attn_backend_cls = classmethod(get_attn_backend_cls)


def knows(config: Any) -> bool:
    """Tell whether the kernels compute what a layer asks for.

    Args:
        config: vLLM's ``AttentionSelectorConfig``.
    """
    return (
        config.dtype in _DTYPES
        and config.head_size % 16 == 0
        and config.kv_cache_dtype in (None, "auto")
        and config.attn_type == "decoder"
        and not config.has_sink
        and not config.use_mm_prefix
        and (config.block_size is None or config.block_size % 16 == 0)
    )
