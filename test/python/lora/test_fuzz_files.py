"""Files with random damage: each is read, or refused with a SettingsError; nothing else ever comes out of the readers.

A bounded mutation fuzzer with a fixed seed. `TRITONODE_FUZZ=100` runs a hundred times as long; what ever failed stays
in `KNOWN`, where it is run each time.
"""

from __future__ import annotations

import json
import os
import random
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tritonode.coerce import CoercionError, coerce
from tritonode.engine.settings import read_settings
from tritonode.errors import BackendError, SettingsError
from tritonode.lora.files import inspect_adapter
from tritonode.lora.header import read_safetensors_header

TIMES = int(os.environ.get("TRITONODE_FUZZ", "1"))
SEED = int(os.environ.get("TRITONODE_FUZZ_SEED", "20241124"))

HEADER = {
    "__metadata__": {"format": "pt"},
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": {
        "dtype": "F32",
        "shape": [8, 16],
        "data_offsets": [0, 512],
    },
    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": {
        "dtype": "F32",
        "shape": [16, 8],
        "data_offsets": [512, 1024],
    },
}
CONFIG = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["q_proj"],
    "base_model_name_or_path": "tiny",
}
MODEL = {"model": "/weights", "dtype": "float32", "max_model_len": 512, "enforce_eager": "true", "enable_lora": "true"}
FIELDS: dict[str, Any] = {
    "model": str,
    "dtype": str,
    "max_model_len": int | None,
    "enforce_eager": bool,
    "enable_lora": bool,
    "swap": float,
    "names": list[str],
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where that is possible: a disk is asked to keep each of thousands of rewritten files."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as path:
        yield Path(path)


# Values that JSON can hold and no reader expects.
ODD: list[Any] = [None, True, -1, 0, 1e308, 10**30, "", "\x00", "é" * 50, [], {}, [[]], {"a": {}}, "NaN", float("nan")]


def safetensors(header: bytes, data: bytes = bytes(1024), length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def damage_bytes(rng: random.Random, content: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        what = rng.randrange(5)
        at = rng.randrange(len(damaged) + 1)
        if what == 0 and damaged:
            damaged[min(at, len(damaged) - 1)] = rng.randrange(256)
        elif what == 1:
            damaged[at:at] = rng.randbytes(rng.randint(1, 16))
        elif what == 2:
            del damaged[at : at + rng.randint(1, 64)]
        elif what == 3:
            del damaged[at:]
        else:
            damaged[0:8] = struct.pack("<Q", rng.choice([0, 1, 2**31, 2**63, 2**64 - 1, rng.getrandbits(20)]))
    return bytes(damaged)


def damage_value(rng: random.Random, value: Any) -> Any:
    """The value with something in it replaced, removed or added, at any depth."""
    if rng.random() < 0.3 or not isinstance(value, (dict, list)) or not value:
        return rng.choice(ODD)
    if isinstance(value, dict):
        copy = dict(value)
        key = rng.choice(list(copy))
        what = rng.randrange(3)
        if what == 0:
            copy[key] = damage_value(rng, copy[key])
        elif what == 1:
            del copy[key]
        else:
            copy[rng.choice(["", "__metadata__", "r", "x" * 300, "model"])] = rng.choice(ODD)
        return copy
    copy_list = list(value)
    copy_list[rng.randrange(len(copy_list))] = damage_value(rng, rng.choice(copy_list))
    return copy_list


# Inputs that once came out as something else than a SettingsError.
KNOWN: list[bytes] = [
    b"",
    bytes(8),
    safetensors(b"null"),
    safetensors(b"[" * 100_000),
    safetensors(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}'),
    safetensors(b'{"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,0]}}'),
    safetensors(b"{}", length=2**64 - 1),
]


def header_or_refusal(path: Path) -> None:
    try:
        header = read_safetensors_header(str(path))
    except SettingsError:
        return
    for entry in header.values():
        assert set(entry) >= {"dtype", "shape", "data_offsets"}
        assert entry["data_offsets"][1] <= path.stat().st_size


@pytest.mark.parametrize("content", KNOWN, ids=range(len(KNOWN)))
def test_known(content: bytes, folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(content)
    header_or_refusal(path)


def test_safetensors_bytes(folder: Path) -> None:
    rng = random.Random(SEED)
    path = folder / "adapter_model.safetensors"
    good = safetensors(json.dumps(HEADER).encode())
    for _ in range(4000 * TIMES):
        path.write_bytes(damage_bytes(rng, good))
        header_or_refusal(path)


def test_adapter_folder(folder: Path) -> None:
    rng = random.Random(SEED + 1)
    for _ in range(2000 * TIMES):
        header, config = HEADER, CONFIG
        for _ in range(rng.randint(1, 3)):
            if rng.random() < 0.5:
                header = damage_value(rng, header)
            else:
                config = damage_value(rng, config)
        (folder / "adapter_model.safetensors").write_bytes(safetensors(json.dumps(header).encode()))
        (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        try:
            files = inspect_adapter(str(folder), max_lora_rank=16)
        except SettingsError:
            continue
        json.dumps(files.as_dict())


def test_model_json(folder: Path) -> None:
    rng = random.Random(SEED + 2)
    for _ in range(2000 * TIMES):
        text = json.dumps(damage_value(rng, MODEL)).encode()
        if rng.random() < 0.3:
            text = damage_bytes(rng, text)
        (folder / "model.json").write_bytes(text)
        (folder / "multi_lora.json").write_text(json.dumps(damage_value(rng, {"a": "/a", "b": "/b"})), encoding="utf-8")
        try:
            settings = read_settings(str(folder), FIELDS)
        except BackendError:
            continue
        assert isinstance(settings.engine_args["model"], str)
        assert all(isinstance(path, str) for path in settings.loras.values())


DEEP, LONG = "[" * 100_000, '{"model": ' + "9" * 5000 + "}"


@pytest.mark.parametrize("text", [DEEP, LONG, '{"model": "\ud800', "\ufeff{}", ""], ids=range(5))
def test_model_json_known(text: str, folder: Path) -> None:
    (folder / "model.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(SettingsError):
        read_settings(str(folder), FIELDS)


def test_coerce() -> None:
    rng = random.Random(SEED + 3)
    hints: list[Any] = [*FIELDS.values(), dict[str, int], int | str, list[int] | None]
    for _ in range(8000 * TIMES):
        value = damage_value(rng, rng.choice([MODEL, [1, "2", [3]], "true", "0.5", ODD]))
        try:
            coerce(value, rng.choice(hints))
        except CoercionError:
            continue
