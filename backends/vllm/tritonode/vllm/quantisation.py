"""vLLM's registries of quantised formats and of model loaders, and the layers that these concern."""

from __future__ import annotations

from vllm.config import LoadConfig, ModelConfig
from vllm.model_executor.layers.linear import LinearBase, LinearMethodBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.model_executor.models.utils import WeightsMapper
from vllm.transformers_utils.config import get_safetensors_params_metadata

__all__ = [
    "BaseModelLoader",
    "LinearBase",
    "LinearMethodBase",
    "LoadConfig",
    "ModelConfig",
    "ParallelLMHead",
    "QuantizationConfig",
    "QuantizeMethodBase",
    "UnquantizedLinearMethod",
    "VocabParallelEmbedding",
    "WeightsMapper",
    "checkpoint_tensors",
    "register_model_loader",
    "register_quantization_config",
]


def checkpoint_tensors(model: str) -> list[str]:
    """The names of a checkpoint's tensors, from the headers of its safetensors files."""
    return list(get_safetensors_params_metadata(model))
