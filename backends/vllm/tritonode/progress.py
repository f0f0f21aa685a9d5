"""Lines on stderr that tell the host how far a load is. The host reads them from the log and hides them from it."""

from __future__ import annotations

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
