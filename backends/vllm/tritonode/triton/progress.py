"""What a host is told while a model loads: lines on stderr, which it reads from the log and hides from it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

PREFIX = "@tritonode "


def report(model: str, phase: str, **details: Any) -> None:
    """Write one progress line, if a tritonode host listens."""
    if "TRITONODE_PRIVATE_DIR" in os.environ:
        sys.stderr.write(f"{PREFIX}{json.dumps({'model': model, 'phase': phase, **details})}\n")
        sys.stderr.flush()


def idle() -> None:
    """Tell the host that nothing is left to be done in this process (native/python_backend/child_waits.h)."""
    if "TRITONODE_PRIVATE_DIR" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
            file.write("tritonode-idle")
