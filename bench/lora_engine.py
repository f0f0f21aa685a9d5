"""What LoRA costs a vLLM CPU engine, end to end: engines with and without it, side by side in one process.

    python bench/lora_engine.py --model DIR --adapters DIR --json results.json --markdown results.md

Every engine is raw vLLM, in-process, and they take turns: each round runs each workload once on each engine, and what
is reported is the median of the rounds' ratios, so a neighbour on the machine slows both sides of a ratio alike. A
decode workload's time is the median step; a prompt's is the time to its first token.

``--adapters`` is filled if it is empty: 2 of rank 8 on q and v, 16 of rank 16 on all seven modules, random.
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
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "backends" / "vllm"))

SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
KINDS = {"qv8": (8, ("q_proj", "v_proj"), 2), "all16": (16, SEVEN, 16)}
PROMPT = 16
"""Tokens of a decode workload's prompt."""


def make_adapters(model: str, folder: Path) -> None:
    """Write random PEFT adapters for the model: the shapes count here, not what they say."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((Path(model) / "config.json").read_text())
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    q, kv, mlp = heads * head, config["num_key_value_heads"] * head, config["intermediate_size"]
    sizes = {
        "q_proj": (q, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden), "o_proj": (hidden, q),
        "gate_proj": (mlp, hidden), "up_proj": (mlp, hidden), "down_proj": (hidden, mlp),
    }  # fmt: skip
    for kind, (rank, modules, count) in KINDS.items():
        for i in range(count):
            target = folder / f"{kind}_{i}"
            if (target / "adapter_model.safetensors").exists():
                continue
            target.mkdir(parents=True, exist_ok=True)
            generator = torch.Generator().manual_seed(1000 * rank + i)
            tensors = {}
            for layer in range(config["num_hidden_layers"]):
                for module in modules:
                    out, inner = sizes[module]
                    parent = "self_attn" if module in SEVEN[:4] else "mlp"
                    name = f"base_model.model.model.layers.{layer}.{parent}.{module}"
                    tensors[f"{name}.lora_A.weight"] = torch.randn(rank, inner, generator=generator) * inner**-0.5
                    tensors[f"{name}.lora_B.weight"] = torch.randn(out, rank, generator=generator) * 0.02
            save_file(tensors, target / "adapter_model.safetensors")
            adapter = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(modules),
                       "bias": "none", "task_type": "CAUSAL_LM", "base_model_name_or_path": model}  # fmt: skip
            (target / "adapter_config.json").write_text(json.dumps(adapter))


class Bench:
    """One engine and its workloads."""

    def __init__(self, name: str, model: str, adapters: Path | None, **settings: Any) -> None:
        from vllm import LLM

        if adapters is not None:
            settings |= {"enable_lora": True, "max_loras": 16, "max_lora_rank": 16, "max_cpu_loras": 18}
        started = time.perf_counter()
        self.llm = LLM(
            model=model, dtype="bfloat16", max_model_len=2048, enable_prefix_caching=False, max_num_seqs=32,
            max_num_batched_tokens=2048, seed=0, **settings,
        )  # fmt: skip
        self.name, self.adapters = name, adapters
        self.start = time.perf_counter() - started
        self.mode = str(self.llm.llm_engine.vllm_config.compilation_config.mode)
        self._next = 0

    def lora(self, kind: str | None, index: int) -> Any:
        """Return the request of adapter `index` of a kind; None for None."""
        from vllm.lora.request import LoRARequest

        if kind is None or self.adapters is None:
            return None
        name = f"{kind}_{index}"
        return LoRARequest(name, 1 + index + 100 * list(KINDS).index(kind), str(self.adapters / name))

    def run(self, kinds: list[tuple[str, int] | None], prompt: int, tokens: int) -> float:
        """Run a request for each entry; return seconds: of the median decode step, or of a prompt (tokens is 1)."""
        from vllm import SamplingParams

        engine = self.llm.llm_engine
        for i, kind in enumerate(kinds):
            self._next += 1
            engine.add_request(
                str(self._next),
                {"prompt_token_ids": [(self._next * 7 + i * 131 + j * 13) % 4000 + 100 for j in range(prompt)]},
                SamplingParams(temperature=0.0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True),
                lora_request=self.lora(*kind) if kind else None,
            )
        steps = []
        while engine.has_unfinished_requests():
            started = time.perf_counter()
            engine.step()
            steps.append(time.perf_counter() - started)
        return sum(steps) if tokens == 1 else statistics.median(steps[2:])


MIX: list[tuple[str, int] | None] = [None, ("qv8", 0), ("qv8", 1), None]
WORKLOADS: dict[str, tuple[list[tuple[str, int] | None], int, int]] = {
    "decode, 1 stream, one adapter (r 8, q and v)": ([("qv8", 0)], PROMPT, 32),
    "decode, 16 streams, base + 2 adapters mixed": (MIX * 4, PROMPT, 32),
    "decode, 16 streams, 16 distinct adapters (r 16, all 7 modules)": (
        [("all16", i) for i in range(16)], PROMPT, 32),
    "prompt of 1,000 tokens with an adapter (r 8, q and v)": ([("qv8", 0)], 1000, 1),
    "prompt of 1,000 tokens with an adapter (r 16, all 7 modules)": ([("all16", 0)], 1000, 1),
    "base rows, LoRA enabled, 1 stream": ([None], PROMPT, 32),
    "base rows, LoRA enabled, 16 streams": ([None] * 16, PROMPT, 32),
    "base prompt of 1,000 tokens, LoRA enabled": ([None], 1000, 1),
}  # fmt: skip


def roofline(config: dict[str, Any], kinds: list[tuple[str, int] | None], rows: int) -> tuple[float, float]:
    """Return (MB, GFLOP) that the adapters add to a step: each distinct adapter's bf16 weights once, 2 flops a weight
    and row."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    q, kv, mlp = heads * head, config["num_key_value_heads"] * head, config["intermediate_size"]
    ends = {"q_proj": hidden + q, "k_proj": hidden + kv, "v_proj": hidden + kv, "o_proj": q + hidden,
            "gate_proj": hidden + mlp, "up_proj": hidden + mlp, "down_proj": mlp + hidden}  # fmt: skip
    weights = {
        kind: config["num_hidden_layers"] * rank * sum(ends[m] for m in modules)
        for kind, (rank, modules, _) in KINDS.items()
    }
    distinct = {k for k in kinds if k}
    return (
        sum(2 * weights[k[0]] for k in distinct) / 1e6,
        sum(2 * weights[k[0]] * rows for k in kinds if k) / 1e9,
    )


