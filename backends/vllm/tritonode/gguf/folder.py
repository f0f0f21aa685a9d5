"""Writes everything in a GGUF file except its weights as the files of a Hugging Face folder, for vLLM to read."""

from __future__ import annotations

import json
import os
from typing import Any

from .config import make_config
from .names import named_tensors
from .reader import GgufFile
from .tokenizer import write_tokenizer

METHOD = "gguf"
"""The name of the quantisation in `config.json`."""


def is_gguf(path: Any) -> bool:
    """Whether a model's path names a GGUF file."""
    return isinstance(path, str) and path.lower().endswith(".gguf")


def write_folder(path: str, folder: str, *, packed: bool, tokenizer: bool = True) -> None:
    """Write `config.json`, `generation_config.json` and the tokenizer of a GGUF file.

    Args:
        path: the GGUF file.
        folder: an empty folder.
        packed: whether the weights stay quantised; else they are loaded as the numbers that they stand for.
        tokenizer: whether to write a tokenizer.

    Raises GgufError (INVALID_ARG) for a file that cannot be served, naming what is wrong.
    """
    with GgufFile(path) as file:
        config = make_config(file)
        named_tensors(file)  # refuses a tensor of another kind of model now, before vLLM starts
        if packed:
            config["quantization_config"] = {"quant_method": METHOD, "file": os.path.abspath(path)}
        ends: list[int] = []
        if tokenizer:
            ends = write_tokenizer(file, folder, config["max_position_embeddings"])
    generation = {"eos_token_id": ends} if ends else {}
    generation |= {key: config[key] for key in ("bos_token_id", "pad_token_id") if key in config}
    for name, value in (("config.json", config), ("generation_config.json", generation)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as out:
            json.dump(value, out, indent=2)
