"""For the worker processes of an engine of several ranks: vLLM imports this module in each (`worker_extension_cls`)."""

from __future__ import annotations

import os
from typing import Any

from tritonode.engine import failure

from . import memory

memory.use_names()
failure.note_here()


def _users_extension() -> type[Any]:
    name = os.environ.get("TRITONODE_WORKER_EXTENSION")  # see `preparation`
    if not name:
        return object
    from vllm.utils.import_utils import resolve_obj_by_qualname

    extension: type[Any] = resolve_obj_by_qualname(name)
    return extension


class RankExtension(_users_extension()):  # type: ignore[misc]
    """Adds nothing to vLLM's worker class but what the user adds: importing this module is the point."""
