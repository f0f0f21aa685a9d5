"""Read an adapter's folder and say whether the engine can load it: from the files' headers, without torch.

PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tritonode.errors import SettingsError
from tritonode.vllm import versions

from .checkpoint import checkpoint_problems
from .header import read_safetensors_header
from .tensors import HEADS, Layout, Shape, Tensors, layout_of, of_experts

CONFIG_FILENAME = "adapter_config.json"
WEIGHTS_FILENAME = "adapter_model.safetensors"
# In the configuration of a scaled variant (scaled.py): the factor, and the folder of the original.
SCALE_KEY, SOURCE_KEY = "tritonode_scale", "tritonode_source"
# Reading a pickle file can run code, so pickle files are refused, even where vLLM would read them.
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth")
# Data type → unsigned integer type of the same width, and the mask of the exponent's bits.
_EXPONENTS = {
    "F64": ("<u8", 0x7FF0000000000000),
    "F32": ("<u4", 0x7F800000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
_SAFE_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})


@dataclass
class AdapterFiles:
    """An adapter as its files describe it."""

    path: str
    rank: int
    alpha: float
    target_modules: list[str]
    base_model: str | None
    size_bytes: int
    dtype: str
    tensors: Tensors
    problems: list[str] = field(default_factory=list)
    stamp: tuple[tuple[int, int, int], ...] = ()
    scale: float = 1.0
    # The folder that the user named; of a scaled variant that of the original.
    source: str = ""

    def unchanged(self) -> bool:
        """Whether the files have not changed since they were checked (by inode, size and modification time)."""
        return self.stamp == _stamp(self.path)

    @property
    def usable(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object for the answer of `adapters.inspect`."""
        return {
            "path": self.source,
            "rank": self.rank,
            "alpha": self.alpha,
            "target_modules": self.target_modules,
            "base_model": self.base_model,
            "size_bytes": self.size_bytes,
            "dtype": self.dtype,
            "loadable": self.usable,
            "problems": self.problems,
        }


@lru_cache(maxsize=64)
def _shared(tensors: Tensors) -> Tensors:
    """Return one object for equal descriptions, so that thousands of adapters of one training recipe share it."""
    return tensors


def inspect_adapter(
    path: str,
    *,
    max_lora_rank: int | None = None,
    base_model: str | None = None,
    renamed: Callable[[], bool] = lambda: False,
) -> AdapterFiles:
    """Read an adapter's headers and say whether the engine can load it.

    Args:
        path: folder of the adapter.
        max_lora_rank: the engine's setting; None to accept any rank.
        base_model: folder of the base model, whose weight shapes the adapter's are compared with; None for no
            comparison.
        renamed: returns whether adapters may call modules by other names than the checkpoint does. Called only when the
            comparison found a problem.

    Raises SettingsError when the folder cannot be read as an adapter. Every other problem is a line of `problems`.
    """
    stamp = _stamp(path)
    config = _read_config(path)
    weights = _weights_path(path)
    header = read_safetensors_header(weights)
    rank, alpha = _numbers(path, config)
    problems = _unsupported_features(config)
    highest = _highest_rank(rank, config)
    if max_lora_rank is not None and highest > max_lora_rank:
        problems.append(f"rank {highest} is greater than max_lora_rank {max_lora_rank}")
    tensors = _shared(tuple((name, tuple(entry["shape"])) for name, entry in header.items()))
    layout = layout_of(tensors)
    problems.extend(_tensor_problems(layout, config))
    problems.extend(_pair_problems(layout.pairs))
    problems.extend(_rank_problems(layout.pairs, rank, config.get("rank_pattern") or {}))
    # A target module without tensors is allowed: PEFT skips names that the model does not have.
    if base_model is not None:
        problems.extend(_base_problems(layout, base_model, config, renamed))
    dtypes = sorted({entry["dtype"] for entry in header.values()})
    return AdapterFiles(
        path=path,
        rank=rank,
        alpha=alpha,
        target_modules=sorted({module.rsplit(".", 1)[-1] for module in layout.pairs}),
        base_model=config.get("base_model_name_or_path"),
        size_bytes=os.path.getsize(weights),
        dtype=",".join(dtypes),
        tensors=tensors,
        problems=problems,
        stamp=stamp,
        scale=float(config.get(SCALE_KEY, 1.0)),
        source=str(config.get(SOURCE_KEY, path)),
    )


def highest_rank(path: str) -> int:
    """Return the highest rank of an adapter's layers from its configuration. Raises SettingsError if there is none."""
    config = _read_config(path)
    return _highest_rank(_numbers(path, config)[0], config)


def _highest_rank(rank: int, config: dict[str, Any]) -> int:
    pattern = config.get("rank_pattern") or {}
    return max(rank, *(value for value in pattern.values() if isinstance(value, int)), rank)


def _stamp(path: str) -> tuple[tuple[int, int, int], ...]:
    try:
        files = [os.stat(os.path.join(path, name)) for name in (CONFIG_FILENAME, WEIGHTS_FILENAME)]
    except OSError:
        return ()
    return tuple((file.st_ino, file.st_size, file.st_mtime_ns) for file in files)


