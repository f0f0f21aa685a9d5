"""The memory of adapter slots, which vLLM allocates for the highest rank when it loads the model."""

from __future__ import annotations

import json
import os
from typing import Any

from tritonode.engine.settings import EngineSettings
from tritonode.errors import SettingsError

_GIB = 1 << 30
# The fraction of the free memory for slots, if the user has not set their number.
_DEFAULT_SHARE = 4


def slot_bytes(config: dict[str, Any], rank: int, item_bytes: int) -> int | None:
    """Bytes of one slot: an A and a B of that rank for each matrix that vLLM may adapt.

    Args:
        config: the model's `config.json`.
        rank: `max_lora_rank`.
        item_bytes: of a number in the model's `dtype`.

    Returns:
        None for a model whose matrices this does not know: one with experts, or with other keys than LLaMA's.
    """
    config = config.get("text_config", config)
    if any("expert" in key and value for key, value in config.items()):
        return None
    try:
        hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
        heads, vocabulary = config["num_attention_heads"], config["vocab_size"]
        head = config.get("head_dim") or hidden // heads
        query, value = heads * head, (config.get("num_key_value_heads") or heads) * head
        attention = 2 * (hidden + query) + 2 * (hidden + value)
        ends = 2 * (vocabulary + hidden)
        return int(layers * (attention + 3 * (hidden + inner)) + ends) * rank * item_bytes
    except (KeyError, TypeError):
        return None


def bound_slots(settings: EngineSettings, memory: int) -> str | None:
    """Limit the slots to the available memory.

    Args:
        settings: with `max_loras` and `max_lora_rank` set. A `max_loras` that is this package's default is lowered.
        memory: bytes that may be used.

    Returns:
        A line for the log, if `max_loras` was lowered.

    Raises:
        SettingsError: for a `max_loras` and a `max_lora_rank` of the user's that do not fit.
    """
    args = settings.engine_args
    path = os.path.join(str(args.get("model")), "config.json")
    if settings.world_size > 1 or not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    rank, slots = int(args["max_lora_rank"]), int(args["max_loras"])
    each = slot_bytes(config, rank, 4 if str(args.get("dtype")) in ("float32", "float") else 2)
    if each is None:
        return None
    note = None
    if "max_loras" in settings.defaulted and slots > (fitting := max(1, memory // _DEFAULT_SHARE // each)):
        note = (
            f"max_loras = {fitting}, not {slots}: a slot of max_lora_rank {rank} takes {each / _GIB:.2f} GiB, and "
            f"{memory / _GIB:.1f} GiB are free (set max_loras to change, or a lower max_lora_rank)"
        )
        args["max_loras"] = slots = fitting
    if slots * each > memory:
        raise SettingsError(
            f"max_loras {slots} with max_lora_rank {rank} needs {slots * each / _GIB:.1f} GiB for slots of adapters, "
            f"and {memory / _GIB:.1f} GiB are free: lower max_lora_rank to what the adapters need, or max_loras"
            + (f" to {memory // each}" if memory >= each else "")
        )
    return note
