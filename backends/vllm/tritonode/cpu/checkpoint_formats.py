"""Decodes the weights of GPTQ, AWQ, compressed-tensors and bitsandbytes checkpoints into integers, scales and minimums.

The layouts are those that AutoGPTQ and GPTQModel, AutoAWQ, compressed-tensors ("pack-quantized" and "int-quantized"),
and bitsandbytes write. Nothing is rounded: ``scales * quants + minimums`` is ``scales * (number - zero)`` to the bit of
float32.
"""

from __future__ import annotations

import json
import math
from typing import Any

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


def int_quantised(tensors: Tensors) -> Weight:
    """compressed-tensors' "int-quantized" with 8 bits: plain int8, with a scale for each output or one for all."""
    quants = tensors["weight"]
    outputs, inputs = quants.shape
    if quants.dtype != torch.int8 or tensors["weight_scale"].numel() not in (1, outputs):
        raise SettingsError(
            f"weights of {quants.dtype} with {tensors['weight_scale'].numel()} scales are not supported; int8 with a "
            f"scale for each of the {outputs} outputs, or one, is"
        )

    def column(values: torch.Tensor) -> torch.Tensor:
        return values.float().reshape(-1, 1).expand(outputs, 1).contiguous()

    scales, zeros = column(tensors["weight_scale"]), tensors.get("weight_zero_point")
    minimums = None if zeros is None or not bool(zeros.any()) else -scales * column(zeros)
    return Weight(8, inputs, quants.contiguous(), scales, minimums)


def bitsandbytes(tensors: Tensors) -> Weight:
    """bitsandbytes' int8 (a scale for each output); NF4 and FP4, which are no multiples of a scale, become dense."""
    if "SCB" in tensors:
        quants, scales = tensors["weight"], tensors["SCB"].float().reshape(-1, 1) / 127
        if quants.dtype != torch.int8 or quants.dim() != 2 or quants.shape[0] != scales.shape[0]:
            raise SettingsError(
                f"a weight of {quants.dtype} {list(quants.shape)} does not fit {len(scales)} scales (SCB)"
            )
        return Weight(8, quants.shape[1], quants.contiguous(), scales)
    state = _state(tensors["quant_state"])
    shape, block = state["shape"], state["blocksize"]
    scales = tensors["absmax"]
    if "nested_absmax" in tensors:
        of_scales = tensors["nested_absmax"].float()
        coded = tensors["nested_quant_map"].float()[scales.long()]
        scales = coded * _spread(of_scales, state["nested_blocksize"], coded.numel()) + state["nested_offset"]
    codes, table = tensors["weight"].reshape(-1), tensors["quant_map"].float()
    count = math.prod(shape)
    if codes.dtype != torch.uint8 or 2 * codes.numel() < count or table.numel() != 16:
        raise SettingsError(f"{codes.numel()} bytes of {codes.dtype} do not fit a 4-bit weight of {shape}")
    numbers = torch.stack((codes >> 4, codes & 15), -1).reshape(-1)[:count]
    values = table[numbers.long()] * _spread(scales.float(), block, count)
    # bitsandbytes itself rounds to the type of the weight that was quantised.
    return Weight(0, 0, values.to(state["dtype"]).reshape(shape))


def _spread(scales: torch.Tensor, block: int, count: int) -> torch.Tensor:
    if scales.numel() != -(-count // block):
        raise SettingsError(f"{scales.numel()} scales do not fit {count} numbers in blocks of {block}")
    return scales.reshape(-1).repeat_interleave(block)[:count]


_STATE_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def _state(packed: torch.Tensor) -> dict[str, Any]:
    """Return what bitsandbytes has written about a 4-bit weight, as JSON in bytes; its sizes are checked."""
    try:
        found = json.loads(bytes(packed.to(torch.uint8).tolist()))
        shape = [int(size) for size in found["shape"]]
        state: dict[str, Any] = {
            "shape": shape,
            "blocksize": int(found["blocksize"]),
            "dtype": _STATE_TYPES[found["dtype"]],
            "nested_blocksize": int(found.get("nested_blocksize", 1)),
            "nested_offset": float(found.get("nested_offset", 0.0)),
        }
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as failure:
        raise SettingsError(f"quant_state is not bitsandbytes' ({failure!r})") from None
    if len(shape) != 2 or min(*shape, state["blocksize"], state["nested_blocksize"]) < 1:
        raise SettingsError(f"quant_state names a weight of {shape} in blocks of {state['blocksize']}")
    return state
