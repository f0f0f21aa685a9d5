"""The CPU's linear kernels against float64, and their promise: a row has the same bits alone and in any batch."""

from __future__ import annotations

import pytest
import torch
from tritonode.cpu import linear as linear_module
from tritonode.cpu import punica_library as punica
from tritonode.cpu.linear import PackedWeight, linear, pack, pack_dense

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = ((1, 1), (7, 33), (16, 64), (50, 576), (35, 130))
# After the "x": bits of the activations, if not 8.
DENSE = ("float32", "float16", "bfloat16")
KINDS = (*DENSE, "int8", "int8+min", "int8x16", "int4", "int4+zero", "int4+min", "int4+minx16")
ROUNDING = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(1)


def make(kind: str, outputs: int, inputs: int, group: int = 32) -> tuple[PackedWeight, torch.Tensor]:
    """A random weight, packed, and its values in float64."""
    if kind in DENSE:
        dense = torch.randn(outputs, inputs).to(getattr(torch, kind))
        return pack_dense(dense), dense.double()
    kind, _, activations = kind.partition("x")
    bits = 4 if kind.startswith("int4") else 8
    low, high, dtype = (0, 16, torch.uint8) if bits == 4 else (-128, 128, torch.int8)
    quants = torch.randint(low, high, (outputs, inputs)).to(dtype)
    group = min(group, inputs)
    groups = -(-inputs // group)
    scales = torch.rand(outputs, groups) / 8 + 0.01
    minimums = None
    if kind.endswith("+zero"):
        minimums = -7 * scales
    elif kind.endswith("+min"):
        minimums = torch.randn(outputs, groups)
        scales = scales.half().float()
    values = scales.double().repeat_interleave(group, 1)[:, :inputs] * quants.double()
    if minimums is not None:
        values = values + minimums.double().repeat_interleave(group, 1)[:, :inputs]
    return pack(bits, quants, scales, minimums, group, int(activations or 8)), values


def quantised(x: torch.Tensor, run: int, most: int) -> torch.Tensor:
    """What the kernels make of x for integer weights, in float64: runs whose largest number is `most`."""
    inputs = x.size(1)
    padded = torch.nn.functional.pad(x.float(), (0, -inputs % run)).view(x.size(0), -1, run)
    scale = padded.abs().amax(-1, keepdim=True) / most
    quants = torch.where(scale > 0, torch.round(padded * (most / (scale * most))), torch.zeros(()))
    return (quants.double() * scale.double()).view(x.size(0), -1)[:, :inputs]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_values_survive_packing(kind: str, shape: tuple[int, int]) -> None:
    packed, values = make(kind, *shape)
    assert packed.shape == shape
    got = packed.dequantise()
    assert torch.allclose(got.double(), values, rtol=1e-6, atol=1e-6 if "+" in kind else 0)
    assert torch.equal(packed.dequantise(shape[0] // 2), got[shape[0] // 2 :])
    # As many as threads share, and few.
    for ids in (torch.randint(shape[0], (3_000,)), torch.tensor([[shape[0] - 1], [0]], dtype=torch.int32)):
        assert torch.equal(packed.rows(ids), got[ids.reshape(-1).long()])
    again = PackedWeight.from_data(packed.data.clone())
    assert (again.shape, again.kind, again.group) == (packed.shape, packed.kind, packed.group)
    assert (
        again.activation_bits == packed.activation_bits == (16 if "x" in kind else 8 if kind.startswith("int") else 0)
    )


def test_rows_that_do_not_exist_are_refused() -> None:
    packed, _ = make("int4", 20, 64)
    assert packed.rows(torch.tensor([], dtype=torch.int64)).shape == (0, 64)
    for ids in ([0, 20], [-1, 3]):
        with pytest.raises(IndexError, match=f"rows {ids[0]} to {ids[1]} of a weight of 20 rows"):
            packed.rows(torch.tensor(ids))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_products(level: int, kind: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    packed, values = make(kind, *shape)
    x = torch.randn(5, shape[1]).to(dtype)
    bias = torch.randn(shape[0]).to(dtype)
    most = 127 * 128 if "x" in kind else 127
    exact = (quantised(x, 32, most) if kind.startswith("int") else x.double()) @ values.T
    size = (x.double().abs() @ values.abs().T).amax().item()
    for wanted, added in ((exact, None), (exact + bias.double(), bias)):
        got = linear(x, packed, added)
        assert got.dtype == dtype
        # A quant of x that lies within rounding of a half may fall to either side: a step of 1/254 in one product.
        slack = 0.25 / most * size / shape[1] ** 0.5 if kind.startswith("int") else 0
        error = (got.double() - wanted).abs()
        assert (error <= ROUNDING[dtype] * (wanted.abs() + size) + slack).all(), error.max()
    assert linear(x, packed, out_dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["int4x16", "int4+zerox16", "int4+minx16", "int8x16", "int8+minx16"])
def test_activations_of_16_bits_lose_next_to_nothing(level: int, kind: str, dtype: torch.dtype) -> None:
    packed, values = make(kind, 50, 560, 80 if "min" in kind else 32)
    x = torch.randn(9, 560).to(dtype)
    error = (linear(x, packed, out_dtype=torch.float32).double() - x.double() @ values.T).abs().max()
    assert error < 2e-5 * (x.double().abs() @ values.abs().T).amax(), error


@pytest.mark.parametrize("group", [16, 48, 64, 128, 256])
@pytest.mark.parametrize("kind", ["int4", "int4+min", "int8", "int8+min", "int4+minx16", "int8x16"])
def test_groups(level: int, kind: str, group: int) -> None:
    packed, values = make(kind, 33, 256 if group != 48 else 240, group)
    x = torch.randn(3, values.size(1))
    most = 127 * 128 if "x" in kind else 127
    wanted = quantised(x, 16 if group % 32 else 32, most) @ values.T
    error = (linear(x, packed).double() - wanted).abs().max().item()
    assert error < (0.25 / most + 1e-5) * (x.double().abs() @ values.abs().T).amax().item() / 16


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_in_any_batch(level: int, kind: str, dtype: torch.dtype) -> None:
    packed, _ = make(kind, 100, 352)
    x = torch.randn(600, 352).to(dtype)
    x[5] = 0
    alone = torch.cat([linear(x[i : i + 1], packed) for i in range(len(x))])
    for rows in (*range(2, 30), 47, 64, 333, 600):
        for start in {0, 600 - rows, (600 - rows) // 2}:
            assert torch.equal(linear(x[start : start + rows], packed), alone[start : start + rows]), (rows, start)


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4+min"])
def test_avx512_without_bf16_runs_the_avx2_kernels(kind: str) -> None:
    levels = [punica.LEVELS.index(name) for name in ("avx2", "avx512")]
    library = punica.load()
    if not all(library.tritonode_punica_supports(level) for level in levels):
        pytest.skip("this processor has no AVX-512")
    before = library.tritonode_punica_get_level()
    packed, _ = make(kind, 100, 352)
    x = torch.randn(13, 352).bfloat16()
    results = []
    try:
        for level in levels:
            assert library.tritonode_punica_set_level(level) == 0
            results.append(linear(x, packed))
    finally:
        library.tritonode_punica_set_level(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "int4+min", "int4+minx16"])
def test_a_row_has_the_same_bits_on_any_number_of_threads(kind: str) -> None:
    packed, _ = make(kind, 3000, 576)
    x = torch.randn(70, 576).bfloat16()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            punica.use_torch_threads()
            results += [(linear(x, packed), linear(x[69:], packed))]
    finally:
        torch.set_num_threads(before)
        punica.use_torch_threads()
    for whole, last in results:
        assert torch.equal(whole, results[0][0])
        assert torch.equal(last, results[0][0][69:])


@pytest.mark.parametrize("activations", [8, 16])
@pytest.mark.parametrize(("bits", "extreme"), [(4, 15), (8, 127), (8, -128)])
def test_the_largest_sums_fit(level: int, bits: int, extreme: int, activations: int) -> None:
    """Kernels add whole numbers in as few bits as they can: here all products of a run are the largest, of one sign."""
    quants = torch.full((20, 96), extreme, dtype=torch.uint8 if bits == 4 else torch.int8)
    packed = pack(bits, quants, torch.ones(20, 3), None, 32, activations)
    for sign in (1.0, -1.0):
        got = linear(torch.full((5, 96), sign), packed)
        assert (got - sign * 96 * extreme).abs().max() < 1e-5 * 96 * abs(extreme), got


def test_rows_of_a_wider_matrix_and_more_dimensions() -> None:
    packed, _ = make("float32", 20, 40)
    wide = torch.randn(6, 100)
    assert torch.equal(linear(wide[:, 30:70], packed), linear(wide[:, 30:70].contiguous(), packed))
    assert linear(wide[:, :40].reshape(2, 3, 40), packed).shape == (2, 3, 20)
    assert linear(wide[:0, :40], packed).shape == (0, 20)


def test_what_is_not_finite_stays_so(level: int) -> None:
    for kind in KINDS:
        packed, _ = make(kind, 20, 64)
        x = torch.randn(3, 64)
        x[1, 7] = float("nan")
        got = linear(x, packed)
        assert got[1].isnan().all()
        assert got[0].isfinite().all()
        assert got[2].isfinite().all()


def test_small_buffers_for_what_fits() -> None:
    """Scales that are halves take 16 bits, and one zero point takes none."""
    outputs, inputs = 64, 256
    quants = torch.randint(0, 16, (outputs, inputs), dtype=torch.uint8)
    halves = torch.rand(outputs, 8).half().float()
    weights = outputs * inputs // 2
    assert pack(4, quants, halves, -8 * halves, 32).nbytes == 64 + weights + outputs * 8 * 2
    assert pack(4, quants, halves, torch.rand(outputs, 8).half().float(), 32).nbytes == 64 + weights + outputs * 8 * 4
    assert pack(4, quants, torch.rand(outputs, 8), None, 32).nbytes == 64 + weights + outputs * 8 * 4


def test_what_is_refused() -> None:
    quants, scales = torch.zeros(16, 64, dtype=torch.uint8), torch.ones(16, 2)
    with pytest.raises(ValueError, match="bits is 3"):
        pack(3, quants, scales, None, 32)
    with pytest.raises(ValueError, match="int8"):
        pack(8, quants, scales, None, 32)
    with pytest.raises(ValueError, match="activation_bits is 12"):
        pack(4, quants, scales, None, 32, 12)
    with pytest.raises(ValueError, match="group is 24"):
        pack(4, quants, scales, None, 24)
    with pytest.raises(ValueError, match=r"scales are .*\(16, 1\)"):
        pack(4, quants, scales, None, 64)
    with pytest.raises(ValueError, match="hold 16"):
        pack(4, quants + 16, scales, None, 32)
    with pytest.raises(ValueError, match="float64"):
        pack_dense(torch.zeros(4, 4, dtype=torch.float64))
    packed = pack(4, quants, scales, None, 32)
    with pytest.raises(ValueError, match="pack it again"):
        PackedWeight.from_data(packed.data[:-1].clone())
    with pytest.raises(RuntimeError, match="do not fit weights of 16 x 64"):
        linear(torch.zeros(2, 63), packed)
    with pytest.raises(RuntimeError, match="bias"):
        linear(torch.zeros(2, 64), packed, torch.zeros(15))


def test_a_damaged_head_is_refused() -> None:
    """Whatever stands in the head of a buffer from a file: an answer or an error, never a read beyond the buffer."""
    packed, _ = make("int4+min", 35, 130)
    random = torch.Generator().manual_seed(3)
    x, refused = torch.randn(2, 130), 0
    for _ in range(2000):
        data = packed.data.clone()
        at = torch.randint(0, 64, (1,), generator=random).item()
        data[at] = torch.randint(0, 256, (1,), generator=random, dtype=torch.uint8)
        out = torch.empty(2, 35)
        try:
            torch.ops.tritonode_linear.linear_(out, x, data, torch.empty(0))
        except RuntimeError:
            refused += 1
    assert refused > 1500


def test_compiled_code_calls_the_operator() -> None:
    packed, _ = make("bfloat16", 20, 40)
    x = torch.randn(3, 40)
    compiled = torch.compile(lambda v: linear(v, packed) * 2, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), linear(x, packed) * 2)
    assert punica.load().tritonode_linear_abi_version() == linear_module.ABI
