"""Decodes the weights of GPTQ, AWQ and compressed-tensors checkpoints into integers, scales and minimums.

The layouts are those that AutoGPTQ and GPTQModel, AutoAWQ, and compressed-tensors ("pack-quantized") write. Nothing is
rounded: ``scales * quants + minimums`` is ``scales * (number - zero)`` to the bit of float32.
"""

from __future__ import annotations

import torch

from tritonode.errors import SettingsError

from .packed_layers import Weight

# AWQ's order of the eight numbers in an int32.
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)

Tensors = dict[str, torch.Tensor]


def _unpacked(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the numbers in each int32 of a matrix, lowest bits first, as uint8 [rows, columns * 32 / bits]."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    numbers = (packed.to(torch.int32)[..., None] >> shifts) & ((1 << bits) - 1)
    return numbers.to(torch.uint8).reshape(packed.shape[0], -1)


def _weight(
    numbers: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | int, bits: int, groups: torch.Tensor | None
) -> Weight:
    """A weight of unsigned numbers.

    Args:
        numbers: uint8 [outputs, inputs].
        scales: [outputs, groups].
        zeros: as scales, or one for all.
        bits: 4 or 8.
        groups: the group of each input, where neighbours may be of different ones.
    """
    outputs, inputs = numbers.shape
    if scales.shape[0] != outputs or not scales.shape[1] or inputs % scales.shape[1]:
        raise SettingsError(f"scales of shape {list(scales.shape)} do not fit a weight of {[outputs, inputs]}")
    group = inputs // scales.shape[1]
    order = None
    if groups is not None:
        in_order = torch.arange(inputs) // group
        if not torch.equal(groups.long(), in_order):
            order = groups.long().argsort(stable=True)
            if not torch.equal(groups.long()[order], in_order):
                raise SettingsError(f"the groups of the inputs (g_idx) are not {scales.shape[1]} of {group}")
            numbers = numbers[:, order]
    scales = scales.float()
    middle = 0 if bits == 4 else 128
    shifted = torch.as_tensor(zeros, dtype=torch.float32) - middle
    minimums = None if not bool(shifted.any()) else (-scales * shifted).contiguous()
    quants = numbers if bits == 4 else (numbers.view(torch.int8) ^ -128)
    return Weight(bits, group, quants.contiguous(), scales.contiguous(), minimums, order)


def gptq(tensors: Tensors, *, bits: int, zeros_less_one: bool) -> Weight:
    """GPTQ: `qweight` packs inputs, `qzeros` outputs; `g_idx` is the group of each input (`desc_act`)."""
    numbers = _unpacked(tensors["qweight"].T, bits)
    zeros = _unpacked(tensors["qzeros"], bits).T.float() + (1 if zeros_less_one else 0)
    return _weight(numbers, tensors["scales"].T, zeros, bits, tensors.get("g_idx"))


def awq(tensors: Tensors) -> Weight:
    """AWQ ("gemm"): `qweight` and `qzeros` pack outputs, in AWQ's own order."""

    def unpacked(packed: torch.Tensor) -> torch.Tensor:
        rows = _unpacked(packed, 4).reshape(packed.shape[0], -1, 8)
        return rows[:, :, list(_AWQ_PLACES)].reshape(packed.shape[0], -1).T

    return _weight(unpacked(tensors["qweight"]), tensors["scales"].T, unpacked(tensors["qzeros"]).float(), 4, None)


def compressed(tensors: Tensors, *, bits: int, symmetric: bool) -> Weight:
    """compressed-tensors' "pack-quantized": `weight_packed` packs inputs, `weight_zero_point` outputs."""
    outputs, inputs = (int(size) for size in tensors["weight_shape"])
    numbers = _unpacked(tensors["weight_packed"], bits)[:, :inputs]
    zeros: torch.Tensor | int = 1 << (bits - 1)
    if not symmetric:
        zeros = _unpacked(tensors["weight_zero_point"].T, bits).T[:outputs].float()
    return _weight(numbers, tensors["weight_scale"], zeros, bits, tensors.get("weight_g_idx"))
