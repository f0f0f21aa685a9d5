"""A whole engine promises that a request's neighbours do not change its bits: texts and log-probabilities are the same
alone and in a batch, with the prompt in one piece or in several, with its prefix cached or not, on one thread or more.

In bfloat16 and in 4 bits; the base model and two adapters on all seven modules, mixed within each batch.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
import make_backbone
import serving
import tiny_models
import tiny_quantised
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig
from tritonode.cpu import attention, linear_layers
from tritonode.cpu import punica_library as punica
from tritonode.vllm.requests import SamplingParams

BUDGET = 160
"""Tokens that a step takes: one prompt fits, the batch's 24 do not, so that the batch cuts some of them."""
LORAS = (None, "a", "b")
PROMPTS = 24
TOKENS = 6
BLOCK = 32
_MOST_SECONDS = 600
Answer = tuple[tuple[int, ...], tuple[dict[int, float], ...]]
"""Token ids, and for each the log-probabilities of the likeliest."""


@dataclass
class Model:
    served: Any
    requests: list[tuple[list[int], str | None]]


def _write_adapter(folder: Path, config: dict[str, Any], seed: int) -> Path:
    """A random PEFT adapter of rank 16 on all seven modules of a LLaMA."""
    hidden, head = config["hidden_size"], config["hidden_size"] // config["num_attention_heads"]
    kv, mlp = config["num_key_value_heads"] * head, config["intermediate_size"]
    sizes = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (mlp, hidden), "mlp.up_proj": (mlp, hidden),
        "mlp.down_proj": (hidden, mlp),
    }  # fmt: skip
    torch.manual_seed(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for module, (outputs, inputs) in sizes.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(16, inputs) * inputs**-0.5
            tensors[f"{name}.lora_B.weight"] = torch.randn(outputs, 16) * 0.05
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 16, "lora_alpha": 16, "task_type": "CAUSAL_LM", "bias": "none"}
    modules = [name.split(".")[1] for name in sizes]
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "target_modules": modules}))
    return folder


def _smollm2() -> Path:
    try:
        return make_backbone.find_gguf()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


SMOLLM2 = {
    "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536,
    "num_hidden_layers": 30,
}  # fmt: skip
GPTQ = {**tiny_models.SIZES, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "head_dim": 64}
FORMS = ("bf16", "q4_1", "gptq")


@pytest.fixture(scope="module", params=FORMS)
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = tmp_path_factory.mktemp("exact")
    if request.param == "gptq":
        config: dict[str, Any] = GPTQ
        source = tiny_models.write_model(folder / "source", LlamaConfig(**config))
        form = tiny_quantised.gptq(desc_act=True)
        tiny_quantised.write_quantised(source, folder / "gptq", folder / "plain", form)
        path, vocabulary = folder / "gptq", tiny_models.VOCABULARY
    else:
        config, path, vocabulary = SMOLLM2, _smollm2(), 40000
    adapters = {name: _write_adapter(folder / name, config, seed) for seed, name in enumerate(("a", "b"))}
    patch = pytest.MonkeyPatch()
    patch.setenv(linear_layers.VARIABLE, "tritonode")
    patch.delenv(attention.VARIABLE, raising=False)
    served = serving.Served(
        path, adapters, packed=request.param == "q4_1", dtype="bfloat16", max_model_len=256, max_num_seqs=PROMPTS,
        max_num_batched_tokens=BUDGET, block_size=BLOCK, enable_prefix_caching=True, max_loras=2,
    )  # fmt: skip
    torch.manual_seed(7)
    # One shares its first blocks with the one before it; lengths go across pages, tiles and the limit of a piece.
    prompts = [torch.randint(4, vocabulary, (5 + 6 * at,)).tolist() for at in range(PROMPTS)]
    prompts[18][:64] = prompts[15][:64]
    try:
        yield Model(served, [(prompt, LORAS[at % 3]) for at, prompt in enumerate(prompts)])
    finally:
        served.close()
        patch.undo()


class Asked:
    """Sends requests and keeps what was found in the prefix cache."""

    def __init__(self, model: Model) -> None:
        self.served, self.cached = model.served, 0

    async def _ask(self, number: int, request: tuple[list[int], str | None]) -> Answer:
        prompt, lora = request
        adapter = None if lora is None else (await self.served.registry.for_request(lora, None)).request
        params = SamplingParams(
            temperature=0.0, max_tokens=TOKENS, min_tokens=TOKENS, ignore_eos=True, logprobs=5, detokenize=False
        )
        given = {"prompt_token_ids": prompt}
        outputs = self.served.engine.llm.generate(given, params, f"{id(self)}-{number}", lora_request=adapter)
        last: Any = [output async for output in outputs][-1]
        self.cached += last.num_cached_tokens
        made = last.outputs[0]
        logprobs = tuple({token: found.logprob for token, found in each.items()} for each in made.logprobs)
        return tuple(made.token_ids), logprobs

    def one_by_one(self, requests: list[tuple[list[int], str | None]], fresh: bool = False) -> list[Answer]:
        """`fresh`: with an empty prefix cache for each."""

        async def ask() -> list[Answer]:
            answers = []
            for number, request in enumerate(requests):
                if fresh:
                    assert await self.served.engine.llm.reset_prefix_cache()
                answers.append(await self._ask(number, request))
            return answers

        return self.served.call(ask()).result(_MOST_SECONDS)  # type: ignore[no-any-return]

    def at_once(self, requests: list[tuple[list[int], str | None]], fresh: bool = False) -> list[Answer]:
        async def ask() -> list[Answer]:
            if fresh:
                assert await self.served.engine.llm.reset_prefix_cache()
            return await asyncio.gather(*(self._ask(*each) for each in enumerate(requests)))

        return self.served.call(ask()).result(_MOST_SECONDS)  # type: ignore[no-any-return]


def _equal(found: list[Answer], wanted: list[Answer]) -> int:
    """How many answers are the same, every log-probability to the bit."""
    return sum(a == b for a, b in zip(found, wanted, strict=True))


def test_alone_in_a_batch_in_pieces_and_from_the_cache(model: Model) -> None:
    requests = model.requests
    first = Asked(model)
    alone = first.one_by_one(requests, fresh=True)
    assert first.cached == 0
    # What is compared can differ: adapters change answers, and log-probabilities are many different numbers.
    assert len({text for text, _ in alone}) > PROMPTS // 2
    assert model.served.run(Asked(model)._ask(0, (requests[1][0], None))) != alone[1]
    batch = Asked(model)
    assert _equal(batch.at_once(requests, fresh=True), alone) == PROMPTS
    again = Asked(model)
    assert _equal(again.at_once(requests[::-1]), alone[::-1]) == PROMPTS
    assert again.cached >= batch.cached + 12 * BLOCK
    cached = Asked(model)
    assert cached.one_by_one(requests[::3]) == alone[::3]
    assert cached.cached >= 12 * BLOCK
    punica.load().tritonode_punica_set_parallel(None, 1)
    try:
        assert _equal(Asked(model).at_once(requests, fresh=True), alone) == PROMPTS
    finally:
        punica.use_torch_threads()
