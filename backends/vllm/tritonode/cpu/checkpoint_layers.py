"""Makes vLLM load quantised Hugging Face checkpoints into this package's packed weights on a CPU.

vLLM's own CPU kernels refuse 8-bit weights, GPTQ with zero points, `desc_act`, and float32, and vLLM does not read
bitsandbytes' checkpoints. A checkpoint that these classes do not know (mixtures of experts, other numbers of bits) is
left to vLLM.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import torch

from tritonode.errors import SettingsError
from tritonode.vllm.quantisation import (
    LinearBase,
    ParallelLMHead,
    UnquantizedLinearMethod,
    WeightsMapper,
    checkpoint_tensors,
    register_quantization_config,
)

from . import checkpoint_formats, linear, linear_layers
from .checkpoint_formats import Tensors
from .packed_layers import PackedConfig, PackedMethod, Weight, pack_all, packed_layer
from .punica_library import PunicaLibraryError

logger = logging.getLogger("vllm.tritonode.checkpoint")

VARIABLE = "TRITONODE_CPU_QUANTISED"
"""The environment variable that selects vLLM's own kernels for these checkpoints if its value is `vllm`."""

_TYPES = {
    **dict.fromkeys(
        ("qweight", "qzeros", "g_idx", "weight_packed", "weight_zero_point", "weight_g_idx", "input_zero_point"),
        torch.int32,
    ),
    "weight_shape": torch.int64,
    "weight": torch.int8,
}
_BITS = (4, 8)


@functools.cache
def install() -> None:
    """Register the formats with vLLM, once, unless the user has chosen vLLM's kernels or this package's are missing."""
    if os.environ.get(VARIABLE) == "vllm":
        return
    try:
        linear.load()
    except PunicaLibraryError as error:
        logger.warning("Quantised checkpoints are left to vLLM's kernels. %s", error)
        return
    for config in (GptqConfig, AwqConfig, CompressedConfig, BitsAndBytesConfig):
        register_quantization_config(config.get_name())(config)


