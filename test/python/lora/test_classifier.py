"""Adapters of classifiers: PEFT saves the whole head beside them (`modules_to_save`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
import serving
import tiny_models
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, LlamaConfig
from tritonode.vllm import versions
from tritonode.vllm.requests import PoolingParams

CONFIG = LlamaConfig(**tiny_models.SIZES, num_labels=2)


def wanted(base: Path, adapter: Path | None) -> list[torch.Tensor]:
    model: Any = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    with torch.inference_mode():
        return [model.eval()(torch.tensor([prompt])).logits[0].softmax(-1) for prompt in tiny_models.PROMPTS]


@pytest.mark.skipif(not versions.takes_heads(), reason="before 0.31 an adapter brings no head, and is refused")
def test_a_classifiers_adapter_brings_its_head(tmp_path: Path) -> None:
    auto_class = AutoModelForSequenceClassification
    base = tiny_models.write_model(tmp_path / "model", CONFIG, auto_class)
    targets = ["q_proj", "v_proj", "gate_proj"]
    adapters: dict[str, Path] = {
        name: tiny_models.write_adapter(
            tmp_path / name, base, auto_class, seed=seed, task_type="SEQ_CLS", target_modules=targets
        )
        for seed, name in enumerate(("one", "two"), 1)
    }
    served = serving.Served(base, dict(adapters))

    async def classify(lora: str | None, prompt: list[int], number: int) -> torch.Tensor:
        request = None if lora is None else (await served.registry.for_request(lora, None)).request
        outputs = served.engine.llm.encode(
            {"prompt_token_ids": prompt}, PoolingParams(task="classify"), f"{lora}-{number}", lora_request=request
        )
        return [output async for output in outputs][-1].outputs.data

    async def all_of_them() -> list[torch.Tensor]:
        import asyncio

        asked = [(lora, prompt) for lora in (None, *adapters) for prompt in tiny_models.PROMPTS]
        return await asyncio.gather(*(classify(*each, number) for number, each in enumerate(asked)))

    try:
        found = served.run(all_of_them())
    finally:
        served.close()
    expected = [row for path in (None, *adapters.values()) for row in wanted(base, path)]
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert len({tuple(row.tolist()) for row in expected}) == 9
