"""What a decoding step takes with the decoder's layers in one call, and one by one: one engine, the two ways in turn.

    python bench/decoder.py --model FOLDER_OR_GGUF [--streams 1,16] [--tokens 48] [--rounds 5] [--adapter FOLDER]

Prints the median step of each round's best half, what of it is the model's forward, and tokens a second.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "backends" / "vllm"))


def make_engine(model: str, lora: bool) -> Any:
    """A raw vLLM engine on this package's kernels."""
    from tritonode.cpu import platform

    platform.install()
    settings: dict[str, Any] = {"enable_lora": True, "max_loras": 4, "max_lora_rank": 16} if lora else {}
    if model.endswith(".gguf"):
        from tritonode.cpu import gguf_model
        from tritonode.gguf.folder import METHOD, write_folder

        gguf_model.install()
        settings |= {"load_format": METHOD, "model_loader_extra_config": {"file": model}}
        folder = tempfile.mkdtemp(prefix="bench-decoder-")
        write_folder(model, folder, packed=True)
        model = folder
    from vllm import LLM

    return LLM(
        model, dtype="bfloat16", max_model_len=2048, enable_prefix_caching=False, max_num_seqs=32, enforce_eager=True,
        max_num_batched_tokens=2048, seed=0, **settings,
    )  # fmt: skip


class Bench:
    """An engine whose decoder can be switched."""

    def __init__(self, llm: Any, adapter: str | None) -> None:
        from tritonode.cpu.decoder_plan import PlannedForward
        from vllm.lora.request import LoRARequest

        self.engine = llm.llm_engine
        runner = self.engine.model_executor.driver_worker.worker.model_runner
        modules = runner.model.modules()
        (self.switch,) = (m.forward for m in modules if isinstance(m.__dict__.get("forward"), PlannedForward))
        self.adapter = LoRARequest("adapter", 1, adapter) if adapter else None
        self.forward_seconds = 0.0
        inner = runner._model_forward

        def timed(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return inner(*args, **options)
            finally:
                self.forward_seconds = time.perf_counter() - started

        runner._model_forward = timed
        self._next = 0

    def run(self, streams: int, tokens: int, in_one: bool) -> list[tuple[float, float]]:
        """(seconds of a step, of them in the model's forward) of each decoding step, the quickest half."""
        from vllm import SamplingParams

        self.switch.enabled = in_one
        parameters = SamplingParams(temperature=0.0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True)
        for i in range(streams):
            self._next += 1
            prompt = [(i * 131 + j * 13) % 4000 + 100 for j in range(16)]
            self.engine.add_request(
                str(self._next), {"prompt_token_ids": prompt}, parameters, lora_request=self.adapter
            )
        steps = []
        while self.engine.has_unfinished_requests():
            started = time.perf_counter()
            self.engine.step()
            steps.append((time.perf_counter() - started, self.forward_seconds))
        return sorted(steps[2:])[: max(1, len(steps) // 2)]


def main() -> None:
    """Load the model and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter", help="a PEFT folder: each request carries it")
    parser.add_argument("--streams", default="1,16")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    bench = Bench(make_engine(options.model, options.adapter is not None), options.adapter)
    print("| streams | layers | step, ms | forward, ms | the rest, ms | tokens/s |\n|" + " --- |" * 6)
    for streams in map(int, options.streams.split(",")):
        found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        bench.run(streams, options.tokens, True)
        for turn in range(options.rounds):
            for in_one in (True, False) if turn % 2 else (False, True):
                found[in_one] += bench.run(streams, options.tokens, in_one)
        for in_one, name in ((False, "one by one"), (True, "in one call")):
            step, forward = (statistics.median(each[i] for each in found[in_one]) * 1e3 for i in (0, 1))
            rest = step - forward
            print(
                f"| {streams} | {name} | {step:.2f} | {forward:.2f} | {rest:.2f} | {streams / step * 1e3:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
