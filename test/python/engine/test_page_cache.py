"""Weights are in the page cache before they are asked for."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import time
from pathlib import Path

import pytest
from tritonode.engine import page_cache

SIZE = 4 << 20


def resident(path: Path) -> int:
    """Pages of a file that are in memory (mincore(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    count = SIZE // mmap.PAGESIZE
    pages = (ctypes.c_ubyte * count)()
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), SIZE) as mapped:
        address = ctypes.c_char.from_buffer(mapped)
        assert libc.mincore(ctypes.c_void_p(ctypes.addressof(address)), ctypes.c_size_t(SIZE), pages) == 0
        del address
    return sum(page & 1 for page in pages)


def test_weights_are_read(tmp_path: Path) -> None:
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    with open(weights, "wb") as file:
        file.write(os.urandom(SIZE))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(weights) > 0:
        pytest.skip("this file system keeps every file in memory")
    (tmp_path / "model.json").write_text(json.dumps({"model": str(weights.parent)}))
    thread = page_cache.read_ahead(str(tmp_path))
    assert thread is not None
    thread.join(10)
    end = time.monotonic() + 10
    while resident(weights) < SIZE // mmap.PAGESIZE and time.monotonic() < end:
        time.sleep(0.01)
    assert resident(weights) == SIZE // mmap.PAGESIZE


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"model": 7}', '{"model": "/nowhere"}', '{"model": "a/name"}'])
def test_what_is_wrong_is_left_for_the_load(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "model.json").write_text(text)
    assert page_cache.read_ahead(str(tmp_path)) is None


def test_weights_that_do_not_fit_into_memory_are_left(tmp_path: Path) -> None:
    sparse = tmp_path / "model.safetensors"
    with open(sparse, "wb") as file:
        file.truncate(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    (tmp_path / "model.json").write_text(json.dumps({"model": str(tmp_path)}))
    assert page_cache.read_ahead(str(tmp_path)) is None
