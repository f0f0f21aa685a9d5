"""GGUF files are bytes that anybody may have written: what is wrong is named, and memory stays bounded."""

from __future__ import annotations

import os
import random
import resource
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_gguf
from gguf import GGMLQuantizationType, quants
from tritonode.errors import SettingsError
from tritonode.gguf import blocks
from tritonode.gguf.folder import write_folder
from tritonode.gguf.reader import GgufError, GgufFile
from tritonode.gguf.types import TENSOR_TYPES
from tritonode.gguf.weights import GgufWeights

WEIGHT = np.arange(64, dtype=np.float32).reshape(2, 32)
LLAMA: dict[str, tuple[str, Any]] = {
    "general.architecture": ("str", "llama"),
    "llama.context_length": ("u32", 64),
    "llama.embedding_length": ("u32", 32),
    "llama.block_count": ("u32", 1),
    "llama.feed_forward_length": ("u32", 32),
    "llama.attention.head_count": ("u32", 1),
    **tiny_gguf.tokenizer_metadata(300),
}


def tensor(shape: tuple[int, ...], kind: str = "F32", size: int | None = None) -> tuple[tuple[int, ...], str, bytes]:
    return shape, kind, bytes(4 * int(np.prod(shape)) if size is None else size)


SMALL = tiny_gguf.gguf_bytes(
    {
        "general.architecture": ("str", "llama"),
        "a.number": ("f32", 0.5),
        "a.flag": ("bool", True),
        "some.numbers": ("[i32]", [1, -2, 3]),
        "some.texts": ("[str]", ["a", "é", ""]),
    },
    {"weight": (WEIGHT.shape, "F32", WEIGHT.tobytes()), "norm": ((32,), "F32", WEIGHT[0].tobytes())},
)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(data: bytes) -> str:
        (tmp_path / "file.gguf").write_bytes(data)
        return str(tmp_path / "file.gguf")

    return write


def test_what_is_written_is_read(write: Any) -> None:
    with GgufFile(write(SMALL)) as file:
        assert file.text("general.architecture") == "llama"
        assert (file.number("a.number"), file.metadata["a.flag"]) == (0.5, True)
        assert file.metadata["some.numbers"].tolist() == [1, -2, 3]
        assert file.metadata["some.texts"] == ["a", "é", ""]
        weight = file.tensors["weight"]
        assert weight.shape == (2, 32)
        assert np.array_equal(file.read(weight).view("<f4"), WEIGHT)
        assert np.array_equal(file.read(weight, 1, 2).view("<f4"), WEIGHT[1:])


def _with(at: int, data: bytes) -> bytes:
    return SMALL[:at] + data + SMALL[at + len(data) :]


def _where(text: bytes, after: int = 0) -> int:
    return SMALL.index(text, after)


