"""Progress of a load, reported to a tritonode host: lines on stderr that the host takes out of the log."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

PREFIX = "@tritonode "


def report(model: str, phase: str, **details: Any) -> None:
    """Write one progress line if this process has a tritonode host."""
    if "TRITONODE_PRIVATE_DIR" in os.environ:
        sys.stderr.write(f"{PREFIX}{json.dumps({'model': model, 'phase': phase, **details})}\n")
        sys.stderr.flush()
