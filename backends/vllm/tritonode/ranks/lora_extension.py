"""`extension` for a CPU engine with LoRA.

The LoRA kernels are installed in the process that computes, which is not this one when there are several ranks.
"""

from __future__ import annotations

from tritonode.cpu import punica_wrapper

from .extension import RankExtension

punica_wrapper.install()

__all__ = ["RankExtension"]
