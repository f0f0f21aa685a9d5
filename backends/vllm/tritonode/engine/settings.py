"""Reads `model.json`, which holds vLLM's engine arguments, and `multi_lora.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tritonode.coerce import CoercionError, coerce
from tritonode.errors import SettingsError, did_you_mean

ENGINE_ARGS_FILENAME = "model.json"
MULTI_LORA_FILENAME = "multi_lora.json"

# Keys of earlier versions of vLLM that existing files still contain. Each is ignored, with a line in the log.
RETIRED_KEYS = frozenset(
    {
        "disable_log_requests",
        "device",
        "engine_use_ray",
        "worker_use_ray",
        "max_log_len",
        "max_context_len_to_capture",
        "max_seq_len_to_capture",
        "use_v2_block_manager",
        "swap_space",
        "num_lookahead_slots",
        "num_scheduler_steps",
        "multi_step_stream_outputs",
        "scheduler_delay_factor",
        "preemption_mode",
        "disable_async_output_proc",
        "guided_decoding_backend",
        "enable_lora_bias",
        "lora_extra_vocab_size",
        "long_lora_scaling_factors",
        "enable_prompt_adapter",
        "max_prompt_adapters",
        "max_prompt_adapter_token",
        "task",
    }
)

# This backend's own keys, removed before vLLM gets the rest.
OWN_KEYS: dict[str, Any] = {
    # Re-read multi_lora.json when it changes on disk.
    "watch_multi_lora": bool,
    # Be ready before the adapters are loaded; each is served as soon as it is.
    "load_loras_in_background": bool,
    # Seconds that running requests may take to finish when the model is unloaded; then they are cancelled.
    "unload_timeout": float,
}

_COMPILING = {"enforce_eager", "compilation_config", "optimization_level"}
"""Arguments that say whether the engine is compiled."""
_LEAST_SLOTS = 4
_MOST_SLOTS = 16
_MOST_IN_HOST_MEMORY = 256
_GIB = 1 << 30
_CPU_BLOCK_SIZE = 32


@dataclass
class EngineSettings:
    """The contents of `model.json` and `multi_lora.json`, checked and typed."""

    engine_args: dict[str, Any]
    enable_lora: bool
    loras: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    own: dict[str, Any] = field(default_factory=dict)
    frontend_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of `vllm serve` for the OpenAI application, which are not engine arguments."""
    defaulted: set[str] = field(default_factory=set)
    """Engine arguments that `apply_defaults` has chosen and that may be lowered later."""

    @property
    def world_size(self) -> int:
        """The number of ranks that the engine needs: tensor parallel size times pipeline parallel size."""
        return int(self.engine_args.get("tensor_parallel_size", 1)) * int(
            self.engine_args.get("pipeline_parallel_size", 1)
        )


def read_settings(
    model_directory: str,
    field_types: dict[str, Any],
    frontend_types: Callable[[], dict[str, Any]] = dict,
) -> EngineSettings:
    """Read `model.json` and, where LoRA is on, `multi_lora.json` of one model version.

    `field_types` maps each engine argument that vLLM knows to its type hint. `frontend_types` returns the same for the
    other arguments of `vllm serve`. It is called only for a key that is not the engine's, because it imports the HTTP
    application's modules.

    Raises SettingsError for a missing or malformed file or an unknown key, and FileNotFoundError with the message that
    Triton's vLLM backend documents when LoRA is on and there is no `multi_lora.json`.
    """
    path = os.path.join(model_directory, ENGINE_ARGS_FILENAME)
    if not os.path.isfile(path):
        raise SettingsError(
            f"'{ENGINE_ARGS_FILENAME}' containing vllm engine args must be provided in '{model_directory}'"
        )
    raw = _read_object(path)
    engine_args: dict[str, Any] = {}
    own: dict[str, Any] = {}
    frontend_args: dict[str, Any] = {}
    ignored: list[str] = []
    others: dict[str, Any] | None = None
    for key, value in raw.items():
        if key in OWN_KEYS:
            hint, target = OWN_KEYS[key], own
        elif key in field_types:
            hint, target = field_types[key], engine_args
        elif key in RETIRED_KEYS:
            ignored.append(key)
            continue
        else:
            others = frontend_types() if others is None else others
            if key not in others:
                nearest = did_you_mean(key, [*field_types, *OWN_KEYS, *others])
                raise SettingsError(f"{path}: vLLM knows no engine argument '{key}'{nearest}")
            hint, target = others[key], frontend_args
        try:
            typed = coerce(value, hint)
        except CoercionError as failure:
            raise SettingsError(f"{path}: engine argument '{key}': {failure}") from failure
        target[key] = typed
    if "model" not in engine_args:
        raise SettingsError(f"{path}: the engine argument 'model' (the folder of the base model) is missing")
    _refuse_replicas(path, engine_args)
    enable_lora = bool(engine_args.get("enable_lora", False))
    loras = read_loras(model_directory) if enable_lora else {}
    return EngineSettings(engine_args, enable_lora, loras, ignored, own, frontend_args)