U64, U32 = (lambda number: struct.pack("<Q", number)), (lambda number: struct.pack("<I", number))
NAME = _where(b"weight")
# What is changed in a good file, and words of the message.
BROKEN = {
    "empty": (b"", "the magic number needs 4 bytes"),
    "foreign": (b"\x7fELF" + SMALL[4:], "starts with b'\\x7fELF'"),
    "version 1": (_with(4, U32(1)), "its version is 1: only versions 2 and 3"),
    "big-endian": (_with(4, struct.pack(">I", 3)), "a big-endian file"),
    "too many tensors": (_with(8, U64(1 << 40)), "the number of tensors is 1099511627776"),
    "too many keys": (_with(16, U64(0xFFFFFFFFFFFFFFFF)), "the number of keys is 18446744073709551615"),
    "a long key": (_with(24, U64(1 << 20)), "key 0 is 1048576 bytes long, more than 65535"),
    "an endless string": (
        _with(_where(b"llama") - 8, U64(1 << 62)),
        "'general.architecture' needs 4611686018427387904 bytes",
    ),
    "no UTF-8": (_with(_where(b"llama"), b"\xff\xfe"), "'general.architecture' is not UTF-8"),
    "an unknown type": (_with(_where(b"a.number") + 8, U32(77)), "'a.number' has the unknown type 77"),
    "a boolean of 2": (_with(_where(b"a.flag") + 10, b"\x02"), "'a.flag' holds a boolean of 2"),
    "an endless array": (_with(_where(b"some.numbers") + 20, U64(1 << 60)), "the length of 'some.numbers' is"),
    "an array of arrays": (
        _with(_where(b"some.numbers") + 16, U32(9) + U64(1) + U32(9) + U64(1) + U32(9)),
        "is an array within 2 arrays",
    ),
    "five dimensions": (_with(NAME + 6, U32(5)), "the tensor 'weight' has 5 dimensions"),
    "an empty shape": (_with(NAME + 10, U64(0)), "the tensor 'weight' has the shape [0, 2]"),
    "a huge shape": (_with(NAME + 10, U64(1 << 63)), "has the shape [9223372036854775808, 2]"),
    "a third row": (_with(NAME + 18, U64(3)), "overlap"),
    "an unknown format": (_with(NAME + 26, U32(4)), "the tensor 'weight' has the unknown type 4"),
    "half a block": (_with(NAME + 10, U64(33) + U64(2) + U32(2)), "have 33 elements, no blocks of 32"),
    "an offset beyond": (_with(NAME + 30, U64(1 << 40)), "the file has 512: it is cut short"),
    "an offset not aligned": (_with(NAME + 30, U64(4)), "not aligned to 32"),
    "cut short": (SMALL[:-40], "it is cut short, or damaged"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_by_name(write: Any, name: str) -> None:
    data, message = BROKEN[name]
    with pytest.raises(GgufError) as caught:
        GgufFile(write(data))
    assert caught.value.code == "INVALID_ARG"
    assert "file.gguf" in str(caught.value)
    assert message.replace("512", str(len(SMALL))) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "no.gguf", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(GgufError, match=message):
            GgufFile(str(path))


@pytest.mark.parametrize("length", range(0, len(SMALL), 7))
def test_every_truncation_is_refused(write: Any, length: int) -> None:
    with pytest.raises(GgufError):
        GgufFile(write(SMALL[:length]))


def test_ten_thousand_mutations_end_in_a_result_or_an_error(tmp_path: Path) -> None:
    """Numbers are replaced by others that are likely to hurt; memory stays bounded.

    `TRITONODE_FUZZ=100` makes a hundred times as many, `TRITONODE_FUZZ_SEED` others.
    """
    times, seed = int(os.environ.get("TRITONODE_FUZZ", "1")), int(os.environ.get("TRITONODE_FUZZ_SEED", "15"))
    source = tiny_gguf.gguf_bytes(
        {**LLAMA, "some.numbers": ("[i32]", list(range(50)))},
        {
            "token_embd.weight": ((300, 32), "Q4_0", bytes(300 * 18)),
            "blk.0.attn_q.weight": ((32, 32), "Q8_0", bytes(32 * 34)),
            "output_norm.weight": tensor((32,)),
        },
    )
    header = source.index(b"output_norm.weight") + 60
    rng = random.Random(seed)
    nasty = [
        0,
        1,
        2,
        0x7F,
        0x80,
        0xFF,
        0x7FFFFFFF,
        0x80000000,
        0xFFFFFFFF,
        1 << 40,
        (1 << 63) - 1,
        1 << 63,
        (1 << 64) - 1,
    ]
    path, folder = tmp_path / "mutated.gguf", tmp_path / "folder"
    folder.mkdir()
    before, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for _ in range(times * 10_000):
        data = bytearray(source)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(header)
            kind = rng.randrange(4)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                size = rng.choice((1, 4, 8))
                data[at : at + size] = (rng.choice(nasty) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
            elif kind == 2:
                del data[at : at + rng.randint(1, 16)]
            else:
                data[at:at] = rng.randbytes(rng.randint(1, 16))
        path.write_bytes(data)
        try:
            write_folder(str(path), str(folder), packed=True)
            weights = GgufWeights(str(path))
            for each in weights.tensors.values():
                weights.dense(each)
            weights.file.close()
        except SettingsError as failure:
            assert str(path) in str(failure)
            refused += 1
    assert refused > times * 3_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize("kind", sorted(blocks.QUANTISED))
def test_blocks_stand_for_the_same_numbers_as_in_the_gguf_package(kind: str) -> None:
    layout = next(each for each in TENSOR_TYPES.values() if each.name == kind)
    rng = np.random.default_rng(7)
    data = rng.integers(0, 256, (5, 8 * layout.size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        wanted = quants.dequantize(data, GGMLQuantizationType[kind])
        found = blocks.decode(layout, data)
        whole = found.dequantise()
    usual = np.isfinite(wanted)
    assert usual.mean() > 0.8
    assert np.array_equal(whole[usual], wanted[usual])
    assert found.quants.dtype == (np.uint8 if found.bits == 4 else np.int8)
    assert found.bits == 8 or found.quants.max() <= 15


def _config(write: Any, tmp_path: Path, metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    everything = {"token_embd.weight": tensor((300, 32)), **tensors}
    pairs = {key: each for key, each in {**LLAMA, **metadata}.items() if each is not None}
    write_folder(write(tiny_gguf.gguf_bytes(pairs, everything)), str(tmp_path), packed=True)


FOREIGN = {
    "another architecture": ({"general.architecture": ("str", "mamba")}, {}, "the architecture 'mamba' is not served"),
    "one of several files": ({"split.count": ("u32", 3)}, {}, "is one of 3 parts"),
    "a key is missing": ({"llama.block_count": None}, {}, "the metadata has no 'llama.block_count'"),
    "a number out of bounds": (
        {"llama.attention.head_count": ("u32", 0)},
        {},
        "'llama.attention.head_count' must be a number from 1",
    ),
    "another embedding": ({"llama.embedding_length": ("u32", 48)}, {}, "'llama.embedding_length' is 48"),
    "experts": ({"llama.expert_count": ("u32", 8)}, {}, "mixtures of experts"),
    "a strange tensor": ({}, {"blk.0.ssm_a": tensor((32,))}, "has no tensor 'blk.0.ssm_a'"),
    "other rotary factors": ({}, {"rope_freqs.weight": tensor((16,))}, "not a positive factor"),
    "a strange tokenizer": ({"tokenizer.ggml.model": ("str", "bert")}, {}, "of the kind 'bert'"),
    "a strange rule": ({"tokenizer.ggml.pre": ("str", "poro")}, {}, "by the rule 'poro'"),
    "a token twice": ({"tokenizer.ggml.tokens": ("[str]", ["a"] * 300)}, {}, "the tokens 0 and 1 are both 'a'"),
    "too many tokens": (tiny_gguf.tokenizer_metadata(400), {}, "has 400 tokens, and the embedding 300 rows"),
    "a strange merge": ({"tokenizer.ggml.merges": ("[str]", ["a bc"])}, {}, "merge 0 of 'tokenizer.ggml.merges'"),
    "no such token": ({"tokenizer.ggml.eos_token_id": ("u32", 5000)}, {}, "is 5000, beyond 300 tokens"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_model_that_is_not_served_is_refused_by_name(write: Any, tmp_path: Path, name: str) -> None:
    metadata, tensors, message = FOREIGN[name]
    with pytest.raises(GgufError, match=r"file\.gguf") as caught:
        _config(write, tmp_path, metadata, tensors)
    assert message in str(caught.value)


def test_weights_that_are_no_numbers_or_of_other_formats_are_refused(write: Any) -> None:
    infinite = np.full((300, 32), np.inf, np.float32).tobytes()
    path = write(tiny_gguf.gguf_bytes(LLAMA, {"token_embd.weight": ((300, 32), "F32", infinite)}))
    weights = GgufWeights(path)
    with pytest.raises(GgufError, match=r"'token_embd\.weight' holds an infinity or a NaN"):
        weights.dense(weights.tensors["model.embed_tokens.weight"])
    path = write(tiny_gguf.gguf_bytes(LLAMA, {"token_embd.weight": ((300, 256), "IQ1_S", bytes(300 * 50))}))
    with pytest.raises(GgufError, match="of the type IQ1_S, which is not read"):
        GgufWeights(path)


def test_llama_3s_scaling_is_read_from_its_factors(write: Any, tmp_path: Path) -> None:
    import json

    import torch
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192, "rope_theta": 500000.0}
    config = LlamaConfig(hidden_size=32, num_attention_heads=1, head_dim=32, rope_parameters=scaling)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / 500000.0 ** (torch.arange(0, 32, 2) / 32)
    factors = (plain / scaled).numpy().astype(np.float32)
    _config(
        write,
        tmp_path,
        {"llama.rope.freq_base": ("f32", 500000.0)},
        {"rope_freqs.weight": ((16,), "F32", factors.tobytes())},
    )
    assert json.loads((tmp_path / "config.json").read_text())["rope_parameters"] == scaling


def test_adapters_are_held_against_the_shapes_of_a_gguf_base(write: Any, tmp_path: Path) -> None:
    from tritonode.lora.checkpoint import base_model_shapes

    tensors = {"blk.0.ffn_down.weight": ((32, 96), "Q8_0", bytes(32 * 3 * 34)), "output_norm.weight": tensor((32,))}
    _config(write, tmp_path, {}, tensors)
    assert base_model_shapes(str(tmp_path)) == {
        "model.embed_tokens": (300, 32),
        "model.layers.0.mlp.down_proj": (32, 96),
    }
