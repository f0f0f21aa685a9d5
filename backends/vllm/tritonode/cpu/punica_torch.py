"""LoRA over segments in plain torch, which is used if ``libtritonode_punica`` can't be loaded.

Rows are grouped by adapter and each group is multiplied once, so no weights are copied for each token and rows without
an adapter (slot -1) are never touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


class Segment(NamedTuple):
    """The rows of one adapter in a step."""

    slot: int
    rows: slice | torch.Tensor
    """A slice if the rows are consecutive (prompts), else their indices (int64)."""


def segments(slots: np.ndarray) -> list[Segment]:
    """Group rows by slot; rows of slot -1 are left out.

    Args:
        slots: int64, slot of each row.
    """
    found = []
    for slot in np.unique(slots[slots >= 0]).tolist():
        rows = np.flatnonzero(slots == slot)
        first, last = int(rows[0]), int(rows[-1])
        together = last - first + 1 == rows.size
        found.append(Segment(slot, slice(first, last + 1) if together else torch.from_numpy(rows)))
    return found


def _weights(stacked: torch.Tensor, slot: int) -> torch.Tensor:
    """Return a slot's matrix of a ``[slots, 1, m, n]`` or ``[slots, m, n]`` stack."""
    one = stacked[slot]
    return one[0] if one.dim() == 3 else one


def shrink(
    y: tuple[torch.Tensor, ...] | torch.Tensor,
    x: torch.Tensor,
    lora_a_stacked: Sequence[torch.Tensor],
    scale: float,
    parts: Sequence[Segment],
) -> None:
    """``y[i] = scale * x . A[i]^T`` on the rows of the segments."""
    for segment in parts:
        rows = x[segment.rows]
        for i, stacked in enumerate(lora_a_stacked):
            a = _weights(stacked, segment.slot)
            out = y[i].view(-1, y[i].shape[-1])
            out[segment.rows, : a.size(0)] = (rows.to(a.dtype) @ a.T).to(out.dtype) * scale


def expand(
    y: torch.Tensor,
    x: tuple[torch.Tensor, ...] | torch.Tensor,
    lora_b_stacked: Sequence[torch.Tensor],
    output_slices: Sequence[int],
    offset: int,
    add: bool,
    parts: Sequence[Segment],
) -> None:
    """``y[:, slice i] += x[i] . B[i]^T`` on the rows of the segments; without `add`, they are overwritten."""
    for i, (stacked, size) in enumerate(zip(lora_b_stacked, output_slices, strict=True)):
        columns = min(size, stacked.size(-2))
        for segment in parts:
            b = _weights(stacked, segment.slot)[:columns]
            delta = (x[i].view(-1, x[i].shape[-1])[segment.rows, : b.size(1)].to(b.dtype) @ b.T).to(y.dtype)
            out = y[:, offset : offset + columns]
            out[segment.rows] = out[segment.rows] + delta if add else delta
        offset += size


def linear(
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a_stacked: Sequence[torch.Tensor],
    lora_b_stacked: Sequence[torch.Tensor],
    scale: float,
    output_slices: Sequence[int],
    parts: Sequence[Segment],
) -> None:
    """``y[:, slice i] += scale * (x . A[i]^T) . B[i]^T`` on the rows of the segments."""
    for segment in parts:
        rows = x[segment.rows]
        whole = isinstance(segment.rows, slice) and y.dtype == lora_b_stacked[0].dtype
        offset = 0
        for a_stacked, b_stacked, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            a, b = _weights(a_stacked, segment.slot), _weights(b_stacked, segment.slot)[:size]
            shrunk = rows.to(a.dtype) @ a.T
            out = y[:, offset : offset + b.size(0)]
            if whole:
                out[segment.rows].addmm_(shrunk, b.T, alpha=scale)
            else:
                out[segment.rows] = out[segment.rows] + (shrunk @ b.T).to(y.dtype) * scale
            offset += size
