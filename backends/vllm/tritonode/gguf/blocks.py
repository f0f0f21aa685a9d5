"""Converts the blocks of quantised GGUF tensors to integers with a scale, and if needed a minimum, for each group.

Nothing is rounded: `scales * quants + minimums` in float32 is what ggml's own `dequantize_row_*` (ggml-quants.c, where
the layouts below come from) computes, to the bit for every type but Q2_K, Q4_K and Q5_K, whose last addition is rounded
in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .types import TensorType


@dataclass(frozen=True)
class Quantised:
    """Rows of a weight: ``scales * quants + minimums``, each group of a row with its own scale and minimum."""

    bits: int
    """4: quants are uint8 from 0 to 15. 8: they are int8."""
    group: int
    quants: np.ndarray  # [rows, columns]
    scales: np.ndarray  # float32 [rows, columns / group]
    minimums: np.ndarray | None  # as scales

    def dequantise(self) -> np.ndarray:
        """float32 [rows, columns]."""
        rows, columns = self.quants.shape
        grouped = self.quants.reshape(rows, -1, self.group).astype(np.float32) * self.scales[:, :, None]
        if self.minimums is not None:
            grouped += self.minimums[:, :, None]
        return grouped.reshape(rows, columns)


_Parts = tuple[np.ndarray, np.ndarray, np.ndarray | None]

# The values of IQ4_NL's and IQ4_XS's 4-bit numbers (kvalues_iq4nl in ggml-common.h).
_IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


def _halves(blocks: np.ndarray, at: int) -> np.ndarray:
    """Return the float16 at a byte of each block, as float32 [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(data: np.ndarray) -> np.ndarray:
    """Return the low nibbles of each run of bytes, then the high ones: [..., n] → [..., 2n]."""
    return np.concatenate([data & 15, data >> 4], axis=-1)


def _fifth_bits(blocks: np.ndarray, at: int) -> np.ndarray:
    """Return the 32 bits at a byte of each block, as 0 or 16."""
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << 4


def _q4_0(blocks: np.ndarray) -> _Parts:
    scale = _halves(blocks, 0)
    return _nibbles(blocks[:, 2:18]), scale, -8 * scale


def _q4_1(blocks: np.ndarray) -> _Parts:
    return _nibbles(blocks[:, 4:20]), _halves(blocks, 0), _halves(blocks, 2)


def _q5_0(blocks: np.ndarray) -> _Parts:
    quants = (_nibbles(blocks[:, 6:22]) | _fifth_bits(blocks, 2)).view(np.int8) - np.int8(16)
    return quants, _halves(blocks, 0), None


def _q5_1(blocks: np.ndarray) -> _Parts:
    quants = _nibbles(blocks[:, 8:24]) | _fifth_bits(blocks, 4)
    return quants.view(np.int8), _halves(blocks, 0), _halves(blocks, 2)


def _q8_0(blocks: np.ndarray) -> _Parts:
    return np.ascontiguousarray(blocks[:, 2:34]).view(np.int8), _halves(blocks, 0), None


def _iq4_nl(blocks: np.ndarray) -> _Parts:
    return _IQ4[_nibbles(blocks[:, 2:18])], _halves(blocks, 0), None


def _six_bits(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 8 scales and 8 minimums of 6 bits that Q4_K and Q5_K store in 12 bytes."""
    low, middle, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (high & 15) | ((low >> 6) << 4)], axis=1)
    minimums = np.concatenate([middle & 63, (high >> 4) | ((middle >> 6) << 4)], axis=1)
    return scales, minimums


def _q4_k(blocks: np.ndarray) -> _Parts:
    scales, minimums = _six_bits(blocks[:, 4:16])
    quants = _nibbles(blocks[:, 16:144].reshape(-1, 4, 32)).reshape(-1, 256)
    return quants, _halves(blocks, 0) * scales, -(_halves(blocks, 2) * minimums)


def _q5_k(blocks: np.ndarray) -> _Parts:
    scales, minimums = _six_bits(blocks[:, 4:16])
    quants = _nibbles(blocks[:, 48:176].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    fifth = (blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    quants = (quants | (fifth << 4)).reshape(-1, 256)
    return quants.view(np.int8), _halves(blocks, 0) * scales, -(_halves(blocks, 2) * minimums)


def _q6_k(blocks: np.ndarray) -> _Parts:
    low = blocks[:, 0:128].reshape(-1, 2, 64)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    quants = _nibbles(low).reshape(-1, 2, 4, 32) | (((high >> np.array([[0], [2], [4], [6]], np.uint8)) & 3) << 4)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return quants.reshape(-1, 256).view(np.int8) - np.int8(32), _halves(blocks, 208) * scales, None


def _two_bits(data: np.ndarray) -> np.ndarray:
    """Each run of 32 bytes holds 128 numbers: the lowest two bits of all, then the next, ... [blocks, 64] → 256."""
    shifts = np.array([[0], [2], [4], [6]], np.uint8)
    return ((data.reshape(-1, 2, 1, 32) >> shifts) & 3).reshape(-1, 256)


def _q2_k(blocks: np.ndarray) -> _Parts:
    packed = blocks[:, 0:16]
    return (
        _two_bits(blocks[:, 16:80]),
        _halves(blocks, 80) * (packed & 15),
        -(_halves(blocks, 82) * (packed >> 4)),
    )


def _q3_k(blocks: np.ndarray) -> _Parts:
    third = (blocks[:, None, 0:32] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    quants = _two_bits(blocks[:, 32:96]) | (third << 2).reshape(-1, 256)
    packed = blocks[:, 96:108]
    high = (packed[:, None, 8:12] >> np.array([[0], [2], [4], [6]], np.uint8)) & 3
    six = _nibbles(packed[:, 0:8]) | (high.reshape(-1, 16) << 4)
    scales = _halves(blocks, 108) * (six.view(np.int8) - np.int8(32))
    return quants, scales, -4 * scales


def _iq4_xs(blocks: np.ndarray) -> _Parts:
    high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16)
    low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=-1).reshape(-1, 8)
    six = low | ((high & 3) << 4).astype(np.uint8)
    quants = _IQ4[_nibbles(blocks[:, 8:136].reshape(-1, 8, 16))].reshape(-1, 256)
    return quants, _halves(blocks, 0) * (six.view(np.int8) - np.int8(32)), None


# Type → bits of its quants in memory, elements of a group, decoder.
_DECODERS: dict[str, tuple[int, int, Callable[[np.ndarray], _Parts]]] = {
    "Q4_0": (4, 32, _q4_0),
    "Q4_1": (4, 32, _q4_1),
    "Q5_0": (8, 32, _q5_0),
    "Q5_1": (8, 32, _q5_1),
    "Q8_0": (8, 32, _q8_0),
    "Q2_K": (4, 16, _q2_k),
    "Q3_K": (4, 16, _q3_k),
    "Q4_K": (4, 32, _q4_k),
    "Q5_K": (8, 32, _q5_k),
    "Q6_K": (8, 16, _q6_k),
    "IQ4_NL": (8, 32, _iq4_nl),
    "IQ4_XS": (8, 32, _iq4_xs),
}
QUANTISED = frozenset(_DECODERS)
DENSE = frozenset({"F32", "F16", "BF16"})


def decode(kind: TensorType, data: np.ndarray) -> Quantised:
    """Rows of a quantised tensor.

    Args:
        kind: one of `QUANTISED`.
        data: uint8 [rows, bytes of a row].
    """
    bits, group, decoder = _DECODERS[kind.name]
    rows = data.shape[0]
    quants, scales, minimums = decoder(data.reshape(-1, kind.size))
    return Quantised(
        bits,
        group,
        quants.reshape(rows, -1),
        scales.reshape(rows, -1),
        None if minimums is None else minimums.reshape(rows, -1),
    )


def dense(kind: TensorType, data: np.ndarray) -> np.ndarray:
    """Return rows of any tensor of `QUANTISED` or `DENSE` as float32."""
    if kind.name == "F32":
        return data.view("<f4").astype(np.float32, copy=False)
    if kind.name == "F16":
        return data.view("<f2").astype(np.float32)
    if kind.name == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return decode(kind, data).dequantise()
