"""GGUF files of each architecture give what transformers gives on the weights that they stand for.

Each type of tensor in each family is in formats/test_exact.py; here are files that mix types, and more families.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm")
import serving
import tiny_gguf
import tiny_models
from transformers import Gemma2Config, Gemma3TextConfig, LlamaConfig, Phi3Config, Qwen2Config, Qwen3Config
from tritonode.engine import gguf_model
from tritonode.gguf.reader import GgufError

# Blocks of 256 elements want rows of as many.
SIZES = {**tiny_models.SIZES, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "head_dim": 64}
WINDOW = {"sliding_window": 64, "query_pre_attn_scalar": 64}


def _q4_k_m(name: str) -> str:
    """As llama.cpp mixes formats: parts of one merged layer differ."""
    if name.startswith(("token_embd", "output.")):
        return "Q6_K"
    return "Q6_K" if name.split(".")[2] in ("attn_v", "ffn_down") else "Q4_K"


def _mixed(name: str) -> str:
    """Each part of each merged layer in another format; a dense one among them."""
    formats = {"attn_q": "Q4_0", "attn_k": "Q8_0", "attn_v": "BF16", "ffn_gate": "Q5_1", "ffn_up": "Q4_1"}
    return formats.get(name.split(".")[2] if name.startswith("blk") else "", "Q5_0")


# Name → configuration, GGUF's architecture, formats, whether adapters are compared too.
MODELS: dict[str, tuple[Any, str, Callable[[str], str]]] = {
    "llama": (LlamaConfig(**{**SIZES, "num_key_value_heads": 2}), "llama", _q4_k_m),
    "llama-mixed": (LlamaConfig(**{**SIZES, "tie_word_embeddings": True}), "llama", _mixed),
    "qwen2": (Qwen2Config(**SIZES), "qwen2", _q4_k_m),
    "qwen3": (Qwen3Config(**SIZES), "qwen3", _mixed),
    "gemma2": (Gemma2Config(**{**SIZES, **WINDOW, "tie_word_embeddings": True}), "gemma2", _q4_k_m),
    "gemma3": (
        Gemma3TextConfig(**{**SIZES, **WINDOW, "tie_word_embeddings": True, "num_hidden_layers": 6}),
        "gemma3",
        _mixed,
    ),
    "phi3": (Phi3Config(**SIZES), "phi3", _q4_k_m),
}
ADAPTED = ("llama", "qwen3", "gemma3", "phi3")
TARGETS = {"phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]}


@pytest.fixture(scope="module", params=MODELS)
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    config, architecture, kind_of = MODELS[request.param]
    source = tiny_models.write_model(folder / "source", config)
    tiny_gguf.write_gguf(source, folder / "model.gguf", folder / "plain", architecture, kind_of)
    if request.param in ADAPTED:
        targets = TARGETS.get(request.param, ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"])
        tiny_models.write_adapter(folder / "adapter", source, target_modules=targets)
    return request.param, folder


def test_answers_equal_transformers_on_dequantised_weights(model: tuple[str, Path]) -> None:
    name, folder = model
    adapter = folder / "adapter" if name in ADAPTED else None
    served = serving.Served(folder / "model.gguf", None if adapter is None else {"adapter": adapter})
    loras = (None,) if adapter is None else (None, "adapter")
    try:
        answers = served.answers(*loras)
        for lora in loras:
            wanted = tiny_models.answers(folder / "plain", adapter if lora else None)
            assert answers[lora] == wanted, lora
            for prompt in tiny_models.PROMPTS[:1]:
                found = served.logprobs(prompt, lora)
                reference = tiny_models.logprobs(folder / "plain", adapter if lora else None, prompt)
                assert max(abs(found[token] - float(reference[token])) for token in found) < 1e-4
    finally:
        served.close()
    if adapter is not None:
        prompt = tiny_models.PROMPTS[0]
        base, adapted = (tiny_models.logprobs(folder / "plain", each, prompt) for each in (None, adapter))
        assert float((base - adapted).abs().max()) > 0.1


def test_the_configuration_is_that_of_the_model(model: tuple[str, Path], tmp_path: Path) -> None:
    from transformers import AutoConfig

    _, folder = model
    gguf_model.write_folder(str(folder / "model.gguf"), str(tmp_path), packed=False)
    made, original = AutoConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(folder / "source")
    told = json.loads((tmp_path / "config.json").read_text())
    assert type(made) is type(original)
    for key in set(told) - {"dtype", "rope_parameters", "rms_norm_eps"}:
        assert getattr(made, key) == getattr(original, key), key
    assert np.isclose(made.rms_norm_eps, original.rms_norm_eps)
    assert made.rope_parameters == original.rope_parameters


def test_weights_that_are_dequantised_at_the_load_give_the_same(tmp_path: Path) -> None:
    """As on a GPU, whose kernels do not read packed weights."""
    config, architecture, kind_of = MODELS["llama"]
    source = tiny_models.write_model(tmp_path / "source", config)
    tiny_gguf.write_gguf(source, tmp_path / "model.gguf", tmp_path / "plain", architecture, kind_of)
    served = serving.Served(tmp_path / "model.gguf", packed=False)
    try:
        assert served.answers(None)[None] == tiny_models.answers(tmp_path / "plain", None)
    finally:
        served.close()


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray] | None] = {
    "blk.0.attn_k.weight": lambda weight: weight[:64],
    "blk.0.ffn_down.weight": lambda weight: weight[:, :256],
    "output_norm.weight": lambda weight: weight[:64],
    "blk.0.ffn_up.weight": None,
    "blk.0.attn_norm.weight": None,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_weight_of_another_size_or_none_is_refused(tmp_path: Path, name: str) -> None:
    source = tiny_models.write_model(tmp_path / "source", LlamaConfig(**{**SIZES, "num_hidden_layers": 1}))
    path = tmp_path / "model.gguf"
    tiny_gguf.write_gguf(source, path, tmp_path / "plain", "llama", lambda _: "F32", {name: CHANGES[name]})
    with pytest.raises(GgufError, match=str(path)):
        serving.Served(path)
