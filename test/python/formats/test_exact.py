"""Every format of weights in every family of models, with an adapter and without: exact in float32.

The measure is transformers with PEFT, on the weights that the numbers of a format stand for. An everyday run takes one
format of each kind, in one family after the other, and each type of GGUF in every family, all types in one file. With
TRITONODE_ALL_FORMATS=1 (`npm run matrix:formats`) each format runs in each family, and in bfloat16 too, on the kernels
for quantised weights.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
import serving
import tiny_gguf
import tiny_models
import tiny_quantised
import torch
from transformers import Gemma3TextConfig, LlamaConfig, Phi3Config, Qwen3Config
from tritonode.cpu.packed_layers import activation_bits

# Blocks of 256 elements want rows of as many.
SIZES = {**tiny_models.SIZES, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "head_dim": 64}
GQA = {**SIZES, "num_key_value_heads": 2}
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EVERY = [*("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"), *tiny_gguf.RANDOM]
DTYPES = ("float32", "bfloat16")
TOLERANCE = 1e-4
"""Of a log-probability in float32, against float64; four times what transformers in float32 is off, if that is more."""
ROUNDING = {16: 1.5, 8: 2.5}
"""The mean of the same in bfloat16, as a multiple of how far transformers in bfloat16 is off, by the bits that this
processor's products keep of activations. The largest difference may be twice as large a multiple."""


@dataclass(frozen=True)
class Family:
    config: Any
    architecture: str
    targets: list[str]


FAMILIES = {
    "llama": Family(LlamaConfig(**GQA), "llama", SEVEN),
    "qwen3": Family(Qwen3Config(**GQA), "qwen3", SEVEN),
    "gemma3": Family(
        # Its sixth layer is the first one without a window.
        Gemma3TextConfig(
            **{**SIZES, "tie_word_embeddings": True, "num_hidden_layers": 6},
            sliding_window=16,
            query_pre_attn_scalar=64,
        ),
        "gemma3",
        SEVEN,
    ),
    "phi3": Family(
        # Four matrices in a layer: as many layers as one file with every type needs.
        Phi3Config(**{**GQA, "num_hidden_layers": 4}), "phi3", ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    ),
}  # fmt: skip

# Writes a model in a format and, beside it, what its weights stand for; returns the model.
Format = Callable[[Path, Path, Family], Path]


def _dense(dtype: torch.dtype) -> Format:
    def write(source: Path, folder: Path, _: Family) -> Path:
        tiny_quantised.write_dense(source, folder / "model", folder / "plain", dtype)
        return folder / "model"

    return write


def _quantised(form: Any) -> Format:
    def write(source: Path, folder: Path, _: Family) -> Path:
        tiny_quantised.write_quantised(source, folder / "model", folder / "plain", form)
        return folder / "model"

    return write


def _gguf(kinds: Callable[[], Callable[[str], str]]) -> Format:
    def write(source: Path, folder: Path, family: Family) -> Path:
        file = folder / "model.gguf"
        tiny_gguf.write_gguf(source, file, folder / "plain", family.architecture, kinds())
        return file

    return write


def _only(kind: str) -> Format:
    return _gguf(lambda: lambda _: kind)


def _every() -> Callable[[str], str]:
    """Deal out the types: each matrix of a file gets the next one."""
    seen: list[str] = []

    def kind_of(name: str) -> str:
        seen.append(name)
        return EVERY[len(seen) % len(EVERY)]

    return kind_of


FORMATS: dict[str, Format] = {
    "float32": _dense(torch.float32),
    "float16": _dense(torch.float16),
    "bfloat16": _dense(torch.bfloat16),
    "gptq": _quantised(tiny_quantised.gptq()),
    "gptq-zeros": _quantised(tiny_quantised.gptq(group=64, symmetric=False)),
    "gptq-desc_act": _quantised(tiny_quantised.gptq(desc_act=True)),
    "gptq-zeros-desc_act": _quantised(tiny_quantised.gptq(group=128, symmetric=False, desc_act=True)),
    "gptq-8bit-group-16": _quantised(tiny_quantised.gptq(8, 16)),
    "awq": _quantised(tiny_quantised.awq()),
    "awq-group-128": _quantised(tiny_quantised.awq(128)),
    "awq-symmetric": _quantised(tiny_quantised.awq(symmetric=True)),
    "w4a16": _quantised(tiny_quantised.compressed_packed(4)),
    "w4a16-asymmetric": _quantised(tiny_quantised.compressed_packed(4, 128, symmetric=False)),
    "w4a16-actorder": _quantised(tiny_quantised.compressed_packed(4, act_order=True)),
    "w8a16": _quantised(tiny_quantised.compressed_packed(8, 64)),
    "w8a16-channel": _quantised(tiny_quantised.compressed_packed(8, None)),
    "w8a8": _quantised(tiny_quantised.compressed_w8a8()),
    "nf4": _quantised(tiny_quantised.bitsandbytes_4bit()),
    "nf4-nested": _quantised(tiny_quantised.bitsandbytes_4bit(nested=True)),
    "fp4": _quantised(tiny_quantised.bitsandbytes_4bit("fp4")),
    "bitsandbytes-8bit": _quantised(tiny_quantised.bitsandbytes_int8()),
    "gguf-every": _gguf(_every),
    **{f"gguf-{kind.lower()}": _only(kind) for kind in EVERY},
}