def check_finite(path: str) -> None:
    """Read all weights of an adapter and refuse infinities and NaNs: every result computed with them would be NaN.

    Raises SettingsError naming the tensor.
    """
    import numpy as np

    weights = os.path.join(path, WEIGHTS_FILENAME)
    header = read_safetensors_header(weights)
    with open(weights, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
    data = np.memmap(weights, dtype=np.uint8, mode="r", offset=8 + length) if header else np.empty(0, np.uint8)
    for name, entry in header.items():
        if entry["dtype"] not in _EXPONENTS:
            continue
        integer, exponent = _EXPONENTS[entry["dtype"]]
        begin, end = entry["data_offsets"]
        bits = data[begin:end].view(integer)
        # In each of these formats a value whose exponent bits are all 1 is an infinity or a NaN.
        if bool(np.any((bits & exponent) == exponent)):
            raise SettingsError(f"the tensor '{name}' in {weights} holds an infinity or a NaN")


def _read_config(path: str) -> dict[str, Any]:
    if not os.path.isdir(path):
        raise SettingsError(f"there is no folder {path}")
    config_path = os.path.join(path, CONFIG_FILENAME)
    try:
        with open(config_path, encoding="utf-8") as file:
            config = json.load(file)
    except FileNotFoundError:
        raise SettingsError(f"{path} holds no {CONFIG_FILENAME}") from None
    except (ValueError, RecursionError) as failure:
        raise SettingsError(f"{config_path} is not valid JSON: {failure}") from failure
    if not isinstance(config, dict):
        raise SettingsError(f"{config_path} must hold a JSON object")
    return config


def _weights_path(path: str) -> str:
    weights = os.path.join(path, WEIGHTS_FILENAME)
    if os.path.isfile(weights):
        return weights
    pickles = [name for name in sorted(os.listdir(path)) if name.endswith(_PICKLE_SUFFIXES)]
    if pickles:
        raise SettingsError(
            f"{path} holds only pickle weights ({pickles[0]}), which can run code when they are read; "
            f"convert them to {WEIGHTS_FILENAME} (PEFT: save_pretrained(safe_serialization=True))"
        )
    raise SettingsError(f"{path} holds no {WEIGHTS_FILENAME}")


def _numbers(path: str, config: dict[str, Any]) -> tuple[int, float]:
    where = os.path.join(path, CONFIG_FILENAME)
    rank, alpha, targets = config.get("r"), config.get("lora_alpha"), config.get("target_modules")
    if type(rank) is not int or rank < 1:
        raise SettingsError(f"{where}: 'r' must be a whole number of at least 1, got {rank!r}")
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool):
        raise SettingsError(f"{where}: 'lora_alpha' must be a number, got {alpha!r}")
    named = isinstance(targets, list) and all(isinstance(name, str) for name in targets)
    if not (isinstance(targets, str) or named):
        raise SettingsError(f"{where}: 'target_modules' must be a list of names or a pattern, got {targets!r}")
    return rank, float(alpha)


def _unsupported_features(config: dict[str, Any]) -> list[str]:
    """Features that vLLM's LoRA layers do not implement: an adapter that uses one would give wrong text."""
    problems = []
    if config.get("peft_type", "LORA") != "LORA":
        problems.append(f"peft_type {config['peft_type']!r} is not LORA")
    if config.get("use_dora"):
        problems.append("DoRA (use_dora) is not supported")
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        problems.append("biases (bias, lora_bias) are not supported")
    saved = config.get("modules_to_save") or []
    if not isinstance(saved, list) or any(name not in HEADS for name in saved):
        problems.append(
            f"modules_to_save {saved!r} is not supported: vLLM takes a classifier's head alone ({', '.join(HEADS)})"
        )
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _SAFE_INITS:
        problems.append(f"init_lora_weights {init!r} changes the base model's weights and is not supported")
    for key in ("alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora"):
        if config.get(key):
            problems.append(f"{key} is not supported")
    patterns = [key for key in ("rank_pattern", "alpha_pattern") if config.get(key)]
    if patterns and not versions.reads_patterns():
        problems.append(f"{' and '.join(patterns)}: vLLM reads them from 0.32 on, and this one is older")
    return problems


_Pairs = dict[str, dict[str, Shape]]


def _tensor_problems(layout: Layout, config: dict[str, Any]) -> list[str]:
    problems = []
    saved = config.get("modules_to_save")
    unlisted = layout.heads - set(saved if isinstance(saved, list) else [])
    if layout.unknown or unlisted:
        named = layout.unknown[0] if layout.unknown else unlisted.pop()
        problems.append(f"holds tensors that belong to no LoRA layer, such as '{named}'")
    if not layout.pairs:
        problems.append("holds no LoRA tensors")
    return problems


def _base_problems(layout: Layout, model: str, config: dict[str, Any], renamed: Callable[[], bool]) -> list[str]:
    transposed = bool(config.get("fan_in_fan_out"))
    problems = checkpoint_problems(layout, model, transposed=transposed, renamed=False)
    if problems and renamed():
        return checkpoint_problems(layout, model, transposed=transposed, renamed=True)
    return problems


def _pair_problems(pairs: _Pairs) -> list[str]:
    problems = []
    for module, sides in pairs.items():
        missing = [side for side in ("A", "B") if side not in sides]
        if missing:
            problems.append(f"{module}: the tensor lora_{missing[0]} is missing")
        elif len(sides["A"]) != 2 or len(sides["B"]) != 2 or sides["A"][0] != sides["B"][1]:
            problems.append(f"{module}: lora_A {list(sides['A'])} and lora_B {list(sides['B'])} do not fit together")
    return problems[:4]


def _rank_problems(pairs: _Pairs, rank: int, pattern: dict[str, Any]) -> list[str]:
    """Ranks of tensors that differ from the configuration's, which the scaling factor is computed from."""
    problems = []
    for module, sides in pairs.items():
        # PEFT's rule: a key matches the end of a module's name after a dot, and the first key that matches is used.
        configured = next((r for key, r in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), rank)
        if len(sides.get("A", ())) == 2 and sides["A"][0] != configured and not of_experts(module):
            actual = sides["A"][0]
            problems.append(f"{module}: {CONFIG_FILENAME} says rank {configured}, its tensors have rank {actual}")
    return problems[:4]
