"""`rank` for a CPU engine with LoRA.

The LoRA kernels are installed in the process that computes; on several ranks that is not the one that serves.
"""

from __future__ import annotations

import punica_cpu

from .rank import RankExtension

punica_cpu.install()

__all__ = ["RankExtension"]