# One of each kind: an engine takes seconds, and every variant's products have tests of their own (cpu/test_linear.py).
EVERYDAY = ["float16", "gptq-zeros-desc_act", "gptq-8bit-group-16", "awq", "awq-symmetric", "w4a16-actorder"]
EVERYDAY += ["w8a16", "w8a8", "nf4-nested", "bitsandbytes-8bit"]

ALL = os.environ.get("TRITONODE_ALL_FORMATS") == "1"
if ALL:
    CASES = [(family, form, dtype) for family in FAMILIES for form in FORMATS for dtype in DTYPES]
else:
    CASES = [(list(FAMILIES)[at % len(FAMILIES)], form, "float32") for at, form in enumerate(EVERYDAY)]
    CASES += [(family, "gguf-every", "float32") for family in FAMILIES]
    # Families in one run: each is written once.
    CASES.sort(key=lambda case: case[0])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """A family's model in float32 and an adapter for it, both written when they are first asked for."""
    made: dict[str, tuple[Path, Path]] = {}

    def source(name: str) -> tuple[Path, Path]:
        if name not in made:
            folder, family = tmp_path_factory.mktemp(name), FAMILIES[name]
            model = tiny_models.write_model(folder / "model", family.config)
            made[name] = model, tiny_models.write_adapter(folder / "adapter", model, target_modules=family.targets)
        return made[name]

    return source


@pytest.mark.parametrize(("family", "form", "dtype"), CASES, ids=["-".join(case) for case in CASES])
def test_answers_equal_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: Any, family: str, form: str, dtype: str
) -> None:
    if form == "w8a8":
        # Where a processor has AMX this format is left to vLLM's kernels, which round activations.
        monkeypatch.setenv("TRITONODE_CPU_LINEAR", "tritonode")
    source, adapter = sources(family)
    model = FORMATS[form](source, tmp_path, FAMILIES[family])
    served = serving.Served(model, {"adapter": adapter}, dtype=dtype)
    try:
        scored = served.scored(None, "adapter")
    finally:
        served.close()
    references = {}
    plain = tmp_path / "plain"
    for lora, texts in scored.items():
        peft = adapter if lora else None
        answers = [[token for token, _ in text] for text in texts]
        prompts = [list(prompt) for prompt in tiny_models.PROMPTS]
        pairs = list(zip(prompts, answers, strict=True))
        references[lora] = tiny_models.forced_logprobs(plain, peft, pairs, torch.float64)
        away = _away(texts, references[lora])
        rounded = tiny_models.forced_logprobs(plain, peft, pairs, getattr(torch, dtype))
        theirs = _away(_of_same_tokens(texts, rounded), references[lora])
        if dtype == "float32":
            assert max(away) < max(TOLERANCE, 4 * max(theirs)), lora
            for text, wanted in zip(texts, references[lora], strict=True):
                for (token, _), row in zip(text, wanted, strict=True):
                    best = row.topk(2)
                    assert float(best.values[0] - best.values[1]) > TOLERANCE, "rounding would decide: a bad test"
                    assert token == int(best.indices[0]), lora
        else:
            most = ROUNDING[activation_bits(torch.bfloat16, 4)]
            assert statistics.mean(away) < most * statistics.mean(theirs), lora
            assert max(away) < 2 * most * max(theirs), lora
    base, adapted = references[None][0][0], references["adapter"][0][0]
    changed = float((base - adapted).abs().max())
    assert changed > (2 * TOLERANCE if dtype == "float32" else 0.6), "the adapter must change what is compared"


def _away(texts: list[serving.Scored], references: list[torch.Tensor]) -> list[float]:
    """How far each log-probability of the texts is from its reference."""
    return [
        abs(logprob - float(row[token]))
        for text, wanted in zip(texts, references, strict=True)
        for (_, found), row in zip(text, wanted, strict=True)
        for token, logprob in found.items()
    ]


def _of_same_tokens(texts: list[serving.Scored], rows: list[torch.Tensor]) -> list[serving.Scored]:
    """The texts with the log-probabilities of these rows, each [places, vocabulary]."""
    return [
        [(token, {each: float(row[each]) for each in found}) for (token, found), row in zip(text, of, strict=True)]
        for text, of in zip(texts, rows, strict=True)
    ]
