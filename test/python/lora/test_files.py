"""Checking an adapter's files from their headers: the fixtures' good and broken adapters."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tritonode.errors import SettingsError
from tritonode.lora.checkpoint import base_model_shapes
from tritonode.lora.files import check_finite, inspect_adapter
from tritonode.lora.header import read_safetensors_header
from tritonode.vllm import versions

# What must be said about each broken adapter (test/fixtures/broken_adapters.py).
REASONS = {
    "empty": "holds no adapter_config.json",
    "missing_config": "holds no adapter_config.json",
    "missing_tensors": "holds no adapter_model.safetensors",
    "not_json": "is not valid JSON",
    "not_an_object": "must hold a JSON object",
    "no_rank": "'r' must be a whole number",
    "bad_rank": "rank 64 is greater than max_lora_rank 16",
    "zero_rank": "'r' must be a whole number of at least 1",
    "wrong_rank": "rank",
    "wrong_target_modules": "has no",
    "missing_tensor": "is missing",
    "misshapen_tensor": "do not fit together|made for a base weight",
    "unknown_tensor": "belong to no LoRA layer|has no module",
    "not_finite": "an infinity or a NaN",
    "truncated": "cut short",
    "not_safetensors": "not a safetensors file",
    "pickle_only": "pickle weights",
    "dora": "DoRA",
    "bias": "biases",
    "modules_to_save": "modules_to_save",
    "not_lora": "is not LORA",
    "other_base": "made for a base weight",
}


def complaints(path: str, base: str) -> str:
    """All that is found wrong with an adapter, as the registry finds it."""
    try:
        found = inspect_adapter(path, max_lora_rank=16, base_model=base)
        if found.problems:
            return "; ".join(found.problems)
        check_finite(path)
    except SettingsError as failure:
        return str(failure)
    return ""


def test_every_good_adapter_is_usable(fixtures: dict[str, Any]) -> None:
    for name, path in fixtures["adapters"].items():
        assert complaints(path, fixtures["models"]["tiny"]) == "", name


def test_what_an_adapter_says_of_itself(fixtures: dict[str, Any]) -> None:
    found = inspect_adapter(fixtures["adapters"]["lora_a"], max_lora_rank=16, base_model=fixtures["models"]["tiny"])
    assert found.rank == 8
    assert found.target_modules == ["q_proj", "v_proj"]
    assert found.usable
    assert found.size_bytes == os.path.getsize(os.path.join(found.path, "adapter_model.safetensors"))


def test_every_broken_adapter_is_named_with_its_reason(fixtures: dict[str, Any]) -> None:
    import re

    assert set(fixtures["broken"]) == set(REASONS)
    for name, entry in fixtures["broken"].items():
        said = complaints(entry["path"], fixtures["models"]["tiny"])
        assert re.search(REASONS[name], said), f"{name} ({entry['defect']}): {said!r}"
    # Nothing was unpickled on the way.
    assert not (Path(fixtures["broken"]["pickle_only"]["path"]) / "UNPICKLED").exists()


def test_base_shapes_come_from_headers(fixtures: dict[str, Any]) -> None:
    shapes = base_model_shapes(fixtures["models"]["tiny"])
    assert shapes["model.layers.0.self_attn.q_proj"] == (128, 128)
    assert base_model_shapes("/nowhere") == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 7, b"\xff" * 8, (4).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]"],
)
def test_bytes_that_are_no_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(SettingsError):
        read_safetensors_header(str(path))


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {"dtype": "F32"},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": 3, "shape": [1], "data_offsets": [0, 4]},
    ],
)
def test_headers_that_describe_a_tensor_wrongly(tmp_path: Path, entry: Any) -> None:
    header = json.dumps({"w": entry}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x00" * 4)
    with pytest.raises(SettingsError, match="'w'"):
        read_safetensors_header(str(path))


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_patterns_are_refused_where_vllm_passes_over_them(fixtures: dict[str, Any], tmp_path: Path, key: str) -> None:
    source = Path(fixtures["adapters"]["lora_a"])
    config = json.loads((source / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, key: {"q_proj": config["r"]}}))
    (tmp_path / "adapter_model.safetensors").symlink_to(source / "adapter_model.safetensors")
    problems = inspect_adapter(str(tmp_path)).problems
    if versions.reads_patterns():
        assert problems == []
    else:
        assert problems == [f"{key}: vLLM reads them from 0.32 on, and this one is older"]
