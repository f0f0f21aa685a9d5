"""Prepares an engine of several ranks before it is built."""

from __future__ import annotations

import math
import os
from typing import Any

from tritonode.vllm.executor import start_ranks_with
from tritonode.vllm.platform import is_cpu

from . import failure, memory, threads
from .process import RankContext

# Passes the user's own `worker_extension_cls` to the ranks. vLLM accepts one class; ours extends the user's.
USERS_EXTENSION = "TRITONODE_WORKER_EXTENSION"


def prepare(engine_args: dict[str, Any], *, lora: bool, share_cpus: bool) -> None:
    """Set the names of what the ranks share, and make each of them import what it needs from this package.

    Args:
        engine_args: of vLLM, changed in place.
        lora: whether the engine serves adapters.
        share_cpus: whether each rank on the CPU gets its share of the CPUs; False if the user has chosen.
    """
    memory.choose_names()
    failure.expect_ranks()
    if is_cpu():
        start_ranks_with(RankContext())
        if share_cpus:
            sizes = (int(engine_args.get(f"{kind}_parallel_size", 1)) for kind in ("tensor", "pipeline"))
            threads.share_cpus(math.prod(sizes))
    module = "lora_extension" if is_cpu() and lora else "extension"
    users = engine_args.get("worker_extension_cls")
    if users:
        os.environ[USERS_EXTENSION] = users
    engine_args["worker_extension_cls"] = f"tritonode.ranks.{module}.RankExtension"
