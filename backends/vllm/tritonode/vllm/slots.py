"""Where the KV cache keeps a step's tokens, on a CPU. Imports much of vLLM: only what builds an engine asks for it."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
import torch
from vllm.v1.worker.block_table import BlockTable

__all__ = ["map_decoding_here"]

_PARAMETERS = ("self", "num_reqs", "query_start_loc", "positions")


@functools.cache
def map_decoding_here() -> None:
    """Compute the slots of steps in which each request has one token on the calling thread.

    vLLM's kernel offers every step to all OpenMP threads, which sleep by then, and waking them takes 0.1 ms. A vLLM
    whose function takes other arguments keeps its own.
    """
    table_class: Any = BlockTable
    theirs = table_class.compute_slot_mapping
    if tuple(inspect.signature(theirs).parameters) != _PARAMETERS:
        return

    @functools.wraps(theirs)
    def compute_slot_mapping(self: Any, num_reqs: int, query_start_loc: torch.Tensor, positions: torch.Tensor) -> None:
        if positions.size(0) != num_reqs or not _plain(self):
            theirs(self, num_reqs, query_start_loc, positions)
            return
        rows = np.arange(num_reqs)
        if not np.array_equal(query_start_loc.numpy()[:num_reqs], rows):
            theirs(self, num_reqs, query_start_loc, positions)
            return
        blocks, places = np.divmod(positions.numpy(), self.block_size)
        found = self.block_table.gpu.numpy()[rows, blocks].astype(np.int64)
        self.slot_mapping.gpu.numpy()[:num_reqs] = found * self.block_size + places

    table_class.compute_slot_mapping = compute_slot_mapping


def _plain(table: Any) -> bool:
    """Whether slots are blocks and places in them, in memory of the host."""
    mode = getattr(table, "slot_mapping_mode", None)
    return (
        table.dcp_world_size == getattr(table, "pcp_world_size", 1) == 1
        and (mode is None or mode.name == "TOKEN_TO_KV_SLOT")
        and table.slot_mapping.gpu.device.type == "cpu"
        and table.block_table.gpu.device.type == "cpu"
    )
