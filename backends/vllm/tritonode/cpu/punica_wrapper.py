"""LoRA on the CPU for vLLM: correct for rows without an adapter, and fast.

vLLM asks its platform for the class that adds LoRA to its layers (``current_platform.get_punica_wrapper()``);
:func:`install` makes the CPU platform answer with :class:`PunicaWrapper`. No file of vLLM is changed.

What vLLM 0.32's own class gets wrong on a CPU, and this one does not: slot index -1 (no adapter) wraps to the last
slot's weights, every token gathers its own copy of the weights, zero-padded ranks and untouched layers are multiplied
like any other, and an engine that is not compiled runs a dozen small operators for each norm (:mod:`eager`).
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tritonode.vllm.layers import (
    LoRAMapping,
    PunicaWrapperBase,
    embeddings_indices,
)

from . import eager, platform, punica_library, punica_torch
from .platform import install
from .punica_library import SAMPLED, TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["PunicaWrapper", "install"]

FLAGGED_LAYERS = 4096


class PunicaWrapper(PunicaWrapperBase):
    """The LoRA operators of one engine's layers.

    Rows are mapped once a step by :meth:`update_metadata`; every layer call after that is one operator call. With
    ``libtritonode_punica`` absent, :mod:`punica_torch` serves instead, which is right but slower; a warning says so
    once.
    """

    def __init__(
        self, max_num_batched_tokens: int, max_batches: int, device: torch.device | str, **kwargs: Any
    ) -> None:
        super().__init__(max_num_batched_tokens, max_batches, device)
        lora_config = kwargs.get("lora_config")
        self._slot_count = int(lora_config.max_loras) if lora_config is not None else max_batches
        self._rows: dict[int, np.ndarray] = {TOKENS: np.empty(0, np.int64), SAMPLED: np.empty(0, np.int64)}
        self._segments: dict[int, list[punica_torch.Segment]] = {TOKENS: [], SAMPLED: []}
        self._engine: int | None = None
        self._library: Any = None
        self._direct = platform.direct_layers()
        if platform.kernels_available():
            self._library = punica_library.load()
            self._engine = self._library.tritonode_punica_engine_new(self._slot_count)
            if not self._engine:
                raise MemoryError("tritonode_punica_engine_new")
            # For each layer, whether calling it in this step has any effect. The finalizer keeps the memory alive.
            self._flags = bytearray(FLAGGED_LAYERS)
            pinned = (ctypes.c_uint8 * FLAGGED_LAYERS).from_buffer(self._flags)
            self._library.tritonode_punica_engine_set_flags(self._engine, ctypes.addressof(pinned), FLAGGED_LAYERS)
            weakref.finalize(self, _free, self._library, self._engine, pinned)
        # vLLM's own layers index these tensors; numpy views of them are cheaper to fill.
        self._views = {
            "tokens": self._token_lora_indices.numpy(),
            "sampled": self._sampler_indices.numpy(),
            "padded": self._sampler_indices_padded.numpy(),
            "embeddings": embeddings_indices(self).numpy(),
        }

    # -- layers ---------------------------------------------------------------------------------------------------

    def register_layer(self, layer: Any) -> None:
        """Register a LoRA layer: the addresses of its weights, and every later change to a slot's weights.

        Called by vLLM's ``set_mapping`` (see :func:`install`), once for each layer, after its weights were allocated.
        Layers of kinds that the CPU can't serve (mixture-of-experts) are left alone.
        """
        a, b = getattr(layer, "lora_a_stacked", None), getattr(layer, "lora_b_stacked", None)
        if self._engine is None or a is None or b is None:
            return
        if isinstance(a, torch.Tensor) and not (a.numel() and b.numel()):
            return  # the layer belongs to another rank's stage, or to an output layer that the model does not have
        if isinstance(a, torch.Tensor):
            embedding = a.dim() == 3  # [slots, vocabulary, rank]: vLLM looks up A; only B is computed here
            described = punica_library.slices([None if embedding else a], [b], [b.size(-2)])
            inputs = 0 if embedding else a.size(-1)
        elif a and all(t.dim() == 4 and t.size(1) == 1 for t in (*a, *b)):
            outputs = getattr(layer, "output_slices", tuple(t.size(-2) for t in b))
            described = punica_library.slices(a, b, outputs)
            inputs = a[0].size(-1)
        else:
            return
        handle = self._library.tritonode_punica_engine_add_layer(self._engine, described, len(described), inputs)
        if handle < 0:
            raise MemoryError("tritonode_punica_engine_add_layer")
        layer.punica_layer = handle
        self._watch_slots(layer, handle)
        for slot in range(self._slot_count):
            self._library.tritonode_punica_engine_slot_changed(self._engine, handle, slot, 1)
        if self._direct and handle < FLAGGED_LAYERS:
            add_lora = torch.ops.tritonode_punica.lora_.default
            forward = eager.direct_embedding(layer, self._flags, handle) or eager.direct_forward(
                layer, add_lora, TOKENS, self._flags, handle
            )
            if forward is not None:
                layer.forward = forward

    def native_layer(self, layer: Any) -> tuple[int, int] | None:
        """Return the native engine and the registered layer's handle in it, for calls that bypass torch."""
        handle = getattr(layer, "punica_layer", None)
        return None if self._engine is None or handle is None else (self._engine, handle)

    def _watch_slots(self, layer: Any, handle: int) -> None:
        """Tell the kernels about each change to a slot's weights, and skip zeroing slots that are already zero.

        An adapter that moves into a slot resets every layer that it does not change. For the two vocabulary-sized
        layers, which few adapters change, that takes as long as copying all of its weights.
        """
        library, engine = self._library, self._engine
        set_lora, reset_lora = layer.set_lora, layer.reset_lora
        holds = [True] * self._slot_count  # not known yet

        @functools.wraps(reset_lora)
        def watched_reset(index: int) -> None:
            if holds[index]:
                reset_lora(index)
                holds[index] = False
            library.tritonode_punica_engine_slot_changed(engine, handle, index, 0)

        @functools.wraps(set_lora)
        def watched_set(index: int, *args: Any, **kwargs: Any) -> Any:
            try:
                return set_lora(index, *args, **kwargs)
            finally:
                holds[index] = True
                library.tritonode_punica_engine_slot_changed(engine, handle, index, 1)

        layer.set_lora, layer.reset_lora = watched_set, watched_reset

    # -- rows of a step -------------------------------------------------------------------------------------------

    def update_metadata(
        self,
        mapping: LoRAMapping,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **kwargs: Any,
    ) -> None:
        """Map the rows of the coming step to slots; vLLM calls it when the mapping or the slots have changed.

        Args:
            mapping: adapter id of each token and of each sampled token; 0: none.
            lora_index_to_id: adapter id in each slot.
            max_loras: slots plus one, as vLLM counts here.
            vocab_size: rows of an embedding adapter's A.
            kwargs: unused.
        """
        slot_of = {lora_id: slot for slot, lora_id in enumerate(lora_index_to_id) if lora_id is not None}
        tokens = _slots(mapping.index_mapping, slot_of)
        sampled = _slots(mapping.prompt_mapping, slot_of)
        self._views["tokens"][: tokens.size] = tokens
        self._views["sampled"][: sampled.size] = sampled
        self._views["padded"][: sampled.size] = np.arange(sampled.size) + sampled.size * np.where(
            sampled == -1, max_loras - 1, sampled
        )
        self._views["embeddings"][: tokens.size] = np.maximum(tokens, 0) * vocab_size
        self.indices_len[:] = [tokens.size, sampled.size, sampled.size, tokens.size]
        self.is_prefill = mapping.is_prefill
        self.no_lora = not bool((tokens >= 0).any() or (sampled >= 0).any())
        self.token_nums = int(tokens.size)
        for which, rows in ((TOKENS, tokens), (SAMPLED, sampled)):
            self._rows[which] = rows
            self._segments[which] = punica_torch.segments(rows)
            if self._engine is not None:
                status = self._library.tritonode_punica_engine_set_rows(
                    self._engine, which, rows.ctypes.data, rows.size
                )
                if status != 0:
                    raise RuntimeError(f"tritonode_punica_engine_set_rows: status {status} for {rows.size} rows")
        if self._engine is not None:
            punica_library.use_torch_threads()

    # -- operators ------------------------------------------------------------------------------------------------

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[torch.Tensor, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add ``scale * (x . A^T) . B^T`` of each row's adapter to y, for all slices.

        Args:
            y: ``[rows, sum(output_slices)]``, changed in place.
            x: ``[rows, inputs]``.
            lora_a_stacked: ``[slots, 1, rank, inputs]`` for each slice.
            lora_b_stacked: ``[slots, 1, outputs, rank]`` for each slice.
            scale: vLLM folds an adapter's scaling into B and passes 1.
            output_slices: columns of y of each slice.
            buffer: unused; nothing is kept between shrink and expand.
            kwargs: unused.
        """
        if self._engine is not None:
            torch.ops.tritonode_punica.lora_(y, x, lora_a_stacked[0], TOKENS, scale)
            return
        punica_torch.linear(y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, self._segments[TOKENS])

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        *,
        buffer: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the adapters' part of the logits, on the rows that are sampled; arguments as in add_lora_linear."""
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        if self._engine is not None:
            torch.ops.tritonode_punica.lora_(y, x, lora_a_stacked, SAMPLED, scale)
            return
        segments = self._sampled_segments(x.size(0), lora_b_stacked)
        outputs = (min(lora_b_stacked.size(-2), y.size(-1)),)
        punica_torch.linear(y, x, (lora_a_stacked,), (lora_b_stacked,), scale, outputs, segments)

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, add_inputs: bool = True, **kwargs: Any
    ) -> None:
        """Add ``x . B^T`` of each row's adapter to y, where x holds the looked-up rows of A.

        Args:
            y: ``[rows, hidden]``, changed in place.
            x: ``[rows, rank]``.
            lora_b_stacked: ``[slots, 1, hidden, rank]``.
            add_inputs: False would overwrite y; vLLM never does.
            kwargs: unused.
        """
        if self._engine is not None and add_inputs:
            torch.ops.tritonode_punica.lora_(y, x, lora_b_stacked, TOKENS, 1.0)
            return
        punica_torch.expand(y, (x,), (lora_b_stacked,), (y.size(-1),), 0, add_inputs, self._segments[TOKENS])

    def add_shrink(
        self,
        y: tuple[torch.Tensor, ...] | torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        scale: float,
        **kwargs: Any,
    ) -> None:
        """``y[i] = scale * x . A[i]^T``: the first half, for layers that communicate between the halves.

        Rows without an adapter are left as they are; vLLM passes zeroed buffers.
        """
        x = x.view(-1, x.shape[-1])
        if self._library is None:
            return punica_torch.shrink(y, x, lora_a_stacked, scale, self._segments[TOKENS])
        described = punica_library.slices(lora_a_stacked, [None] * len(lora_a_stacked), [0] * len(lora_a_stacked))
        self._call("shrink", described, self._matrices(y, len(described)), x, scale)

    def add_expand(
        self,
        y: torch.Tensor,
        x: tuple[torch.Tensor, ...] | torch.Tensor,
        lora_b_stacked: tuple[torch.Tensor, ...],
        output_slices: tuple[int, ...],
        offset_start: int = 0,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        """``y[:, slice i] += x[i] . B[i]^T``: the second half. ``add_inputs`` False overwrites rows with an adapter."""
        y = y.view(-1, y.shape[-1])
        if self._library is None:
            return punica_torch.expand(
                y, x, lora_b_stacked, output_slices, offset_start, add_inputs, self._segments[TOKENS]
            )
        described = punica_library.slices([None] * len(lora_b_stacked), lora_b_stacked, output_slices, offset_start)
        self._call("expand", described, self._matrices(x, len(described)), y, add_inputs)

    def apply_lora_full_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        weight_stacked: torch.Tensor,
        bias_stacked: torch.Tensor,
        module_enabled: torch.Tensor,
    ) -> None:
        """Replace y by ``x . W^T + bias`` on the rows whose adapter carries a whole layer (classification heads)."""
        adapter_y = torch.zeros((x.size(0), weight_stacked.size(-2)), dtype=torch.float32, device=x.device)
        punica_torch.shrink((adapter_y,), x, (weight_stacked,), 1.0, self._segments[SAMPLED])
        y.copy_(self._select_full_linear_output(y, adapter_y, bias_stacked, module_enabled))

    # -- helpers --------------------------------------------------------------------------------------------------

    def _sampled_segments(self, rows: int, weights: torch.Tensor) -> list[punica_torch.Segment]:
        """Return the segments for logits of `rows` rows; rows other than the step's need one adapter for all."""
        slots = self._rows[SAMPLED]
        if rows == slots.size or not self._segments[SAMPLED]:
            return self._segments[SAMPLED]
        present = set(slots.tolist())
        if all(slot < 0 or not bool(weights[slot].any()) for slot in present):
            return []
        if len(present) > 1:
            raise RuntimeError(f"Logits of {rows} rows in a step that samples {slots.size}, from several adapters")
        return punica_torch.segments(np.full(rows, slots[0]))

    @staticmethod
    def _matrices(tensors: tuple[torch.Tensor, ...] | torch.Tensor, count: int) -> Any:
        views = [tensors[i].view(-1, tensors[i].shape[-1]) for i in range(count)]
        return (punica_library.Matrix * count)(*(punica_library.matrix(view) for view in views))

    def _call(self, name: str, described: Any, matrices: Any, tensor: torch.Tensor, last: float | bool) -> None:
        rows = np.ascontiguousarray(self._rows[TOKENS])
        if tensor.size(0) < rows.size:
            raise RuntimeError(f"{name}: {tensor.size(0)} rows in a step of {rows.size}")
        order = np.empty(max(rows.size, 1), np.int32)
        groups = (punica_library.Group * max(min(rows.size, self._slot_count), 1))()
        batch = punica_library.Batch()
        row_count = punica_library.c_int32()
        batch.group_count = self._library.tritonode_punica_group_rows(
            rows.ctypes.data, rows.size, self._slot_count, order.ctypes.data, groups, row_count
        )
        batch.groups, batch.row_count = groups, row_count.value
        batch.rows = order.ctypes.data_as(punica_library.POINTER(punica_library.c_int32))
        own = punica_library.matrix(tensor)
        if name == "shrink":
            status = self._library.tritonode_punica_shrink(
                described, len(described), batch, own, tensor.size(-1), matrices, float(last)
            )
        else:
            status = self._library.tritonode_punica_expand(
                described, len(described), batch, matrices, own, int(bool(last))
            )
        if status != 0:
            raise RuntimeError(f"tritonode_punica_{name}: status {status} for {tuple(tensor.shape)}")


def _free(library: Any, engine: int, flags: Any) -> None:
    """Free a native engine, then the memory of its flags."""
    library.tritonode_punica_engine_free(engine)
    del flags


def _slots(ids: Sequence[int], slot_of: dict[int, int]) -> np.ndarray:
    """Return the slot of each row (int64), -1 for rows without an adapter. KeyError: an id that is in no slot."""
    wanted, inverse = np.unique(np.fromiter(ids, np.int64, len(ids)), return_inverse=True)
    table = np.array([slot_of[lora_id] if lora_id > 0 else -1 for lora_id in wanted.tolist()], np.int64)
    return table[inverse] if wanted.size else np.empty(0, np.int64)
