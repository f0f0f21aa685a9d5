"""Find, load and call ``libtritonode_punica``: the CPU kernels of ``native/punica``.

The library is plain C (``native/punica/punica.h`` and ``engine.h`` are its reference). It is looked for at
``$TRITONODE_PUNICA_LIBRARY``, else in the package's build and prebuild folders. Layer calls do not pass through this
module: :func:`register_torch_operator` makes them an operator of torch.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

ABI = 3
"""``TRITONODE_PUNICA_ABI`` of the headers that this module is written for."""
LIBRARY_VARIABLE = "TRITONODE_PUNICA_LIBRARY"
NAME = "libtritonode_punica.dylib" if sys.platform == "darwin" else "libtritonode_punica.so"
LEVEL_VARIABLE = "TRITONODE_PUNICA_LEVEL"
LEVELS = ("portable", "avx2", "avx512", "avx512_bf16", "neon")
TOKENS, SAMPLED = 0, 1
"""Which rows of a step a call works on (``tritonode_punica_rows``)."""


class PunicaLibraryError(RuntimeError):
    """The library is missing, can't be loaded, or has another version. The message lists each path with its reason."""


class PunicaLevelError(ValueError):
    """``TRITONODE_PUNICA_LEVEL`` names a level that does not exist, or that this machine does not support."""


class Slice(Structure):
    """``tritonode_punica_slice``."""

    _fields_ = (
        ("a", c_void_p),
        ("b", c_void_p),
        ("a_slot_stride", c_int64),
        ("a_row_stride", c_int64),
        ("b_slot_stride", c_int64),
        ("b_row_stride", c_int64),
        ("outputs", c_int64),
        ("y_offset", c_int64),
        ("slot_ranks", c_void_p),
        ("rank", c_int32),
        ("weight_dtype", c_int32),
    )


class Group(Structure):
    """``tritonode_punica_group``."""

    _fields_ = (("slot", c_int32), ("first", c_int32), ("count", c_int32))


class Batch(Structure):
    """``tritonode_punica_batch``."""

    _fields_ = (
        ("groups", POINTER(Group)),
        ("rows", POINTER(c_int32)),
        ("group_count", c_int32),
        ("row_count", c_int32),
    )


class Matrix(Structure):
    """``tritonode_punica_matrix``."""

    _fields_ = (("data", c_void_p), ("row_stride", c_int64), ("dtype", c_int32))


_TORCH_FUNCTIONS = (
    ("library_init_fragment", "aoti_torch_library_init_fragment"),
    ("library_init_impl", "aoti_torch_library_init_impl"),
    ("library_def", "aoti_torch_library_def"),
    ("library_impl", "aoti_torch_library_impl"),
    ("get_data_ptr", "aoti_torch_get_data_ptr"),
    ("get_dim", "aoti_torch_get_dim"),
    ("get_sizes", "aoti_torch_get_sizes"),
    ("get_strides", "aoti_torch_get_strides"),
    ("get_dtype", "aoti_torch_get_dtype"),
    ("delete_tensor", "aoti_torch_delete_tensor_object"),
)
_TORCH_DTYPES = ("float32", "float16", "bfloat16")


class _Torch(Structure):
    """``tritonode_punica_torch``: functions of torch's stable C API."""

    _fields_ = (
        *((field, c_void_p) for field, _ in _TORCH_FUNCTIONS),
        *((name, c_int32) for name in (*_TORCH_DTYPES, "int64", "int32")),
    )


_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "abi_version": (c_int32, ()),
    "supports": (c_int32, (c_int32,)),
    "get_level": (c_int32, ()),
    "set_level": (c_int32, (c_int32,)),
    "level_name": (c_char_p, (c_int32,)),
    "set_parallel": (None, (c_void_p, c_int32)),
    "group_rows": (c_int32, (c_void_p, c_int64, c_int32, c_void_p, c_void_p, POINTER(c_int32))),
    "linear": (
        c_int32,
        (POINTER(Slice), c_int32, POINTER(Batch), POINTER(Matrix), c_int64, POINTER(Matrix), c_float),
    ),
    "shrink": (
        c_int32,
        (POINTER(Slice), c_int32, POINTER(Batch), POINTER(Matrix), c_int64, POINTER(Matrix), c_float),
    ),
    "expand": (c_int32, (POINTER(Slice), c_int32, POINTER(Batch), POINTER(Matrix), POINTER(Matrix), c_int32)),
    "rms_norm": (
        c_int32,
        (POINTER(Matrix), c_int64, c_int64, POINTER(Matrix), c_void_p, POINTER(Matrix), c_float),
    ),
    "silu_and_mul": (c_int32, (POINTER(Matrix), c_int64, c_int64, POINTER(Matrix))),
    "rope": (c_int32, (POINTER(Matrix), c_int64, c_int64, c_void_p, POINTER(Matrix), c_int64, c_int64)),
    "used_rank": (c_int32, (POINTER(Slice), c_int64, c_int32)),
    "engine_new": (c_void_p, (c_int32,)),
    "engine_free": (None, (c_void_p,)),
    "engine_set_rows": (c_int32, (c_void_p, c_int32, c_void_p, c_int64)),
    "engine_row_count": (c_int32, (c_void_p, c_int32)),
    "engine_set_flags": (None, (c_void_p, c_void_p, c_int64)),
    "engine_add_layer": (c_int64, (c_void_p, POINTER(Slice), c_int32, c_int64)),
    "engine_slot_changed": (c_int32, (c_void_p, c_int64, c_int32, c_int32)),
    "engine_apply": (
        c_int32,
        (c_void_p, c_int64, c_int32, POINTER(Matrix), c_int64, POINTER(Matrix), c_float),
    ),
    "register_torch": (c_int32, (POINTER(_Torch),)),
}


