"""Linear layers and embeddings of vLLM whose weights stay quantised, computed by this package's kernels (`linear`).

A merged layer (`qkv_proj`, `gate_up_proj`) is computed from as few packed weights as its parts' formats allow: parts
of one format are one, and in a file that mixes formats each run of parts with the same format is one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from tritonode.errors import SettingsError
from tritonode.vllm.quantisation import (
    LinearMethodBase,
    QuantizationConfig,
    QuantizeMethodBase,
    VocabParallelEmbedding,
)

from . import eager, linear, platform, punica_library

ACTIVATIONS = "TRITONODE_CPU_ACTIVATION_BITS"
"""The environment variable that says how many bits of activations quantised layers multiply with: 8 or 16."""

# The number of layers that are read at the same time.
_MOST_WORKERS = 4
_SHARDS = {"q": 0, "k": 1, "v": 2}


@dataclass(frozen=True)
class Weight:
    """A quantised weight: ``scales * quants + minimums`` for each group of a row, or a dense one."""

    bits: int
    """4 (quants from 0 to 15), 8 (from -128 to 127), or 0: dense."""
    group: int
    quants: torch.Tensor  # uint8, int8; dense: the weight itself [rows, columns]
    scales: torch.Tensor | None = None  # float32 [rows, columns / group]
    minimums: torch.Tensor | None = None  # as scales
    order: torch.Tensor | None = None
    """The input of each column of `quants`, if a group's columns are not consecutive inputs."""

    def dequantise(self) -> torch.Tensor:
        """Return the values as float32 [rows, columns], with the columns in the order of `quants`."""
        if self.scales is None:
            return self.quants.float()
        rows, columns = self.quants.shape
        whole = self.quants.view(rows, -1, self.group) * self.scales[:, :, None]
        if self.minimums is not None:
            whole += self.minimums[:, :, None]
        return whole.view(rows, columns)

    def joins(self, other: Weight) -> bool:
        """Whether the rows of another weight can be appended to the same packed weight."""
        same = (self.bits, self.group, self.minimums is None) == (other.bits, other.group, other.minimums is None)
        if not same or (self.order is None) != (other.order is None):
            return False
        return self.order is None or other.order is None or torch.equal(self.order, other.order)


def _joined(weights: list[Weight]) -> Weight:
    if len(weights) == 1:
        return weights[0]

    def rows(tensors: list[torch.Tensor | None]) -> torch.Tensor | None:
        return None if tensors[0] is None else torch.cat([each for each in tensors if each is not None])

    first = weights[0]
    return Weight(
        first.bits,
        first.group,
        torch.cat([each.quants for each in weights]),
        rows([each.scales for each in weights]),
        rows([each.minimums for each in weights]),
        first.order,
    )


@dataclass
class Segment:
    """The packed form of some rows of a layer's weight."""

    weight: Any  # linear.PackedWeight
    order: torch.Tensor | None


