"""Reads a GGUF file without trusting it: each count, length and offset is first checked against the file's size.

Layout (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian): the header, the
metadata's key-value pairs, the descriptions of the tensors, padding, the tensors' data. Data is read with `pread`, not
mapped: a file that shrinks while it is read is an error here, and a mapped one would end the process.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from tritonode.errors import SettingsError

from .types import ARRAY, SCALARS, STRING, TENSOR_TYPES, TensorType

MAGIC = b"GGUF"
# Limits in addition to the file's size. The largest vocabularies (260,000 tokens) take about 10 MB.
_MAX_METADATA_BYTES = 256 << 20
_MAX_KEYS = 1 << 16
_MAX_TENSORS = 1 << 16
_MAX_KEY_BYTES = 0xFFFF  # the specification's
_MAX_NAME_BYTES = 64  # the specification's
_MAX_DIMENSIONS = 4
_MAX_ELEMENTS = 1 << 48
_MAX_DEPTH = 2
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20

Value = int | float | bool | str | np.ndarray | list[Any]


class GgufError(SettingsError):
    """A GGUF file that cannot be used; the message names the file and the value that is wrong."""


@dataclass(frozen=True)
class GgufTensor:
    """A tensor as the file describes it. `shape` is torch's: rows first. (The file has the row's length first.)"""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    """The offset of its first byte in the file."""

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        return self.shape[-1] // self.type.block * self.type.size

    @property
    def size(self) -> int:
        """Bytes of its data."""
        return self.rows * self.row_bytes


class GgufFile:
    """An open GGUF file. Reading tensors is safe from several threads at once.

    Raises GgufError (INVALID_ARG) from the constructor for a file that is missing, cut short, or not what it says.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._file = open(path, "rb", buffering=1 << 20)  # noqa: SIM115
        except OSError as failure:
            raise GgufError(f"the GGUF file {path} cannot be opened: {failure.strerror}") from failure
        try:
            parser = _Parser(self._file, path)
            self.version = parser.version
            self.metadata = parser.metadata
            self.tensors = parser.tensors
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def read(self, tensor: GgufTensor, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Return the bytes of a tensor's rows `begin` to `end` as uint8 [rows, bytes of a row]. Raises GgufError."""
        end = tensor.rows if end is None else end
        if not 0 <= begin <= end <= tensor.rows:
            raise IndexError(f"rows {begin} to {end} of {tensor.rows}")
        data = np.empty((end - begin, tensor.row_bytes), np.uint8)
        left = memoryview(data.reshape(-1)) if data.size else memoryview(b"")  # type: ignore[arg-type]
        at = tensor.offset + begin * tensor.row_bytes
        while left:
            got = os.preadv(self._file.fileno(), [left], at)
            if got == 0:
                raise GgufError(f"{self.path} has become shorter: '{tensor.name}' ends before byte {at}")
            left, at = left[got:], at + got
        return data

    def text(self, key: str) -> str | None:
        """Return a string of the metadata, or None if it is missing. Raises GgufError for another type."""
        value = self.metadata.get(key)
        if value is None or isinstance(value, str):
            return value
        raise GgufError(f"{self.path}: '{key}' must be a string, got {_shown(value)}")

    def number(self, key: str, *, least: float = -math.inf, most: float = math.inf) -> int | float | None:
        """Return a finite number within bounds from the metadata; None if it is missing. Otherwise raises GgufError."""
        value = self.metadata.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise GgufError(f"{self.path}: '{key}' must be a number from {least} to {most}, got {_shown(value)}")
        return value

    def whole(self, key: str, *, least: int = 0, most: int = 1 << 31) -> int | None:
        """Like `number`, for whole numbers."""
        value = self.number(key, least=least, most=most)
        if value is not None and not isinstance(value, int):
            raise GgufError(f"{self.path}: '{key}' must be a whole number, got {_shown(value)}")
        return value


class _Parser:
    """Reads everything in a file except the tensors' data."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self._path = path
        self._size = os.fstat(file.fileno()).st_size
        self._limit = min(self._size, _MAX_METADATA_BYTES)
        self._at = 0
        tensor_count, key_count = self._header()
        self.metadata = self._pairs(key_count)
        self.tensors = self._descriptions(tensor_count)

    def _fail(self, message: str) -> GgufError:
        return GgufError(f"{self._path} is not a usable GGUF file: {message} (at byte {self._at})")

    def _take(self, count: int, what: str) -> bytes:
        if count > self._limit - self._at:
            end = "the file ends" if self._limit == self._size else f"more than {self._limit} bytes of metadata"
            raise self._fail(f"{what} needs {count} bytes, {end}; the file has {self._size} bytes")
        data = self._file.read(count)
        if len(data) != count:
            raise self._fail(f"the file has become shorter than {self._size} bytes")
        self._at += count
        return data

    def _uint(self, size: int, what: str) -> int:
        return int.from_bytes(self._take(size, what), "little")

    def _count(self, what: str, most: int, least_bytes: int) -> int:
        """Read a count of items that take at least `least_bytes` bytes each."""
        count = self._uint(8, what)
        if count > most or count * least_bytes > self._limit - self._at:
            raise self._fail(f"{what} is {count}, which neither fits the file nor the limit of {most}")
        return count

    def _string(self, what: str, most: int | None = None) -> str:
        length = self._uint(8, f"the length of {what}")
        if most is not None and length > most:
            raise self._fail(f"{what} is {length} bytes long, more than {most}")
        try:
            return self._take(length, what).decode("utf-8")
        except UnicodeDecodeError as failure:
            raise self._fail(f"{what} is not UTF-8: {failure.reason}") from None

    def _header(self) -> tuple[int, int]:
        magic = self._take(4, "the magic number")
        if magic != MAGIC:
            raise self._fail(f"it starts with {magic!r}, not {MAGIC!r}")
        self.version = self._uint(4, "the version")
        if self.version not in (2, 3):
            swapped = int.from_bytes(self.version.to_bytes(4, "big"), "little")
            why = "a big-endian file" if swapped in (2, 3) else "only versions 2 and 3 are known"
            raise self._fail(f"its version is {self.version}: {why}")
        # A tensor's description has at least a name's length, one dimension, a type and an offset; a metadata pair has
        # at least a key and one byte.
        tensors = self._count("the number of tensors", _MAX_TENSORS, 8 + 4 + 8 + 4 + 8)
        return tensors, self._count("the number of keys", _MAX_KEYS, 8 + 4 + 1)

    def _pairs(self, count: int) -> dict[str, Value]:
        pairs: dict[str, Value] = {}
        for number in range(count):
            key = self._string(f"key {number}", _MAX_KEY_BYTES)
            if key in pairs:
                raise self._fail(f"the key {_shown(key)} is there twice")
            pairs[key] = self._value(self._uint(4, f"the type of {_shown(key)}"), _shown(key), 0)
        return pairs

    def _value(self, kind: int, what: str, depth: int) -> Value:
        if kind == STRING:
            return self._string(what)
        if kind == ARRAY:
            return self._array(what, depth + 1)
        if kind not in SCALARS:
            raise self._fail(f"{what} has the unknown type {kind}")
        layout = np.dtype(SCALARS[kind])
        return self._scalars(self._take(layout.itemsize, what), layout, what).item()  # type: ignore[no-any-return]

    def _scalars(self, data: bytes, layout: np.dtype[Any], what: str) -> np.ndarray:
        if layout.kind == "b" and max(data, default=0) > 1:
            raise self._fail(f"{what} holds a boolean of {max(data)}")
        return np.frombuffer(data, layout)

    def _array(self, what: str, depth: int) -> Value:
        if depth > _MAX_DEPTH:
            raise self._fail(f"{what} is an array within {_MAX_DEPTH} arrays")
        kind = self._uint(4, f"the type of {what}")
        if kind in SCALARS:
            layout = np.dtype(SCALARS[kind])
            count = self._count(f"the length of {what}", _MAX_METADATA_BYTES, layout.itemsize)
            return self._scalars(self._take(count * layout.itemsize, what), layout, what)
        if kind not in (STRING, ARRAY):
            raise self._fail(f"{what} is an array of the unknown type {kind}")
        count = self._count(f"the length of {what}", _MAX_METADATA_BYTES, 8 if kind == STRING else 12)
        return [self._value(kind, f"{what}[{number}]", depth) for number in range(count)]

    def _descriptions(self, count: int) -> dict[str, GgufTensor]:
        raw = [self._description(number) for number in range(count)]
        alignment = self.metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
            raise self._fail(f"general.alignment is {_shown(alignment)}, not a power of two up to {_MAX_ALIGNMENT}")
        start = -(-self._at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, shape, kind, offset in raw:
            if name in tensors:
                raise self._fail(f"the tensor {_shown(name)} is there twice")
            if offset % alignment:
                raise self._fail(f"the tensor {_shown(name)} is at {offset}, which is not aligned to {alignment}")
            tensor = GgufTensor(name, shape, kind, start + offset)
            if tensor.offset + tensor.size > self._size:
                raise self._fail(
                    f"the tensor {_shown(name)} needs the bytes {tensor.offset} to {tensor.offset + tensor.size}; "
                    f"the file has {self._size}: it is cut short, or damaged"
                )
            tensors[name] = tensor
        end, before = 0, ""
        for tensor in sorted(tensors.values(), key=lambda each: each.offset):
            if tensor.offset < end:
                raise self._fail(f"the tensors {_shown(before)} and {_shown(tensor.name)} overlap")
            end, before = tensor.offset + tensor.size, tensor.name
        return tensors

    def _description(self, number: int) -> tuple[str, tuple[int, ...], TensorType, int]:
        name = self._string(f"the name of tensor {number}", _MAX_NAME_BYTES)
        what = _shown(name)
        dimensions = self._uint(4, f"the dimensions of {what}")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise self._fail(f"the tensor {what} has {dimensions} dimensions, not 1 to {_MAX_DIMENSIONS}")
        shape = tuple(self._uint(8, f"the shape of {what}") for _ in range(dimensions))
        kind = self._uint(4, f"the type of {what}")
        if kind not in TENSOR_TYPES:
            raise self._fail(f"the tensor {what} has the unknown type {kind}")
        layout = TENSOR_TYPES[kind]
        if not 0 < math.prod(shape) <= _MAX_ELEMENTS:
            raise self._fail(f"the tensor {what} has the shape {list(shape)}")
        if shape[0] % layout.block:
            raise self._fail(f"the rows of the tensor {what} have {shape[0]} elements, no blocks of {layout.block}")
        return name, shape[::-1], layout, self._uint(8, f"the offset of {what}")


def _shown(value: Any) -> str:
    """Format a value of the file for a message: printable and short."""
    text = ascii(value.tolist()[:8] if isinstance(value, np.ndarray) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."
