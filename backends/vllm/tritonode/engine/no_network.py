"""Keeps torch.distributed from opening sockets for an engine of one rank.

vLLM creates process groups even for a single rank, and for them the gloo backend opens about a dozen listening sockets
on the loopback interface (and fails if there is no interface). torch has a process-group backend named `fake` that does
not communicate. For one rank every collective operation is the identity, so the results are the same.
"""

from __future__ import annotations

import functools
from typing import Any

_installed = False


def install() -> None:
    """Make torch.distributed use the `fake` backend wherever gloo is asked for.

    Call before the engine is built, and only for world size 1. Idempotent. Imports torch.
    """
    global _installed
    if _installed:
        return
    import torch.distributed as dist

    # Importing the module registers the backend.
    from torch.testing._internal.distributed import fake_pg  # noqa: F401

    original_init = dist.init_process_group
    original_new_group = dist.new_group

    @functools.wraps(original_init)
    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> Any:
        return original_init(_without_gloo(backend), *args, **kwargs)

    @functools.wraps(original_new_group)
    def new_group(ranks: Any = None, timeout: Any = None, backend: Any = None, *args: Any, **kwargs: Any) -> Any:
        return original_new_group(ranks, timeout, _without_gloo(backend), *args, **kwargs)

    dist.init_process_group = init_process_group
    dist.new_group = new_group
    _installed = True


def _without_gloo(backend: Any) -> Any:
    """`gloo` → `fake`, also inside a per-device string such as `cpu:gloo,cuda:nccl`."""
    if not isinstance(backend, str):
        return backend
    if backend == "gloo":
        return "fake"
    return backend.replace("cpu:gloo", "cpu:fake")