@dataclass
class PackedLayer:
    """The packed weight of a layer; while the layer is loaded, `parts` holds the parts that it will be made of."""

    sizes: list[int]
    inputs: int
    dtype: torch.dtype
    activation_bits: dict[int, int]
    """By the weight's bits, 4 or 8."""
    parts: dict[int, Callable[[], Weight]] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)

    def place(self, shard: str | int | None) -> int:
        """Return the part for a shard. A layer that is already merged in the checkpoint has only the first part."""
        return 0 if shard is None else _SHARDS.get(shard, -1) if isinstance(shard, str) else shard

    def read(self, name: str) -> list[Weight]:
        """Read all parts, joined as far as their formats allow; on any thread.

        Raises SettingsError for parts that are missing or of other sizes.
        """
        parts = [self.parts[number]() for number in sorted(self.parts)]
        rows = [part.quants.shape[0] for part in parts]
        fits = sum(rows) == sum(self.sizes) and (len(parts) == 1 or rows == self.sizes)
        if not parts or not fits:
            raise SettingsError(f"the weight of '{name}' must have {self.sizes} rows, the file has {rows}")
        for part in parts:
            if part.quants.shape[1] != self.inputs:
                raise SettingsError(
                    f"the weight of '{name}' must have {self.inputs} columns, the file has {part.quants.shape[1]}"
                )
        runs: list[list[Weight]] = []
        for part in parts:
            if runs and runs[-1][-1].joins(part):
                runs[-1].append(part)
            else:
                runs.append([part])
        self.parts.clear()
        return [_joined(run) for run in runs]

    def pack(self, weights: list[Weight]) -> None:
        """Pack the result of `read`, which is emptied. Call it on the thread whose OpenMP team computes."""
        while weights:
            self.segments.append(self._segment(weights.pop(0)))

    def _segment(self, weight: Weight) -> Segment:
        if weight.bits == 0 or weight.scales is None:
            return Segment(linear.pack_dense(weight.quants.to(self.dtype)), weight.order)
        if self.dtype == torch.float32:
            # Kernels for quantised weights round the activations, but with float32 products must be exact.
            return Segment(linear.pack_dense(weight.dequantise()), weight.order)
        bits: Any = weight.bits
        return Segment(
            linear.pack(bits, weight.quants, weight.scales, weight.minimums, weight.group, self.activation_bits[bits]),
            weight.order,
        )

    def apply(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        first = self.segments[0]
        if len(self.segments) == 1 and first.order is None:
            return linear.linear(x, first.weight, bias)
        rows = x.reshape(-1, x.size(-1))
        output = torch.empty((rows.size(0), sum(each.weight.shape[0] for each in self.segments)), dtype=x.dtype)
        at = 0
        for each in self.segments:
            end = at + each.weight.shape[0]
            part = rows if each.order is None else rows[:, each.order]
            linear.multiply(output[:, at:end], part, each.weight, None if bias is None else bias[at:end])
            at = end
        return output.view(*x.shape[:-1], at)


def pack_all(layers: list[tuple[str, PackedLayer]]) -> None:
    """Read layers on other threads and pack them on this one, a few at a time, to limit the memory of unpacked weights.

    Raises what `PackedLayer.read` raises.
    """
    workers = min(_MOST_WORKERS, os.cpu_count() or 1)
    waiting: deque[tuple[PackedLayer, Future[list[Weight]]]] = deque()
    with ThreadPoolExecutor(workers, "read-weights") as pool:
        try:
            for name, layer in layers:
                waiting.append((layer, pool.submit(layer.read, name)))
                if len(waiting) > workers:
                    first, weights = waiting.popleft()
                    first.pack(weights.result())
            while waiting:
                first, weights = waiting.popleft()
                first.pack(weights.result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def packed_layer(layer: torch.nn.Module, sizes: list[int], inputs: int, dtype: torch.dtype) -> PackedLayer:
    """Return the empty packed weight of a vLLM layer."""
    if isinstance(layer, VocabParallelEmbedding):
        # vLLM pads the vocabulary; the checkpoint is not padded.
        sizes = [layer.org_vocab_size]
    return PackedLayer(list(sizes), inputs, dtype, {bits: activation_bits(dtype, bits) for bits in (4, 8)})


def activation_bits(dtype: torch.dtype, weight_bits: int) -> int:
    """The bits that a layer's inputs keep in products with quantised weights.

    With bfloat16's instructions 16 bits take little longer than 8, and with AVX2 and 8-bit weights they take no longer
    (docs/benchmarks/kernels.md). Otherwise they take twice the multiplications.

    Raises SettingsError if the environment asks for another number.
    """
    named = os.environ.get(ACTIVATIONS)
    if named:
        if named not in ("8", "16"):
            raise SettingsError(f"{ACTIVATIONS}={named!r}: use 8 or 16")
        return int(named)
    level = punica_library.level()
    if level in ("avx2", "avx512"):  # one set of kernels serves both
        return 16 if weight_bits == 8 else 8
    return 16 if level == "avx512_bf16" and dtype == torch.bfloat16 else 8


class PackedConfig(QuantizationConfig):
    """The base of all formats of packed weights, with the properties that vLLM asks for."""

    @classmethod
    def get_supported_act_dtypes(cls) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16, torch.float32]

    @classmethod
    def get_min_capability(cls) -> int:
        return -1

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []


class PackedMethod(LinearMethodBase):
    """The method of a linear layer, or of the output layer that computes logits, with packed weights.

    Its only parameter is an empty one. What a loader gives to that parameter's `weight_loader` is a tensor with the
    attribute `source`: a function that returns the part of the weight when the layer is packed.
    """

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
        weight = torch.nn.Parameter(torch.empty(0, dtype=params_dtype), requires_grad=False)

        def weight_loader(_: Any, loaded: Any, shard: str | int | None = None) -> None:
            shard = getattr(loaded, "shard_id", shard)
            packed.parts[packed.place(shard)] = loaded.source

        weight.weight_loader = weight_loader  # type: ignore[attr-defined]
        layer.register_parameter("weight", weight)
        layer.packed = packed  # type: ignore[assignment]

    def process_weights_after_loading(self, layer: Any) -> None:
        """Do nothing: the loader has already packed the layer, together with others."""
        packed: PackedLayer = layer.packed
        layer.cpu_linear = lambda x, _, bias: packed.apply(x, bias)
        if platform.direct_layers():
            eager.shorten_packed(layer)

    def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        packed: PackedLayer = layer.packed
        return packed.apply(x, bias)

    def tie_weights(self, layer: Any, embed_tokens: Any) -> Any:
        layer.packed, layer.weight = embed_tokens.packed, embed_tokens.weight
        return layer


class PackedEmbeddingMethod(PackedMethod, QuantizeMethodBase):
    """The same for an embedding, which looks up single rows."""

    def take_over(self, layer: Any, dtype: torch.dtype) -> None:
        """Use this method for an embedding that its model has created without asking the format for a method."""
        del layer.weight
        layer.quant_method = self
        sizes = layer.output_partition_sizes
        self.create_weights(layer, layer.input_size_per_partition, sizes, layer.input_size, layer.output_size, dtype)

    def embedding(self, layer: Any, ids: torch.Tensor) -> torch.Tensor:
        packed: PackedLayer = layer.packed
        return packed.segments[0].weight.rows(ids).to(packed.dtype).reshape(*ids.shape, packed.inputs)
