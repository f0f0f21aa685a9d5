"""vLLM's attention on a CPU, which ours derives from. Imports much of vLLM: only what builds an engine asks for it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadata,
    CPUAttentionMetadataBuilder,
)

__all__ = [
    "CPUAttentionBackend",
    "CPUAttentionBackendImpl",
    "CPUAttentionMetadata",
    "CPUAttentionMetadataBuilder",
    "layers_of",
    "metadata",
]

_NEEDED = {
    "num_actual_tokens",
    "max_query_len",
    "query_start_loc",
    "max_seq_len",
    "seq_lens",
    "block_table",
    "slot_mapping",
    "scheduler_metadata",
}


def layers_of(builder: CPUAttentionMetadataBuilder) -> list[Any]:
    """The attention layers that a builder serves."""
    context = builder.vllm_config.compilation_config.static_forward_context
    return [context[name] for name in builder.layer_names]


@functools.cache
def _known() -> bool:
    fields = dataclasses.fields(CPUAttentionMetadata)
    return {each.name for each in fields if each.default is dataclasses.MISSING} == _NEEDED


def metadata(step: Any) -> CPUAttentionMetadata | None:
    """What attention has to know of a step (vLLM's ``CommonAttentionMetadata``) without a plan for vLLM's kernels.

    None where vLLM's own builder does more: encoders, or a version that keeps other things.
    """
    if not _known() or not isinstance(step.causal, bool):
        return None
    return CPUAttentionMetadata(
        num_actual_tokens=step.num_actual_tokens,
        max_query_len=step.max_query_len,
        query_start_loc=step.query_start_loc,
        max_seq_len=step.max_seq_len,
        seq_lens=step.seq_lens,
        block_table=step.block_table_tensor,
        slot_mapping=step.slot_mapping,
        scheduler_metadata=None,
        causal=step.causal,
    )
