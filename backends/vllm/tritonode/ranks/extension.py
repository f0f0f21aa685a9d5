"""Imported by vLLM in each worker process of an engine of several ranks (`worker_extension_cls`)."""

from __future__ import annotations

import os
from typing import Any

from tritonode.vllm.executor import resolve_obj_by_qualname
from tritonode.vllm.platform import is_cpu

from . import failure, memory, threads

memory.use_names()
failure.note_here()
if is_cpu():
    threads.apply_environment()


def _users_extension() -> type[Any]:
    name = os.environ.get("TRITONODE_WORKER_EXTENSION")  # see `preparation`
    if not name:
        return object
    extension: type[Any] = resolve_obj_by_qualname(name)
    return extension


class RankExtension(_users_extension()):  # type: ignore[misc]
    """Adds nothing to vLLM's worker class except what the user adds. Its purpose is to have this module imported."""
