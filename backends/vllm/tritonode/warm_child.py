"""A child that imports before it has a model (native/warm_child/preload.cc calls this, on its only thread)."""

from __future__ import annotations

import gc
import os
import sys

from tritonode.engine import environment
from tritonode.ranks import server


def prepare() -> None:
    """Import what a model's load imports, and tell the host how that ended.

    Writes one line to the descriptor in TRITONODE_WARM: `ready`, or what failed. Raises that too.
    """
    _, descriptor, folder = os.environ.pop("TRITONODE_WARM").split(" ", 2)
    report = int(descriptor)
    # numpy's OpenBLAS makes threads when it is imported; nothing in an engine computes with it. With a single thread
    # this process can be forked (`take`).
    chosen = "OPENBLAS_NUM_THREADS" in os.environ
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        environment.prepare()
        environment.prepare_vllm()
        import tritonode.service  # noqa: F401
        from tritonode.vllm.early_imports import import_early
        from tritonode.vllm.platform import is_cpu

        if is_cpu():
            import_early()
    except BaseException as failure:
        reason = " ".join(f"{type(failure).__name__}: {failure}".split())
        os.write(report, f"{reason}\n".encode(errors="replace")[:4096])
        raise
    if not chosen:
        del os.environ["OPENBLAS_NUM_THREADS"]
    # model.py puts it there again where it wants it.
    sys.path.remove(folder)
    gc.collect()
    # What is imported stays: later collections need not look at it.
    gc.freeze()
    os.write(report, b"ready\n")


def take(model: bytes) -> None:
    """Prepare for a model before Triton's stub starts threads: `model` is the path of its model.py."""
    if server.is_of_use(os.path.dirname(os.fsdecode(model))):
        server.RankServer.fork_this_process()
