"""Adapters on quantised base models: what the weights stand for, with transformers and PEFT, is the measure.

vLLM computes these in bfloat16, and 8-bit weights with 8-bit activations; so logarithms of probabilities are compared,
within the rounding of that.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("vllm")
import serving
import tiny_gptq
import tiny_int8
import tiny_models
from transformers import LlamaConfig
from tritonode.lora.checkpoint import base_model_shapes
from tritonode.lora.files import inspect_adapter

TARGETS = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised")
    source = tiny_models.write_model(folder / "source", LlamaConfig(**tiny_models.SIZES))
    tiny_gptq.write_gptq(source, folder / "gptq", folder / "gptq-plain")
    tiny_int8.write_int8(source, folder / "int8", folder / "int8-plain")
    tiny_models.write_adapter(folder / "adapter", source, target_modules=TARGETS)
    return folder


def test_a_gptq_checkpoint_tells_its_modules_and_sizes(folder: Path) -> None:
    shapes = base_model_shapes(str(folder / "gptq"))
    assert shapes["model.layers.0.mlp.gate_proj"] == (96, 64)
    assert shapes["model.layers.1.mlp.down_proj"] == (64, 96)
    assert inspect_adapter(str(folder / "adapter"), base_model=str(folder / "gptq")).problems == []


@pytest.mark.parametrize(("name", "rounding"), [("gptq", 0.25), ("int8", 0.5)])
def test_an_adapter_equals_peft_on_the_weights_that_are_stood_for(folder: Path, name: str, rounding: float) -> None:
    plain = folder / f"{name}-plain"
    served = serving.Served(folder / name, {"adapter": folder / "adapter"}, dtype="bfloat16")
    try:
        for prompt in tiny_models.PROMPTS:
            base = tiny_models.logprobs(plain, None, prompt)
            adapted = tiny_models.logprobs(plain, folder / "adapter", prompt)
            for lora, wanted, other in (("adapter", adapted, base), (None, base, adapted)):
                found = served.logprobs(prompt, lora)
                away = max(abs(found[token] - float(wanted[token])) for token in found)
                wrong = max(abs(found[token] - float(other[token])) for token in found)
                assert away < rounding < 2 * rounding < wrong, (lora, away, wrong)
    finally:
        served.close()
