"""All layers of a decoder as one native call: ``native/decoder`` (``decoder.h`` is its reference) from Python.

:mod:`decoder_plan` makes a description from vLLM's model.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import torch

from . import linear, punica_library
from .punica_library import Matrix

ABI = 1
"""``TRITONODE_DECODER_ABI`` of the header that this module is written for."""


class _Part(Structure):
    """``tritonode_decoder_part``."""

    _fields_ = (("packed", c_void_p), ("bytes", c_int64), ("order", c_void_p))


class _Linear(Structure):
    """``tritonode_decoder_linear``."""

    _fields_ = (
        ("parts", POINTER(_Part)),
        ("bias", c_void_p),
        ("lora", c_void_p),
        ("lora_layer", c_int64),
        ("part_count", c_int32),
        ("bias_dtype", c_int32),
    )


class _Norm(Structure):
    """``tritonode_decoder_norm``."""

    _fields_ = (("weight", c_void_p), ("epsilon", c_float))


class _Layer(Structure):
    """``tritonode_decoder_layer``."""

    _fields_ = (
        ("input_norm", _Norm),
        ("query_norm", _Norm),
        ("key_norm", _Norm),
        ("mlp_norm", _Norm),
        ("qkv", _Linear),
        ("attention_output", _Linear),
        ("gate_up", _Linear),
        ("down", _Linear),
        ("cos_sin", Matrix),
        ("position_count", c_int64),
        ("cache", c_void_p),
        ("block_stride", c_int64),
        ("head_stride", c_int64),
        ("blocks", c_int64),
        ("block_size", c_int32),
        ("window", c_int32),
        ("scale", c_float),
        ("softcap", c_float),
    )


class _Description(Structure):
    """``tritonode_decoder_description``."""

    _fields_ = (
        ("layers", POINTER(_Layer)),
        ("norm", _Norm),
        ("hidden", c_int64),
        ("intermediate", c_int64),
        ("layer_count", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_size", c_int32),
        ("dtype", c_int32),
    )


class _Step(Structure):
    """``tritonode_decoder_step``."""

    _fields_ = (
        ("input", Matrix),
        ("output", Matrix),
        ("positions", c_void_p),
        ("slots", c_void_p),
        ("query_starts", c_void_p),
        ("sequence_lengths", c_void_p),
        ("block_table", c_void_p),
        ("rows", c_int64),
        ("slot_count", c_int64),
        ("block_table_stride", c_int64),
        ("requests", c_int32),
        ("causal", c_int32),
    )


_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "abi_version": (c_int32, ()),
    "new": (c_void_p, (POINTER(_Description), POINTER(c_char_p))),
    "free": (None, (c_void_p,)),
    "run": (c_int32, (c_void_p, POINTER(_Step))),
}


@functools.cache
def _library() -> ctypes.CDLL:
    """The library with the functions of ``decoder.h``. Raises PunicaLibraryError where it lacks them."""
    linear.load()
    return punica_library.bind("decoder", _SIGNATURES, ABI)


@dataclass(frozen=True)
class Norm:
    """An RMS norm."""

    weight: torch.Tensor
    epsilon: float

    def described(self, dtype: torch.dtype, columns: int) -> _Norm:
        if self.weight.dtype != dtype or tuple(self.weight.shape) != (columns,) or not self.weight.is_contiguous():
            raise ValueError(f"a norm's weight is {self.weight.dtype} of shape {tuple(self.weight.shape)}")
        return _Norm(self.weight.data_ptr(), self.epsilon)


@dataclass(frozen=True)
class Linear:
    """A linear layer: packed weights whose outputs are concatenated."""

    parts: Sequence[tuple[torch.Tensor, torch.Tensor | None]]
    """The packed buffers, each with the input (int64) of each column if the columns are in another order."""
    bias: torch.Tensor | None = None
    lora: tuple[int, int] | None = None
    """An engine of ``engine.h`` and this layer's handle in it."""

    def described(self) -> _Linear:
        parts = (_Part * len(self.parts))()
        for i, (packed, order) in enumerate(self.parts):
            if order is not None and (order.dtype != torch.int64 or not order.is_contiguous()):
                raise ValueError(f"a weight's order is {order.dtype}: wanted int64")
            parts[i] = _Part(packed.data_ptr(), packed.numel(), None if order is None else order.data_ptr())
        bias = self.bias
        if bias is not None and (bias.dim() != 1 or not bias.is_contiguous()):
            raise ValueError(f"a bias of shape {tuple(bias.shape)}: wanted a vector")
        engine, handle = self.lora or (None, 0)
        dtype = 0 if bias is None else punica_library.dtype_number(bias.dtype)
        return _Linear(parts, None if bias is None else bias.data_ptr(), engine, handle, len(parts), dtype)


@dataclass(frozen=True)
class Layer:
    """One layer; the fields are those of ``tritonode_decoder_layer``."""

    input_norm: Norm
    mlp_norm: Norm
    query_norm: Norm | None
    key_norm: Norm | None
    qkv: Linear
    attention_output: Linear
    gate_up: Linear
    down: Linear
    cos_sin: torch.Tensor
    """``[positions, head_size]``."""
    cache: torch.Tensor
    """``[blocks, kv_heads, block_size, 2 * head_size]``."""
    window: int
    scale: float
    softcap: float


