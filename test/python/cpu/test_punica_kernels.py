"""The CPU LoRA kernels against float64, and their promise: a row has the same bits alone and in any batch."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tritonode.cpu import punica_library as punica

BACKEND = Path(__file__).resolve().parents[3] / "backends" / "vllm"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float32: 2e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Relative to 1 + |expected|: a few roundings of y's own type."""
MIXED = [-1, 0, 1, 1, 3, 0, -1, *[2] * 70, *[3] * 9, -1, 0]
"""Slots of a batch with everything: no adapter, single rows, a few rows, more rows than a block holds."""
AVAILABLE = [i for i in range(len(punica.LEVELS)) if punica.load().tritonode_punica_supports(i)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    punica.load().tritonode_punica_set_parallel(None, 1)
    yield
    punica.load().tritonode_punica_set_parallel(None, 1)


class Layer:
    """Random weights of a fused layer, and one call of it."""

    def __init__(self, inputs: int, outputs: Sequence[int], rank: int, slots: int, dtype: torch.dtype) -> None:
        self.inputs, self.outputs, self.rank, self.slots = inputs, outputs, rank, slots
        self.a = [(torch.randn(slots, 1, rank, inputs) / max(inputs, 1) ** 0.5).to(dtype) for _ in outputs]
        self.b = [torch.randn(slots, 1, n, rank).to(dtype) for n in outputs]

    def batch(self, slots: Sequence[int]) -> tuple[punica.Batch, list[object]]:
        ids = np.array(slots, np.int64)
        rows = np.empty(len(slots) + 1, np.int32)
        groups = (punica.Group * (len(slots) + 1))()
        row_count = ctypes.c_int32()
        count = punica.load().tritonode_punica_group_rows(
            ids.ctypes.data, len(slots), self.slots, rows.ctypes.data, groups, row_count
        )
        assert count == len({s for s in slots if s >= 0})
        assert row_count.value == sum(s >= 0 for s in slots)
        pointer = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        return punica.Batch(groups, pointer, count, row_count.value), [ids, rows, groups]

    def add(self, y: torch.Tensor, x: torch.Tensor, slots: Sequence[int], scale: float = 1.0) -> None:
        batch, keep = self.batch(slots)
        described = punica.slices(self.a, self.b, self.outputs)
        status = punica.load().tritonode_punica_linear(
            described, len(described), batch, punica.matrix(x), self.inputs, punica.matrix(y), scale
        )
        assert status == 0
        del keep

    def expected(self, y: torch.Tensor, x: torch.Tensor, slots: Sequence[int], scale: float = 1.0) -> torch.Tensor:
        out = y.double()
        for row, slot in enumerate(slots):
            at = 0
            for a, b, n in zip(self.a, self.b, self.outputs, strict=True):
                if slot >= 0:
                    shrunk = a[slot, 0].double() @ x[row].double() * scale
                    out[row, at : at + n] += b[slot, 0].double() @ shrunk
                at += n
        return out


def error(y: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((y.double() - expected).abs() / (1 + expected.abs())).max()) if y.numel() else 0.0


@pytest.mark.parametrize("rank", [1, 2, 7, 8, 13, 16, 64, 129, 512])
@pytest.mark.parametrize("dtype", DTYPES)
def test_close_to_float64_and_alone_as_in_the_batch(level: int, dtype: torch.dtype, rank: int) -> None:
    torch.manual_seed(rank)
    # Odd sizes end every loop in a partial vector; even ones in none.
    inputs, outputs = (83, (70, 33, 1)) if rank % 2 else (128, (64, 128, 32))
    layer = Layer(inputs, outputs, rank, 4, dtype)
    x = torch.randn(len(MIXED), inputs).to(dtype)
    before = torch.randn(len(MIXED), sum(outputs)).to(dtype)
    y = before.clone()
    layer.add(y, x, MIXED)
    tolerance = TOLERANCE[dtype] * (1 + rank / 64)
    assert error(y, layer.expected(before, x, MIXED)) < tolerance
    for row, slot in enumerate(MIXED):
        alone = before[row : row + 1].clone()
        layer.add(alone, x[row : row + 1], [slot])
        assert torch.equal(alone[0], y[row]), f"row {row} of slot {slot}"
        if slot < 0:
            assert torch.equal(y[row], before[row])


@pytest.mark.parametrize(("x_type", "w_type", "y_type"), list(itertools.product(DTYPES, DTYPES, DTYPES)))
def test_every_mix_of_types(level: int, x_type: torch.dtype, w_type: torch.dtype, y_type: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = Layer(96, (48, 17), 11, 4, w_type)
    x, before = torch.randn(len(MIXED), 96).to(x_type), torch.randn(len(MIXED), 65).to(y_type)
    y = before.clone()
    layer.add(y, x, MIXED, 0.5)
    assert error(y, layer.expected(before, x, MIXED, 0.5)) < TOLERANCE[y_type]


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize(
    "slots",
    [[0], [0, 1], [i % 4 for i in range(64)], [*[1] * 400, -1, 2], [-1] * 8],
    ids=["one row", "two rows", "four adapters", "a prompt", "no adapter"],
)
def test_threads_change_no_bit(level: int, slots: list[int], threads: int) -> None:
    torch.manual_seed(1)
    layer = Layer(2048, (3072, 512), 64, 4, torch.bfloat16)  # heavy enough to be shared, in either way
    x, before = torch.randn(len(slots), 2048).bfloat16(), torch.randn(len(slots), 3584).bfloat16()
    single, shared = before.clone(), before.clone()
    layer.add(single, x, slots)
    parallel_for = ctypes.cast(punica._torch_cpu().torch_parallel_for, ctypes.c_void_p)
    punica.load().tritonode_punica_set_parallel(parallel_for, threads)
    layer.add(shared, x, slots)
    assert torch.equal(single, shared)


class Engine:
    """One layer behind the C ABI's engine, which computes from copies of B in another order."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self.library = layer, punica.load()
        self.engine = self.library.tritonode_punica_engine_new(layer.slots)
        described = punica.slices(layer.a, layer.b, layer.outputs)
        self.handle = self.library.tritonode_punica_engine_add_layer(
            self.engine, described, len(described), layer.inputs
        )
        assert self.handle == 0
        for slot in range(layer.slots):
            self.changed(slot)

    def changed(self, slot: int, filled: int = 1) -> int:
        return self.library.tritonode_punica_engine_slot_changed(self.engine, self.handle, slot, filled)

    def add(self, y: torch.Tensor, x: torch.Tensor, slots: Sequence[int]) -> None:
        ids = np.array(slots, np.int64)
        assert self.library.tritonode_punica_engine_set_rows(self.engine, 0, ids.ctypes.data, len(slots)) == 0
        status = self.library.tritonode_punica_engine_apply(
            self.engine, self.handle, 0, punica.matrix(x), len(slots), punica.matrix(y), 1.0
        )
        assert status == 0

    def close(self) -> None:
        self.library.tritonode_punica_engine_free(self.engine)


@pytest.fixture
def through_engine() -> Iterator[Callable[[Layer], Engine]]:
    opened: list[Engine] = []

    def make(layer: Layer) -> Engine:
        opened.append(Engine(layer))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.mark.parametrize("rank", [1, 2, 7, 8, 16, 129])
@pytest.mark.parametrize(("w_type", "y_type"), list(itertools.product(DTYPES, DTYPES)))
def test_an_engine_gives_the_same_bits(
    level: int, w_type: torch.dtype, y_type: torch.dtype, rank: int, through_engine: Callable[[Layer], Engine]
) -> None:
    torch.manual_seed(rank)
    # Slices that begin at any column and end in a part of a panel; three adapters, of which one has fewer ranks.
    for outputs in ((70, 33, 1), (64, 128, 336)):
        layer = Layer(83, outputs, rank, 4, w_type)
        for weights in layer.b:
            weights[1, 0, :, rank // 2 :] = 0
        engine = through_engine(layer)
        # Blocks of one to four rows, and of more, take different paths.
        for slots in (MIXED, [0], [0, 0], [0, 0, 0], [3, 1, 1, 0, 1, 1]):
            x = torch.randn(len(slots), 83).to(y_type)
            wanted = torch.randn(len(slots), sum(outputs)).to(y_type)
            y = wanted.clone()
            layer.add(wanted, x, slots)
            engine.add(y, x, slots)
            assert torch.equal(y, wanted), f"slots {slots}"


def test_an_engine_sees_each_change_of_a_slot(level: int, through_engine: Callable[[Layer], Engine]) -> None:
    torch.manual_seed(3)
    layer = Layer(32, (48,), 16, 2, torch.bfloat16)
    engine = through_engine(layer)
    x, before = torch.randn(3, 32).bfloat16(), torch.randn(3, 48).bfloat16()

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        wanted, y = before.clone(), before.clone()
        layer.add(wanted, x, [0, 1, 1])
        engine.add(y, x, [0, 1, 1])
        return wanted, y

    first = both()
    assert torch.equal(*first)
    for used in (16, 5, 12):
        layer.b[0][1, 0] = torch.randn(48, 16)
        layer.b[0][1, 0, :, used:] = 0
        assert engine.changed(1) == used
        wanted, y = both()
        assert torch.equal(wanted, y)
        assert not torch.equal(y[1:], first[1][1:])
    assert engine.changed(1, 0) == 0
    assert torch.equal(both()[1][1:], before[1:])


@pytest.mark.parametrize("tokens", [0, 1, 7])
def test_batches_of_nothing(level: int, tokens: int) -> None:
    layer = Layer(32, (16,), 8, 2, torch.float32)
    y = torch.randn(tokens, 16)
    before = y.clone()
    layer.add(y, torch.randn(tokens, 32), [-1] * tokens)
    assert torch.equal(y, before)


def test_a_slot_out_of_range_is_refused() -> None:
    ids, rows = np.array([0, 5], np.int64), np.empty(2, np.int32)
    groups, count = (punica.Group * 2)(), ctypes.c_int32()
    assert punica.load().tritonode_punica_group_rows(ids.ctypes.data, 2, 5, rows.ctypes.data, groups, count) == -1


def test_rows_are_grouped_in_order() -> None:
    slots = [2, -1, 0, 2, 0, -1, 2]
    batch, keep = Layer(8, (8,), 1, 3, torch.float32).batch(slots)
    found = {batch.groups[g].slot: batch.rows[batch.groups[g].first : batch.groups[g].first + batch.groups[g].count]
             for g in range(batch.group_count)}  # fmt: skip
    assert found == {0: [2, 4], 2: [0, 3, 6]}
    del keep


@pytest.mark.parametrize("dtype", DTYPES)
def test_shrink_then_expand_is_the_layer(level: int, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    layer = Layer(83, (40, 24), 9, 4, dtype)
    x, before = torch.randn(len(MIXED), 83).to(dtype), torch.randn(len(MIXED), 64).to(dtype)
    whole, halves = before.clone(), before.clone()
    layer.add(whole, x, MIXED)
    batch, keep = layer.batch(MIXED)
    tmp = torch.zeros(2, len(MIXED), 9)
    matrices = (punica.Matrix * 2)(*(punica.matrix(t) for t in tmp))
    library = punica.load()
    described = punica.slices(layer.a, [None, None], (0, 0))
    assert library.tritonode_punica_shrink(described, 2, batch, punica.matrix(x), 83, matrices, 1.0) == 0
    assert not tmp[:, [i for i, s in enumerate(MIXED) if s < 0]].any()
    described = punica.slices([None, None], layer.b, layer.outputs)
    assert library.tritonode_punica_expand(described, 2, batch, matrices, punica.matrix(halves), 1) == 0
    assert torch.equal(whole, halves)
    overwritten = torch.full_like(before, 7)
    assert library.tritonode_punica_expand(described, 2, batch, matrices, punica.matrix(overwritten), 0) == 0
    for row, slot in enumerate(MIXED):
        want = torch.full_like(before[row], 7).double() if slot < 0 else layer.expected(before * 0, x, MIXED)[row]
        assert error(overwritten[row], want) < TOLERANCE[dtype]
    del keep


@pytest.mark.parametrize("dtype", DTYPES)
def test_unused_ranks_are_found_and_skipped(dtype: torch.dtype) -> None:
    layer = Layer(40, (24,), 16, 3, dtype)
    layer.a[0][1, 0, 5:] = 0
    layer.b[0][1, 0, :, 5:] = 0
    layer.b[0][2] = -0.0
    described = punica.slices(layer.a, layer.b, layer.outputs)
    assert [punica.load().tritonode_punica_used_rank(described, 40, slot) for slot in range(3)] == [16, 5, 0]
    x, before = torch.randn(3, 40).to(dtype), torch.randn(3, 24).to(dtype)
    padded, skipped = before.clone(), before.clone()
    layer.add(padded, x, [0, 1, 2])
    ranks = (ctypes.c_int32 * 3)(16, 5, 0)
    described[0].slot_ranks = ctypes.addressof(ranks)
    batch, keep = layer.batch([0, 1, 2])
    status = punica.load().tritonode_punica_linear(
        described, 1, batch, punica.matrix(x), 40, punica.matrix(skipped), 1.0
    )
    assert status == 0 and torch.equal(padded, skipped)
    del keep


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 15, 64, 577])
def test_rms_norm(level: int, dtype: torch.dtype, columns: int) -> None:
    torch.manual_seed(columns)
    x, residual = torch.randn(33, columns).to(dtype), torch.randn(33, columns).to(dtype)
    weight, total, out = torch.randn(columns).to(dtype), residual.clone(), x.clone()
    status = punica.load().tritonode_punica_rms_norm(
        punica.matrix(out), 33, columns, punica.matrix(total), weight.data_ptr(), punica.matrix(out), 1e-5
    )
    assert status == 0
    wide = x.double() + residual.double()
    assert error(total, wide) < TOLERANCE[dtype]
    norm = wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    assert error(out, norm) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 16, 77, 1536])
def test_silu_and_mul(level: int, dtype: torch.dtype, columns: int) -> None:
    torch.manual_seed(columns)
    x = (torch.randn(19, 2 * columns) * 8).to(dtype)
    x[0, 0], x[1, 0], x[2, 0], x[3, 0] = 200.0, -200.0, float("nan"), 0.0
    out = torch.empty(19, columns, dtype=dtype)
    assert punica.load().tritonode_punica_silu_and_mul(punica.matrix(x), 19, columns, punica.matrix(out)) == 0
    wide = x.double()
    expected = wide[:, :columns] / (1 + (-wide[:, :columns]).exp()) * wide[:, columns:]
    assert out[2, 0].isnan()
    out[2, 0], expected[2, 0] = 0, 0
    assert error(out, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head", [2, 32, 34, 64])
def test_rope(level: int, dtype: torch.dtype, head: int) -> None:
    torch.manual_seed(head)
    x = torch.randn(5, 3 * head + 1).to(dtype)[:, : 3 * head]  # rows apart, as a part of q, k and v together
    angles, positions = torch.randn(9, head).to(dtype), torch.tensor([0, 8, 3, 3, 1])
    before = x.double().view(5, 3, head)
    call = punica.load().tritonode_punica_rope
    described = punica.matrix(x), 5, 3 * head, positions.data_ptr(), punica.matrix(angles)
    assert call(*described, 3, head) == 1  # a position beyond the table
    assert torch.equal(x.double().view(5, 3, head), before)
    assert call(*described, 9, head) == 0
    cosine, sine = angles[positions].double()[:, None].chunk(2, dim=-1)
    low, high = before.chunk(2, dim=-1)
    expected = torch.cat((low * cosine - high * sine, high * cosine + low * sine), dim=-1)
    assert error(x.reshape(5, 3, head), expected) < TOLERANCE[dtype]


def test_special_values_survive_rounding(level: int) -> None:
    layer = Layer(4, (4,), 1, 1, torch.float32)
    layer.a[0].fill_(0.25)
    layer.b[0][0, 0] = torch.tensor([[float("nan")], [float("inf")], [-float("inf")], [1.0]])
    for dtype in DTYPES:
        y = torch.zeros(1, 4, dtype=dtype)
        layer.add(y, torch.ones(1, 4, dtype=dtype), [0])
        assert y[0, 0].isnan() and y[0, 1] == float("inf") and y[0, 2] == -float("inf") and y[0, 3] == 1


def test_the_library_is_looked_for_in_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(punica.LIBRARY_VARIABLE, raising=False)
    package = Path(__file__).resolve().parents[3]
    assert (package / "package.json").is_file()
    assert all(path.is_relative_to(package) for path in punica.candidates())
    assert any(path.is_file() for path in punica.candidates())
    # What was built here comes before what is shipped, as where Node looks for the addon (src/native/addon-file.ts).
    folders = [path.relative_to(package).parts[0] for path in punica.candidates()]
    assert folders == ["build", "build", "build-cmake", "prebuilds"]


@pytest.mark.parametrize("level_name", [punica.LEVELS[i] for i in AVAILABLE])
def test_the_environment_chooses_the_level(level_name: str) -> None:
    code = "from tritonode.cpu import punica_library; print(punica_library.level())"
    environment = {**os.environ, "TRITONODE_PUNICA_LEVEL": level_name, "PYTHONPATH": str(BACKEND)}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == level_name


@pytest.mark.parametrize("name", ["avx3", *(level for i, level in enumerate(punica.LEVELS) if i not in AVAILABLE)])
def test_the_environment_names_a_level_that_is_not_there(name: str) -> None:
    code = "from tritonode.cpu import punica_library; punica_library.load()"
    environment = {**os.environ, "TRITONODE_PUNICA_LEVEL": name, "PYTHONPATH": str(BACKEND)}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert out.returncode == 1
    last = out.stderr.strip().splitlines()[-1]
    assert f"PunicaLevelError: TRITONODE_PUNICA_LEVEL='{name}'" in last
    assert ", ".join(punica.LEVELS[i] for i in AVAILABLE) in last


@pytest.mark.parametrize("level_number", [-1, 5, *(i for i in range(5) if i not in AVAILABLE)])
def test_an_absent_level_is_refused(level_number: int) -> None:
    before = punica.load().tritonode_punica_get_level()
    assert punica.load().tritonode_punica_set_level(level_number) == 2
    assert punica.load().tritonode_punica_get_level() == before


def test_a_missing_library_says_what_was_tried() -> None:
    code = (
        "from tritonode.cpu import punica_library as punica\n"
        "try: punica.load()\nexcept punica.PunicaLibraryError as e: print(e)"
    )
    environment = {**os.environ, "TRITONODE_PUNICA_LIBRARY": "/nowhere/lib.so", "PYTHONPATH": str(BACKEND)}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "/nowhere/lib.so: no such file" in out.stdout and "TRITONODE_PUNICA_LIBRARY" in out.stdout
