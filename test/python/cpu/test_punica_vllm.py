"""Mixed batches of vLLM on the CPU with our LoRA operators, token by token against transformers + PEFT.

The tiny models are float32, so that equal means equal: each request's least margin between its best and second best
token is far above float32's rounding.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import make_fixtures
import pytest
import reference
import tiny_llama
import torch
from safetensors.torch import save_file
from tritonode.cpu import platform, punica_wrapper

vllm = pytest.importorskip("vllm")
TOKENS = 10
LONG = "The quick brown fox jumps over the lazy dog while seven wizards mix a potion of vexing jade. " * 5
PROMPTS = ("Hello, my name is", "The capital of France is", LONG + "Then", LONG + "So")


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = make_fixtures.make_fixtures(tmp_path_factory.mktemp("fixtures"), 6)
    made["adapters"]["lora_ends"] = str(_ends_adapter(tmp_path_factory.mktemp("ends")))
    return made


def _ends_adapter(folder: Path) -> Path:
    """Write an adapter of the embeddings and the logits: vLLM keeps those apart from its linear layers."""
    generator = torch.Generator().manual_seed(7)
    hidden, vocabulary, rank = tiny_llama.TINY.hidden, tiny_llama.VOCABULARY, 4

    def random(*shape: int, scale: float) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    prefix = "base_model.model."
    tensors = {
        f"{prefix}model.embed_tokens.lora_embedding_A": random(rank, vocabulary, scale=0.02),
        f"{prefix}model.embed_tokens.lora_embedding_B": random(hidden, rank, scale=0.3),
        f"{prefix}lm_head.lora_A.weight": random(rank, hidden, scale=hidden**-0.5),
        f"{prefix}lm_head.lora_B.weight": random(vocabulary, rank, scale=0.02),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = tiny_llama.lora_config(rank, ("embed_tokens", "lm_head"))
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def requests(listing: dict[str, Any], names: list[str | None]) -> list[dict[str, Any]]:
    """Return a request of every name, on prompts short and long, in an order that mixes them."""
    adapters = listing["adapters"]
    return [
        {"prompt": PROMPTS[(i + j) % len(PROMPTS)], "name": name, "adapter": adapters[name] if name else None,
         "max_tokens": TOKENS, "ignore_eos": True}
        for j in range(2)
        for i, name in enumerate(names)
    ]  # fmt: skip


NAMES: list[str | None] = [None, "lora_a", "lora_all", None, "lora_b", "lora_mlp", "lora_c", "lora_a", None, "lora_d"]


@pytest.fixture(scope="module")
def expected(listing: dict[str, Any]) -> dict[tuple[str, str | None], list[int]]:
    model = reference.Reference(listing["models"]["tiny"])
    found = {}
    for request in requests(listing, [*NAMES, "lora_ends"]):
        for prompt in PROMPTS:
            if (prompt, request["name"]) not in found:
                answer = model.generate({**request, "prompt": prompt})
                assert answer["margin"] > 2e-5, f"{request['name']}: rounding would decide"
                found[prompt, request["name"]] = answer["token_ids"]
    return found


class Engine:
    """vLLM in this process, its LoRA through our wrapper."""

    def __init__(self, listing: dict[str, Any], compile_model: bool = False, **settings: Any) -> None:
        punica_wrapper.install(compile_model)
        self.adapters = listing["adapters"]
        self.llm = vllm.LLM(
            model=listing["models"]["tiny"], dtype="float32", seed=0, max_model_len=512, max_num_seqs=16,
            enable_lora=True, max_lora_rank=16, max_cpu_loras=8, disable_log_stats=True, **settings,
        )  # fmt: skip
        runner = self.llm.llm_engine.model_executor.driver_worker.worker.model_runner
        wrappers = runner.lora_manager._adapter_manager.punica_wrapper_mapping.values()
        assert all(isinstance(wrapper, punica_wrapper.PunicaWrapper) for wrapper in wrappers)

    def run(self, asked: list[dict[str, Any]], n: int = 1) -> list[list[list[int]]]:
        """Return the token ids of each request's n answers."""
        from vllm.lora.request import LoRARequest

        names = sorted(self.adapters)
        loras = [LoRARequest(r["name"], 1 + names.index(r["name"]), r["adapter"]) if r["name"] else None for r in asked]
        # vLLM refuses several greedy answers; the best token alone leaves a sampler no choice either.
        choice = {"temperature": 0.0} if n == 1 else {"temperature": 1.0, "top_k": 1}
        sampling = vllm.SamplingParams(max_tokens=TOKENS, ignore_eos=True, n=n, **choice)
        outputs = self.llm.generate([r["prompt"] for r in asked], sampling, lora_request=loras, use_tqdm=False)
        return [[list(answer.token_ids) for answer in output.outputs] for output in outputs]

    def check(self, asked: list[dict[str, Any]], expected: dict[tuple[str, str | None], list[int]], n: int = 1) -> None:
        """Fail unless every answer is transformers + PEFT's own."""
        for request, answers in zip(asked, self.run(asked, n), strict=True):
            assert len(answers) == n
            for answer in answers:
                assert answer == expected[request["prompt"], request["name"]], (
                    request["name"],
                    request["prompt"][-40:],
                )

    def close(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()


@pytest.fixture
def engine(listing: dict[str, Any], request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = Engine(listing, **request.param)
    yield made
    made.close()


WAYS = [
    pytest.param({"max_loras": 1, "enable_prefix_caching": False}, id="1 slot"),
    pytest.param({"max_loras": 2, "enable_prefix_caching": True}, id="2 slots, prefix caching"),
    pytest.param(
        {"max_loras": 4, "enable_prefix_caching": False, "max_num_batched_tokens": 48, "enable_chunked_prefill": True},
        id="4 slots, chunked prefill",
    ),
    pytest.param(
        {"max_loras": 4, "enable_prefix_caching": True, "max_num_batched_tokens": 48, "enable_chunked_prefill": True},
        id="4 slots, both",
    ),
]


@pytest.mark.parametrize("engine", WAYS, indirect=True)
def test_mixed_batches_equal_peft(
    engine: Engine, listing: dict[str, Any], expected: dict[tuple[str, str | None], list[int]]
) -> None:
    asked = requests(listing, NAMES)  # six adapters and the base: more than any number of slots here
    engine.check(asked, expected)
    engine.check(asked[::-1], expected)  # other neighbours; with prefix caching, from the cache
    for request in asked[:7]:
        engine.check([request], expected)
    engine.check(asked[:6], expected, n=3)


@pytest.mark.parametrize("engine", [pytest.param({"max_loras": 2}, id="2 slots")], indirect=True)
def test_embedding_and_logits_adapters(
    engine: Engine, listing: dict[str, Any], expected: dict[tuple[str, str | None], list[int]]
) -> None:
    asked = requests(listing, ["lora_ends", None, "lora_all", "lora_ends", None])
    engine.check(asked, expected)
    assert expected[PROMPTS[0], "lora_ends"] != expected[PROMPTS[0], None]


COMPILED = pytest.param({"max_loras": 2, "compile_model": True}, id="compiled")


@pytest.mark.parametrize("engine", [COMPILED], indirect=True)
def test_compiled(engine: Engine, listing: dict[str, Any], expected: dict[tuple[str, str | None], list[int]]) -> None:
    from vllm.config import CompilationMode

    assert engine.llm.llm_engine.vllm_config.compilation_config.mode == CompilationMode.DYNAMO_TRACE_ONCE
    engine.check(requests(listing, NAMES), expected)


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "kernels_available", lambda: False)


def test_plain_torch_serves_without_the_library(
    without_kernels: None, listing: dict[str, Any], expected: dict[tuple[str, str | None], list[int]]
) -> None:
    engine = Engine(listing, max_loras=2)
    try:
        engine.check(requests(listing, [*NAMES, "lora_ends"]), expected)
    finally:
        engine.close()


def test_prompt_logprobs_with_a_logits_adapter(listing: dict[str, Any]) -> None:
    """vLLM asks for the logits of a prompt's rows, which are not the rows that the step samples."""
    from vllm.lora.request import LoRARequest

    engine = Engine(listing, max_loras=2)
    try:
        sampling = vllm.SamplingParams(temperature=0.0, max_tokens=2, prompt_logprobs=1, ignore_eos=True)
        lora = LoRARequest("lora_ends", 99, listing["adapters"]["lora_ends"])
        with_adapter, base = (
            engine.llm.generate([PROMPTS[0]], sampling, lora_request=which, use_tqdm=False)[0].prompt_logprobs
            for which in (lora, None)
        )
        assert with_adapter is not None and base is not None and len(with_adapter) == len(base)
        assert [dict(p) for p in with_adapter[1:]] != [dict(p) for p in base[1:]]
    finally:
        engine.close()
