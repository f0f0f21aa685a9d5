"""``y = x @ weight.T + bias`` on the CPU for weights that are packed once: bf16, fp16, fp32, or 8 or 4 bits in groups.

The kernels are those of ``native/linear`` (its ``linear.h`` is the reference), in ``libtritonode_punica``. A row of the
result has the same bits whatever the other rows are and however many threads there are.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, Structure, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import torch

from . import punica_library

ABI = 2
"""``TRITONODE_LINEAR_ABI`` of the header that this module is written for."""

_DENSE = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_INT8, _INT4 = 3, 4
_KINDS = ("float32", "float16", "bfloat16", "int8", "int4")


class _Source(Structure):
    """``tritonode_linear_source``."""

    _fields_ = (
        ("data", c_void_p),
        ("scales", c_void_p),
        ("minimums", c_void_p),
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("row_stride", c_int64),
        ("group", c_int64),
        ("kind", c_int32),
        ("activation_bits", c_int32),
    )


class _Shape(Structure):
    """``tritonode_linear_shape``."""

    _fields_ = (
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("group", c_int64),
        ("kind", c_int32),
        ("zero", c_int32),
        ("scale_bits", c_int32),
        ("minimum_bits", c_int32),
        ("activation_bits", c_int32),
    )


_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "abi_version": (c_int32, ()),
    "packed_bytes": (c_int64, (POINTER(_Source),)),
    "pack": (c_int32, (POINTER(_Source), c_void_p, c_int64)),
    "describe": (c_int32, (c_void_p, c_int64, POINTER(_Shape))),
    "unpack": (c_int32, (c_void_p, c_int64, c_int64, c_int64, c_void_p)),
    "rows": (c_int32, (c_void_p, c_int64, c_void_p, c_int64, c_void_p)),
    "register_torch": (c_int32, ()),
}


# TRITONODE_PUNICA_INVALID (native/punica/punica.h).
_INVALID = 1


@functools.cache
def _library() -> ctypes.CDLL:
    """The library, with ``torch.ops.tritonode_linear.linear_`` registered.

    Raises:
        PunicaLibraryError: it does not load, is another version, or torch lacks what the operator needs.
    """
    library = punica_library.bind("linear", _SIGNATURES, ABI)
    punica_library.register_torch_operator()
    fresh = not hasattr(torch.ops.tritonode_linear, "linear_")
    if library.tritonode_linear_register_torch() != 0:
        raise punica_library.PunicaLibraryError(
            f"torch {torch.__version__} refused the operator tritonode_linear::linear_"
        )
    if fresh:
        torch.library.register_fake("tritonode_linear::linear_")(lambda out, x, weight, bias: None)
    return library


def load() -> None:
    """Load the kernels and register their operator. Packing does so too.

    Raises:
        PunicaLibraryError: the message says what was tried.
    """
    _library()


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight in the kernels' own layout, made by :func:`pack` or :func:`pack_dense`.

    The layout is of this version and machine (byte order): it may be kept on this machine, not sent to another.
    """

    data: torch.Tensor
    """uint8, one dimension: a head that says what it holds, weights, scales, minimums."""
    shape: tuple[int, int]
    """Outputs and inputs."""
    kind: str
    """"float32", "float16", "bfloat16", "int8" or "int4"."""
    group: int
    """Inputs that share a scale; 0 for the float kinds."""
    activation_bits: int
    """8 or 16, which inputs are rounded to for quants; 0 for the float kinds."""

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer, including scales and padding."""
        return self.data.numel()

    @classmethod
    def from_data(cls, data: torch.Tensor) -> PackedWeight:
        """The weight that a packed buffer holds (`data` of another instance, possibly by way of a file).

        Raises:
            ValueError: it is not a packed buffer of this version.
        """
        shape = _Shape()
        if (
            data.dtype != torch.uint8
            or data.dim() != 1
            or not data.is_contiguous()
            or _library().tritonode_linear_describe(data.data_ptr(), data.numel(), shape) != 0
        ):
            raise ValueError(
                f"{data.dtype} of shape {tuple(data.shape)} is not a packed weight of this version: pack it again"
            )
        return cls(data, (shape.outputs, shape.inputs), _KINDS[shape.kind], shape.group, shape.activation_bits)

    def dequantise(self, begin: int = 0, end: int | None = None) -> torch.Tensor:
        """Return the values of rows [begin, end) as float32, ``[end - begin, inputs]``."""
        end = self.shape[0] if end is None else end
        if not 0 <= begin <= end <= self.shape[0]:
            raise ValueError(f"rows {begin} to {end} of a weight of {self.shape[0]} rows")
        out = torch.empty(end - begin, self.shape[1], dtype=torch.float32)
        status = _library().tritonode_linear_unpack(self.data.data_ptr(), self.data.numel(), begin, end, out.data_ptr())
        if status != 0:
            raise RuntimeError(f"tritonode_linear_unpack: status {status}")
        return out

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """The values of single rows as float32, ``[ids, inputs]``: an embedding's look-up.

        Raises:
            IndexError: there is no such row.
        """
        wanted = ids.reshape(-1).to(torch.int64).contiguous()
        out = torch.empty(wanted.numel(), self.shape[1], dtype=torch.float32)
        status = _library().tritonode_linear_rows(
            self.data.data_ptr(), self.data.numel(), wanted.data_ptr(), wanted.numel(), out.data_ptr()
        )
        if status == _INVALID:
            low, high = wanted.aminmax()
            raise IndexError(f"rows {int(low)} to {int(high)} of a weight of {self.shape[0]} rows")
        if status != 0:
            raise RuntimeError(f"tritonode_linear_rows: status {status}")
        return out


def pack(
    bits: int,
    quants: torch.Tensor,
    scales: torch.Tensor,
    minimums: torch.Tensor | None,
    group: int,
    activation_bits: int = 8,
) -> PackedWeight:
    """Pack a quantised weight. Element (n, k) is ``scales[n, k // group] * quants[n, k] + minimums[n, k // group]``.

    Nothing is lost: scales and minimums are kept in 16 bits only where all of them fit, and minimums that are one
    whole multiple of the scales as a zero point.

    Args:
        bits: 4 or 8.
        quants: ``[outputs, inputs]``, uint8 of 0 to 15 for 4 bits, int8 for 8.
        scales: float32, ``[outputs, ceil(inputs / group)]``.
        minimums: like `scales`, or None for 0.
        group: a multiple of 16, or `inputs` for one scale a row.
        activation_bits: 8, or 16 for twice the multiplications: what inputs are rounded to.

    Raises:
        ValueError: an argument is of another type or shape; the message says which.
        PunicaLibraryError: the kernels can't be loaded.
    """
    wanted = {4: torch.uint8, 8: torch.int8}.get(bits)
    if wanted is None:
        raise ValueError(f"bits is {bits}: use 4 or 8, or pack_dense for 16 and 32")
    if quants.dtype != wanted or quants.dim() != 2 or quants.numel() == 0:
        raise ValueError(
            f"quants are {quants.dtype} of shape {tuple(quants.shape)}: wanted {wanted}, [outputs, inputs]"
        )
    if activation_bits not in (8, 16):
        raise ValueError(f"activation_bits is {activation_bits}: use 8 or 16")
    outputs, inputs = quants.shape
    group = min(group, inputs)
    if group < 1 or (group != inputs and group % 16 != 0):
        raise ValueError(f"group is {group}: use a multiple of 16, or the number of inputs ({inputs})")
    groups = -(-inputs // group)
    for name, values in (("scales", scales), ("minimums", minimums)):
        if values is not None and (values.dtype != torch.float32 or tuple(values.shape) != (outputs, groups)):
            raise ValueError(
                f"{name} are {values.dtype} of shape {tuple(values.shape)}: wanted float32, ({outputs}, {groups})"
            )
    if bits == 4 and int(quants.max()) > 15:
        raise ValueError(f"quants hold {int(quants.max())}: 4 bits hold 0 to 15")
    return _pack(
        quants,
        scales.contiguous(),
        None if minimums is None else minimums.contiguous(),
        group,
        _INT4 if bits == 4 else _INT8,
        activation_bits,
    )


def pack_dense(weight: torch.Tensor) -> PackedWeight:
    """Pack a float32, float16 or bfloat16 weight of ``[outputs, inputs]``.

    Raises:
        ValueError: it is something else.
        PunicaLibraryError: the kernels can't be loaded.
    """
    kind = _DENSE.get(weight.dtype)
    if kind is None or weight.dim() != 2 or weight.numel() == 0:
        raise ValueError(
            f"weight is {weight.dtype} of shape {tuple(weight.shape)}: wanted a matrix of float32, float16 or bfloat16"
        )
    return _pack(weight, None, None, 0, kind, 0)


def _pack(
    data: torch.Tensor,
    scales: torch.Tensor | None,
    minimums: torch.Tensor | None,
    group: int,
    kind: int,
    activation_bits: int,
) -> PackedWeight:
    data = data.detach()
    if data.stride(1) != 1 or data.stride(0) < data.size(1):
        data = data.contiguous()
    library = _library()
    punica_library.use_torch_threads()
    source = _Source(
        data.data_ptr(),
        None if scales is None else scales.data_ptr(),
        None if minimums is None else minimums.data_ptr(),
        data.size(0),
        data.size(1),
        data.stride(0) if data.size(0) > 1 else data.size(1),
        group,
        kind,
        activation_bits,
    )
    size = library.tritonode_linear_packed_bytes(source)
    if size < 0:
        raise ValueError(f"a weight of shape {tuple(data.shape)} in groups of {group} can't be packed")
    packed = torch.empty(size, dtype=torch.uint8)
    status = library.tritonode_linear_pack(source, packed.data_ptr(), size)
    if status != 0:
        raise RuntimeError(f"tritonode_linear_pack: status {status}")
    return PackedWeight(packed, (data.size(0), data.size(1)), _KINDS[kind], group, activation_bits)


_NO_BIAS = torch.empty(0)


def linear(
    x: torch.Tensor, weight: PackedWeight, bias: torch.Tensor | None = None, out_dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return ``x @ weight.T + bias``.

    Float kinds multiply the elements as they are (in float32, or by bf16 instructions where both are bf16). For quants,
    each run of 32 elements of a row of `x` (16 where the group is no multiple of 32) is rounded to whole numbers of
    the weight's `activation_bits` first.

    Args:
        x: ``[..., inputs]``, float32, float16 or bfloat16.
        bias: ``[outputs]``, any of the three types.
        out_dtype: None: that of `x`.

    Raises:
        RuntimeError: a shape or a type does not fit; the message names it.
    """
    rows = x if x.dim() == 2 else x.reshape(-1, x.size(-1))
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    out = torch.empty((rows.size(0), weight.shape[0]), dtype=out_dtype or x.dtype)
    multiply(out, rows, weight, bias)
    return out if x.dim() == 2 else out.view(*x.shape[:-1], weight.shape[0])


def multiply(out: torch.Tensor, rows: torch.Tensor, weight: PackedWeight, bias: torch.Tensor | None) -> None:
    """Fill ``out`` as :func:`linear` does. Both are matrices whose rows are contiguous; ``out`` may be part of another.

    Raises:
        RuntimeError: as :func:`linear`.
    """
    torch.ops.tritonode_linear.linear_(out, rows, weight.data, _NO_BIAS if bias is None else bias)
