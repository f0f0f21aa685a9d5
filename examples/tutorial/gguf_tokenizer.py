"""Read SmolLM2's tokenizer out of a GGUF file, in about a second.

transformers can do it too, but needs torch and ten seconds or more, and takes the
splitting rule for plain GPT-2's: "2024" becomes other tokens than in training.

The file's layout is that of the GGUF specification (version 2 and 3, little endian):
a header, then key-value pairs; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
"""GGUF value type → struct format of the fixed-size ones."""
CONTROL = 3
"""llama.cpp's token type of special tokens."""


def read_metadata(gguf: Path) -> dict[str, Any]:
    """Return the key-value pairs of a GGUF file; arrays as lists, text as str.

    Raises:
        ValueError: not a GGUF file of version 2 or 3, or a damaged one.
    """
    with gguf.open("rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError(f"{gguf} is not a GGUF file")
        version, _tensors, count = _unpack(file, "IQQ")
        if version not in (2, 3):
            raise ValueError(f"{gguf}: GGUF version {version} is not 2 or 3")
        pairs = {}
        for _ in range(count):
            key = _string(file)
            pairs[key] = _value(file, _unpack(file, "I")[0])
        return pairs


def _unpack(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    size = struct.calcsize(f"<{layout}")
    data = file.read(size)
    if len(data) != size:
        raise ValueError("the GGUF file ends too early")
    return struct.unpack(f"<{layout}", data)


def _string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "Q")
    return file.read(length).decode("utf-8")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == STRING:
        return _string(file)
    if kind == ARRAY:
        item, count = _unpack(file, "IQ")
        if item in SCALARS:
            return list(_unpack(file, SCALARS[item] * count))
        return [_value(file, item) for _ in range(count)]
    if kind not in SCALARS:
        raise ValueError(f"GGUF value type {kind} is unknown")
    return _unpack(file, SCALARS[kind])[0]


def write_tokenizer(gguf: Path, folder: Path) -> None:
    """Write ``tokenizer.json``, its config and the chat template into ``folder``.

    Like the original, the tokenizer adds no special tokens of its own.

    Raises:
        ValueError: the file holds another kind of tokenizer than SmolLM2's.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    data = read_metadata(gguf)
    kind = (data.get("tokenizer.ggml.model"), data.get("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"{gguf}: tokenizer {kind} is not SmolLM2's")
    tokens: list[str] = data["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in data["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = data["tokenizer.ggml.token_type"]
    special = [t for t, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in special])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    template = data["tokenizer.chat_template"]
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    eos = tokens[data["tokenizer.ggml.eos_token_id"]]
    config = {
        # The name that transformers 4 and 5 both know, so that the folder also
        # serves Triton containers with an older vLLM; the same for the template,
        # which stands in a file of its own as well.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[data["tokenizer.ggml.bos_token_id"]],
        "eos_token": eos,
        "pad_token": eos,
        "unk_token": tokens[data["tokenizer.ggml.unknown_token_id"]],
        "clean_up_tokenization_spaces": False,
        "model_max_length": data["llama.context_length"],
        "chat_template": template,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, "utf-8")
