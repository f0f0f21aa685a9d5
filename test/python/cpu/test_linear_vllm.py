"""An engine whose unquantised layers run on our kernels: what it runs on, and the same bits alone and in a batch."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from tritonode.cpu import linear_layers, platform

vllm = pytest.importorskip("vllm")
PROMPTS = ("Hello, my name is", "The capital of France is", "Once upon a time there was a little fox that " * 9)


def _layers(engine: Any) -> dict[str, torch.nn.Module]:
    model = engine.llm_engine.model_executor.driver_worker.worker.model_runner.model
    return {name: layer for name, layer in model.named_modules() if hasattr(layer, "cpu_linear")}


@pytest.mark.parametrize("kernels", ["tritonode", "vllm"])
def test_bf16_is_exact_on_our_kernels_with_adapters(
    fixtures: dict[str, Any], monkeypatch: pytest.MonkeyPatch, kernels: str
) -> None:
    monkeypatch.setenv(linear_layers.VARIABLE, kernels)
    platform.install()
    engine = vllm.LLM(
        fixtures["models"]["tiny"], dtype="bfloat16", max_model_len=256, max_num_seqs=16, max_num_batched_tokens=256,
        enable_lora=True, max_loras=2, max_lora_rank=16, seed=0, enable_prefix_caching=False,
    )  # fmt: skip
    try:
        layers = _layers(engine)
        assert len(layers) > 8
        for name, layer in layers.items():
            assert (type(layer.cpu_linear) is linear_layers.PackedLinear) == (kernels == "tritonode"), name
        if kernels == "vllm":
            return  # of this choice nothing more is promised
        lora = vllm.lora.request.LoRARequest("a", 1, fixtures["adapters"]["lora_all"])
        requests = [(prompt, adapter) for prompt in PROMPTS for adapter in (None, lora)] * 2
        parameters = vllm.SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=2)

        def answers(some: list[tuple[str, Any]]) -> list[Any]:
            made = engine.generate(
                [prompt for prompt, _ in some],
                parameters,
                lora_request=[adapter for _, adapter in some],
                use_tqdm=False,
            )
            return [
                [
                    (token, {i: p.logprob for i, p in step.items()})
                    for token, step in zip(o.token_ids, o.logprobs, strict=True)
                ]
                for o in (one.outputs[0] for one in made)
            ]

        alone = [answers([request])[0] for request in requests]
        assert answers(requests) == alone
        assert alone[0] != alone[1]  # the adapter changes the answer
    finally:
        engine.llm_engine.engine_core.shutdown()
        gc.collect()


def test_an_unknown_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(linear_layers.VARIABLE, "fast")
    with pytest.raises(ValueError, match="wanted one of tritonode, vllm"):
        linear_layers.wanted()
