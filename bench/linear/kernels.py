"""The linear kernels alone: all products of a model's step, against torch, oneDNN as vLLM calls it, and vLLM's int4.

    python bench/linear/kernels.py [--model smollm2] [--rows 1,16,1000] --json linear.json --markdown linear.md

Each contender computes the model's products (for every layer: qkv, o, gate and up, down; then the head) for a number of
rows of bf16; of more than 64 (a prompt), one row goes through the head. Contenders take turns; a figure is the median.
Weights lie cold where the model is larger than the caches. "Of reading them" compares a contender's time with that of
reading its weights once, at the bandwidth that the same run measures with a plain sum on all threads.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "backends" / "vllm"))

import torch
from tritonode.cpu import punica_library
from tritonode.cpu.linear import PackedWeight, pack, pack_dense

# (layers, products of a layer, the head), each product as (outputs, inputs).
MODELS = {
    "smollm2": (30, ((960, 576), (576, 576), (3072, 576), (576, 1536)), (49152, 576)),
    "llama-1b": (16, ((3072, 2048), (2048, 2048), (16384, 2048), (2048, 8192)), (128256, 2048)),
    "tinyllama-1.1b": (22, ((2560, 2048), (2048, 2048), (11264, 2048), (2048, 5632)), (32000, 2048)),
}
VOCABULARY = 30000
# After the "x": bits of the activations, if not 8.
OURS = ("bf16", "int8", "int8x16", "int4", "int4x16")
Call = Callable[[dict[int, torch.Tensor]], None]


def bandwidth() -> float:
    """Bytes a second of a plain sum: the best of eight of 256 MiB."""
    data, best = torch.ones(2**26), float("inf")
    for _ in range(8):
        started = time.perf_counter()
        data.sum()
        best = min(best, time.perf_counter() - started)
    return data.nbytes / best


def processor() -> str:
    """The processor's name, its number of CPUs and the level in use."""
    text = Path("/proc/cpuinfo").read_text(encoding="ascii") if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} CPUs, level {punica_library.level()}"


def quantised(outputs: int, inputs: int, bits: int, activation_bits: int) -> PackedWeight:
    """Random weights in groups of 32 with minimums, as Q4_1 has them; for 8 bits without, as Q8_0."""
    groups = inputs // 32
    scales = torch.rand(outputs, groups).half().float()
    if bits == 8:
        return pack(8, torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8), scales, None, 32, activation_bits)
    minimums = -torch.rand(outputs, groups).half().float()
    return pack(4, torch.randint(0, 16, (outputs, inputs), dtype=torch.uint8), scales, minimums, 32, activation_bits)


def inputs_of(xs: dict[int, torch.Tensor], outputs: int, inputs: int) -> torch.Tensor:
    """The rows that go through a product."""
    x = xs[inputs]
    return x[-1:] if outputs >= VOCABULARY and x.size(0) > 64 else x


def ours(weights: list[PackedWeight]) -> Call:
    """All products by our operator."""
    multiply, none = torch.ops.tritonode_linear.linear_.default, torch.empty(0)

    def call(xs: dict[int, torch.Tensor]) -> None:
        for weight in weights:
            x = inputs_of(xs, *weight.shape)
            multiply(x.new_empty((x.size(0), weight.shape[0])), x, weight.data, none)

    return call


def onednn(weights: list[torch.Tensor]) -> Call:
    """All products as vLLM's unquantised layers compute them on this CPU."""
    from vllm import _custom_ops

    handlers = [_custom_ops.create_onednn_mm(weight.t(), 32) for weight in weights]

    def call(xs: dict[int, torch.Tensor]) -> None:
        for handler in handlers:
            _custom_ops.onednn_mm(handler, inputs_of(xs, handler.n, handler.k), None)

    return call


def plain(weights: list[torch.Tensor]) -> Call:
    """All products by torch's linear."""

    def call(xs: dict[int, torch.Tensor]) -> None:
        for weight in weights:
            torch.nn.functional.linear(inputs_of(xs, *weight.shape), weight)

    return call


