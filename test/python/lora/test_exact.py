"""Adapters that vLLM serves and a check of names alone would refuse; each exactly as transformers and PEFT answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
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
from tritonode.lora.slots import slot_bytes

CONFIG = LlamaConfig(**tiny_models.SIZES)
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_model(tmp_path_factory.mktemp("model"), CONFIG)


def _ends(folder: Path, base: Path) -> Path:
    """An adapter of the embeddings and the logits: PEFT saves the base model's own beside it."""
    targets = ["embed_tokens", "lm_head", "q_proj"]
    path = tiny_models.write_adapter(folder / "ends", base, target_modules=targets)
    copies = [name for name in load_file(path / WEIGHTS) if name.endswith("base_layer.weight")]
    assert len(copies) == 2
    return path


def _absent_target(folder: Path, base: Path) -> Path:
    """A target that the model does not have: PEFT trains the others."""
    return tiny_models.write_adapter(folder / "absent", base, seed=3, target_modules=["v_proj", "query_key_value"])


MAKERS: dict[str, Callable[[Path, Path], Path]] = {"ends": _ends, "absent": _absent_target}


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: make(folder, model) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def served(model: Path, adapters: dict[str, Path]) -> Iterator[serving.Served]:
    made = serving.Served(model, dict(adapters))
    yield made
    made.close()


@pytest.mark.parametrize("name", MAKERS)
def test_answers_equal_peft(served: Any, model: Path, adapters: dict[str, Path], name: str) -> None:
    wanted = {None: tiny_models.answers(model, None), name: tiny_models.answers(model, adapters[name])}
    assert served.answers(None, name) == wanted
    assert wanted[None] != wanted[name]


def test_a_slot_takes_what_was_said(served: Any) -> None:
    def allocated(worker: Any) -> int:
        modules = worker.model_runner.lora_manager._adapter_manager.modules.values()
        stacked = [getattr(each, f"lora_{side}_stacked") for each in modules for side in "ab"]
        tensors = [tensor for group in stacked for tensor in (group if isinstance(group, tuple) else (group,))]
        return sum(tensor[0].nbytes for tensor in tensors)

    core = served.engine.client._core
    assert allocated(core.model_executor.driver_worker.worker) == slot_bytes(CONFIG.to_dict(), 16, 4)


def _changed(source: Path, folder: Path, rename: Callable[[str], str]) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    save_file({rename(name): tensor for name, tensor in load_file(source / WEIGHTS).items()}, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize(
    ("old", "new"),
    [("layers.1.", "layers.7."), ("v_proj", "query_key_value"), ("model.layers", "layers")],
    ids=["a layer too many", "a module it has not", "a prefix too few"],
)
def test_what_vllm_would_leave_out_in_silence_is_refused(
    served: Any, adapters: dict[str, Path], tmp_path: Path, old: str, new: str
) -> None:
    path = _changed(adapters["absent"], tmp_path / "changed", lambda name: name.replace(old, new))
    with pytest.raises(SettingsError, match=r"adapter 'changed'.*has no module '.*that vLLM accepts adapters for"):
        served.run(served.registry.load("changed", str(path)))


def test_a_whole_head_is_refused_where_no_head_is(served: Any, adapters: dict[str, Path], tmp_path: Path) -> None:
    path = _changed(adapters["absent"], tmp_path / "head", lambda name: name)
    tensors = load_file(path / WEIGHTS)
    save_file({**tensors, "base_model.model.score.weight": torch.zeros(2, 64)}, path / WEIGHTS)
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**config, "modules_to_save": ["score"]}))
    with pytest.raises(SettingsError, match=r"modules_to_save \['score'\]: this model has no such head"):
        served.run(served.registry.load("head", str(path)))


def test_embeddings_of_another_vocabulary_are_refused(served: Any, adapters: dict[str, Path], tmp_path: Path) -> None:
    path = _changed(adapters["ends"], tmp_path / "larger", lambda name: name)
    tensors = load_file(path / WEIGHTS)
    name = "base_model.model.lm_head.base_layer.weight"
    save_file({**tensors, name: torch.cat([tensors[name], torch.zeros(3, 64)])}, path / WEIGHTS)
    with pytest.raises(SettingsError, match="made for a vocabulary of 515, this base model has 512"):
        served.run(served.registry.load("larger", str(path)))
