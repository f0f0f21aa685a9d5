"""A real file, SmolLM2-135M-Instruct in Q4_1 and Q8_0, served in bfloat16: what that rounding costs."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
import make_backbone
import serving
import torch
from tokenizers import Tokenizer
from tritonode.gguf.folder import write_folder
from tritonode.vllm.requests import SamplingParams

TEXT = (Path(__file__).resolve().parents[3] / "docs/architecture.md").read_text("utf-8")
TOKENS = 1000


def _logprobs(served: Any, ids: list[int]) -> list[float]:
    """The log-probability of each token but the first, by the served model."""

    async def ask() -> Any:
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        outputs = served.engine.llm.generate({"prompt_token_ids": ids}, params, "perplexity")
        return [output async for output in outputs][-1].prompt_logprobs

    found = served.run(ask())
    return [position[token].logprob for token, position in zip(ids[1:], found[1:], strict=True)]


def test_the_perplexity_of_a_text_is_that_of_the_dequantised_weights(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, GgufConfig

    try:
        file = make_backbone.find_gguf()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    write_folder(str(file), str(tmp_path), packed=True)
    ids = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(TEXT).ids[:TOKENS]
    assert len(ids) == TOKENS
    reference = AutoModelForCausalLM.from_pretrained(
        os.path.dirname(file), gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    with torch.inference_mode():
        logits = reference(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    wanted = logits.gather(1, torch.tensor(ids[1:])[:, None]).mean()
    served = serving.Served(file, None, dtype="bfloat16", max_model_len=1024)
    try:
        found = _logprobs(served, ids)
    finally:
        served.close()
    ratio = math.exp(float(wanted) - sum(found) / len(found))
    print(f"perplexity {math.exp(-float(wanted)):.4f} in float32, {ratio - 1:+.5%} as served")
    assert abs(ratio - 1) < 1e-3
