"""A decoder's layers in one native call: the bits of the layers one by one, on models of each architecture it knows."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import tiny_quantised
import torch
from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from tritonode.cpu import checkpoint_layers, decoder_plan, eager, linear_layers, platform
from tritonode.cpu.decoder import Decoder, Linear, Norm, Sizes
from tritonode.cpu.decoder_plan import PlannedForward

vllm = pytest.importorskip("vllm")

SIZES = tiny_models.SIZES | {"num_attention_heads": 4}  # two for each KV head
ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64, "rope_theta": 10000.0}  # fmt: skip
MODELS: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig(**SIZES, rope_parameters=ROPE), None),
    "mistral-window": (MistralConfig(**SIZES, sliding_window=24), None),
    "qwen2": (Qwen2Config(**(SIZES | {"hidden_size": 128})), None),  # it has no head_dim of its own
    "qwen3": (Qwen3Config(**SIZES), None),
    "llama-gptq": (LlamaConfig(**SIZES), tiny_quantised.gptq(symmetric=False, desc_act=True)),
}
LONG = [(7 * i) % 400 + 50 for i in range(90)]
PROMPTS = (*tiny_models.PROMPTS, LONG)


def planned_forward(engine: Any) -> Any:
    model = engine.llm_engine.model_executor.driver_worker.worker.model_runner.model
    (found,) = (m.forward for m in model.modules() if isinstance(m.__dict__.get("forward"), PlannedForward))
    return found


@pytest.fixture(params=MODELS)
def served(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """An engine, and the request of an adapter of it; prompts are cut into steps of 32 tokens."""
    monkeypatch.setenv(linear_layers.VARIABLE, "tritonode")
    monkeypatch.delenv(decoder_plan.VARIABLE, raising=False)
    platform.install()
    checkpoint_layers.install()
    config, form = MODELS[request.param]
    model = tiny_models.write_model(tmp_path / "model", config)
    adapter = tiny_models.write_adapter(tmp_path / "adapter", model, target_modules="all-linear")
    if form is not None:
        tiny_quantised.write_quantised(model, tmp_path / "quantised", tmp_path / "plain", form)
        model = tmp_path / "quantised"
    engine = vllm.LLM(
        str(model), dtype="bfloat16", skip_tokenizer_init=True, max_model_len=160, max_num_seqs=16, seed=0,
        max_num_batched_tokens=32, enable_lora=True, max_loras=2, max_lora_rank=8, enable_prefix_caching=False,
    )  # fmt: skip
    yield engine, vllm.lora.request.LoRARequest("adapter", 1, str(adapter))
    engine.llm_engine.engine_core.shutdown()
    gc.collect()


def answers(engine: Any, requests: list[tuple[list[int], Any]]) -> list[Any]:
    """Tokens and log-probabilities, of the prompt too."""
    parameters = vllm.SamplingParams(
        temperature=0, max_tokens=6, ignore_eos=True, logprobs=2, prompt_logprobs=1, detokenize=False
    )
    made = engine.generate(
        [{"prompt_token_ids": prompt} for prompt, _ in requests],
        parameters,
        lora_request=[adapter for _, adapter in requests],
        use_tqdm=False,
    )

    def values(steps: Any) -> list[Any]:
        return [None if step is None else {i: p.logprob for i, p in step.items()} for step in steps]

    return [(o.outputs[0].token_ids, values(o.outputs[0].logprobs), values(o.prompt_logprobs)) for o in made]


def test_one_call_gives_the_bits_of_the_layers(served: tuple[Any, Any]) -> None:
    engine, adapter = served
    forward = planned_forward(engine)
    requests = [(prompt, lora) for prompt in PROMPTS for lora in (None, adapter)]
    forward.enabled = False
    wanted = [answers(engine, [request])[0] for request in requests]
    assert forward._decoder is None
    forward.enabled, slow = True, forward._slow
    forward._slow = None  # not to be called
    assert [answers(engine, [request])[0] for request in requests] == wanted
    assert answers(engine, requests) == wanted
    assert isinstance(forward._decoder, Decoder)
    assert wanted[0] != wanted[1]  # the adapter changes the answer
    before = forward._decoder
    forward._slow = slow
    # Weights that are loaded anew, which may lie elsewhere.
    eager._count_weights()
    assert answers(engine, requests[:1]) == wanted[:1]
    assert forward._decoder is not before


def test_other_architectures_run_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    caplog.set_level(logging.INFO, "vllm.tritonode.decoder")
    platform.install()
    model = tiny_models.write_model(tmp_path / "model", Gemma3TextConfig(**SIZES, query_pre_attn_scalar=32))
    engine = vllm.LLM(
        str(model), dtype="float32", skip_tokenizer_init=True, max_model_len=64, max_num_seqs=4, enforce_eager=True
    )
    try:
        assert "one by one: Gemma3ForCausalLM is not among the architectures" in caplog.text
        assert len(answers(engine, [(PROMPTS[0], None)])[0][0]) == 6
    finally:
        engine.llm_engine.engine_core.shutdown()
        gc.collect()


def test_an_unknown_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(decoder_plan.VARIABLE, "fast")
    with pytest.raises(ValueError, match="wanted one of tritonode, vllm"):
        decoder_plan.wanted()
    monkeypatch.setenv(decoder_plan.VARIABLE, "vllm")
    assert not decoder_plan.wanted()


def test_what_does_not_fit_together_is_refused() -> None:
    from tritonode.cpu.decoder import Layer
    from tritonode.cpu.linear import pack_dense

    def linear(outputs: int, inputs: int) -> Linear:
        return Linear([(pack_dense(torch.randn(outputs, inputs)).data, None)])

    def layer(**other: Any) -> Layer:
        norm = Norm(torch.ones(64), 1e-5)
        parts = {
            "input_norm": norm, "mlp_norm": norm, "query_norm": None, "key_norm": None, "qkv": linear(192, 64),
            "attention_output": linear(64, 64), "gate_up": linear(192, 64), "down": linear(64, 96),
            "cos_sin": torch.zeros(16, 32), "cache": torch.zeros(4, 2, 32, 64), "window": 0, "scale": 1.0,
            "softcap": 0.0,
        }  # fmt: skip
        return Layer(**(parts | other))

    sizes = Sizes(hidden=64, intermediate=96, heads=2, kv_heads=2, head_size=32, dtype=torch.float32)
    norm = Norm(torch.ones(64), 1e-5)
    decoder = Decoder(sizes, [layer()], norm)
    with pytest.raises(ValueError, match="another number of outputs"):
        Decoder(sizes, [layer(), layer(down=linear(65, 96))], norm)
    with pytest.raises(ValueError, match="another number of inputs"):
        Decoder(sizes, [layer(qkv=linear(192, 32))], norm)
    with pytest.raises(ValueError, match="not a packed buffer"):
        Decoder(sizes, [layer(qkv=Linear([(torch.zeros(256, dtype=torch.uint8), None)]))], norm)
    with pytest.raises(ValueError, match="inputs that its layer does not have"):
        Decoder(sizes, [layer(down=Linear([(linear(64, 96).parts[0][0], torch.full((96,), 96))]))], norm)
    with pytest.raises(ValueError, match="KV cache"):
        Decoder(sizes, [layer(cache=torch.zeros(4, 2, 32, 32))], norm)
    with pytest.raises(ValueError, match="a norm's weight"):
        Decoder(sizes, [layer()], Norm(torch.ones(65), 1e-5))
    ints = {"dtype": torch.int32}
    step = [torch.zeros(2, 64), torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([0, 2], **ints),
            torch.tensor([2], **ints), torch.zeros(1, 1, **ints)]  # fmt: skip
    assert decoder.run(*step).shape == (2, 64)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x is torch"):
        decoder.run(step[0].bfloat16(), *step[1:])  # type: ignore[arg-type]
    for place, wrong in ((1, torch.tensor([0, 16])), (2, torch.tensor([0, 128])), (5, torch.full((1, 1), 4, **ints)),
                         (3, torch.tensor([0, 3], **ints))):  # fmt: skip
        with pytest.raises(RuntimeError, match="status 1"):
            decoder.run(*step[:place], wrong, *step[place + 1 :])  # type: ignore[arg-type]