def candidates() -> list[Path]:
    """Return the paths where the library is searched for, in order.

    Triton reaches the backend's files through symbolic links in a private folder, so the package's folder is derived
    from the real path of this file.
    """
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        return [Path(named)]
    package = Path(__file__).resolve().parents[4]
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    system = {"linux": "linux", "darwin": "darwin"}.get(sys.platform, sys.platform)
    # As for the addon: what was built here comes before what is shipped.
    folders = ("build/Release", "build/Debug", "build-cmake/Release", f"prebuilds/{system}-{machine}")
    return [package / folder / NAME for folder in folders]


def _open(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    try:
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, f"tritonode_punica_{name}")
            function.restype = result
            function.argtypes = arguments
    except AttributeError as error:
        raise PunicaLibraryError(f"{path}: not this version's library ({error})") from error
    version = library.tritonode_punica_abi_version()
    if version != ABI:
        raise PunicaLibraryError(f"{path}: ABI version {version}, wanted {ABI}")
    if library.tritonode_punica_get_level() < 0:
        here = [name for i, name in enumerate(LEVELS) if library.tritonode_punica_supports(i)]
        wanted = os.environ.get(LEVEL_VARIABLE)
        reason = "this machine lacks it" if wanted in LEVELS else f"known are {', '.join(LEVELS)}"
        raise PunicaLevelError(f"{LEVEL_VARIABLE}={wanted!r}: {reason}; use one of {', '.join(here)}, or unset it")
    return library


_library: ctypes.CDLL | PunicaLibraryError | None = None


def load() -> ctypes.CDLL:
    """Return the library, with its functions' signatures set.

    It is looked for once in a process: a failure is remembered and raised again.

    Raises:
        PunicaLibraryError: no candidate loads; the message lists each with its reason.
        PunicaLevelError: ``TRITONODE_PUNICA_LEVEL`` names an instruction set that this machine lacks.
    """
    global _library
    if _library is None:
        reasons = []
        for path in candidates():
            try:
                if not path.is_file():
                    reasons.append(f"{path}: no such file")
                    continue
                _library = _open(path)
                break
            except (OSError, PunicaLibraryError) as error:
                reasons.append(str(error))
        else:
            _library = PunicaLibraryError(
                "No " + NAME + " could be loaded:\n  " + "\n  ".join(reasons) + "\n"
                f"Build it with `npm run build:native`, or name it in {LIBRARY_VARIABLE}."
            )
    if isinstance(_library, PunicaLibraryError):
        raise _library
    return _library


def bind(part: str, signatures: dict[str, tuple[Any, tuple[Any, ...]]], abi: int) -> ctypes.CDLL:
    """Return the library with the functions ``tritonode_<part>_*`` set up, for a module that has a header of its own.

    Args:
        part: the word in the functions' names.
        signatures: result and arguments of each function, ``abi_version`` among them.
        abi: the version of the header that the module is written for.

    Raises:
        PunicaLibraryError: the library does not load, lacks functions, or has another version of them.
    """
    library = load()
    try:
        for name, (result, arguments) in signatures.items():
            function = getattr(library, f"tritonode_{part}_{name}")
            function.restype = result
            function.argtypes = arguments
    except AttributeError as error:
        raise PunicaLibraryError(
            f"{library._name}: the library lacks functions ({error}). Build it with `npm run build:native`."
        ) from error
    version = getattr(library, f"tritonode_{part}_abi_version")()
    if version != abi:
        raise PunicaLibraryError(f"{library._name}: {part} ABI version {version}, wanted {abi}")
    return library


