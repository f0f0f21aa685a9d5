"""Converts a GGUF file's tokenizer to the `tokenizer.json`, `tokenizer_config.json` and chat template of a folder.

The kinds of vocabularies and the rules that split a text before it (`tokenizer.ggml.pre`) are llama.cpp's
(llama-vocab.cpp). Each rule is the regular expression of the tokenizers that it stands for.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from .reader import GgufError, GgufFile

# Types of tokens in `tokenizer.ggml.token_type`.
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6
_SPACE = "▁"
_MAX_TOKEN_BYTES = 4096

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_ENDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _by_case(end: str, digits: str) -> str:
    """Return the expression of words that change from capitals to small letters at most once, each with an ending."""
    start = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{start}{_UPPER}*{_LOWER}+{end}|{start}{_UPPER}+{_LOWER}*{end}"
    return words + rf"|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_REST}"


_LLAMA3 = rf"{_ENDS}|{_WORDS}|\p{{N}}{{1,3}}|{_MARKS}|{_REST}"
_QWEN2 = rf"{_ENDS}|{_WORDS}|\p{{N}}|{_MARKS}|{_REST}"
_TEKKEN = _by_case("", "")
_GPT4O = _by_case(_ENDS + "?", "{1,3}")

# Rule → its regular expression; None for GPT-2's own, which the byte-level step contains.
_SPLITS: dict[str, str | None] = {
    "gpt-2": None,
    "gpt2": None,
    "default": None,
    "smollm": None,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "dbrx": _LLAMA3,
    "qwen2": _QWEN2,
    "tekken": _TEKKEN,
    "gpt-4o": _GPT4O,
}
# Rules whose tokenizers do not split a word that is a token, and those that begin a text with a token by default.
_WHOLE_WORDS = frozenset({"llama-bpe", "llama3", "llama-v3", "tekken"})
_BEGIN = _WHOLE_WORDS
# Tokens that end an answer, in addition to the one that the file names; llama.cpp also finds them by their texts.
_END_TOKENS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>")


class GgufTokenizer:
    """The tokenizer of a file. The constructor raises GgufError if it is not supported, or is inconsistent."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self.kind = file.text("tokenizer.ggml.model")
        if self.kind not in ("gpt2", "llama"):
            raise self._error(f"its tokenizer is of the kind {self.kind!r}, not one of gpt2 and llama")
        self._pre = file.text("tokenizer.ggml.pre") or "default"
        if self.kind == "gpt2" and self._pre not in _SPLITS:
            raise self._error(
                f"its tokenizer splits texts by the rule {self._pre[:40]!r}, which is not known; "
                f"these are: {', '.join(_SPLITS)}"
            )
        self.tokens = self._texts("tokenizer.ggml.tokens")
        embedding = file.tensors.get("token_embd.weight")
        if not self.tokens or (embedding is not None and len(self.tokens) > embedding.shape[0]):
            rows = 0 if embedding is None else embedding.shape[0]
            raise self._error(f"its tokenizer has {len(self.tokens)} tokens, and the embedding {rows} rows")
        types = file.metadata.get("tokenizer.ggml.token_type")
        if types is None:
            types = np.ones(len(self.tokens), np.int32)
        if not isinstance(types, np.ndarray) or types.dtype.kind not in "iu" or types.size != len(self.tokens):
            raise self._error(f"'tokenizer.ggml.token_type' must be {len(self.tokens)} numbers")
        self._types = types.tolist()
        self._refuse_doubles()

    def _error(self, message: str) -> GgufError:
        hint = "; a Hugging Face tokenizer's folder may be given instead, as the engine argument `tokenizer`"
        return GgufError(f"{self._file.path}: {message}{hint}")

    def _texts(self, key: str) -> list[str]:
        value = self._file.metadata.get(key)
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self._error(f"'{key}' must be a list of strings")
        if any(len(text) > _MAX_TOKEN_BYTES for text in value):
            raise self._error(f"'{key}' holds a text of more than {_MAX_TOKEN_BYTES} characters")
        return value

    def _refuse_doubles(self) -> None:
        if self.kind == "llama":
            # User-defined tokens contain plain spaces in newer files, and the sign for a space in older ones.
            for number, kind in enumerate(self._types):
                if kind == _USER_DEFINED:
                    self.tokens[number] = self.tokens[number].replace(_SPACE, " ")
        self._ids: dict[str, int] = {}
        for number, token in enumerate(self.tokens):
            if self._ids.setdefault(token, number) != number:
                raise self._error(f"the tokens {self._ids[token]} and {number} are both {token[:40]!r}")

    def _token(self, name: str) -> str | None:
        number = self._file.whole(f"tokenizer.ggml.{name}_token_id", most=(1 << 32) - 1)
        # The greatest number means "none".
        if number is None or number == (1 << 32) - 1:
            return None
        if number >= len(self.tokens):
            raise self._error(f"'tokenizer.ggml.{name}_token_id' is {number}, beyond {len(self.tokens)} tokens")
        return self.tokens[number]

    def _flag(self, name: str, default: bool) -> bool:
        value = self._file.metadata.get(f"tokenizer.ggml.{name}", default)
        if not isinstance(value, bool):
            raise self._error(f"'tokenizer.ggml.{name}' must be true or false, got {value!r:.40}")
        return value

    def end_tokens(self) -> list[int]:
        """The tokens that end an answer."""
        named = [self._token(name) for name in ("eos", "eot", "eom")]
        control = [token for token in _END_TOKENS if self._types[self._ids.get(token, 0)] == _CONTROL]
        found = [self._ids[token] for token in [*named, *control] if token in self._ids]
        return sorted(set(found))

    def build(self) -> Any:
        """Return a `tokenizers.Tokenizer`. Raises GgufError for merges that do not fit the vocabulary."""
        from tokenizers import AddedToken

        tokenizer = self._byte_level() if self.kind == "gpt2" else self._pieces()
        # llama.cpp drops the spaces after a special token of Phi-3, as Phi-3's own tokenizer does.
        strip = self._file.text("general.architecture") == "phi3" and self.kind == "llama"
        for special, wanted in ((True, (_CONTROL, _UNKNOWN)), (False, (_USER_DEFINED,))):
            tokens = [
                AddedToken(
                    token, normalized=False, special=special, rstrip=strip and special and token.startswith("<|")
                )
                for token, kind in zip(self.tokens, self._types, strict=True)
                if kind in wanted and token
            ]
            (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(tokens)
        self._begin_and_end(tokenizer)
        return tokenizer

    def _byte_level(self) -> Any:
        from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

        merges = []
        for number, merge in enumerate(self._texts("tokenizer.ggml.merges")):
            left, space, right = merge.partition(" ")
            if not space or left not in self._ids or right not in self._ids or left + right not in self._ids:
                raise self._error(f"merge {number} of 'tokenizer.ggml.merges', {merge[:40]!r}, is not two tokens")
            merges.append((left, right))
        tokenizer = Tokenizer(models.BPE(self._ids, merges, ignore_merges=self._pre in _WHOLE_WORDS))
        split = _SPLITS[self._pre]
        steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)]
        if split is not None:
            steps.insert(0, pre_tokenizers.Split(Regex(split), "isolated"))
        if self._pre == "smollm":
            steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        if self._pre == "qwen2":
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    def _pieces(self) -> Any:
        """A SentencePiece vocabulary: pieces are joined in the order of their scores, unknown ones become bytes."""
        from tokenizers import Tokenizer, decoders, models, normalizers

        unknown = self._token("unknown") or next(
            (token for token, kind in zip(self.tokens, self._types, strict=True) if kind == _UNKNOWN), None
        )
        tokenizer = Tokenizer(
            models.BPE(self._ids, self._merges(), unk_token=unknown, fuse_unk=True, byte_fallback=_BYTE in self._types)
        )
        prefix = self._flag("add_space_prefix", True)
        spaces = normalizers.Replace(" ", _SPACE)
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
        steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
        return tokenizer

    def _merges(self) -> list[tuple[str, str]]:
        scores = self._file.metadata.get("tokenizer.ggml.scores")
        if not isinstance(scores, np.ndarray) or scores.dtype.kind != "f" or scores.size != len(self.tokens):
            raise self._error(f"'tokenizer.ggml.scores' must be {len(self.tokens)} numbers")
        ids = {
            token: number
            for token, number in self._ids.items()
            if self._types[number] not in (_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE)
        }
        found = []
        for token, number in ids.items():
            for cut in range(1, len(token)):
                left, right = token[:cut], token[cut:]
                if left in ids and right in ids:
                    found.append((-float(scores[number]), number, ids[left], left, right))
        found.sort()
        return [(left, right) for *_, left, right in found]

    def _begin_and_end(self, tokenizer: Any) -> None:
        from tokenizers import processors

        begin = self._token("bos") if self._flag("add_bos_token", self.kind == "llama" or self._pre in _BEGIN) else None
        end = self._token("eos") if self._flag("add_eos_token", False) else None
        if begin is None and end is None:
            return
        added = [token for token in (begin, end) if token is not None]
        around = [*([begin] if begin else []), "$A", *([end] if end else [])]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=around, pair=[*around, *around[:-1], "$B"] if end is None else None,
            special_tokens=[(token, self._ids[token]) for token in dict.fromkeys(added)],
        )  # fmt: skip

    def config(self, longest: int) -> dict[str, Any]:
        """The contents of `tokenizer_config.json`; `longest`: tokens that the model takes."""
        named = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
        found = {key: self._token(name) for key, name in named.items()}
        template = self._file.text("tokenizer.chat_template")
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": longest,
            **{key: token for key, token in found.items() if token is not None},
            **({} if template is None else {"chat_template": template}),
        }


def write_tokenizer(file: GgufFile, folder: str, longest: int) -> list[int]:
    """Write the tokenizer's files into a folder. Returns the tokens that end an answer. Raises GgufError."""
    tokenizer = GgufTokenizer(file)
    try:
        tokenizer.build().save(os.path.join(folder, "tokenizer.json"), pretty=False)
    except GgufError:
        raise
    except Exception as failure:  # the tokenizers library cannot use the vocabulary
        raise GgufError(f"{file.path}: its tokenizer cannot be built: {failure}") from failure
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as out:
        json.dump(tokenizer.config(longest), out, ensure_ascii=False)
    return tokenizer.end_tokens()
