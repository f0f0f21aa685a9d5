"""The attention backend that :mod:`attention` registers with vLLM."""

from __future__ import annotations

from typing import Any

import torch

from tritonode.vllm import attention as theirs
from tritonode.vllm.attention import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadata,
    CPUAttentionMetadataBuilder,
)

_MOST_QUERIES_PER_KV = 24  # kAttentionRows of native/punica/kernels.h


class AttentionBackend(CPUAttentionBackend):
    """vLLM's ``CPU_ATTN`` with the kernels of ``libtritonode_punica``."""

    forward_includes_kv_cache_update: bool = True

    @staticmethod
    def get_impl_cls() -> type[CPUAttentionBackendImpl]:
        """Return the class whose ``forward`` a layer calls."""
        return AttentionImpl

    @staticmethod
    def get_builder_cls() -> type[CPUAttentionMetadataBuilder]:
        """Return the class that describes each step to the layers."""
        return MetadataBuilder


class MetadataBuilder(CPUAttentionMetadataBuilder):
    """vLLM's, without its kernels' plan of how threads divide a step, where no layer runs on these kernels."""

    _unplanned: bool | None = None

    def build(
        self, common_prefix_len: int, common_attn_metadata: Any, *arguments: Any, **options: Any
    ) -> CPUAttentionMetadata:
        """Describe a step."""
        if self._unplanned is None:
            impls = [layer.impl for layer in theirs.layers_of(self)]
            self._unplanned = all(type(impl) is AttentionImpl and impl.serves for impl in impls)
        made = theirs.metadata(common_attn_metadata) if self._unplanned else None
        return made or super().build(common_prefix_len, common_attn_metadata, *arguments, **options)


class AttentionImpl(CPUAttentionBackendImpl):
    """One layer's attention: :meth:`forward` stores the step's keys and values, then attends to the sequence's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.window = max(0, self.sliding_window)  # vLLM's -1: none
        self.serves = (
            self.alibi_slopes is None
            and self.sinks is None
            and not self.is_fp8_kv_cache
            and self.num_queries_per_kv <= _MOST_QUERIES_PER_KV
        )
        # Whether this package's kernels support each step of causal requests, and the layer has its own KV cache.
        self.plain = self.serves and self.kv_sharing_target_layer_name is None

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: CPUAttentionMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the attention of a step.

        Args:
            layer: the layer, for the scales of vLLM's kernels.
            query: ``[tokens, heads, head_size]``.
            key: ``[tokens, kv_heads, head_size]``.
            value: ``[tokens, kv_heads, head_size]``.
            kv_cache: ``[blocks, kv_heads, block_size, 2 * head_size]``.
            attn_metadata: which tokens are whose; None while vLLM warms up.
            output: ``[tokens, heads, head_size]``, written.
            output_scale: for a quantised output, which CPUs do not have.
            output_block_scale: likewise.
        """
        if attn_metadata is None:
            return output
        store = self.kv_sharing_target_layer_name is None and key is not None and value is not None
        if not self.serves or attn_metadata.dynamic_causal is not None or output_scale is not None:
            if store:
                self.do_kv_cache_update(layer, key, value, kv_cache, attn_metadata.slot_mapping)
            return super().forward(
                layer, query, key, value, kv_cache, attn_metadata, output, output_scale, output_block_scale
            )
        torch.ops.tritonode_punica.attention_(
            output,
            query,
            key if store else query,
            value if store else query,
            kv_cache,
            attn_metadata.slot_mapping,
            attn_metadata.query_start_loc,
            attn_metadata.seq_lens,
            attn_metadata.block_table,
            store,
            self.window,
            attn_metadata.causal,
            self.scale,
            self.logits_soft_cap,
        )
        return output