def dtype_number(dtype: torch.dtype) -> int:
    """Return the ``tritonode_punica_dtype`` of a torch dtype.

    Raises:
        ValueError: the kernels do not take this dtype.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in _TORCH_DTYPES:
        raise ValueError(f"The LoRA kernels take float32, float16 and bfloat16, not {dtype}")
    return _TORCH_DTYPES.index(name)


def matrix(tensor: torch.Tensor) -> Matrix:
    """Describe a 2-D tensor with contiguous rows; the tensor must outlive the call it is used in."""
    if tensor.dim() != 2 or (tensor.size(1) > 1 and tensor.stride(1) != 1):
        raise ValueError(f"Wanted a matrix with contiguous rows, got shape {tuple(tensor.shape)}")
    return Matrix(tensor.data_ptr(), tensor.stride(0), dtype_number(tensor.dtype))


def slices(
    a: Sequence[torch.Tensor | None], b: Sequence[torch.Tensor | None], outputs: Sequence[int], offset: int = 0
) -> Any:
    """Describe the slices of a layer as a C array.

    Args:
        a: ``[slots, (1,) rank, inputs]`` for each slice, or None for an expand.
        b: ``[slots, (1,) outputs, rank]`` for each slice, or None for a shrink.
        outputs: columns of each slice in y.
        offset: first column of the first slice.
    """
    array = (Slice * len(outputs))()
    for i, (one_a, one_b, size) in enumerate(zip(a, b, outputs, strict=True)):
        some = one_a if one_a is not None else one_b
        if some is None:
            raise ValueError("A slice needs A or B")
        rank = one_a.size(-2) if one_a is not None else some.size(-1)
        array[i] = Slice(
            one_a.data_ptr() if one_a is not None else None,
            one_b.data_ptr() if one_b is not None else None,
            one_a.stride(0) if one_a is not None else 0,
            one_a.stride(-2) if one_a is not None else 0,
            one_b.stride(0) if one_b is not None else 0,
            one_b.stride(-2) if one_b is not None else 0,
            min(size, one_b.size(-2)) if one_b is not None else size,
            offset,
            None,
            rank,
            dtype_number(some.dtype),
        )
        offset += size
    return array


_torch_library: ctypes.CDLL | None = None


def _torch_cpu() -> ctypes.CDLL:
    """Return a handle of the libtorch_cpu that this process has already loaded."""
    global _torch_library
    if _torch_library is None:
        import torch

        folder = Path(torch.__file__).parent / "lib"
        name = "libtorch_cpu.dylib" if sys.platform == "darwin" else "libtorch_cpu.so"
        _torch_library = ctypes.CDLL(str(folder / name))
    return _torch_library


def register_torch_operator() -> None:
    """Make ``torch.ops.tritonode_punica.lora_`` callable, from eager code and inside ``torch.compile``.

    Raises:
        PunicaLibraryError: the kernels can't be loaded, or this torch lacks the stable C API (torch < 2.10).
    """
    import torch

    library = load()
    source = _torch_cpu()
    functions = _Torch()
    try:
        for field, symbol in _TORCH_FUNCTIONS:
            setattr(functions, field, ctypes.cast(getattr(source, symbol), c_void_p))
        for name in (*_TORCH_DTYPES, "int64", "int32"):
            setattr(functions, name, getattr(source, f"aoti_torch_dtype_{name}")())
        source.torch_parallel_for  # noqa: B018  raises AttributeError where this torch has no such function
    except AttributeError as error:
        raise PunicaLibraryError(f"torch {torch.__version__} lacks part of its stable C API: {error}") from error
    fresh = not hasattr(torch.ops.tritonode_punica, "lora_")
    if library.tritonode_punica_register_torch(functions) != 0:
        raise PunicaLibraryError(f"torch {torch.__version__} refused the operator tritonode_punica::lora_")
    if fresh:
        torch.library.register_fake("tritonode_punica::lora_")(lambda y, x, weight, rows, scale: None)
        for name in ("rms_norm_", "fused_add_rms_norm_"):
            torch.library.register_fake(f"tritonode_punica::{name}")(lambda out, x, weight, epsilon: None)
        torch.library.register_fake("tritonode_punica::silu_and_mul_")(lambda out, x: None)
        torch.library.register_fake("tritonode_punica::attention_")(lambda *arguments: None)
        torch.library.register_fake("tritonode_punica::rope_")(lambda query, key, positions, cos_sin, head_size: None)
    use_torch_threads()


_threads = 0


def use_torch_threads() -> None:
    """Let the kernels run on torch's own thread team, at its present size.

    A second OpenMP runtime would have threads of its own: idle OpenMP threads spin, and the threads of two runtimes
    would take the processors from each other.
    """
    global _threads
    import torch

    threads = torch.get_num_threads()
    if threads != _threads:
        _threads = threads
        load().tritonode_punica_set_parallel(ctypes.cast(_torch_cpu().torch_parallel_for, c_void_p), threads)


def level() -> str:
    """Return the name of the instruction set in use, one of :data:`LEVELS`."""
    return LEVELS[load().tritonode_punica_get_level()]
