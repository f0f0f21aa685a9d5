"""An engine that fails says of what, and does not point at a stack trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
import serving
import tiny_models
from transformers import LlamaConfig
from tritonode.vllm.engine import EngineDeadError
from tritonode.vllm.requests import SamplingParams

REASON = "the engine failed: RuntimeError: the test broke the engine"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[serving.Served]:
    model = tiny_models.write_model(tmp_path, LlamaConfig(**tiny_models.SIZES))
    made = serving.Served(model, logits_processors=["breaking_processor:BreakingProcessor"])
    yield made
    made.close()


def test_every_error_of_a_dead_engine_is_its_reason(served: Any) -> None:
    async def ask(number: int) -> None:
        params = SamplingParams(max_tokens=2, detokenize=False, extra_args={"break_engine": True})
        async for _ in served.engine.llm.generate({"prompt_token_ids": [1, 2]}, params, f"request-{number}"):
            pass

    # The request that it happens to, one that comes later, a call of the engine, and what its health check says.
    for failing in (lambda: ask(1), lambda: ask(2), served.engine.llm.list_loras, served.engine.llm.check_health):
        with pytest.raises(EngineDeadError) as caught:
            served.run(failing())
        assert str(caught.value) == REASON
    assert str(served.engine.llm.dead_error) == REASON
