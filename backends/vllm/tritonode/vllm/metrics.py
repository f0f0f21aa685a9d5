"""vLLM's statistics."""

from __future__ import annotations

from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, SchedulerStats

__all__ = [
    "IterationStats",
    "SchedulerStats",
    "StatLoggerBase",
]