ENGINES = ["off", "off-eager", "stock", "tritonode-off", "tritonode", "tritonode-compiled"]


def bandwidth() -> float:
    """Return the machine's read bandwidth in GB/s, all threads: the sum of 512 MiB, best of five."""
    import torch

    data = torch.ones(2**27)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        data.sum()
        best = min(best, time.perf_counter() - started)
    return data.nbytes / best / 1e9


def main() -> None:
    """Build the engines, run the rounds, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="SmolLM2-135M-Instruct as a Hugging Face folder")
    parser.add_argument("--adapters", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--engines",
        default="off-eager,off,stock,tritonode",
        help="of off, off-eager, stock, tritonode-off (without LoRA), tritonode, "
        "tritonode-compiled; the first is what the others are measured against",
    )
    parser.add_argument("--only", default="", help="workloads whose name holds this")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()

    make_adapters(options.model, options.adapters)
    from tritonode.cpu import punica_wrapper

    names = options.engines.split(",")
    engines: list[Bench] = []
    # vLLM's own engines are built before install(): operators are chosen when an engine is built.
    for name in sorted(names, key=ENGINES.index):
        lora = None if "off" in name.split("-") else options.adapters
        if name.startswith("tritonode"):
            punica_wrapper.install(name.endswith("compiled"))
        engines.append(Bench(name, options.model, lora, enforce_eager=name in ("off-eager", "tritonode-off")))
        print(f"{name}: {engines[-1].mode}, {engines[-1].start:.1f} s to start", file=sys.stderr, flush=True)

    config = json.loads((Path(options.model) / "config.json").read_text())
    workloads = {name: w for name, w in WORKLOADS.items() if options.only in name}
    times: dict[str, dict[str, list[float]]] = {w: {e.name: [] for e in engines} for w in workloads}
    for turn in range(options.rounds + 1):  # the first round warms up
        for workload, (kinds, prompt, tokens) in workloads.items():
            for bench in engines if turn % 2 else reversed(engines):
                if bench.name == "stock" and turn > 3:
                    continue  # it takes longest, and differs by more than its noise
                seconds = bench.run(kinds, prompt, tokens)
                if turn:
                    times[workload][bench.name].append(seconds)
        print(f"round {turn}", file=sys.stderr, flush=True)

    speed = bandwidth()
    results = []
    for workload, (kinds, prompt, tokens) in workloads.items():
        extra_mb, extra_gflop = roofline(config, kinds, prompt if tokens == 1 else 1)
        row: dict[str, Any] = {"workload": workload, "added_mb": extra_mb, "added_gflop": extra_gflop,
                               "added_ms_at_bandwidth": extra_mb / speed, "engines": {}}  # fmt: skip
        base = times[workload][names[0]]
        for bench in engines:
            own = times[workload][bench.name]
            ratios = [b / t for b, t in zip(base, own, strict=False)]
            row["engines"][bench.name] = {
                "median_ms": statistics.median(own) * 1e3, "best_ms": min(own) * 1e3,
                "of_off": statistics.median(ratios), "of_off_best": min(base) / min(own), "rounds": len(own),
            }  # fmt: skip
        results.append(row)
    report = {
        "machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(), "bandwidth_gb_s": speed,
        "openmp": {n: os.environ.get(n, "") for n in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}, "load": os.getloadavg(),
        "level": _level(), "rows": results,
        "engines": {
            e.name: {"mode": e.mode, "start_s": e.start} for e in sorted(engines, key=lambda e: names.index(e.name))
        },
    }  # fmt: skip
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    if options.markdown:
        options.markdown.write_text(table(report))


def _level() -> str:
    from tritonode.cpu import punica_library

    try:
        return punica_library.level()
    except punica_library.PunicaLibraryError:
        return "none"


def table(report: dict[str, Any]) -> str:
    """Return the results as a markdown table; the percentages are how fast, against the first engine (100% = equal)."""
    names = list(report["engines"])
    lines = [
        "| workload | "
        + " | ".join(f"{n}, ms" if n == names[0] else f"{n}, ms (% of {names[0]})" for n in names)
        + " | adds MB / GFLOP | ms at full bandwidth |",
        "| --- |" + " --- |" * (len(names) + 2),
    ]
    show: Callable[[dict[str, Any], str], str] = lambda cell, n: (  # noqa: E731
        f"{cell['median_ms']:.1f}" if n == names[0] else f"{cell['median_ms']:.1f} ({cell['of_off'] * 100:.0f}%)"
    )
    for row in report["rows"]:
        cells = " | ".join(show(row["engines"][n], n) for n in names)
        lines.append(f"| {row['workload']} | {cells} | {row['added_mb']:.1f} / {row['added_gflop']:.2f} | "
                     f"{row['added_ms_at_bandwidth']:.2f} |")  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
