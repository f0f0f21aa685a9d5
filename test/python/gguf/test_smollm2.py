"""A real file, SmolLM2-135M-Instruct in Q4_1 and Q8_0: its perplexity is that of the dequantised weights.

In bfloat16 activations are rounded; in products of integers they keep their 16 bits where the processor has bfloat16's
instructions, else 8 bits in groups of 32, as in llama.cpp.
"""

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
from tritonode.cpu.packed_layers import activation_bits
from tritonode.gguf.folder import write_folder
from tritonode.vllm.requests import SamplingParams

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGES = ("contributing/architecture.md", "reference/openai.md", "reference/reliability.md")
TEXT = "\n\n".join((DOCS / page).read_text("utf-8") for page in PAGES)
WINDOW, WINDOWS = 1000, 6


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
    ids = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(TEXT).ids
    windows = [ids[at * WINDOW : (at + 1) * WINDOW] for at in range(WINDOWS)]
    assert len(windows[-1]) == WINDOW
    reference = AutoModelForCausalLM.from_pretrained(
        os.path.dirname(file), gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    wanted = 0.0
    for window in windows:
        with torch.inference_mode():
            logits = reference(input_ids=torch.tensor([window])).logits[0, :-1].log_softmax(-1)
        wanted += float(logits.gather(1, torch.tensor(window[1:])[:, None]).mean()) / WINDOWS
    del reference
    exact = activation_bits(torch.bfloat16, 4) == 16
    for dtype, most in (("float32", 1e-5), ("bfloat16", 1e-3 if exact else 5e-3)):
        served = serving.Served(file, None, dtype=dtype, max_model_len=1024)
        try:
            found = [each for window in windows for each in _logprobs(served, window)]
        finally:
            served.close()
        ratio = math.exp(wanted - sum(found) / len(found))
        print(f"perplexity {math.exp(-wanted):.4f}, {ratio - 1:+.5%} as served in {dtype}")
        assert abs(ratio - 1) < most
