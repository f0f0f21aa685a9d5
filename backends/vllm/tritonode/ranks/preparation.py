"""What this process does for the ranks of an engine of several, before it is built."""

from __future__ import annotations

import os

from tritonode.engine import failure
from tritonode.engine.settings import EngineSettings
from tritonode.vllm.api import is_cpu

from . import memory

# Tells the ranks of the user's own `worker_extension_cls`: vLLM takes one class, and ours extends it.
USERS_EXTENSION = "TRITONODE_WORKER_EXTENSION"


def prepare(settings: EngineSettings) -> None:
    """Name what the ranks share, and have each of them import what it needs of this package."""
    memory.choose_names()
    failure.expect_ranks()
    module = "lora_extension" if is_cpu() and settings.enable_lora else "extension"
    users = settings.engine_args.get("worker_extension_cls")
    if users:
        os.environ[USERS_EXTENSION] = users
    settings.engine_args["worker_extension_cls"] = f"tritonode.ranks.{module}.RankExtension"
