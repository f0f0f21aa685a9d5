"""For the worker processes of an engine of several ranks: vLLM imports this module in each (`worker_extension_cls`)."""

from __future__ import annotations

from . import memory

memory.use_names()


class RankExtension:
    """Adds nothing to vLLM's worker class: importing this module is the point."""
