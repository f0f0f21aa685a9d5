"""Reads an adapter's weights faster than vLLM, for engines with more adapters than host memory holds.

vLLM reads an adapter in the middle of a step, tensor by tensor: 420 small ones for a model of 30 layers, each with one
Python call to read it, two to parse its name and one to scale it. Adapters of one training recipe have identical
safetensors headers. So vLLM reads the first of them, with all its checks, and the meaning of its names is kept. The
following ones need one read, one conversion and views.
"""

from __future__ import annotations

import json
import os
import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch

from tritonode.vllm.lora import LoRALayerWeights, LoRAModel, layer_weights, pins_memory, tensor_module

from .files import WEIGHTS_FILENAME

_KEPT_LAYOUTS = 32
_MAX_HEADER_BYTES = 1 << 22
# The names of data types in a safetensors header (https://github.com/huggingface/safetensors, "Format").
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class _Tensor:
    module: str
    peft_module: str
    is_a: bool
    shape: tuple[int, ...]
    count: int


@dataclass(frozen=True)
class _Layout:
    """The data after a header: tensors of one data type, one after the other."""

    dtype: torch.dtype
    tensors: list[_Tensor]

    @property
    def size(self) -> int:
        return sum(tensor.count for tensor in self.tensors) * self.dtype.itemsize


class AdapterReader:
    """Reads the adapters of one engine: one base model, one set of LoRA modules, one mapping of names."""

    def __init__(self) -> None:
        # None means that vLLM has to read files with this header.
        self._layouts: OrderedDict[bytes, _Layout | None] = OrderedDict()

    def model_class(self) -> type[LoRAModel]:
        """A `LoRAModel` for `WorkerLoRAManager._lora_model_cls` that reads through this reader."""
        reader = self

        class QuickLoRAModel(LoRAModel):  # type: ignore[misc]
            @classmethod
            def from_local_checkpoint(
                cls, lora_dir: str, expected_lora_modules: set[str], peft_helper: Any, **options: Any
            ) -> LoRAModel:
                plain = (
                    not peft_helper.modules_to_save
                    and options.get("moe_ep_spec") is None
                    and options.get("device") == "cpu"
                    and not pins_memory()
                )
                if plain:
                    loras = reader.read(lora_dir, peft_helper, options.get("dtype"))
                    if loras is not None:
                        return cls(options["lora_model_id"], peft_helper.r, loras)
                model = super().from_local_checkpoint(lora_dir, expected_lora_modules, peft_helper, **options)
                if plain:
                    reader.learn(lora_dir, options.get("weights_mapper"), options.get("skip_prefixes"))
                return model

        return QuickLoRAModel

    def read(self, folder: str, peft_helper: Any, dtype: torch.dtype | None) -> dict[str, LoRALayerWeights] | None:
        """Return the adapter's weights by module, with its scaling folded into B; None if vLLM has to read it."""
        try:
            with open(os.path.join(folder, WEIGHTS_FILENAME), "rb", buffering=0) as file:
                header = _read_header(file)
                layout = None if header is None else self._layouts.get(header)
                if layout is None:
                    return None
                data = torch.empty(layout.size, dtype=torch.uint8)
                if file.readinto(data.numpy().data) != layout.size:
                    return None
        except OSError:
            return None  # vLLM reports the error.
        return _weights(layout, data.view(layout.dtype).to(dtype or layout.dtype), peft_helper)

    def learn(self, folder: str, weights_mapper: Any, skip_prefixes: list[str] | None) -> None:
        """Remember how to read the header of an adapter that vLLM has just read."""
        try:
            with open(os.path.join(folder, WEIGHTS_FILENAME), "rb", buffering=0) as file:
                header = _read_header(file)
        except OSError:
            return  # deleted since
        if header is None:
            return
        self._layouts[header] = None if skip_prefixes else _layout(header, weights_mapper)
        self._layouts.move_to_end(header)
        while len(self._layouts) > _KEPT_LAYOUTS:
            self._layouts.popitem(last=False)


def _read_header(file: Any) -> bytes | None:
    """Return the length and the JSON of a safetensors file's header; None if it is another file, or too long."""
    prefix = file.read(8)
    (length,) = struct.unpack("<Q", prefix) if len(prefix) == 8 else (0,)
    if not 0 < length <= _MAX_HEADER_BYTES:
        return None
    return prefix + file.read(length)  # type: ignore[no-any-return]


def _layout(header: bytes, weights_mapper: Any) -> _Layout | None:
    """Return None unless all tensors are LoRA's and have the same data type."""
    described = json.loads(header[8:])
    described.pop("__metadata__", None)
    dtypes = {entry["dtype"] for entry in described.values()}
    dtype = _DTYPES.get(dtypes.pop()) if len(dtypes) == 1 else None
    if dtype is None or not all("lora_" in name for name in described):
        return None
    tensors, end = [], 0
    for name, entry in sorted(described.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        if start != end:
            return None
        end = stop
        module, is_a = tensor_module(name, weights_mapper)
        peft_module, _ = tensor_module(name)
        tensors.append(_Tensor(module, peft_module, is_a, tuple(entry["shape"]), (stop - start) // dtype.itemsize))
    return _Layout(dtype, tensors)


def _weights(layout: _Layout, flat: torch.Tensor, peft_helper: Any) -> dict[str, LoRALayerWeights]:
    loras: dict[str, LoRALayerWeights] = {}
    to_scale, scalings = [], []
    for tensor, piece in zip(layout.tensors, flat.split([each.count for each in layout.tensors]), strict=True):
        lora = loras.get(tensor.module)
        if lora is None:
            lora = layer_weights(tensor.module, peft_helper, tensor.peft_module)
            loras[tensor.module] = lora
        if tensor.is_a:
            lora.lora_a = piece.view(tensor.shape)
            continue
        lora.lora_b = piece.view(tensor.shape)
        if lora.scaling != 1:
            to_scale.append(lora.lora_b)
            scalings.append(float(lora.scaling))
            lora.scaling = 1
    if to_scale:
        # One call does what LoRALayerWeights.optimize does to each.
        torch._foreach_mul_(to_scale, scalings)
    return loras
