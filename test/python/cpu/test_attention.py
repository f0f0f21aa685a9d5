"""The attention kernels against float64, and their promise: the same bits in any batch and however a prompt is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from tritonode.cpu import attention
from tritonode.cpu import punica_library as punica

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 2e-2}
BLOCK = 32
LENGTHS = (1, 5, 37, 64, 150, 801, 1100)
"""Sequences shorter and longer than a page, a tile and a partition of the keys."""
Part = tuple[int, int, int]
"""A sequence, and its tokens [from, to) that are in the step."""


@pytest.fixture(autouse=True)
def operator() -> Iterator[None]:
    punica.register_torch_operator()
    yield
    punica.use_torch_threads()


class Sequences:
    """Queries, keys and values of some sequences, and a cache whose unwritten part is NaN."""

    def __init__(self, dtype: torch.dtype, heads: int, kv_heads: int, head_size: int) -> None:
        torch.manual_seed(0)
        self.heads, self.kv_heads, self.head_size = heads, kv_heads, head_size
        blocks = [-(-length // BLOCK) for length in LENGTHS]
        order = torch.randperm(sum(blocks)).to(torch.int32)
        self.cache = torch.full((sum(blocks), kv_heads, BLOCK, 2 * head_size), float("nan"), dtype=dtype)
        self.table = torch.zeros(len(LENGTHS), max(blocks), dtype=torch.int32)
        for i, count in enumerate(blocks):
            self.table[i, :count] = order[sum(blocks[:i]) : sum(blocks[: i + 1])]
        self.query = [torch.randn(length, heads, head_size).to(dtype) for length in LENGTHS]
        self.key = [torch.randn(length, kv_heads, head_size).to(dtype) for length in LENGTHS]
        self.value = [torch.randn(length, kv_heads, head_size).to(dtype) for length in LENGTHS]

    def slots(self, part: Part) -> torch.Tensor:
        sequence, begin, end = part
        at = torch.arange(begin, end)
        return self.table[sequence].long()[at // BLOCK] * BLOCK + at % BLOCK

    def step(
        self, parts: Sequence[Part], window: int = 0, softcap: float = 0.0, causal: bool = True
    ) -> list[torch.Tensor]:
        """Compute one step of an engine; the sequences' earlier tokens are in the cache already."""

        def rows(of: list[torch.Tensor]) -> torch.Tensor:
            return torch.cat([of[sequence][begin:end] for sequence, begin, end in parts])

        query, lengths = rows(self.query), [end - begin for _, begin, end in parts]
        out = torch.full_like(query, float("nan"))
        torch.ops.tritonode_punica.attention_(
            out,
            query,
            rows(self.key),
            rows(self.value),
            self.cache,
            torch.cat([self.slots(part) for part in parts]),
            torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).to(torch.int32),
            torch.tensor([end for _, _, end in parts], dtype=torch.int32),
            self.table[[sequence for sequence, _, _ in parts]],
            True,
            window,
            causal,
            self.head_size**-0.5,
            softcap,
        )
        return list(out.split(lengths))

    def expected(self, sequence: int, window: int = 0, softcap: float = 0.0, causal: bool = True) -> torch.Tensor:
        group, at = self.heads // self.kv_heads, torch.arange(LENGTHS[sequence])
        query = self.query[sequence].double()
        key = self.key[sequence].double().repeat_interleave(group, 1)
        value = self.value[sequence].double().repeat_interleave(group, 1)
        scores = torch.einsum("qhd,khd->hqk", query, key) * self.head_size**-0.5
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        hidden = at[None, :] > at[:, None] if causal else torch.zeros(at.numel(), at.numel(), dtype=torch.bool)
        if window:
            hidden |= at[None, :] <= at[:, None] - window
        return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, float("-inf")).softmax(-1), value)


def bits(tensors: Sequence[torch.Tensor]) -> list[bytes]:
    return [t.contiguous().view(torch.uint8).numpy().tobytes() for t in tensors]


WHOLE = [(i, 0, length) for i, length in enumerate(LENGTHS)]
LAST = [(i, length - 1, length) for i, length in enumerate(LENGTHS)]


@pytest.mark.parametrize("options", [{}, {"window": 100}, {"softcap": 5.0}, {"causal": False}], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values(level: int, dtype: torch.dtype, options: dict[str, float]) -> None:
    some = Sequences(dtype, heads=6, kv_heads=2, head_size=48)
    for i, out in enumerate(some.step(WHOLE, **options)):  # type: ignore[arg-type]
        wanted = some.expected(i, **options)  # type: ignore[arg-type]
        assert (out.double() - wanted).abs().max() < TOLERANCE[dtype], LENGTHS[i]


@pytest.mark.parametrize("shape", [(9, 3, 64), (4, 4, 32), (24, 1, 16)], ids=str)
@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_do_not_depend_on_the_batch(
    level: int, dtype: torch.dtype, window: int, shape: tuple[int, int, int]
) -> None:
    some = Sequences(dtype, *shape)
    alone = [some.step([part], window)[0] for part in WHOLE]
    assert bits(some.step(WHOLE, window)) == bits(alone)
    last = bits([out[-1:] for out in alone])
    assert bits(some.step(LAST, window)) == last
    punica.load().tritonode_punica_set_parallel(None, 1)
    assert bits([some.step([part], window)[0] for part in LAST]) == last
    punica.use_torch_threads()
    # Prompts in steps of 37 tokens, decoding rows of the others between them.
    for i, length in enumerate(LENGTHS):
        pieces = []
        for begin in range(0, length, 37):
            step = [*LAST[:i], (i, begin, min(begin + 37, length)), *LAST[i + 1 :]]
            pieces.append(some.step(step, window)[i])
        assert bits([torch.cat(pieces)]) == bits([alone[i]]), length


def test_bad_arguments_are_refused() -> None:
    some = Sequences(torch.float32, heads=4, kv_heads=2, head_size=32)
    some.table[1, 0] = some.cache.size(0)
    with pytest.raises(RuntimeError, match="status 1"):
        some.step([(1, 0, 5)])
    some.table[1, 0] = -1
    with pytest.raises(RuntimeError, match="status 1"):
        some.step([(1, 0, 5)])
    some.query = [query[:, :3] for query in some.query]
    with pytest.raises(RuntimeError, match=r"attention_"):
        some.step([(2, 0, 5)])


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(attention.VARIABLE, raising=False)
    assert attention.wanted()
    monkeypatch.setenv(attention.VARIABLE, "vllm")
    assert not attention.wanted()
    monkeypatch.setenv(attention.VARIABLE, "fast")
    with pytest.raises(ValueError, match=r"TRITONODE_CPU_ATTENTION='fast': wanted one of tritonode, vllm"):
        attention.wanted()
