"""Writes a LLaMA model folder, or a LoRA adapter for it, as GGUF: the same weights for the peer that runs on llama.cpp.

    python gguf.py model FOLDER OUT [--type bf16|f16|f32]
    python gguf.py adapter FOLDER OUT --model FOLDER

A folder is Hugging Face's: config.json, model.safetensors, tokenizer.json with a byte-level BPE; or PEFT's adapter.
"""

from __future__ import annotations

import sys
from pathlib import Path

# This file has the name of the package that it uses, and Python looks beside a script first.
sys.path.remove(str(Path(__file__).resolve().parent))

import argparse
import json
import re
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

TYPES = {"bf16": gguf.GGMLQuantizationType.BF16, "f16": gguf.GGMLQuantizationType.F16}


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def interleave(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the output rows [heads * size, n] of q or k for llama.cpp's rotation.

    Hugging Face rotates dimension i of a head with i + size / 2, llama.cpp's LLaMA 2i with 2i + 1.
    """
    return rows.reshape(heads, 2, -1, rows.shape[-1]).transpose(1, 2).reshape(rows.shape)


def heads_of(name: str, config: dict[str, Any]) -> int | None:
    """Return the number of heads if a tensor's rows are rotated, else None."""
    if ".q_proj." in name:
        return config["num_attention_heads"]
    return config["num_key_value_heads"] if ".k_proj." in name else None


def add(writer: gguf.GGUFWriter, name: str, tensor: torch.Tensor, kind: str) -> None:
    """Add a tensor; vectors (norms) stay float32, as llama.cpp wants them."""
    values = np.ascontiguousarray(tensor.float().numpy())
    if kind == "f32" or values.ndim == 1:
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, TYPES[kind]), raw_dtype=TYPES[kind])


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    """Add the tokenizer of SmolLM2: byte-level BPE, digits one by one, nothing before the prompt."""
    tokenizer = read_json(folder / "tokenizer.json")
    settings = read_json(folder / "tokenizer_config.json")
    if tokenizer["model"]["type"] != "BPE" or tokenizer["pre_tokenizer"]["pretokenizers"][0]["type"] != "Digits":
        raise SystemExit(f"{folder} has another tokenizer than SmolLM2's; llama.cpp would have to be told which")
    vocabulary: dict[str, int] = dict(tokenizer["model"]["vocab"])
    kinds = dict.fromkeys(vocabulary.values(), gguf.TokenType.NORMAL)
    for token in tokenizer["added_tokens"]:
        vocabulary[token["content"]] = token["id"]
        kinds[token["id"]] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    writer.add_token_list(tokens)
    writer.add_token_types([kinds[vocabulary[token]] for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    for name, setter in (
        ("bos_token", writer.add_bos_token_id),
        ("eos_token", writer.add_eos_token_id),
        ("unk_token", writer.add_unk_token_id),
        ("pad_token", writer.add_pad_token_id),
    ):
        if settings.get(name) in vocabulary:
            setter(vocabulary[settings[name]])
    writer.add_add_bos_token(False)
    if "chat_template" in settings:
        writer.add_chat_template(settings["chat_template"])


def write_model(folder: Path, out: Path, kind: str) -> None:
    """Write a model; a tied output layer is left out, which llama.cpp takes as tied."""
    config = read_json(folder / "config.json")
    heads = config["num_attention_heads"]
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name(folder.name)
    writer.add_file_type({"bf16": gguf.LlamaFileType.MOSTLY_BF16, "f16": gguf.LlamaFileType.MOSTLY_F16}.get(kind, 0))
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_rope_freq_base(theta)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    add_tokenizer(writer, folder)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        rotated = heads_of(name, config)
        target = names.get_name(name, try_suffixes=(".weight",))
        if target is None:
            raise SystemExit(f"{folder}: llama.cpp's LLaMA has no tensor {name}")
        add(writer, target, tensor if rotated is None else interleave(tensor, rotated), kind)
    finish(writer)


def write_adapter(folder: Path, out: Path, model: Path) -> None:
    """Write a LoRA adapter, in the precision of its file."""
    config = read_json(model / "config.json")
    settings = read_json(folder / "adapter_config.json")
    if settings.get("use_rslora") or settings.get("use_dora") or settings.get("alpha_pattern"):
        raise SystemExit(f"{folder}: llama.cpp scales an adapter by alpha / rank, the same for all of it")
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(settings["lora_alpha"]))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        match = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", name)
        target = match and names.get_name(match[1])
        if not match or target is None:
            raise SystemExit(f"{folder}: llama.cpp's LLaMA has no place for {name}")
        rotated = heads_of(name, config) if match[2] == "B" else None
        add(
            writer,
            f"{target}.weight.lora_{match[2].lower()}",
            tensor if rotated is None else interleave(tensor, rotated),
            "f32",
        )
    finish(writer)


def finish(writer: gguf.GGUFWriter) -> None:
    """Write what was added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["model", "adapter"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=["bf16", "f16", "f32"], default="bf16")
    parser.add_argument("--model", type=Path)
    given = parser.parse_args()
    if given.what == "model":
        write_model(given.folder, given.out, given.type)
    else:
        if given.model is None:
            parser.error("an adapter needs --model, the folder of its base")
        write_adapter(given.folder, given.out, given.model)


if __name__ == "__main__":
    main()