def wna16(shapes: list[tuple[int, int]]) -> Call:
    """All products by vLLM's int4 kernel (AWQ and GPTQ on a CPU), random weights in groups of 128 or the inputs."""
    from vllm import _custom_ops

    isa = "amx" if torch.cpu._is_amx_tile_supported() else "vec"
    layers = []
    for outputs, inputs in shapes:
        group = 64 if inputs % 128 else 128
        quants = torch.randint(-(2**31), 2**31, (outputs // 16, inputs * 16 // 8), dtype=torch.int32)
        layers.append((inputs, quants, torch.rand(inputs // group, outputs).bfloat16()))

    def call(xs: dict[int, torch.Tensor]) -> None:
        for inputs, quants, scales in layers:
            x = inputs_of(xs, scales.size(1), inputs)
            _custom_ops.cpu_gemm_wna16(x, quants, scales, None, None, 8, isa)

    return call


def main() -> None:
    """Run and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="smollm2")
    parser.add_argument("--rows", default="1,16,1000")
    parser.add_argument("--budget", type=float, default=12, help="seconds for each number of rows")
    parser.add_argument("--only", help="contenders, separated by commas")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    punica_library.register_torch_operator()
    layers, of_layer, head = MODELS[options.model]
    shapes = [*of_layer * layers, head]
    names = options.only.split(",") if options.only else [*OURS, "oneDNN bf16", "torch bf16", "vLLM int4"]
    calls: dict[str, tuple[Call, int]] = {}
    dense = [torch.randn(shape).bfloat16() for shape in shapes] if any("bf16" in name for name in names) else []
    for name in names:
        if name in OURS:
            bits, _, activations = name.removeprefix("int").partition("x")
            packed = (
                [pack_dense(weight) for weight in dense]
                if name == "bf16"
                else [quantised(*shape, int(bits), int(activations or 8)) for shape in shapes]
            )
            calls[name] = ours(packed), sum(weight.nbytes for weight in packed)
        elif name == "vLLM int4":
            calls[name] = wna16(shapes), sum(n * k for n, k in shapes) // 2
        else:
            make = onednn if name == "oneDNN bf16" else plain
            calls[name] = make(dense), sum(weight.nbytes for weight in dense)
    results = []
    with torch.inference_mode():
        for rows in (int(text) for text in options.rows.split(",")):
            xs = {k: torch.randn(rows, k).bfloat16() for k in {k for _, k in shapes}}
            found: dict[str, list[float]] = {name: [] for name in calls}
            speed = bandwidth()
            stop = time.perf_counter() + options.budget
            while time.perf_counter() < stop or len(found[names[0]]) < 3:
                for name, (call, _) in calls.items():
                    started = time.perf_counter()
                    call(xs)
                    found[name].append(time.perf_counter() - started)
            for name, values in found.items():
                seconds, size = statistics.median(values[1:]), calls[name][1]
                results.append(
                    {
                        "model": options.model, "rows": rows, "contender": name, "ms": seconds * 1e3, "MB": size / 1e6,
                        "read GB/s": speed / 1e9, "of reading": size / speed / seconds,
                        "GFLOP/s": 2 * sum(n * k * len(inputs_of(xs, n, k)) for n, k in shapes) / seconds / 1e9,
                    }
                )  # fmt: skip
    lines = ["| rows | contender | ms | MB | of reading them | GFLOP/s |", "| --- | --- | --- | --- | --- | --- |"]
    for r in results:
        lines.append(
            f"| {r['rows']} | {r['contender']} | {r['ms']:.2f} | {r['MB']:.0f} | {r['of reading']:.0%} "
            f"| {r['GFLOP/s']:.0f} |"
        )
    head_line = f"{options.model}, {processor()}; a sum reads {results[0]['read GB/s']:.0f} GB/s"
    text = f"{head_line}\n\n" + "\n".join(lines) + "\n"
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps({"machine": processor(), "results": results}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
