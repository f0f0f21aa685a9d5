"""Names for the shared memory of an engine of several ranks, by which it can be found again.

vLLM's ranks share memory under random names (`psm_...` of Python's multiprocessing, `vllm_dist_...` of its CPU
kernels), and what remains of it when a rank is ended stays in /dev/shm. Under names that begin as the host's own do,
this process removes it when the model is unloaded, and so does whoever cleans up after a host that was killed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from uuid import uuid4

_VARIABLE = "TRITONODE_RANKS_SHM_PREFIX"
_FOLDER = "/dev/shm"


def choose_names() -> None:
    """Choose this engine's prefix, which its ranks inherit; nothing without a host. Call before the engine is built."""
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

    from vllm.v1.executor import multiproc_executor

    process.current_process()._config["semprefix"] = f"/{prefix}"  # type: ignore[attr-defined]
    # Python keeps to 14 characters, which is what macOS allows; Linux allows 255.
    python_names = f"/{prefix}"
    shared_memory._SHM_NAME_PREFIX = python_names  # type: ignore[attr-defined]
    shared_memory._SHM_SAFE_NAME_LENGTH = len(python_names) + 8  # type: ignore[attr-defined]

    def file_store() -> str:
        # The file's name is what vLLM's CPU kernels call their memory (VLLM_DIST_IDENT).
        return f"file://{tempfile.gettempdir()}/{prefix}{uuid4().hex}"

    multiproc_executor.get_file_store_init_method = file_store


def remove_all() -> None:
    """Remove what this engine's ranks have left. For the time after they have ended."""
    prefix = os.environ.get(_VARIABLE)
    if prefix is None:
        return
    for name in os.listdir(_FOLDER):
        if name.removeprefix("sem.").startswith(prefix):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(_FOLDER, name))
