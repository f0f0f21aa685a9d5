"""Attention whose results do not depend on a request's neighbours in the batch.

vLLM's CPU kernels split a sequence between threads by what else is in the step, so the same request gets other bits
alone than in a batch. The kernels of ``native/punica/attention.inl`` add everything up in one order, however a prompt
is cut into steps and whatever else is in a step. They keep the KV cache in a layout of their own, in the memory that
vLLM gives a layer.

What they do not know (attention sinks, ALiBi, an fp8 cache, encoders, MLA) stays with vLLM's kernels, as the log says.
"""

from __future__ import annotations

import functools
import logging
import os
from typing import Any

import torch

logger = logging.getLogger("vllm.tritonode.attention")

VARIABLE = "TRITONODE_CPU_ATTENTION"
PATH = "tritonode.cpu.attention_backend.AttentionBackend"
_KERNELS = ("tritonode", "vllm")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def wanted() -> bool:
    """Whether the environment selects this package's attention kernels.

    Raises:
        ValueError: ``TRITONODE_CPU_ATTENTION`` names kernels that do not exist.
    """
    name = os.environ.get(VARIABLE) or _KERNELS[0]
    if name not in _KERNELS:
        raise ValueError(f"{VARIABLE}={name!r}: wanted one of {', '.join(_KERNELS)}")
    return name == _KERNELS[0]


def extend_platform(platform_class: Any) -> None:
    """Make vLLM's CPU platform choose :mod:`attention_backend` for layers that its kernels support.

    Args:
        platform_class: vLLM's CPU platform.
    """
    theirs = platform_class.get_attn_backend_cls

    @functools.wraps(theirs)
    def get_attn_backend_cls(cls: type, selected_backend: Any, attn_selector_config: Any, **options: Any) -> str:
        path: str = theirs(selected_backend, attn_selector_config=attn_selector_config, **options)
        if not path.endswith(".CPUAttentionBackend") or not wanted():
            return path
        reason = unknown(attn_selector_config)
        if reason is None:
            return PATH
        _say_once(reason)
        return path

    platform_class.get_attn_backend_cls = classmethod(get_attn_backend_cls)


@functools.cache
def _say_once(reason: str) -> None:
    logger.warning("Attention runs on vLLM's kernels, whose last bits depend on the batch; ours lack %s.", reason)


def unknown(config: Any) -> str | None:
    """Return a feature that the layer needs and the kernels do not support, or None if there is none.

    Args:
        config: vLLM's ``AttentionSelectorConfig``.
    """
    reasons = {
        f"the type {config.dtype}": config.dtype not in _DTYPES,
        f"heads of {config.head_size} elements": config.head_size % 16 != 0,
        f"kv_cache_dtype={config.kv_cache_dtype}": config.kv_cache_dtype not in (None, "auto"),
        f"attention of the type {config.attn_type}": config.attn_type != "decoder",
        "attention sinks": config.has_sink,
        "prefixes that see both ways": config.use_mm_prefix,
        f"blocks of {config.block_size} tokens": config.block_size is not None and config.block_size % 16 != 0,
    }
    return next((reason for reason, is_so in reasons.items() if is_so), None)
