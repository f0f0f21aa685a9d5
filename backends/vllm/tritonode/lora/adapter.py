"""An adapter that a model serves, with its counts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from tritonode.vllm.lora import LoRARequest

from .files import AdapterFiles


@dataclass
class Adapter:
    """One version of an adapter. A new version gets a new integer id and a new cache name.

    vLLM keys its weights by the id and its prefix cache by the name: reusing either would serve the old version's
    weights or its cached prefixes.
    """

    name: str
    version: int
    files: AdapterFiles
    request: LoRARequest
    pinned: bool = False
    # Whether its weights have been read once without an error.
    tried: bool = False
    # Why this version can no longer serve: its weights could not be read when a step needed them.
    broken: str | None = None
    retired: bool = False
    running: int = 0
    served: int = 0
    failed: int = 0
    tokens: int = 0
    last_used: float = 0.0
    loaded_at: float = field(default_factory=time.time)

    @property
    def is_unused(self) -> bool:
        """Whether it was unloaded or replaced, and no request runs on it any more: its weights can go."""
        return self.retired and self.running == 0

    def as_dict(self, state: str) -> dict[str, Any]:
        """The JSON object that `adapters.list` returns. Times are in seconds since the epoch."""
        return {
            "name": self.name,
            "version": self.version,
            "path": self.files.source,
            "scale": self.files.scale,
            "rank": self.files.rank,
            "alpha": self.files.alpha,
            "target_modules": self.files.target_modules,
            "size_bytes": self.files.size_bytes,
            "state": state,
            "pinned": self.pinned,
            "running": self.running,
            "served": self.served,
            "failed": self.failed,
            "tokens": self.tokens,
            "last_used": self.last_used,
            "loaded_at": self.loaded_at,
        }
