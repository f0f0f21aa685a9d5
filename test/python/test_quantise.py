"""The quantised folder holds integers that stand for nearly the weights that were given, and is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tritonode import quantise
from tritonode.errors import SettingsError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny_models
    from transformers import LlamaConfig

    return tiny_models.write_model(tmp_path_factory.mktemp("source"), LlamaConfig(**tiny_models.SIZES))


@pytest.mark.parametrize(("bits", "error"), [(4, 0.09), (8, 0.006)])
def test_layers_are_near_what_they_were(source: Path, tmp_path: Path, bits: int, error: float) -> None:
    pytest.importorskip("vllm")
    from tritonode.cpu import checkpoint_formats

    told: list[Any] = []
    out = tmp_path / "out"
    layers = quantise.quantise(source, out, bits, lambda phase, **details: told.append(details["fraction"]))
    assert layers == 2 * 7
    assert told == sorted(told)
    assert told[-1] > 0.95
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert config["config_groups"]["group_0"]["weights"]["num_bits"] == bits
    assert "lm_head" in config["ignore"]
    before, after = load_file(source / "model.safetensors"), load_file(out / "model.safetensors")
    assert torch.equal(before["model.norm.weight"], after["model.norm.weight"])
    for name, weight in before.items():
        if not name.endswith("_proj.weight"):
            continue
        module = name.removesuffix("weight")
        tensors = {key.removeprefix(module): each for key, each in after.items() if key.startswith(module)}
        found = checkpoint_formats.compressed(tensors, bits=bits, symmetric=bits == 8).dequantise()
        assert float((found - weight).norm() / weight.norm()) < error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "is quantised already"),
        ({"num_local_experts": 8}, "mixture of experts"),
    ],
)
def test_what_cannot_be_quantised_is_refused(
    source: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(SettingsError, match=message):
        quantise.quantise(folder, tmp_path / "out", 4)
    assert not (tmp_path / "out").exists()


def test_other_folders_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="exists already"):
        quantise.quantise(source, tmp_path, 4)
    with pytest.raises(SettingsError, match="there is no folder"):
        quantise.quantise(tmp_path / "nowhere", tmp_path / "out", 4)
    with pytest.raises(SettingsError, match=r"has no config\.json"):
        quantise.quantise(tmp_path, tmp_path / "out", 4)


def test_large_models_become_several_files(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "_FILE_BYTES", 100_000)
    quantise.quantise(source, tmp_path / "out", 8, lambda *_, **__: None)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    files = sorted(set(index.values()))
    assert len(files) > 1
    for file in files:
        assert set(load_file(tmp_path / "out" / file)) == {name for name, where in index.items() if where == file}
