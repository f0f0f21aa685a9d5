"""Adapters on quantised base models: what the weights stand for, with transformers and PEFT, is the measure.

vLLM computes these in bfloat16, and 8-bit weights with 8-bit activations; so logarithms of probabilities are compared,
within the rounding of that.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("vllm")
import serving
import tiny_models
import tiny_quantised
import torch
from transformers import LlamaConfig
from tritonode.errors import SettingsError
from tritonode.lora.checkpoint import base_model_shapes
from tritonode.lora.files import inspect_adapter

TARGETS = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
FORMS = {
    "gptq": tiny_quantised.gptq(),
    "awq": tiny_quantised.awq(),
    "w4a16": tiny_quantised.compressed_packed(4),
    "w4a16-asymmetric": tiny_quantised.compressed_packed(4, symmetric=False),
    "w8a8": tiny_quantised.compressed_w8a8(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised")
    source = tiny_models.write_model(folder / "source", LlamaConfig(**tiny_models.SIZES))
    for name, form in FORMS.items():
        tiny_quantised.write_quantised(source, folder / name, folder / f"{name}-plain", form)
    tiny_models.write_adapter(folder / "adapter", source, target_modules=TARGETS)
    return folder


@pytest.mark.parametrize("name", FORMS)
def test_a_checkpoint_tells_its_modules_and_the_sizes_it_knows(folder: Path, name: str) -> None:
    shapes = base_model_shapes(str(folder / name))
    # compressed-tensors packs inputs and keeps their number elsewhere.
    packed = name.startswith("w4a16")
    assert shapes["model.layers.0.mlp.gate_proj"] == (96, None if packed else 64)
    assert shapes["model.layers.1.mlp.down_proj"] == (64, None if packed else 96)
    assert inspect_adapter(str(folder / "adapter"), base_model=str(folder / name)).problems == []


@pytest.mark.parametrize("name", FORMS)
def test_an_adapter_equals_peft_on_the_weights_that_are_stood_for(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "w8a8" and torch.cpu._is_vnni_supported():
        # vLLM's own kernels, which processors with AMX keep; ours are compared in formats/test_exact.py. Without VNNI
        # theirs are far off: on AVX2 by a quarter of the largest product.
        monkeypatch.setenv("TRITONODE_CPU_LINEAR", "vllm")
    rounding = 0.5 if name == "w8a8" else 0.25
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


def test_groups_that_are_none_are_refused() -> None:
    from tritonode.cpu import checkpoint_formats

    writer, _ = tiny_quantised.gptq()
    tensors, _ = writer("m", torch.randn(96, 64))
    named = {name.rsplit(".", 1)[-1]: each for name, each in tensors.items()}
    named["g_idx"] = torch.zeros(64, dtype=torch.int32)
    with pytest.raises(SettingsError, match="the groups of the inputs"):
        checkpoint_formats.gptq(named, bits=4, zeros_less_one=True)
