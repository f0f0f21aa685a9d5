"""The adapters that a model serves, saved for the process that replaces this one after a crash.

When the engine's process dies, the host starts another one for the same model. It reads here which adapters were
loaded, replaced, unloaded and pinned at run time, through whichever API. The file is in the host's private folder. A
stock tritonserver has no such folder, and nothing is written then.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass

from .scaled import ScaledFolders


@dataclass(frozen=True)
class Entry:
    """An adapter to serve."""

    name: str
    path: str
    pinned: bool = False


class SavedAdapters:
    """The adapters of one model in a file. Without a private folder it saves nothing."""

    def __init__(self, private_directory: str | None, model: str) -> None:
        self._folder = os.path.join(private_directory, "models", model) if private_directory else None
        self._path = os.path.join(self._folder, "adapters.json") if self._folder else None

    def scaled_folders(self) -> ScaledFolders:
        """The parent of the folders of scaled adapters, next to this file so that the next process finds them."""
        return ScaledFolders(self._folder)

    @property
    def restarts(self) -> bool:
        """Whether the host starts another process when this one dies (its option `restart`)."""
        return self._folder is not None and os.path.exists(os.path.join(self._folder, "restart"))

    def read(self) -> list[Entry] | None:
        """Return the adapters that the model served when its last process died; None on a first start."""
        if self._path is None:
            return None
        try:
            with open(self._path, encoding="utf-8") as file:
                return [Entry(str(each["name"]), str(each["path"]), bool(each["pinned"])) for each in json.load(file)]
        except (OSError, ValueError, TypeError, KeyError):
            # Files are moved into place: a process that is killed while it writes leaves the old file, or none.
            return None

    def write(self, entries: Iterable[Entry]) -> None:
        """Replace the file's content. On a full disk the change is not saved; the request does not fail."""
        if self._path is None:
            return
        beside = f"{self._path}.{os.getpid()}"
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            with open(beside, "w", encoding="utf-8") as file:
                json.dump([{"name": e.name, "path": e.path, "pinned": e.pinned} for e in entries], file)
            os.replace(beside, self._path)

    def remove(self) -> None:
        """Delete the file: the model is being unloaded, and its next load is a first start."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
