"""More adapters than host memory holds: what is wrong with one that has to be read is its own requests' trouble."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
import serving
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig
from tritonode.errors import SettingsError
from tritonode.vllm.requests import REQUEST_ERRORS

NAMES = ("a", "b", "c", "nan")
PROMPT = list(tiny_models.PROMPTS[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evicted")
    base = tiny_models.write_model(folder / "model", LlamaConfig(**tiny_models.SIZES))
    for seed, name in enumerate(NAMES):
        tiny_models.write_adapter(folder / name, base, seed=seed, target_modules=["q_proj", "v_proj"])
    weights = folder / "nan" / "adapter_model.safetensors"
    tensors = load_file(weights)
    tensors[next(iter(tensors))][0, 0] = torch.nan
    save_file(tensors, weights)
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[serving.Served]:
    made = serving.Served(folder / "model", {name: folder / name for name in NAMES}, max_loras=1, max_cpu_loras=2)
    yield made
    made.close()


def test_one_that_was_never_read_fails_before_the_step(served: Any) -> None:
    """The model started with the first two; nobody has looked at the others' weights."""
    assert served.registry.engine.locate(served.registry.get("nan").request.lora_int_id) == "disk"
    with pytest.raises(SettingsError, match=r"adapter 'nan'.*an infinity or a NaN"):
        served.answers("nan")
    assert served.answers("a", "b", "c")


@pytest.mark.parametrize("tokens", [1, 8])
def test_one_that_goes_while_its_request_waits_fails_alone(served: Any, folder: Path, tokens: int) -> None:
    """It passes every check, then has to wait for the only slot; its files are gone when it gets there."""
    wanted = served.answers("a", "b", "c")
    served.answers("a", "b")
    kept = folder / "c.kept"

    async def scenario() -> list[Any]:
        first = asyncio.ensure_future(served.ask(PROMPT, "a", 100))
        await served.wait_for_requests(1, 0)
        second = asyncio.ensure_future(served.ask(PROMPT, "c", tokens))
        await served.wait_for_requests(1, 1)
        shutil.move(folder / "c", kept)
        return await asyncio.gather(first, second, return_exceptions=True)

    first, second = served.run(scenario())
    assert first[: tiny_models.TOKENS] == wanted["a"][0]
    assert isinstance(second, REQUEST_ERRORS) and str(second).startswith("adapter 'c' could not be read again: ")
    shutil.move(kept, folder / "c")
    # A step may have cached what came of other weights: this version is not served again.
    with pytest.raises(SettingsError, match=r"could not be read again.*replace the adapter"):
        served.answers("c")
    with pytest.raises(SettingsError, match=r"could not be read again.*replace the adapter"):
        served.run(served.registry.pin("c", True))
    served.run(served.registry.load("c", str(folder / "c"), replace=True))
    assert served.answers("a", "b", "c") == wanted