def _refuse_replicas(path: str, engine_args: dict[str, Any]) -> None:
    """Refuse several replicas: one model is one engine on one machine, and nothing would start other replicas."""
    for key, value in engine_args.items():
        if not (key.startswith("data_parallel_") or key == "nnodes") or key == "data_parallel_backend":
            continue
        counts = key in ("data_parallel_size", "data_parallel_size_local", "nnodes")
        if not (value is None or value is False or (counts and value == 1)):
            raise SettingsError(
                f"{path}: engine argument '{key}' is {value!r}: a model is served by one engine on one machine here, "
                "without data parallelism; load the model under several names for replicas, or split it with "
                "tensor_parallel_size or pipeline_parallel_size"
            )


def _read_object(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (ValueError, RecursionError) as failure:
        raise SettingsError(f"{path} is not valid JSON: {failure}") from failure
    if not isinstance(value, dict):
        raise SettingsError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def read_loras(model_directory: str) -> dict[str, str]:
    """`multi_lora.json`: adapter names and their folders.

    Raises SettingsError for a malformed file, FileNotFoundError in the tutorial's words for a missing one.
    """
    path = os.path.join(model_directory, MULTI_LORA_FILENAME)
    try:
        loras = _read_object(path)
    except FileNotFoundError:
        # The tutorial documents this type and this message.
        raise FileNotFoundError(f"Triton backend cannot find {path}.") from None
    for name, folder in loras.items():
        if not name or not isinstance(folder, str) or not folder:
            raise SettingsError(f"{path}: '{name}' must map to the adapter's folder, got {folder!r}")
    return loras


def apply_defaults(settings: EngineSettings, *, on_cpu: bool, available_memory: int) -> list[str]:
    """Set defaults for what `model.json` does not set. Returns a line for the log about each of them.

    vLLM's own defaults are meant for a server with a machine of its own: one adapter slot, and nearly all memory for
    the KV cache.
    """
    args = settings.engine_args
    notes: list[str] = []
    if settings.enable_lora and "max_loras" not in args:
        # vLLM's default of 1 would serve a batch of several adapters one adapter at a time.
        args["max_loras"] = max(_LEAST_SLOTS, min(_MOST_SLOTS, len(settings.loras)))
        settings.defaulted.add("max_loras")
        notes.append(f"max_loras = {args['max_loras']}: adapters that share one batch (set max_loras to change)")
    if settings.enable_lora and "max_cpu_loras" not in args:
        # Twice the slots leave room for pinned and evicted adapters. Host memory is allocated as adapters are loaded.
        args["max_cpu_loras"] = max(2 * args["max_loras"], min(_MOST_IN_HOST_MEMORY, len(settings.loras)))
    # A progress bar would write carriage returns to the log.
    args.setdefault("use_tqdm_on_load", False)
    block_size = args.get("block_size")
    if on_cpu and block_size and block_size % _CPU_BLOCK_SIZE:
        # vLLM's attention on the CPU accepts multiples of 32 only. The tutorial's file is for GPUs and says 16.
        args["block_size"] = -(-block_size // _CPU_BLOCK_SIZE) * _CPU_BLOCK_SIZE
        notes.append(f"block_size = {args['block_size']}, not {block_size}: vLLM's attention on the CPU requires it")
    if on_cpu and not _COMPILING & args.keys():
        # vLLM compiles engines without LoRA: most of a minute at each start, for steps that are a few percent quicker
        # than those of our own kernels (docs/benchmarks/lora.md).
        args["enforce_eager"] = True
        notes.append("enforce_eager = True: no minute of torch.compile at each start (set enforce_eager to change)")
    if on_cpu and "kv_cache_memory_bytes" not in args and "num_gpu_blocks_override" not in args:
        args["kv_cache_memory_bytes"] = default_kv_cache_bytes(available_memory)
        notes.append(
            f"kv_cache_memory_bytes = {args['kv_cache_memory_bytes']} "
            f"({args['kv_cache_memory_bytes'] / _GIB:.2f} GiB, a tenth of the memory free now and at most 4 GiB; "
            "set kv_cache_memory_bytes to change)"
        )
        if "gpu_memory_utilization" in args:
            notes.append("gpu_memory_utilization is not used on the CPU: kv_cache_memory_bytes bounds the KV cache")
        if "max_model_len" not in args:
            # -1 is vLLM's "the longest that fits the KV cache", up to what the model allows.
            args["max_model_len"] = -1
    return notes


def default_kv_cache_bytes(available_memory: int) -> int:
    """Return the default size of the KV cache: a tenth of the available memory, from 256 MiB to 4 GiB."""
    return max(_GIB // 4, min(4 * _GIB, available_memory // 10))