class CheckpointMethod(PackedMethod):
    """A layer whose checkpoint has several tensors for each part of the weight."""

    def __init__(self, names: tuple[str, ...], decode: Callable[[Tensors, int], Weight]) -> None:
        self._names = names
        self._decode = decode

    def create_weights(
        self,
        layer: torch.nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        packed = packed_layer(layer, output_partition_sizes, input_size_per_partition, params_dtype)
        found: dict[int, Tensors] = {}

        def load(name: str, _: Any, loaded: Any, shard: str | int | None = None) -> None:
            place = packed.place(getattr(loaded, "shard_id", shard))
            found.setdefault(place, {})[name] = loaded.detach()
            packed.parts[place] = lambda: self._decode(found.pop(place), input_size_per_partition)

        for name in self._names:
            kind = _TYPES.get(name, torch.float32)
            parameter = torch.nn.Parameter(torch.empty(0, dtype=kind), requires_grad=False)
            parameter.weight_loader = functools.partial(load, name)  # type: ignore[attr-defined]
            layer.register_parameter(name, parameter)
        layer.packed = packed  # type: ignore[assignment]

    def process_weights_after_loading(self, layer: Any) -> None:
        """Raises SettingsError for tensors that are missing or do not fit."""
        name = getattr(layer, "prefix", type(layer).__name__)
        try:
            pack_all([(name, layer.packed)])
        except KeyError as missing:
            raise SettingsError(f"the checkpoint has no tensor {missing} for '{name}'") from None
        super().process_weights_after_loading(layer)


class CheckpointConfig(PackedConfig):
    """A quantised checkpoint. Which of its layers are quantised is read from its files."""

    method = ""
    """vLLM's and transformers' name of the format."""
    names: tuple[str, ...] = ()
    """The tensors of a quantised module."""
    ending: tuple[str, ...] = ()
    """How the names of tensors end that each quantised module has one of, and no other module."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self._quantised: set[str] = set()

    @classmethod
    def get_name(cls) -> Any:
        return f"tritonode_{cls.method}"

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CheckpointConfig:
        return cls(config)

    @classmethod
    def override_quantization_method(cls, hf_quant_cfg: Any, user_quant: Any, hf_config: Any = None) -> Any:
        """Called by vLLM to ask each format whether it supports a checkpoint."""
        experts = any(getattr(hf_config, f"num_{name}experts", None) for name in ("", "local_", "routed_"))
        asked = user_quant in (None, cls.method, cls.get_name())
        mine = str(hf_quant_cfg.get("quant_method", "")).lower() == cls.method
        return cls.get_name() if asked and mine and not experts and cls.known(hf_quant_cfg) else None

    @classmethod
    def known(cls, config: dict[str, Any]) -> bool:
        """Whether this class decodes a checkpoint of this configuration."""
        raise NotImplementedError

    def decode(self, tensors: Tensors, inputs: int) -> Weight:
        """Return the weight of one module with `inputs` columns."""
        raise NotImplementedError

    def maybe_update_config(self, model_name: str, hf_config: Any = None, revision: str | None = None) -> None:
        found = checkpoint_tensors(model_name)
        self._quantised = {
            name.removesuffix(ending) for name in found for ending in self.ending if name.endswith(ending)
        }

    def apply_vllm_mapper(self, hf_to_vllm_mapper: Any) -> None:
        self._quantised = set(hf_to_vllm_mapper.apply_list(sorted(self._quantised)))

    @staticmethod
    def get_checkpoint_weight_mapper() -> WeightsMapper:
        """Keep `g_idx`, which vLLM's method drops: it says how `desc_act` has ordered the inputs."""
        return WeightsMapper()

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> Any:
        if not isinstance(layer, (LinearBase, ParallelLMHead)):
            return None
        start, _, last = prefix.rpartition(".")
        parts = self.packed_modules_mapping.get(last) or [last]
        quantised = [(f"{start}.{part}" if start else part) in self._quantised for part in parts]
        if not any(quantised):
            return UnquantizedLinearMethod() if isinstance(layer, LinearBase) else None
        if not all(quantised):
            raise SettingsError(f"of the modules {parts} of '{start}' some are quantised and some are not")
        return CheckpointMethod(self.names, self.decode)


def _bits(packed: int, inputs: int) -> int:
    """Return the bits of a number, given that `inputs` numbers are packed in `packed` int32."""
    bits = 32 * packed // max(inputs, 1)
    if bits not in _BITS:
        raise SettingsError(f"weights of {bits} bits are not supported; 4 and 8 are")
    return bits


class GptqConfig(CheckpointConfig):
    method = "gptq"
    names = ("qweight", "qzeros", "scales", "g_idx")
    ending = (".qweight",)

    @classmethod
    def known(cls, config: dict[str, Any]) -> bool:
        formats = ("gptq", "gptq_v2", None)
        return config.get("bits") in _BITS and config.get("checkpoint_format") in formats

    def decode(self, tensors: Tensors, inputs: int) -> Weight:
        bits = _bits(tensors["qweight"].shape[0], inputs)
        less_one = self.config.get("checkpoint_format") != "gptq_v2"
        return checkpoint_formats.gptq(tensors, bits=bits, zeros_less_one=less_one)


class AwqConfig(CheckpointConfig):
    method = "awq"
    names = ("qweight", "qzeros", "scales")
    ending = (".qweight",)

    @classmethod
    def known(cls, config: dict[str, Any]) -> bool:
        version = str(config.get("version", "gemm")).lower()
        return config.get("bits", config.get("w_bit")) == 4 and version == "gemm"

    def decode(self, tensors: Tensors, inputs: int) -> Weight:
        return checkpoint_formats.awq(tensors)


class CompressedConfig(CheckpointConfig):
    """W4A16 and W8A16 ("pack-quantized"), and W8A8 ("int-quantized").

    W8A8 is made for activations of 8 bits with one scale for a row; they get one for each 32 here, which is finer.
    """

    method = "compressed-tensors"
    names = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")
    ending = (".weight_packed",)

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._plain = config["format"] == "int-quantized"
        if self._plain:
            self.names = ("weight", "weight_scale", "weight_zero_point", "input_scale", "input_zero_point")
            self.ending = (".weight_scale",)

    @classmethod
    def get_name(cls) -> Any:
        return "tritonode_compressed_tensors"

    @classmethod
    def known(cls, config: dict[str, Any]) -> bool:
        groups = config.get("config_groups")
        more = ("kv_cache_scheme", "sparsity_config", "transform_config")
        known = {"pack-quantized": cls._packed_group, "int-quantized": cls._plain_group}.get(str(config.get("format")))
        if known is None or not isinstance(groups, dict) or any(map(config.get, more)):
            return False
        return all(group.get("output_activations") is None and known(group) for group in groups.values())

    @staticmethod
    def _packed_group(group: Any) -> bool:
        weights = group.get("weights") or {}
        return (
            group.get("input_activations") is None
            and weights.get("type") == "int"
            and weights.get("num_bits") in _BITS
            and weights.get("strategy") in ("group", "channel")
        )

    @staticmethod
    def _plain_group(group: Any) -> bool:
        weights, activations = group.get("weights") or {}, group.get("input_activations") or {}
        # vLLM's int8 kernel for AMX does prompts several times quicker.
        return (
            linear_layers.wanted()
            and (weights.get("type"), weights.get("num_bits")) == ("int", 8)
            and weights.get("strategy") in ("channel", "tensor")
            and (activations.get("type"), activations.get("num_bits")) == ("int", 8)
        )

    def decode(self, tensors: Tensors, inputs: int) -> Weight:
        if self._plain:
            return checkpoint_formats.int_quantised(tensors)
        bits = _bits(tensors["weight_packed"].shape[1], inputs)
        symmetric = "weight_zero_point" not in tensors
        return checkpoint_formats.compressed(tensors, bits=bits, symmetric=symmetric)


class BitsAndBytesConfig(CheckpointConfig):
    """NF4, FP4 and int8 as bitsandbytes has saved them. 4-bit weights take 16 bits here (`checkpoint_formats`)."""

    method = "bitsandbytes"
    names = ("weight", "SCB", "absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state")
    ending = (".weight.absmax", ".SCB")

    @classmethod
    def known(cls, config: dict[str, Any]) -> bool:
        return True

    @staticmethod
    def get_checkpoint_weight_mapper() -> WeightsMapper:
        """Rename what is "of the weight" there: a parameter's name has no dot."""
        parts = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
        states = {f".weight.quant_state.bitsandbytes__{kind}": ".quant_state" for kind in ("nf4", "fp4")}
        renamed = {f".weight.{part}": f".{part}" for part in parts}
        return WeightsMapper(orig_to_new_suffix={**renamed, **states, ".weight_format": None})

    def decode(self, tensors: Tensors, inputs: int) -> Weight:
        return checkpoint_formats.bitsandbytes(tensors)
