"""Names for the shared memory of an engine of several ranks, so that it can be removed.

vLLM's ranks share memory under random names (`psm_...` of Python's multiprocessing, `vllm_dist_...` of its CPU
kernels), which stays in /dev/shm when a rank is killed. With names that start with the host's prefix, this process can
remove it when the model is unloaded, and the next host can after a host that was killed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from uuid import uuid4

_VARIABLE = "TRITONODE_RANKS_SHM_PREFIX"
_FOLDER = "/dev/shm"


def choose_names() -> None:
    """Choose this engine's prefix, which its ranks inherit. Does nothing without a tritonode host. Call it before the
    engine is built.
    """
    host = os.environ.get("TRITONODE_SHM_PREFIX")
    if host is None:
        return
    os.environ[_VARIABLE] = f"{host}ranks{os.getpid()}_"
    use_names()


def use_names() -> None:
    """Use the prefix in this process: the engine's, or a rank's. Imports vLLM."""
    prefix = os.environ.get(_VARIABLE)
    if prefix is None:
        return
    from multiprocessing import process, shared_memory

    from tritonode.vllm.executor import set_file_store

    process.current_process()._config["semprefix"] = f"/{prefix}"  # type: ignore[attr-defined]
    # Python limits names to 14 characters, as macOS does; Linux allows 255.
    python_names = f"/{prefix}"
    shared_memory._SHM_NAME_PREFIX = python_names  # type: ignore[attr-defined]
    shared_memory._SHM_SAFE_NAME_LENGTH = len(python_names) + 8  # type: ignore[attr-defined]

    def file_store() -> str:
        # vLLM's CPU kernels use the file's name for their memory (VLLM_DIST_IDENT).
        return f"file://{tempfile.gettempdir()}/{prefix}{uuid4().hex}"

    set_file_store(file_store)


def remove_all() -> None:
    """Remove the shared memory of this engine's ranks, after they have ended."""
    prefix = os.environ.get(_VARIABLE)
    if prefix is None:
        return
    for name in os.listdir(_FOLDER):
        if name.removeprefix("sem.").startswith(prefix):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(_FOLDER, name))
