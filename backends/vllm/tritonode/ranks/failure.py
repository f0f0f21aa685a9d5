"""Finds the reason why an engine failed, when vLLM's error only says "see stack trace (above)".

With several ranks the reason is in the log of one of them. That rank writes it to a file for this process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator

from tritonode.errors import BackendError

_VARIABLE = "TRITONODE_RANKS_FAILURE"


def reason(failure: BaseException) -> str:
    """Format an error in one line, with its type, because "KeyError: 'x'" is clearer than "'x'"."""
    return f"{type(failure).__name__}: {failure}"


def expect_ranks() -> None:
    """Choose the file for a rank's reason. Call it before the engine is built."""
    descriptor, path = tempfile.mkstemp(prefix="tritonode-rank-", dir=os.environ.get("TRITONODE_PRIVATE_DIR"))
    os.close(descriptor)
    os.environ[_VARIABLE] = path


class _Note(logging.Handler):
    """Writes the first error of a rank to the file. Later ones are its consequences."""

    def emit(self, record: logging.LogRecord) -> None:
        path, error = os.environ.get(_VARIABLE), record.exc_info and record.exc_info[1]
        if path is None or error is None:
            return
        with contextlib.suppress(OSError):
            # The file no longer exists after the engine has started.
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
            with open(descriptor, "a", encoding="utf-8") as file:
                if os.fstat(descriptor).st_size == 0:
                    file.write(reason(error))


def note_here() -> None:
    """In a rank: write the reason to the file if the rank fails to start."""
    from tritonode.vllm.executor import RANKS_LOGGER

    logging.getLogger(RANKS_LOGGER).addHandler(_Note())


@contextlib.contextmanager
def named() -> Iterator[None]:
    """Put a rank's reason into the error of an engine that does not start."""
    try:
        yield
    except Exception as failure:
        said = _ranks_reason()
        if not said:
            raise
        raise BackendError(f"a rank of the engine failed: {said}") from failure
    finally:
        path = os.environ.pop(_VARIABLE, None)
        if path is not None:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _ranks_reason() -> str:
    path = os.environ.get(_VARIABLE)
    if path is None:
        return ""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""
