"""What an adapter's folder holds, and whether the engine can use it: from headers alone, without torch.

PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`. A safetensors file starts with an 8-byte
little-endian length and a JSON header of that length (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import os
import re
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tritonode.errors import SettingsError

CONFIG_FILENAME = "adapter_config.json"
WEIGHTS_FILENAME = "adapter_model.safetensors"
# pickle files run code when they are read; they are refused, whatever vLLM would do with them.
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth")
# The safetensors library's own bound on a header.
_MAX_HEADER_BYTES = 100_000_000
_TENSOR_NAME = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>A|B)(?:\.[^.]+)?\.weight$")
_EMBEDDING_NAME = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_embedding_(?P<side>A|B)(?:\.[^.]+)?$")
# Data type → unsigned type of its width, mask of its exponent.
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
    modules: list[str]
    problems: list[str] = field(default_factory=list)
    stamp: tuple[tuple[int, int, int], ...] = ()

    def unchanged(self) -> bool:
        """Whether the files are still those that were checked (by inode, size and time of change)."""
        return self.stamp == _stamp(self.path)

    @property
    def usable(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """The JSON form that `adapters.inspect` answers with."""
        return {
            "path": self.path,
            "rank": self.rank,
            "alpha": self.alpha,
            "target_modules": self.target_modules,
            "base_model": self.base_model,
            "size_bytes": self.size_bytes,
            "dtype": self.dtype,
            "loadable": self.usable,
            "problems": self.problems,
        }


def read_safetensors_header(path: str) -> dict[str, dict[str, Any]]:
    """`{tensor name: {"dtype", "shape", "data_offsets"}}` of a safetensors file.

    Raises SettingsError when the file is not one, or is cut short.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise SettingsError(f"{path} is no safetensors file: it has only {size} bytes")
        (length,) = struct.unpack("<Q", prefix)
        if length > _MAX_HEADER_BYTES or 8 + length > size:
            raise SettingsError(f"{path} is no safetensors file, or cut short: its header says {length} bytes")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as failure:
            raise SettingsError(f"{path}: the safetensors header is not valid JSON: {failure}") from failure
    if not isinstance(header, dict):
        raise SettingsError(f"{path}: the safetensors header is no JSON object")
    header.pop("__metadata__", None)
    end = 0
    for name, entry in header.items():
        if not _is_tensor_entry(entry):
            raise SettingsError(f"{path}: the safetensors header describes '{name}' wrongly: {str(entry)[:80]}")
        end = max(end, entry["data_offsets"][1])
    if 8 + length + end > size:
        raise SettingsError(f"{path} is cut short: {size} bytes, but its header needs {8 + length + end}")
    return header


def _is_tensor_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    for key in ("shape", "data_offsets"):
        numbers = entry.get(key)
        if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
            return False
    return len(entry["data_offsets"]) == 2 and entry["data_offsets"][0] <= entry["data_offsets"][1]


@lru_cache(maxsize=8)
def base_model_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Weight shapes of the base model by module name, from its safetensors headers; empty when it has none here."""
    shapes: dict[str, tuple[int, ...]] = {}
    if not os.path.isdir(model):
        return shapes
    for filename in sorted(os.listdir(model)):
        if filename.endswith(".safetensors"):
            for name, entry in read_safetensors_header(os.path.join(model, filename)).items():
                if name.endswith(".weight") and len(entry["shape"]) == 2:
                    shapes[name.removesuffix(".weight")] = tuple(entry["shape"])
    return shapes


def inspect_adapter(path: str, *, max_lora_rank: int | None = None, base_model: str | None = None) -> AdapterFiles:
    """Read an adapter's headers and say whether the engine can load it.

    Raises SettingsError when the folder cannot be read as an adapter at all; everything that can be named lands in
    `problems` instead.
    """
    stamp = _stamp(path)
    config = _read_config(path)
    weights = _weights_path(path)
    header = read_safetensors_header(weights)
    rank, alpha, targets = _numbers(path, config)
    problems = _unsupported_features(config)
    ranks = [rank, *(value for value in (config.get("rank_pattern") or {}).values() if isinstance(value, int))]
    if max_lora_rank is not None and max(ranks) > max_lora_rank:
        problems.append(f"rank {max(ranks)} is greater than max_lora_rank {max_lora_rank}")
    pairs, strangers = _pair_up(header)
    if strangers:
        problems.append(f"holds tensors that belong to no LoRA layer, such as '{strangers[0]}'")
    if not pairs:
        problems.append("holds no LoRA tensors")
    problems.extend(_pair_problems(pairs))
    problems.extend(_rank_problems(pairs, rank, config.get("rank_pattern") or {}))
    problems.extend(_target_problems(targets, pairs))
    if base_model is not None:
        problems.extend(_shape_problems(pairs, base_model_shapes(base_model)))
    dtypes = sorted({entry["dtype"] for entry in header.values()})
    return AdapterFiles(
        path=path,
        rank=rank,
        alpha=alpha,
        target_modules=sorted({module.rsplit(".", 1)[-1] for module in pairs}),
        base_model=config.get("base_model_name_or_path"),
        size_bytes=os.path.getsize(weights),
        dtype=",".join(dtypes),
        modules=sorted(pairs),
        problems=problems,
        stamp=stamp,
    )


def _stamp(path: str) -> tuple[tuple[int, int, int], ...]:
    try:
        files = [os.stat(os.path.join(path, name)) for name in (CONFIG_FILENAME, WEIGHTS_FILENAME)]
    except OSError:
        return ()
    return tuple((file.st_ino, file.st_size, file.st_mtime_ns) for file in files)


def check_finite(path: str) -> None:
    """Read an adapter's weights once and refuse infinities and NaNs, which would poison every row they touch.

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
        # An exponent of ones is an infinity or a NaN in every IEEE format.
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


