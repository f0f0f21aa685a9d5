"""Quantised checkpoints on a CPU in float32: equal to transformers and PEFT on the weights that they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
import serving
import tiny_models
import tiny_quantised
from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, Phi3Config, Qwen3Config
from tritonode.errors import SettingsError

TARGETS = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
LLAMA, QWEN3, PHI3, MISTRAL = (
    each(**tiny_models.SIZES) for each in (LlamaConfig, Qwen3Config, Phi3Config, MistralConfig)
)
GEMMA3 = Gemma3TextConfig(**tiny_models.SIZES, query_pre_attn_scalar=tiny_models.SIZES["head_dim"])
# Name → the model, its format. vLLM's own CPU kernels refuse most of these.
MODELS: dict[str, tuple[Any, Any]] = {
    "gptq": (QWEN3, tiny_quantised.gptq()),
    "gptq-zeros-desc_act": (LLAMA, tiny_quantised.gptq(symmetric=False, desc_act=True)),
    "gptq-8bit-group-16": (LLAMA, tiny_quantised.gptq(8, 16)),
    "awq": (LLAMA, tiny_quantised.awq()),
    "w4a16-asymmetric": (PHI3, tiny_quantised.compressed_packed(4, symmetric=False)),
    "w4a16-actorder": (LLAMA, tiny_quantised.compressed_packed(4, act_order=True)),
    "w8a16-channel": (QWEN3, tiny_quantised.compressed_packed(8, None)),
    "w8a8": (GEMMA3, tiny_quantised.compressed_w8a8()),
    "nf4": (LLAMA, tiny_quantised.bitsandbytes_nf4()),
    "nf4-nested": (GEMMA3, tiny_quantised.bitsandbytes_nf4(nested=True)),
    "bitsandbytes-8bit": (MISTRAL, tiny_quantised.bitsandbytes_int8()),
}


@pytest.mark.parametrize("name", MODELS)
def test_answers_equal_peft(tmp_path: Path, name: str) -> None:
    config, form = MODELS[name]
    source = tiny_models.write_model(tmp_path / "source", config)
    tiny_quantised.write_quantised(source, tmp_path / "quantised", tmp_path / "plain", form)
    targets = ["qkv_proj", "o_proj", "gate_up_proj"] if config is PHI3 else TARGETS
    adapter = tiny_models.write_adapter(tmp_path / "adapter", source, target_modules=targets)
    wanted = {None: tiny_models.answers(tmp_path / "plain", None)}
    wanted["adapter"] = tiny_models.answers(tmp_path / "plain", adapter)
    served = serving.Served(tmp_path / "quantised", {"adapter": adapter})
    try:
        assert served.answers(None, "adapter") == wanted
        found = served.logprobs(tiny_models.PROMPTS[0], "adapter")
    finally:
        served.close()
    reference = tiny_models.logprobs(tmp_path / "plain", adapter, tiny_models.PROMPTS[0])
    assert max(abs(found[token] - float(reference[token])) for token in found) < 1e-4
    assert wanted[None] != wanted["adapter"]


def test_groups_that_are_none_are_refused() -> None:
    import torch
    from tritonode.cpu import checkpoint_formats

    writer, _ = tiny_quantised.gptq()
    tensors, _ = writer("m", torch.randn(96, 64))
    named = {name.rsplit(".", 1)[-1]: each for name, each in tensors.items()}
    named["g_idx"] = torch.zeros(64, dtype=torch.int32)
    with pytest.raises(SettingsError, match="the groups of the inputs"):
        checkpoint_formats.gptq(named, bits=4, zeros_less_one=True)
