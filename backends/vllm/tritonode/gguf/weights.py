"""Reads the weights of a GGUF file, tensor by tensor, and undoes the changes that llama.cpp made to them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .blocks import DENSE, QUANTISED, Quantised, decode, dense
from .names import NamedTensor, named_tensors, original_rows
from .reader import GgufError, GgufFile

# Rows are decoded in pieces of about this many elements, to limit the memory that is used besides the result.
_PIECE = 1 << 22


class GgufWeights:
    """The tensors of a model by their names in Hugging Face's checkpoints. Safe to use from several threads.

    Raises GgufError from the constructor for a file that cannot be served, or a tensor of a type that is not decoded.
    """

    def __init__(self, path: str) -> None:
        self.file = GgufFile(path)
        self.tensors = {each.name: each for each in named_tensors(self.file)}
        for each in self.tensors.values():
            kind = each.tensor.type.name
            if kind not in QUANTISED and kind not in DENSE:
                self.file.close()
                raise GgufError(
                    f"{path}: the tensor {each.tensor.name!r} is of the type {kind}, which is not read; these are: "
                    f"{', '.join(sorted(QUANTISED | DENSE))}"
                )

    def _pieces(self, named: NamedTensor) -> Iterator[tuple[int, np.ndarray]]:
        tensor = named.tensor
        step = max(1, _PIECE // tensor.shape[-1])
        for begin in range(0, tensor.rows, step):
            yield begin, self.file.read(tensor, begin, min(begin + step, tensor.rows))

    def is_quantised(self, named: NamedTensor) -> bool:
        return named.tensor.type.name in QUANTISED

    def quantised(self, named: NamedTensor) -> Quantised:
        """Return a quantised weight with unchanged integers. Raises GgufError for scales that are not finite."""
        pieces = [decode(named.tensor.type, data) for _, data in self._pieces(named)]
        first = pieces[0]
        minimums = None
        if first.minimums is not None:
            minimums = np.concatenate([piece.minimums for piece in pieces])  # type: ignore[misc]
        whole = Quantised(
            first.bits,
            first.group,
            np.concatenate([piece.quants for piece in pieces]),
            np.concatenate([piece.scales for piece in pieces]),
            minimums,
        )
        finite = np.isfinite(whole.scales).all() and (minimums is None or np.isfinite(minimums).all())
        if not finite:
            raise self._not_finite(named)
        if named.heads:
            rows = original_rows(whole.quants.shape[0], named.heads)
            return Quantised(
                whole.bits,
                whole.group,
                whole.quants[rows],
                whole.scales[rows],
                None if minimums is None else minimums[rows],
            )
        return whole

    def dense(self, named: NamedTensor) -> np.ndarray:
        """Return any weight as float32, in its shape. Raises GgufError for elements that are not finite."""
        tensor = named.tensor
        whole = np.empty((tensor.rows, tensor.shape[-1]), np.float32)
        for begin, data in self._pieces(named):
            piece = dense(tensor.type, data)
            whole[begin : begin + piece.shape[0]] = piece
        if not np.isfinite(whole).all():
            raise self._not_finite(named)
        if named.added:
            whole -= np.float32(named.added)
        shaped = whole.reshape(tensor.shape)
        return shaped[original_rows(shaped.shape[0], named.heads)] if named.heads else shaped

    def _not_finite(self, named: NamedTensor) -> GgufError:
        return GgufError(f"{self.file.path}: the tensor {named.tensor.name!r} holds an infinity or a NaN")