def _numbers(path: str, config: dict[str, Any]) -> tuple[int, float, list[str] | str]:
    where = os.path.join(path, CONFIG_FILENAME)
    rank, alpha, targets = config.get("r"), config.get("lora_alpha"), config.get("target_modules")
    if type(rank) is not int or rank < 1:
        raise SettingsError(f"{where}: 'r' must be a whole number of at least 1, got {rank!r}")
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool):
        raise SettingsError(f"{where}: 'lora_alpha' must be a number, got {alpha!r}")
    named = isinstance(targets, list) and all(isinstance(name, str) for name in targets)
    if not (isinstance(targets, str) or named):
        raise SettingsError(f"{where}: 'target_modules' must be a list of names or a pattern, got {targets!r}")
    return rank, float(alpha), targets  # type: ignore[return-value]


def _unsupported_features(config: dict[str, Any]) -> list[str]:
    """What vLLM's LoRA path does not compute; serving such an adapter would give wrong text."""
    problems = []
    if config.get("peft_type", "LORA") != "LORA":
        problems.append(f"peft_type {config['peft_type']!r} is not LORA")
    if config.get("use_dora"):
        problems.append("DoRA (use_dora) is not supported")
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        problems.append("biases (bias, lora_bias) are not supported")
    if config.get("modules_to_save"):
        problems.append(f"modules_to_save {config['modules_to_save']!r} is not supported")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _SAFE_INITS:
        problems.append(f"init_lora_weights {init!r} changes the base model's weights and is not supported")
    for key in ("alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora"):
        if config.get(key):
            problems.append(f"{key} is not supported")
    return problems


_Pairs = dict[str, dict[str, tuple[int, ...]]]


def _pair_up(header: dict[str, dict[str, Any]]) -> tuple[_Pairs, list[str]]:
    pairs: _Pairs = {}
    strangers = []
    for name, entry in header.items():
        match = _TENSOR_NAME.match(name) or _EMBEDDING_NAME.match(name)
        if match is None:
            strangers.append(name)
        else:
            pairs.setdefault(match["module"], {})[match["side"]] = tuple(entry["shape"])
    return pairs, strangers


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
    """The tensors have the rank that the configuration says: the scaling is worked out from the latter."""
    problems = []
    for module, sides in pairs.items():
        # PEFT's rule: a key matches as a suffix of the module's name that starts at a dot; the first match wins.
        said = next((r for key, r in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), rank)
        if len(sides.get("A", ())) == 2 and sides["A"][0] != said:
            problems.append(f"{module}: {CONFIG_FILENAME} says rank {said}, its tensors have rank {sides['A'][0]}")
    return problems[:4]


def _target_problems(targets: list[str] | str, pairs: _Pairs) -> list[str]:
    """Every named target has tensors in the file (a pattern is taken as it is)."""
    if isinstance(targets, str):
        return []
    present = set(pairs)
    missing = [target for target in targets if not any(m == target or m.endswith(f".{target}") for m in present)]
    return [f"target module '{name}' has no tensors in {WEIGHTS_FILENAME}" for name in missing[:4]]


def _shape_problems(pairs: _Pairs, base: dict[str, tuple[int, ...]]) -> list[str]:
    problems: list[str] = []
    if not base:
        return problems
    for module, sides in pairs.items():
        shape = base.get(module) or base.get(f"model.{module}") or base.get(module.removeprefix("model."))
        if shape is None:
            # A tied lm_head has no weight of its own in the file.
            if module.rsplit(".", 1)[-1] != "lm_head":
                problems.append(f"the base model has no module '{module}'")
        elif "A" in sides and "B" in sides and (len(sides["A"]), len(sides["B"])) == (2, 2):
            embedding = module.rsplit(".", 1)[-1] == "embed_tokens"
            wanted = (shape[1], shape[0]) if embedding else shape
            if (sides["B"][0], sides["A"][1]) != wanted:
                problems.append(
                    f"{module}: made for a base weight of {[sides['B'][0], sides['A'][1]]}, "
                    f"this base model has {list(wanted)}"
                )
    # Layers beyond the base model's, or missing in the middle, show up above; a few lines tell enough.
    return problems[:4]
