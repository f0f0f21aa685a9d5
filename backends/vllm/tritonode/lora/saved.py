"""What one child of a model leaves for the next: the adapters it served. And whether there will be a next one.

When the engine's process dies, the host starts another one for the same model; it finds here what was loaded, replaced,
unloaded and pinned at run time, by whichever door. The file lies in the host's private folder: a stock tritonserver has
none, and nothing is written there.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """An adapter to serve."""

    name: str
    path: str
    pinned: bool = False


class Ledger:
    """The adapters of one model, in a file or, with no folder, nowhere."""

    def __init__(self, private_directory: str | None, model: str) -> None:
        self._folder = os.path.join(private_directory, "models", model) if private_directory else None
        self._path = os.path.join(self._folder, "adapters.json") if self._folder else None

    @property
    def restarts(self) -> bool:
        """Whether the host starts another child when this one dies (its option `restart`)."""
        return self._folder is not None and os.path.exists(os.path.join(self._folder, "restart"))

    def read(self) -> list[Entry] | None:
        """What the model served when its last child died; None when it starts anew."""
        if self._path is None:
            return None
        try:
            with open(self._path, encoding="utf-8") as file:
                return [Entry(str(each["name"]), str(each["path"]), bool(each["pinned"])) for each in json.load(file)]
        except (OSError, ValueError, TypeError, KeyError):
            # A child that was killed while it wrote leaves the old file or none: it is moved into place.
            return None

    def write(self, entries: Iterable[Entry]) -> None:
        """Replace the file's content. A full disk costs the run-time adapters after a crash, not the request."""
        if self._path is None:
            return
        beside = f"{self._path}.{os.getpid()}"
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            with open(beside, "w", encoding="utf-8") as file:
                json.dump([{"name": e.name, "path": e.path, "pinned": e.pinned} for e in entries], file)
            os.replace(beside, self._path)

    def remove(self) -> None:
        """The model was told to end: its next load starts anew."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
