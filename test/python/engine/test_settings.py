"""`model.json` and `multi_lora.json`, without vLLM: the types are a few of vLLM's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tritonode.engine.settings import EngineSettings, apply_defaults, default_kv_cache_bytes, read_settings
from tritonode.errors import SettingsError

TYPES: dict[str, Any] = {
    "model": str,
    "enable_lora": bool,
    "max_lora_rank": int,
    "max_loras": int,
    "max_cpu_loras": int | None,
    "max_model_len": int | None,
    "gpu_memory_utilization": float,
    "kv_cache_memory_bytes": int | None,
    "tensor_parallel_size": int,
    "block_size": int | None,
    "enforce_eager": bool,
    "use_tqdm_on_load": bool,
}
SEED = {
    "model": "/weights/llama",
    "disable_log_requests": "true",
    "gpu_memory_utilization": 0.8,
    "tensor_parallel_size": 2,
    "block_size": 16,
    "enforce_eager": "true",
    "enable_lora": "true",
    "max_lora_rank": 16,
}
GIB = 1 << 30


def write(folder: Path, model: Any, loras: Any = None) -> str:
    (folder / "model.json").write_text(model if isinstance(model, str) else json.dumps(model))
    if loras is not None:
        (folder / "multi_lora.json").write_text(loras if isinstance(loras, str) else json.dumps(loras))
    return str(folder)


def test_the_seeds_file_as_it_stands(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path, SEED, {"alpaca": "/loras/alpaca"}), TYPES)
    assert settings.engine_args["enforce_eager"] is True
    assert settings.enable_lora
    assert settings.ignored == ["disable_log_requests"]
    assert "disable_log_requests" not in settings.engine_args
    assert settings.loras == {"alpaca": "/loras/alpaca"}
    assert settings.world_size == 2


@pytest.mark.parametrize("value", [False, "false", "False"])
def test_enable_lora_false_reads_no_multi_lora(tmp_path: Path, value: Any) -> None:
    settings = read_settings(write(tmp_path, {**SEED, "enable_lora": value}), TYPES)
    assert settings.engine_args["enable_lora"] is False
    assert settings.loras == {}


def test_missing_multi_lora_is_the_tutorials_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as failure:
        read_settings(write(tmp_path, SEED), TYPES)
    assert str(failure.value) == f"Triton backend cannot find {tmp_path}/multi_lora.json."


@pytest.mark.parametrize(
    ("model", "loras", "message"),
    [
        ({**SEED, "max_lora_rnak": 8}, {}, "no engine argument 'max_lora_rnak' (did you mean 'max_lora_rank'?)"),
        ({**SEED, "enforce_eager": "perhaps"}, {}, "'enforce_eager': expected true or false, got 'perhaps'"),
        ({"enable_lora": False}, None, "the engine argument 'model'"),
        ("{", None, "is not valid JSON"),
        ("[]", None, "must hold a JSON object, not list"),
        (SEED, "nope", "multi_lora.json is not valid JSON"),
        (SEED, {"alpaca": 3}, "'alpaca' must map to the adapter's folder, got 3"),
        (SEED, {"alpaca": ""}, "'alpaca' must map to the adapter's folder"),
    ],
)
def test_refuses(tmp_path: Path, model: Any, loras: Any, message: str) -> None:
    with pytest.raises(SettingsError) as failure:
        read_settings(write(tmp_path, model, loras), TYPES)
    assert message in str(failure.value)


def test_missing_model_json(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'model\.json' containing vllm engine args must be provided"):
        read_settings(str(tmp_path), TYPES)


def test_defaults_on_the_cpu() -> None:
    settings = EngineSettings(
        {"model": "m", "block_size": 16, "gpu_memory_utilization": 0.8}, True, {"a": "1", "b": "2"}
    )
    notes = apply_defaults(settings, on_cpu=True, available_memory=20 * GIB)
    args = settings.engine_args
    assert args["max_loras"] == 4
    assert args["max_cpu_loras"] == 8
    assert args["block_size"] == 32
    assert args["kv_cache_memory_bytes"] == 2 * GIB
    assert args["max_model_len"] == -1
    assert any("kv_cache_memory_bytes" in note for note in notes)
    assert any("gpu_memory_utilization is not used" in note for note in notes)


def test_what_is_said_stands() -> None:
    said = {"model": "m", "max_loras": 1, "max_cpu_loras": 7, "kv_cache_memory_bytes": 5, "max_model_len": 100}
    settings = EngineSettings(dict(said), True, {str(name): "x" for name in range(99)})
    apply_defaults(settings, on_cpu=True, available_memory=20 * GIB)
    assert {key: settings.engine_args[key] for key in said} == said


@pytest.mark.parametrize(
    "said", [{"enforce_eager": False}, {"compilation_config": {"mode": 3}}, {"optimization_level": 2}]
)
def test_an_engine_on_a_cpu_is_compiled_where_that_is_asked_for(said: dict[str, Any]) -> None:
    usual = EngineSettings({"model": "m"}, False)
    notes = apply_defaults(usual, on_cpu=True, available_memory=20 * GIB)
    assert usual.engine_args["enforce_eager"] is True
    assert any("enforce_eager" in note for note in notes)
    asked = EngineSettings({"model": "m", **said}, False)
    apply_defaults(asked, on_cpu=True, available_memory=20 * GIB)
    assert asked.engine_args.get("enforce_eager", False) is False
    on_gpu = EngineSettings({"model": "m"}, False)
    apply_defaults(on_gpu, on_cpu=False, available_memory=20 * GIB)
    assert "enforce_eager" not in on_gpu.engine_args


def test_a_gpus_memory_is_left_to_vllm() -> None:
    settings = EngineSettings({"model": "m", "block_size": 16}, False)
    apply_defaults(settings, on_cpu=False, available_memory=20 * GIB)
    assert "kv_cache_memory_bytes" not in settings.engine_args
    assert settings.engine_args["block_size"] == 16


@pytest.mark.parametrize(("available", "expected"), [(GIB, GIB // 4), (20 * GIB, 2 * GIB), (500 * GIB, 4 * GIB)])
def test_the_kv_caches_share_is_bounded(available: int, expected: int) -> None:
    assert default_kv_cache_bytes(available) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [("data_parallel_size", 2), ("data_parallel_rank", 0), ("data_parallel_hybrid_lb", True), ("nnodes", 2)],
)
def test_replicas_of_an_engine_are_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    types = {**TYPES, key: type(value), "data_parallel_backend": str}
    with pytest.raises(SettingsError, match=f"'{key}' is {value!r}.*without data parallelism"):
        read_settings(write(tmp_path, {"model": "/weights", key: value}), types)
    alone = {"model": "/weights", "data_parallel_backend": "mp"} | ({key: 1} if key.endswith("size") else {})
    assert read_settings(write(tmp_path, alone), types).engine_args["data_parallel_backend"] == "mp"
