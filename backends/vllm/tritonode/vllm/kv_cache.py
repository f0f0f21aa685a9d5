"""The KV cache of a CPU engine takes memory as it is used, not all of it when the model is loaded.

vLLM allocates it with `torch.zeros`, which writes every byte: that takes a second for each GiB or two, and all of it is
resident from then on. Memory that is new from the kernel holds the same zeros.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from . import versions

# Below this size the C library may return memory that was used before, and has to write it in any case.
_LEAST_BYTES = 64 << 20


class _Torch:
    """The `torch` that vLLM's allocation sees: its `zeros` does not write what the kernel has zeroed."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)

    def zeros(self, *size: Any, **options: Any) -> Any:
        torch = self._torch
        device = torch.device(options.get("device") or "cpu")
        plain = len(size) == 1 and isinstance(size[0], int) and set(options) <= {"dtype", "device"}
        if not plain or options.get("dtype") is not torch.int8 or device.type != "cpu" or size[0] < _LEAST_BYTES:
            return torch.zeros(*size, **options)
        # calloc uses new pages of the kernel. The tensor keeps the array alive, and with it the memory.
        return torch.from_numpy(np.zeros(size[0], dtype=np.int8))


def take_memory_as_it_is_used() -> None:
    """Let vLLM allocate the KV cache of this process that way. For the CPU; again changes nothing."""
    if versions.since(0, 29):
        from vllm.v1.worker import utils

        held: Any = utils
        if not isinstance(held.torch, _Torch):
            held.torch = _Torch(held.torch)
        return
    # In that version the function is in a large module that uses torch for everything else too.
    from vllm.v1.worker import gpu_model_runner

    runner: Any = gpu_model_runner
    allocate = runner.GPUModelRunner._allocate_kv_cache_tensors
    if hasattr(allocate, "__wrapped__"):
        return

    @functools.wraps(allocate)
    def allocate_with_it(self: Any, kv_cache_config: Any) -> Any:
        torch = runner.torch
        runner.torch = _Torch(torch)
        try:
            return allocate(self, kv_cache_config)
        finally:
            runner.torch = torch

    runner.GPUModelRunner._allocate_kv_cache_tensors = allocate_with_it
