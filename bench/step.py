"""Where the time of a decoding step goes, from vLLM's scheduler to its detokeniser: one engine, in this process.

    python bench/step.py --model FOLDER_OR_GGUF [--streams 1,16] [--tokens 64] [--rounds 3] [--adapters FOLDER,FOLDER]

Prints, for the quicker half of the steps, the median milliseconds of each part. Parts with a dash are within the one
above them. With adapters, each number of streams runs without them and with them, in turn.
"""

from __future__ import annotations

import argparse
import collections
import functools
import statistics
import time
from typing import Any

import decoder

PARTS = (
    # What is timed, as (owner, function), and how it is called in the table.
    ("engine", "step", "whole step"),
    ("scheduler", "schedule", "scheduler: what to run"),
    ("runner", "execute_model", "runner"),
    ("runner", "_update_states", "- its requests"),
    ("runner", "_prepare_inputs", "- inputs"),
    ("runner", "_build_attention_metadata", "- attention's metadata"),
    ("runner", "_model_forward", "- forward"),
    ("embedding", "embed_input_ids", "- - embedding"),
    ("native", "run", "- - layers, in one call"),
    ("model", "compute_logits", "- logits"),
    ("runner", "sample_tokens", "sampling"),
    ("scheduler", "update_from_output", "scheduler: what came out"),
    ("outputs", "process_outputs", "detokenising, stops"),
)


class Timers:
    """Seconds of each part in the current step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)

    def wrap(self, owner: Any, name: str, label: str) -> None:
        """Time every call of a function."""
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def timed(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return inner(*args, **options)
            finally:
                self.seconds[label] += time.perf_counter() - started

        setattr(owner, name, timed)


def main() -> None:
    """Load the model and print a table for each number of streams."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapters", default="", help="PEFT folders of rank 16 at most; requests take them in turn")
    parser.add_argument("--streams", default="1,16")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folders = [folder for folder in options.adapters.split(",") if folder]
    engine = decoder.make_engine(options.model, bool(folders)).llm_engine

    from tritonode.cpu.decoder import Decoder
    from tritonode.cpu.decoder_plan import PlannedForward
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    runner = engine.model_executor.driver_worker.worker.model_runner
    modules = runner.model.modules()
    (planned,) = (module for module in modules if isinstance(module.__dict__.get("forward"), PlannedForward))
    owners = {
        "engine": engine,
        "scheduler": engine.engine_core.engine_core.scheduler,
        "runner": runner,
        "embedding": planned,
        "native": Decoder,
        "model": runner.model,
        "outputs": engine.output_processor,
    }
    timers = Timers()
    for owner, name, label in PARTS:
        timers.wrap(owners[owner], name, label)
    adapters = [LoRARequest(f"adapter-{i}", i + 1, folder) for i, folder in enumerate(folders)]
    number = 0

    def run(streams: int, carried: list[Any]) -> list[dict[str, float]]:
        nonlocal number
        parameters = SamplingParams(
            temperature=0.0, max_tokens=options.tokens, min_tokens=options.tokens, ignore_eos=True
        )
        for i in range(streams):
            number += 1
            prompt = {"prompt_token_ids": [(i * 131 + j * 13) % 4000 + 100 for j in range(16)]}
            engine.add_request(str(number), prompt, parameters, lora_request=carried[i % len(carried)])
        steps = []
        while engine.has_unfinished_requests():
            timers.seconds.clear()
            engine.step()
            steps.append(dict(timers.seconds))
        return steps[3:-1]

    kinds: list[list[Any]] = [[None], adapters] if adapters else [[None]]
    for streams in map(int, options.streams.split(",")):
        found: list[list[dict[str, float]]] = [[] for _ in kinds]
        for turn in range(-1, options.rounds):
            for kind, carried in enumerate(kinds):
                steps = run(streams, carried)
                found[kind] += steps if turn >= 0 else []
        print(f"\n| {streams} streams, ms |" + "".join(f" {('base', 'adapters')[k]} |" for k in range(len(kinds))))
        print("| --- |" + " --- |" * len(kinds))
        halves = [sorted(steps, key=lambda step: step["whole step"])[: len(steps) // 2] for steps in found]
        for _, _, label in PARTS:
            medians = (statistics.median(step.get(label, 0.0) for step in half) * 1e3 for half in halves)
            print(f"| {label} |" + "".join(f" {each:.2f} |" for each in medians), flush=True)


if __name__ == "__main__":
    main()
