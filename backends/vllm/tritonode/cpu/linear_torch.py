"""Products with packed weights in torch alone: right, and slower and larger than kernels that read packed weights.

Weights are kept as the float32 numbers that they stand for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class PackedWeight:
    """A weight [rows, columns]."""

    whole: torch.Tensor

    def dequantise(self) -> torch.Tensor:
        """float32 [rows, columns]."""
        return self.whole


def pack(
    bits: Literal[4, 8], quants: torch.Tensor, scales: torch.Tensor, minimums: torch.Tensor | None, group: int
) -> PackedWeight:
    """Pack ``scales * quants + minimums``.

    Args:
        bits: of each quant.
        quants: [rows, columns]; uint8 from 0 to 15 (4 bits), or int8 (8 bits).
        scales: float32 [rows, columns / group].
        minimums: as scales, or None.
        group: columns that share a scale.
    """
    rows, columns = quants.shape
    whole = quants.view(rows, -1, group) * scales[:, :, None]
    if minimums is not None:
        whole += minimums[:, :, None]
    return PackedWeight(whole.view(rows, columns))


def pack_dense(weight: torch.Tensor) -> PackedWeight:
    return PackedWeight(weight.float())


def linear(x: torch.Tensor, weight: PackedWeight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x . weight^T + bias`` in x's type; computed in float32."""
    own = None if bias is None else bias.float()
    return torch.nn.functional.linear(x.float(), weight.whole, own).to(x.dtype)
