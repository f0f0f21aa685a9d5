"""The LoRA kernels alone: the shapes of LLaMA 7B and 70B against torch's and vLLM's own CPU operators.

    python bench/punica/kernels.py [--quick] --json kernels.json --markdown kernels.md

One layer call (shrink and expand of a hidden x hidden projection, bf16) for each hidden size, rank, batch and
popularity, after the Punica paper: distinct (every row its own adapter), uniform (square root of the batch many),
skewed (Zipf, exponent 1.5) and identical (one). The contenders take turns on the same data; the figure is the median.

* tritonode: ``libtritonode_punica``, on torch's threads;
* torch: a loop over segments of equal adapter with ``addmm_`` (backends/vllm/tritonode/cpu/punica_torch.py);
* vllm: ``bgmv_shrink`` and ``bgmv_expand`` of vLLM 0.32, which gather the weights of each row.

Weights lie cold: there are as many copies of the layer as exceed the last cache, used in turn, as a model's layers are.
The roofline is the bytes that must be read (each distinct adapter's weights once) at the bandwidth of a plain sum.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "backends" / "vllm"))

import numpy as np
import torch
from tritonode.cpu import punica_library as punica
from tritonode.cpu import punica_torch

CACHE_BYTES = 48 * 2**20
POPULARITIES = ("distinct", "uniform", "skewed", "identical")


def slots_of(popularity: str, batch: int) -> np.ndarray:
    """Return the slot of each row."""
    random = np.random.default_rng(batch)
    if popularity == "distinct":
        return np.arange(batch)
    if popularity == "identical":
        return np.zeros(batch, np.int64)
    if popularity == "uniform":
        return random.permutation(np.arange(batch) % max(1, math.isqrt(batch)))
    weights = 1.0 / np.arange(1, batch + 1) ** 1.5
    return random.choice(batch, batch, p=weights / weights.sum())


class Case:
    """One layer call's data, and the contenders as functions of a copy of the layer."""

    def __init__(self, hidden: int, rank: int, batch: int, popularity: str) -> None:
        self.slots = slots_of(popularity, batch).astype(np.int64)
        self.distinct = len(np.unique(self.slots))
        slot_count = int(self.slots.max()) + 1
        layer_bytes = slot_count * rank * hidden * 4
        self.copies = max(1, min(16, -(-CACHE_BYTES // (self.distinct * rank * hidden * 4))))
        self.copies = max(1, min(self.copies, 4 * 2**30 // layer_bytes))
        self.x = torch.randn(batch, hidden).bfloat16()
        self.y = torch.zeros(batch, hidden).bfloat16()
        self.a = [torch.randn(slot_count, 1, rank, hidden).bfloat16() for _ in range(self.copies)]
        self.b = [torch.randn(slot_count, 1, hidden, rank).bfloat16() for _ in range(self.copies)]
        self.hidden, self.rank, self.batch = hidden, rank, batch
        self.indices = torch.from_numpy(self.slots)
        self.segments = punica_torch.segments(self.slots)
        self._rows = np.empty(batch, np.int32)
        self._groups = (punica.Group * batch)()
        count = ctypes.c_int32()
        groups = punica.load().tritonode_punica_group_rows(
            self.slots.ctypes.data, batch, slot_count, self._rows.ctypes.data, self._groups, count
        )
        rows = self._rows.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        self._batch = punica.Batch(self._groups, rows, groups, count.value)
        self._slices = [punica.slices([a], [b], [hidden]) for a, b in zip(self.a, self.b, strict=True)]
        self._matrices = punica.matrix(self.x), punica.matrix(self.y)

    def tritonode(self, copy: int) -> None:
        """One call of the library."""
        x, y = self._matrices
        punica.load().tritonode_punica_linear(self._slices[copy], 1, self._batch, x, self.hidden, y, 1.0)

    def torch(self, copy: int) -> None:
        """The loop over segments."""
        punica_torch.linear(self.y, self.x, (self.a[copy],), (self.b[copy],), 1.0, (self.hidden,), self.segments)

    def vllm(self, copy: int) -> None:
        """vLLM's own operators, as its PunicaWrapperCPU calls them."""
        from vllm.lora.ops.torch_ops import bgmv_expand_slice, bgmv_shrink

        buffer = torch.zeros(self.batch, self.rank)
        bgmv_shrink(self.x, self.a[copy], buffer, self.indices, 1.0)
        bgmv_expand_slice(buffer, self.b[copy], self.y, self.indices, 0, self.hidden, True)

    def time(self, names: list[str], budget: float) -> dict[str, float]:
        """Return each contender's median seconds a call; `budget` is seconds for the case."""
        found: dict[str, list[float]] = {name: [] for name in names}
        calls: dict[str, Callable[[int], None]] = {name: getattr(self, name) for name in names}
        with torch.inference_mode():
            for name in names:
                calls[name](0)
            stop, copy = time.perf_counter() + budget, 0
            while time.perf_counter() < stop or len(found[names[0]]) < 3:
                for name in names:
                    copy = (copy + 1) % self.copies
                    started = time.perf_counter()
                    calls[name](copy)
                    found[name].append(time.perf_counter() - started)
        return {name: statistics.median(values) for name, values in found.items()}


def bandwidth() -> float:
    """Return the machine's read bandwidth in bytes a second: the best of five sums of 512 MiB."""
    data, best = torch.ones(2**27), float("inf")
    for _ in range(5):
        started = time.perf_counter()
        data.sum()
        best = min(best, time.perf_counter() - started)
    return data.nbytes / best


def main() -> None:
    """Run the cases and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ranks 16 and 64, batches 1, 16 and 256, hidden 4096")
    parser.add_argument("--budget", type=float, default=0.6, help="seconds for each case")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    punica.register_torch_operator()
    speed = bandwidth()
    rows: list[dict[str, Any]] = []
    for hidden in (4096,) if options.quick else (4096, 8192):
        for rank in (16, 64) if options.quick else (8, 16, 32, 64, 128):
            for batch in (1, 16, 256) if options.quick else (1, 4, 16, 64, 256):
                for popularity in POPULARITIES if batch > 1 else POPULARITIES[-1:]:
                    if int(slots_of(popularity, batch).max() + 1) * rank * hidden * 4 > 4 * 2**30:
                        continue  # more weights than fit beside the rest
                    case = Case(hidden, rank, batch, popularity)
                    # What vLLM gathers in float32 for the batch; beyond this it would only measure the swap file.
                    names = ["tritonode", "torch"] + (["vllm"] if batch * rank * hidden * 4 <= 2**30 else [])
                    times = case.time(names, options.budget)
                    moved = case.distinct * rank * hidden * 4 + batch * hidden * 6
                    flops = 4 * batch * rank * hidden
                    rows.append({
                        "hidden": hidden, "rank": rank, "batch": batch, "popularity": popularity,
                        "distinct": case.distinct, "bytes": moved, "flops": flops,
                        "us": {name: seconds * 1e6 for name, seconds in times.items()},
                        "gb_s": moved / times["tritonode"] / 1e9, "gflops": flops / times["tritonode"] / 1e9,
                        "of_bandwidth": moved / times["tritonode"] / speed,
                    })  # fmt: skip
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    report = {"level": punica.level(), "threads": torch.get_num_threads(), "bandwidth_gb_s": speed / 1e9,
              "load": os.getloadavg(), "rows": rows}  # fmt: skip
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    if options.markdown:
        options.markdown.write_text(table(report))


def table(report: dict[str, Any]) -> str:
    """Return the results as a markdown table: times in microseconds, and how many times longer the others take."""
    lines = [
        "| hidden | rank | batch | popularity | adapters | ours, us | GB/s (of sum) | GFLOP/s | torch, us | vLLM, us |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        own = row["us"]["tritonode"]
        others = [
            f"{row['us'][name]:.0f} ({row['us'][name] / own:.1f}x)" if name in row["us"] else "-"
            for name in ("torch", "vllm")
        ]
        lines.append(
            f"| {row['hidden']} | {row['rank']} | {row['batch']} | {row['popularity']} | {row['distinct']} | {own:.1f} "
            f"| {row['gb_s']:.1f} ({row['of_bandwidth'] * 100:.0f}%) | {row['gflops']:.0f} | {' | '.join(others)} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
