"""The floor: vLLM's own ``LLMEngine`` in one Python process, driven by its step loop and nothing else.

Started by run.mjs, with the protocol of driver.mjs: a line of JSON on stdin is a command, a line on descriptor 3 its
answer.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def percentile(values: list[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the list lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class Engine:
    """vLLM's engine and the adapters that it knows."""

    def __init__(self, config: dict[str, Any]) -> None:
        began = time.perf_counter()
        from vllm import EngineArgs, LLMEngine
        from vllm.lora.request import LoRARequest

        imported = time.perf_counter()
        loras = config.get("loras") or {}
        settings = dict(config["engine"])
        if loras:
            settings["enable_lora"] = True
        self.engine = LLMEngine.from_engine_args(EngineArgs(model=config["model"], **settings))
        self.loras = {name: LoRARequest(name, number + 1, path) for number, (name, path) in enumerate(loras.items())}
        self.count = 0
        self.seconds = {"imports": imported - began, "engine": time.perf_counter() - imported}

    def run(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        """Submit all requests at once and step until they are done."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        cpu = time.process_time()
        began = time.perf_counter()
        last: dict[str, float] = {}
        first: list[float] = []
        gaps: list[float] = []
        total: list[float] = []
        for request in requests:
            self.count += 1
            tokens = request["tokens"]
            params = SamplingParams(
                temperature=0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True,
                output_kind=RequestOutputKind.DELTA,
            )  # fmt: skip
            lora = self.loras[request["lora"]] if request.get("lora") else None
            self.engine.add_request(str(self.count), request["prompt"], params, lora_request=lora)
        ended = began
        pieces = 0
        while self.engine.has_unfinished_requests():
            outputs = self.engine.step()
            now = time.perf_counter()
            for output in outputs:
                pieces += 1
                before = last.get(output.request_id)
                if before is None:
                    first.append((now - began) * 1e3)
                else:
                    gaps.append((now - before) * 1e3)
                last[output.request_id] = now
                if output.finished:
                    total.append((now - began) * 1e3)
                    ended = now
        return {
            "seconds": ended - began,
            "tokens": sum(request["tokens"] for request in requests),
            "pieces": pieces,
            "failed": len(requests) - len(total),
            "firstMs": {"p50": percentile(first, 0.5), "p99": percentile(first, 0.99)},
            "totalMs": {"p50": percentile(total, 0.5), "p99": percentile(total, 0.99)},
            "gapMs": {"p50": percentile(gaps, 0.5), "p99": percentile(gaps, 0.99)},
            "cpuSeconds": time.process_time() - cpu,
            "memoryMiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def main() -> None:
    """Answer commands until `stop` or the end of stdin."""
    engine: Engine | None = None
    with os.fdopen(3, "w") as out:
        for line in sys.stdin:
            command = json.loads(line)
            answer: dict[str, Any]
            try:
                if command["cmd"] == "start":
                    engine = Engine(command["config"])
                    answer = engine.seconds
                elif command["cmd"] == "run":
                    assert engine is not None
                    answer = engine.run(command["requests"])
                else:
                    answer = {}
            except Exception as error:  # the harness reports it
                answer = {"failure": repr(error)}
            out.write(json.dumps(answer) + "\n")
            out.flush()
            if command["cmd"] == "stop":
                break
    # vLLM's atexit hooks take seconds, and nothing is left to save.
    os._exit(0)


if __name__ == "__main__":
    main()
