"""Makes vLLM load GGUF files, with a quantisation format whose layers keep the file's integers, and a model loader."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch

from tritonode.errors import SettingsError
from tritonode.gguf.folder import METHOD
from tritonode.gguf.names import NamedTensor
from tritonode.gguf.reader import GgufError
from tritonode.gguf.weights import GgufWeights
from tritonode.vllm.quantisation import (
    BaseModelLoader,
    LinearBase,
    LoadConfig,
    ModelConfig,
    ParallelLMHead,
    VocabParallelEmbedding,
    register_model_loader,
    register_quantization_config,
)

from .packed_layers import PackedConfig, PackedEmbeddingMethod, PackedLayer, PackedMethod, Weight, pack_all


@functools.cache
def install() -> None:
    """Register the format and the loader with vLLM, once. Call it before the engine's configuration is made."""
    register_quantization_config(METHOD)(GgufConfig)
    register_model_loader(METHOD)(GgufLoader)


class GgufConfig(PackedConfig):
    """The quantisation format of a GGUF model; each layer has the file's type."""

    @classmethod
    def get_name(cls) -> Any:
        return METHOD

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GgufConfig:
        return cls()

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> Any:
        if isinstance(layer, VocabParallelEmbedding) and not isinstance(layer, ParallelLMHead):
            return PackedEmbeddingMethod()
        return PackedMethod() if isinstance(layer, (LinearBase, ParallelLMHead)) else None


class GgufLoader(BaseModelLoader):
    """Loads a model's weights from the file in `model_loader_extra_config`.

    Where the model's configuration names the format, layers keep the file's integers; else all weights are loaded as
    the numbers that they stand for.
    """

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(load_config)
        extra: Any = load_config.model_loader_extra_config
        self._path = str(extra["file"])

    def download_model(self, model_config: ModelConfig) -> None:
        """Do nothing: no model is downloaded."""

    def load_weights(self, model: torch.nn.Module, model_config: ModelConfig) -> None:
        """Raises GgufError for a file whose tensors are not those of the model."""
        weights = GgufWeights(self._path)
        packed = model_config.quantization == METHOD
        if packed:
            for module in model.modules():
                if type(module) is VocabParallelEmbedding and not hasattr(module, "packed"):
                    # vLLM's Gemma 2, whose embedding also computes the logits.
                    PackedEmbeddingMethod().take_over(module, torch.get_default_dtype())
        current = [""]

        def tensors() -> Iterator[tuple[str, torch.Tensor]]:
            for name, named in weights.tensors.items():
                current[0] = named.tensor.name
                if packed and len(named.tensor.shape) > 1:
                    yield name, _handle(weights, named)
                else:
                    yield name, torch.from_numpy(weights.dense(named)).to(model_config.dtype)

        try:
            loaded = model.load_weights(tensors())  # type: ignore[operator]
        except (AssertionError, ValueError, KeyError, RuntimeError, AttributeError) as failure:
            raise GgufError(f"{self._path}: the tensor {current[0]!r} does not fit the model: {failure}") from failure
        missing = sorted({name for name, _ in model.named_parameters()} - set(loaded))
        if missing:
            raise GgufError(f"{self._path}: the file has no weights for {', '.join(missing[:4])}")
        if packed:
            self._pack(model)
        weights.file.close()

    def _pack(self, model: torch.nn.Module) -> None:
        layers: dict[int, tuple[str, PackedLayer]] = {}
        for name, module in model.named_modules():
            found = getattr(module, "packed", None)
            if isinstance(found, PackedLayer):
                # A tied output layer shares the embedding's weight.
                layers.setdefault(id(found), (name, found))
        try:
            pack_all(list(layers.values()))
        except SettingsError as failure:
            raise GgufError(f"{self._path}: {failure}") from failure


def _handle(weights: GgufWeights, named: NamedTensor) -> torch.Tensor:
    """Return an empty tensor in place of one in the file, which is read when its layer is packed."""

    def source() -> Weight:
        if not weights.is_quantised(named):
            return Weight(0, 0, torch.from_numpy(weights.dense(named)))
        found = weights.quantised(named)
        return Weight(
            found.bits,
            found.group,
            torch.from_numpy(found.quants),
            torch.from_numpy(found.scales),
            None if found.minimums is None else torch.from_numpy(found.minimums),
        )

    handle: Any = torch.empty(0)
    handle.source = source
    return handle  # type: ignore[no-any-return]
