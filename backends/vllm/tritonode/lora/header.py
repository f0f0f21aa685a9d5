"""The header of a safetensors file: what tensors it holds, without reading them.

A file starts with an 8-byte little-endian length and a JSON header of that length
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import os
import struct
from typing import Any

from tritonode.errors import SettingsError

# The safetensors library's own limit for a header.
_MAX_HEADER_BYTES = 100_000_000


def read_safetensors_header(path: str) -> dict[str, dict[str, Any]]:
    """`{tensor name: {"dtype", "shape", "data_offsets"}}` of a safetensors file.

    Raises SettingsError when the file is not one, or is cut short.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise SettingsError(f"{path} is not a safetensors file: it has only {size} bytes")
        (length,) = struct.unpack("<Q", prefix)
        if length > _MAX_HEADER_BYTES or 8 + length > size:
            raise SettingsError(f"{path} is not a safetensors file, or is cut short: its header says {length} bytes")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as failure:
            raise SettingsError(f"{path}: the safetensors header is not valid JSON: {failure}") from failure
    if not isinstance(header, dict):
        raise SettingsError(f"{path}: the safetensors header is not a JSON object")
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
