"""What keeps the child's memory from growing: a bound on oneDNN's cache, and free heap that goes back to the kernel."""

import asyncio
import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from tritonode.cpu import heap

BACKEND = Path(__file__).parents[3] / "backends/vllm"
GLIBC = platform.libc_ver()[0] == "glibc"
MIB = 1 << 20


# In an interpreter of its own: where other tests have left free heap, the blocks would come from there.
HOLES = """
import ctypes
from tritonode.cpu import heap

MIB = 1 << 20
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

ours = heap.Heap()
ours.give_back()
before = heap.resident_bytes()
assert not ours.give_back(), "nothing has come up since"
blocks, used = [], []
for _ in range(200 * MIB // (64 << 10)):
    block = libc.malloc(64 << 10)
    ctypes.memset(block, 1, 64 << 10)
    blocks.append(block)
    # A block that lives on between them; a smaller one might lie in some older hole.
    used.append(libc.malloc(4096))
for block in blocks:
    libc.free(block)
full = heap.resident_bytes()
assert full - before > 190 * MIB, "what is freed stays in the process"
assert ours.give_back()
assert heap.resident_bytes() < before + 60 * MIB
assert not ours.give_back()
"""


@pytest.mark.skipif(not GLIBC, reason="glibc's heap")
def test_free_heap_goes_back_once_there_is_enough_of_it() -> None:
    run = subprocess.run([sys.executable, "-c", HOLES], env={**os.environ, "PYTHONPATH": str(BACKEND)}, check=False)
    assert run.returncode == 0


def test_heap_goes_back_only_in_quiet_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_PAUSE_SECONDS", 0)
    looks = iter([True, False, True, False, True, True, True, False])
    given: list[int] = []
    seen = 0

    class Counting(heap.Heap):
        def give_back(self) -> bool:
            given.append(seen)
            return True

    def is_idle() -> bool:
        nonlocal seen
        seen += 1
        return next(looks)

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(Counting().give_back_when_idle(is_idle))
    assert given == [6, 7], "at the second look in a row that finds nothing running, and at those after it"


# A new number of rows is a new matrix product to prepare, and the layer itself remembers only one here.
_PRODUCTS = """
import ctypes, sys
from tritonode.engine import environment
environment.prepare()
import torch
from vllm.platforms import current_platform
current_platform.import_kernels()  # _C_AVX2 on some processors
from vllm import _custom_ops as ops
class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo2
layer = ops.create_onednn_mm(torch.zeros(64, 64).t(), 1)
used = []
for rows in range(1, 801):
    ops.onednn_mm(layer, torch.zeros(rows, 64), None)
    if rows % 400 == 0:
        used.append(libc.mallinfo2().uordblks)
print(used[1] - used[0])
"""


@pytest.mark.skipif(not GLIBC or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc 2.33 or later")
def test_prepared_matrix_products_are_bounded() -> None:
    def grown(**extra: str) -> float:
        environment = {**os.environ, "PYTHONPATH": str(BACKEND), **extra}
        environment.pop("VLLM_CPU_OMP_THREADS_BIND", None)
        run = subprocess.run([sys.executable, "-c", _PRODUCTS], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return int(run.stdout.split()[-1]) / MIB

    assert grown() < 8, "400 more of them than fit take no more memory"
    assert grown(ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024") > 60, "what somebody sets stands, and shows what is measured"
