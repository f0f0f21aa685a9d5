"""Tokenizers out of GGUF files give the tokens of the tokenizers that they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_gguf
from tokenizers import Tokenizer
from tritonode.gguf.folder import write_folder

REPO = Path(__file__).resolve().parents[3]
TEXTS = [
    (REPO / "README.md").read_text("utf-8"),
    "It's 2024, isn't it?  Two  spaces,\ttabs\n\n\nand lines. I'LL go   ",
    "été naïve 日本語 🤖 ﬁ x² \u00a0 Ünïcödé",
    "def f(x):\n    return x + 1234567\n",
    "",
]
MODEL: dict[str, tuple[str, Any]] = {
    "general.architecture": ("str", "llama"),
    "llama.context_length": ("u32", 64),
    "llama.embedding_length": ("u32", 32),
    "llama.block_count": ("u32", 1),
    "llama.feed_forward_length": ("u32", 32),
    "llama.attention.head_count": ("u32", 1),
}


def made(folder: Path, metadata: dict[str, Any], tokens: int) -> Tokenizer:
    embedding = {"token_embd.weight": ((tokens, 32), "F32", bytes(tokens * 128))}
    (folder / "model.gguf").write_bytes(tiny_gguf.gguf_bytes({**MODEL, **metadata}, embedding))
    write_folder(str(folder / "model.gguf"), str(folder), packed=True)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_smollm2s_tokens_are_those_of_its_own_tokenizer(tmp_path: Path) -> None:
    make_backbone = pytest.importorskip("make_backbone")
    import gguf_tokenizer

    try:
        file = make_backbone.find_gguf()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    gguf_tokenizer.write_tokenizer(file, tmp_path / "wanted")
    write_folder(str(file), str(tmp_path), packed=True)
    found, wanted = (Tokenizer.from_file(str(each / "tokenizer.json")) for each in (tmp_path, tmp_path / "wanted"))
    for text in [*TEXTS, "<|im_start|>user\nHi<|im_end|>"]:
        assert found.encode(text).ids == wanted.encode(text).ids
        assert found.decode(found.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("rule", ["qwen2", "llama-bpe"])
def test_a_byte_level_tokenizer_splits_by_the_files_rule(tmp_path: Path, rule: str) -> None:
    """A tokenizer is trained with the rule as transformers has it, and read back."""
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    pattern = PRETOKENIZE_REGEX if rule == "qwen2" else PRETOKENIZE_REGEX.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
    wanted = Tokenizer(models.BPE(ignore_merges=rule == "llama-bpe"))
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    wanted.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<end>"],
    )  # fmt: skip
    wanted.train_from_iterator([*TEXTS, " ".join(str(number) for number in range(500))], trainer)
    import json

    model = json.loads(wanted.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    metadata = {
        "tokenizer.ggml.model": ("str", "gpt2"),
        "tokenizer.ggml.pre": ("str", rule),
        "tokenizer.ggml.tokens": ("[str]", tokens),
        "tokenizer.ggml.token_type": ("[i32]", [3 if token == "<end>" else 1 for token in tokens]),
        "tokenizer.ggml.merges": ("[str]", [" ".join(merge) for merge in model["merges"]]),
        "tokenizer.ggml.eos_token_id": ("u32", 0),
        "tokenizer.ggml.add_bos_token": ("bool", False),
    }
    found = made(tmp_path, metadata, len(tokens))
    for text in TEXTS:
        assert found.encode(text).ids == wanted.encode(text).ids


@pytest.mark.parametrize("prefix", [True, False])
def test_a_sentencepiece_vocabulary_gives_sentencepieces_own_tokens(tmp_path: Path, prefix: bool) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text("\n".join(TEXTS), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "sp"), vocab_size=900, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=prefix, character_coverage=0.99,
        remove_extra_whitespaces=False, minloglevel=2, user_defined_symbols=["<turn>"],
    )  # fmt: skip
    wanted = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sp.model"))
    numbers = range(wanted.vocab_size())

    def kind(number: int) -> int:
        if wanted.is_byte(number):
            return 6
        return 2 if wanted.is_unknown(number) else 3 if wanted.is_control(number) else 4 if number == 3 else 1

    assert wanted.id_to_piece(3) == "<turn>"
    metadata = {
        "tokenizer.ggml.model": ("str", "llama"),
        "tokenizer.ggml.tokens": ("[str]", [wanted.id_to_piece(number) for number in numbers]),
        "tokenizer.ggml.scores": ("[f32]", [wanted.get_score(number) for number in numbers]),
        "tokenizer.ggml.token_type": ("[i32]", [kind(number) for number in numbers]),
        "tokenizer.ggml.bos_token_id": ("u32", 1),
        "tokenizer.ggml.eos_token_id": ("u32", 2),
        "tokenizer.ggml.unknown_token_id": ("u32", 0),
        "tokenizer.ggml.add_space_prefix": ("bool", prefix),
    }
    found = made(tmp_path, metadata, wanted.vocab_size())
    for text in TEXTS:
        if not text:
            continue
        assert found.encode(text).ids == [1, *wanted.encode(text)]
        assert found.decode(found.encode(text).ids) == text.lstrip(" " if prefix else "")
    assert found.encode("<turn>").ids[-1] == 3


def test_chat_template_and_ends_come_from_the_file(tmp_path: Path) -> None:
    import json

    from transformers import AutoTokenizer

    made(tmp_path, tiny_gguf.tokenizer_metadata(300), 300)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    assert (text, tokenizer.eos_token, tokenizer.bos_token) == ("hello", "</s>", "<s>")
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [2]
    assert np.array_equal(tokenizer("ab").input_ids, [tokenizer.convert_tokens_to_ids(each) for each in "ab"])
