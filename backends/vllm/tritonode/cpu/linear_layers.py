"""Runs vLLM's unquantised layers, including the output layer, with the kernels of :mod:`linear`.

oneDNN, which vLLM uses on a CPU, adds up a row in another order when the number of rows is another, so in bf16 a
request gets other bits in a batch than alone. Ours does not, and reads weights about as fast as memory gives them.
"""

from __future__ import annotations

import functools
import logging
import os
from typing import Any

import torch

from tritonode.vllm.layers import UnquantizedEmbeddingMethod, UnquantizedLinearMethod

from . import linear, punica_library
from .linear import PackedWeight

logger = logging.getLogger("vllm.tritonode.linear")

VARIABLE = "TRITONODE_CPU_LINEAR"
_KERNELS = ("tritonode", "vllm")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def wanted() -> bool:
    """Whether unquantised layers run on our kernels.

    By default they do, but for processors with AMX: its tiles, which oneDNN uses, do prompts several times quicker.

    Raises:
        ValueError: ``TRITONODE_CPU_LINEAR`` names kernels that do not exist.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return not torch.cpu._is_amx_tile_supported()
    if name not in _KERNELS:
        raise ValueError(f"{VARIABLE}={name!r}: wanted one of {', '.join(_KERNELS)}")
    return name == _KERNELS[0]


class PackedLinear:
    """The ``cpu_linear`` of a layer, called with the input, the layer's weight (ignored: packed here) and the bias."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._plain: torch.Tensor | None = weight
        self._packed: PackedWeight | None = None

    def packed(self) -> PackedWeight:
        """Return the weight. It is packed at the first call: an embedding without an output layer never needs it."""
        if self._packed is None:
            assert self._plain is not None
            self._packed = linear.pack_dense(self._plain)
            self._plain = None
        return self._packed

    def __call__(self, x: torch.Tensor, _weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return linear.linear(x, self._packed or self.packed(), bias)


def install() -> None:
    """Make unquantised layers that vLLM builds from now on use this package's kernels, if :func:`wanted` is true."""
    try:
        linear.load()
    except punica_library.PunicaLibraryError as error:
        logger.warning("Linear layers run on vLLM's kernels, which are right but not exact to the bit. %s", error)
        return
    for method, keeps_weight in ((UnquantizedLinearMethod, False), (UnquantizedEmbeddingMethod, True)):
        _replace(method, keeps_weight)


def _replace(method: Any, keeps_weight: bool) -> None:
    theirs = method.process_weights_after_loading

    @functools.wraps(theirs)
    def process_weights_after_loading(self: Any, layer: Any) -> None:
        weight = layer.weight
        if (
            not wanted()
            or weight.device.type != "cpu"
            or weight.dim() != 2
            or weight.numel() == 0
            or weight.dtype not in _DTYPES
            or getattr(layer, "_cpu_skip_gemm_dispatch", False)
        ):
            theirs(self, layer)
            return
        layer.cpu_linear = PackedLinear(weight.detach())
        if not keeps_weight:
            layer.cpu_linear.packed()
            # vLLM frees its weight too if it keeps its own copy. This halves the memory.
            layer.weight = torch.nn.Parameter(torch.empty(0, dtype=weight.dtype), requires_grad=False)

    method.process_weights_after_loading = process_weights_after_loading
