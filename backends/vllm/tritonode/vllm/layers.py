"""vLLM's layers and operators that the CPU's kernels replace, and the configuration that decides which run."""

from __future__ import annotations

from typing import Any

from vllm import ir
from vllm._custom_ops import CPUDNNLGEMMHandler
from vllm.config import CompilationMode, VllmConfig, get_current_vllm_config_or_none
from vllm.lora.layers import (
    FusedMoE3DWithLoRA,
    FusedMoEWithLoRA,
    LoRAMapping,
    VocabParallelEmbeddingWithLoRA,
    base_linear,
)
from vllm.lora.layers.base import BaseLayerWithLoRA
from vllm.lora.layers.column_parallel_linear import (
    ColumnParallelLinearWithLoRA,
    MergedColumnParallelLinearWithLoRA,
    MergedQKVParallelLinearWithLoRA,
    QKVParallelLinearWithLoRA,
)
from vllm.lora.layers.row_parallel_linear import RowParallelLinearWithLoRA
from vllm.lora.punica_wrapper.punica_base import PunicaWrapperBase
from vllm.model_executor.custom_op import op_registry_oot
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
    UnquantizedLinearMethod,
)
from vllm.model_executor.layers.rotary_embedding import Llama3RotaryEmbedding, RotaryEmbedding
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

__all__ = [
    "BaseLayerWithLoRA",
    "CPUDNNLGEMMHandler",
    "ColumnParallelLinear",
    "ColumnParallelLinearWithLoRA",
    "CompilationMode",
    "FusedMoE3DWithLoRA",
    "FusedMoEConfig",
    "FusedMoEWithLoRA",
    "Llama3RotaryEmbedding",
    "LoRAMapping",
    "MergedColumnParallelLinear",
    "MergedColumnParallelLinearWithLoRA",
    "MergedQKVParallelLinearWithLoRA",
    "PunicaWrapperBase",
    "QKVParallelLinear",
    "QKVParallelLinearWithLoRA",
    "RMSNorm",
    "RotaryEmbedding",
    "RowParallelLinear",
    "RowParallelLinearWithLoRA",
    "SiluAndMul",
    "UnquantizedEmbeddingMethod",
    "UnquantizedLinearMethod",
    "VllmConfig",
    "VocabParallelEmbeddingWithLoRA",
    "base_linear",
    "embeddings_indices",
    "get_current_vllm_config_or_none",
    "ir",
    "op_registry_oot",
]


def embeddings_indices(wrapper: PunicaWrapperBase) -> Any:
    """The tensor of a Punica wrapper that says, for each token, where the A of its adapter starts in an embedding.

    Before 0.29 it is the second of two rows. The first is for tokens that an adapter adds, which vLLM
    no longer supports.
    """
    indices = wrapper._embeddings_indices
    if indices.dim() == 1:
        return indices
    indices[0] = 0
    return indices[1]
