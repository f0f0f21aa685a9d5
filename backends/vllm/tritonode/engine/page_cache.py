"""Reads a model's weights into the page cache while Python imports, so that disk and processor work in parallel."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path

# The fraction of the free memory to use. With more, the last pages would evict the first ones.
_SHARE = 0.5


def read_ahead(model_directory: str) -> threading.Thread | None:
    """Make the kernel read the weights of a model's `model.json`, on a separate thread.

    Whatever is wrong with the files is left for the load to say.

    Args:
        model_directory: holds `model.json`.

    Returns the thread, or None where there is nothing to read.
    """
    files = _weights(model_directory)
    if not files:
        return None
    thread = threading.Thread(target=_read, args=(files,), name="read-ahead", daemon=True)
    thread.start()
    return thread


def _weights(model_directory: str) -> list[Path]:
    try:
        model = json.loads(Path(model_directory, "model.json").read_text(encoding="utf-8"))["model"]
        files = sorted(Path(model).glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return files if size <= _SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") else []


def _read(files: list[Path]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)
