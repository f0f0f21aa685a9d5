"""Adapters with a scale. vLLM has no scale for a request, so a scaled variant is a separate adapter.

Its folder links to the weights of the original and has a configuration whose `lora_alpha` is multiplied: all that reads
adapters (this backend, vLLM, each rank) then scales it like any other.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from typing import Any

from tritonode.errors import InvalidRequestError, SettingsError

from .files import CONFIG_FILENAME, SCALE_KEY, SOURCE_KEY

SEPARATOR = "*"
"""Separates an adapter's name and the scale of its variant. The name of a loaded adapter may not contain it."""


def variant_name(name: str, scale: float) -> str:
    """Return the name of a variant: `sql*0.5`."""
    return f"{name}{SEPARATOR}{scale:.6g}"


def check_scale(scale: float) -> None:
    """Raise InvalidRequestError if this number can't be a scale."""
    if not math.isfinite(scale) or scale == 0:
        raise InvalidRequestError(f"the scale of an adapter must be a finite number other than 0, got {scale}")


class ScaledFolders:
    """The folders of one model's scaled adapters, created on first use and removed when the process ends."""

    def __init__(self, parent: str | None = None) -> None:
        self._parent = parent
        self._root: tempfile.TemporaryDirectory[str] | None = None

    def make(self, source: str, scale: float) -> str:
        """Create the folder of `source` with that scale. Raises SettingsError if the original cannot be read."""
        source = os.path.abspath(source)
        try:
            with open(os.path.join(source, CONFIG_FILENAME), encoding="utf-8") as file:
                config = json.load(file)
            scaled = _scaled_config(config, scale, source)
            folder = tempfile.mkdtemp(dir=self._folder())
            for name in os.listdir(source):
                if name != CONFIG_FILENAME:
                    os.symlink(os.path.join(source, name), os.path.join(folder, name))
            with open(os.path.join(folder, CONFIG_FILENAME), "w", encoding="utf-8") as file:
                json.dump(scaled, file)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as failure:
            raise SettingsError(f"the adapter in {source} cannot be scaled: {failure}") from failure
        return folder

    def _folder(self) -> str:
        if self._root is None:
            if self._parent is not None:
                os.makedirs(self._parent, mode=0o700, exist_ok=True)
            self._root = tempfile.TemporaryDirectory(prefix="tritonode-scaled-", dir=self._parent)
        return self._root.name


def _scaled_config(config: dict[str, Any], scale: float, source: str) -> dict[str, Any]:
    before = float(config.get(SCALE_KEY, 1.0))
    pattern = config.get("alpha_pattern") or {}
    return config | {
        "lora_alpha": config["lora_alpha"] * scale,
        **({"alpha_pattern": {key: alpha * scale for key, alpha in pattern.items()}} if pattern else {}),
        SCALE_KEY: before * scale,
        SOURCE_KEY: config.get(SOURCE_KEY, source),
    }
