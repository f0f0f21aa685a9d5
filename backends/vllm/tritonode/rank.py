"""For the worker processes of an engine of several ranks: vLLM imports this module in each (`worker_extension_cls`).

The LoRA kernels are installed in the process that computes; on several ranks that is not the one that serves.
"""

from __future__ import annotations

import punica_cpu

punica_cpu.install()


class RankExtension:
    """Adds nothing to vLLM's worker class: importing this module is the point."""
