"""The quantised folder holds integers that stand for nearly the weights that were given, and is read back."""

from __future__ import annotations

import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
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


WEIGHT = "model.layers.0.self_attn.q_proj.weight"


def _folder(folder: Path, tensors: dict[str, torch.Tensor], config: str = "{}") -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(config)
    return folder


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.full((32, 32), float("nan")), "holds an infinity or a NaN"),
        (torch.full((32, 32), float("inf")), "holds an infinity or a NaN"),
        (torch.full((32, 32), 1e30), "too large for scales of torch.float16"),
        (torch.ones((32, 32), dtype=torch.int8), "is of torch.int8: floating-point weights are quantised"),
    ],
    ids=["NaN", "infinity", "too large", "integers"],
)
def test_weights_that_no_grid_fits_are_refused(tmp_path: Path, weight: torch.Tensor, message: str) -> None:
    folder = _folder(tmp_path / "model", {WEIGHT: weight})
    for bits in (4, 8):
        with pytest.raises(SettingsError, match=f"'{WEIGHT}'.*{message}"):
            quantise.quantise(folder, tmp_path / "out", bits, lambda *_, **__: None)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model"]


def test_damaged_folders_are_quantised_or_refused(tmp_path: Path) -> None:
    """Nothing but SettingsError comes out, and nothing is left behind.

    `TRITONODE_FUZZ=100` runs a hundred times as long, `TRITONODE_FUZZ_SEED` other damage.
    """
    rng = random.Random(int(os.environ.get("TRITONODE_FUZZ_SEED", "27")))
    tensors = {WEIGHT: torch.randn(32, 64), "model.norm.weight": torch.ones(64), "lm_head.weight": torch.randn(40, 64)}
    folder = _folder(tmp_path / "model", tensors, json.dumps({"hidden_size": 64, "layer_types": ["full_attention"]}))
    files = {name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json")}
    header = 8 + struct.unpack("<Q", files["model.safetensors"][:8])[0]
    refused = 0
    for _ in range(int(os.environ.get("TRITONODE_FUZZ", "1")) * 300):
        name = rng.choice(("model.safetensors", "model.safetensors", "config.json"))
        data = bytearray(files[name])
        for _ in range(rng.randint(1, 4)):
            if not data:
                break
            at, kind = rng.randrange(min(header, len(data))), rng.randrange(5)
            if kind == 0:
                data[at : at + 1] = rng.randbytes(1)
            elif kind == 1:
                # Digits: other shapes and offsets that are still JSON.
                places = [place for place, byte in enumerate(data[:header]) if 48 <= byte < 58]
                data[rng.choice(places or [0])] = rng.choice(b"0123456789-")
            elif kind == 2:
                del data[at : at + rng.randint(1, 16)]
            elif kind == 3:
                data[at:at] = rng.choice((rng.randbytes(8), b"[" * 5000, b"null", b"1e999"))
            else:
                del data[rng.randrange(len(data)) :]
        (folder / name).write_bytes(data)
        try:
            quantise.quantise(folder, tmp_path / "out", rng.choice((4, 8)), lambda *_, **__: None)
            for each in (tmp_path / "out").iterdir():
                each.unlink()
            (tmp_path / "out").rmdir()
        except SettingsError as failure:
            assert str(folder) in str(failure)
            refused += 1
        assert sorted(each.name for each in tmp_path.iterdir()) == ["model"]
        (folder / name).write_bytes(files[name])
    assert refused > 50