@dataclass(frozen=True)
class Sizes:
    """The sizes that all layers share."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    dtype: torch.dtype


class Decoder:
    """A decoder that is registered with the library. It keeps a reference to everything that it was made of.

    Raises:
        ValueError: sizes or types do not fit together; the message says which.
        PunicaLibraryError: the library lacks these functions.
    """

    def __init__(self, sizes: Sizes, layers: Sequence[Layer], norm: Norm) -> None:
        library = _library()
        self._kept = (layers, norm)
        described = (_Layer * len(layers))(*(_described(sizes, layer) for layer in layers))
        description = _Description(
            described,
            norm.described(sizes.dtype, sizes.hidden),
            sizes.hidden,
            sizes.intermediate,
            len(layers),
            sizes.heads,
            sizes.kv_heads,
            sizes.head_size,
            punica_library.dtype_number(sizes.dtype),
        )
        reason = c_char_p()
        self._handle = library.tritonode_decoder_new(description, reason)
        if not self._handle:
            raise ValueError((reason.value or b"unknown").decode())
        weakref.finalize(self, library.tritonode_decoder_free, self._handle)
        self._run = library.tritonode_decoder_run
        self._sizes, self._dtype, self._step = sizes, punica_library.dtype_number(sizes.dtype), _Step()

    def run(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        starts: torch.Tensor,
        lengths: torch.Tensor,
        blocks: torch.Tensor,
        causal: bool = True,
    ) -> torch.Tensor:
        """The output of the last norm, ``[rows, hidden]``.

        Args:
            x: ``[rows, hidden]``, of the decoder's type.
            positions: int64, ``[rows]``.
            slots: int64, where each row's keys and values go in the cache.
            starts: int32, ``[requests + 1]``.
            lengths: int32, ``[requests]``.
            blocks: int32, ``[requests, blocks of a sequence]``.
            causal: whether a token sees those before it only.

        Raises:
            ValueError: an argument is of another type or shape.
            RuntimeError: the step is invalid, or memory ran out.
        """
        rows, step = x.size(0), self._step
        if (
            x.dtype is not self._sizes.dtype
            or x.dim() != 2
            or x.size(1) != self._sizes.hidden
            or x.stride(1) != 1
            or not _vector(positions, torch.int64, rows)
            or not _vector(slots, torch.int64, 0)
            or not _vector(lengths, torch.int32, 0)
            or not _vector(starts, torch.int32, lengths.size(0) + 1)
            or blocks.dtype is not torch.int32
            or blocks.dim() != 2
            or blocks.size(0) < lengths.size(0)
            or blocks.stride(1) != 1
        ):
            raise ValueError(
                f"x is {x.dtype} {tuple(x.shape)}, positions {positions.dtype} {tuple(positions.shape)}, slots "
                f"{slots.dtype} {tuple(slots.shape)}, starts {starts.dtype} {tuple(starts.shape)}, lengths "
                f"{lengths.dtype} {tuple(lengths.shape)}, blocks {blocks.dtype} {tuple(blocks.shape)}"
            )
        out = torch.empty((rows, x.size(1)), dtype=x.dtype)
        step.input = Matrix(x.data_ptr(), x.stride(0), self._dtype)
        step.output = Matrix(out.data_ptr(), out.stride(0), self._dtype)
        step.positions, step.slots = positions.data_ptr(), slots.data_ptr()
        step.query_starts, step.sequence_lengths = starts.data_ptr(), lengths.data_ptr()
        step.block_table, step.block_table_stride = blocks.data_ptr(), blocks.stride(0)
        step.rows, step.slot_count, step.requests, step.causal = rows, slots.size(0), lengths.size(0), causal
        status = self._run(self._handle, step)
        if status != 0:
            raise RuntimeError(f"tritonode_decoder_run: status {status} for {rows} rows of {lengths.size(0)} requests")
        return out


def _vector(tensor: torch.Tensor, dtype: torch.dtype, least: int) -> bool:
    return tensor.dtype is dtype and tensor.dim() == 1 and tensor.size(0) >= least and tensor.is_contiguous()


def _described(sizes: Sizes, layer: Layer) -> _Layer:
    def norm(one: Norm | None, columns: int) -> _Norm:
        return _Norm(None, 0.0) if one is None else one.described(sizes.dtype, columns)

    cache, cos_sin = layer.cache, layer.cos_sin
    fits = cache.dim() == 4 and cache.dtype == sizes.dtype and cache.stride(3) == 1 and cache.stride(2) == cache.size(3)
    if not fits or (cache.size(1), cache.size(3)) != (sizes.kv_heads, 2 * sizes.head_size):
        raise ValueError(f"the KV cache is {cache.dtype} of shape {tuple(cache.shape)}, strides {cache.stride()}")
    if cos_sin.dim() != 2 or cos_sin.size(1) != sizes.head_size:
        raise ValueError(f"the rotary embedding's table is of shape {tuple(cos_sin.shape)}")
    return _Layer(
        norm(layer.input_norm, sizes.hidden),
        norm(layer.query_norm, sizes.head_size),
        norm(layer.key_norm, sizes.head_size),
        norm(layer.mlp_norm, sizes.hidden),
        layer.qkv.described(),
        layer.attention_output.described(),
        layer.gate_up.described(),
        layer.down.described(),
        punica_library.matrix(cos_sin),
        cos_sin.size(0),
        cache.data_ptr(),
        cache.stride(0),
        cache.stride(1),
        cache.size(0),
        cache.size(2),
        layer.window,
        layer.scale,
        layer.softcap,
    )
