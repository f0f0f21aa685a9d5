"""vLLM's outputs as the output tensors of the contract."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tritonode.errors import BackendError

# JSON has no number for the logarithm of 0. This number represents it, as in OpenAI's and vLLM's APIs.
_LEAST_LOGPROB = -9999.0


def finite_logprob(logprob: float) -> float:
    """A log probability that JSON can hold: -9999 for one of minus infinity (or of no number at all)."""
    return logprob if logprob > _LEAST_LOGPROB else _LEAST_LOGPROB


@dataclass
class _Choice:
    """The state of one of the `n` choices."""

    finish_reason: str = "None"
    cumulative_logprob: float = 0.0
    # New since the last response.
    text: str = ""
    tokens: int = 0
    logprobs: list[Any] | None = None


@dataclass
class ResponseState:
    """Turns the outputs of one request into responses.

    The `n` choices are always in the order of their index; vLLM may deliver one choice at a time.
    """

    returns: frozenset[str]
    n: int = 1
    prepend: str = ""
    with_logprobs: bool = True
    tokens: int = 0
    num_input_tokens: int = 0
    # time.monotonic() when the first token arrived.
    first_token_at: float | None = None
    _choices: list[_Choice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._choices = [_Choice() for _ in range(self.n)]

    def add(self, output: Any) -> None:
        """Add a `RequestOutput` whose texts, tokens and logprobs are deltas (or, without streaming, complete).

        Raises BackendError if vLLM ended the request with an error.
        """
        if output.prompt_token_ids is not None:
            self.num_input_tokens = len(output.prompt_token_ids)
        if self.first_token_at is None:
            self.first_token_at = time.monotonic()
        for completion in output.outputs:
            choice = self._choices[completion.index]
            choice.text += completion.text
            choice.tokens += len(completion.token_ids)
            self.tokens += len(completion.token_ids)
            if completion.finish_reason is not None:
                if completion.finish_reason == "error":
                    raise BackendError("vLLM ended the request with an error; its log says why")
                choice.finish_reason = str(completion.finish_reason)
            if completion.cumulative_logprob is not None:
                choice.cumulative_logprob = finite_logprob(completion.cumulative_logprob)
            if completion.logprobs is not None and self.with_logprobs:
                choice.logprobs = [*(choice.logprobs or []), *completion.logprobs]

    def take(self, pb_utils: Any) -> list[Any]:
        """The output tensors of a response with everything that is new since the last one."""
        choices = self._choices
        tensors = [_strings(pb_utils, "text_output", (self.prepend + choice.text for choice in choices))]
        returns = self.returns
        if returns:
            if "return_finish_reason" in returns:
                tensors.append(_strings(pb_utils, "finish_reason", (choice.finish_reason for choice in choices)))
            if "return_cumulative_logprob" in returns:
                values = np.asarray([choice.cumulative_logprob for choice in choices], dtype=np.float32)
                tensors.append(pb_utils.Tensor("cumulative_logprob", values))
            if "return_logprobs" in returns:
                tensors.append(_strings(pb_utils, "logprobs", (_logprobs_json(choice.logprobs) for choice in choices)))
            if "return_num_input_tokens" in returns:
                tensors.append(_uint32(pb_utils, "num_input_tokens", [self.num_input_tokens]))
            if "return_num_output_tokens" in returns:
                tensors.append(_uint32(pb_utils, "num_output_tokens", [choice.tokens for choice in choices]))
        self._clear_new()
        return tensors

    def take_entry(self) -> list[Any]:
        """The same as an entry of a channel (triton/deltas.py): texts, finish reasons, numbers of new tokens, number of
        prompt tokens; with logprobs also the cumulative logprobs and the lists of logprobs as JSON.
        """
        choices = self._choices
        entry: list[Any] = [
            [self.prepend + choice.text for choice in choices],
            [choice.finish_reason for choice in choices],
            [choice.tokens for choice in choices],
            self.num_input_tokens,
        ]
        if self.returns & {"return_cumulative_logprob", "return_logprobs"}:
            entry.append([choice.cumulative_logprob for choice in choices])
            entry.append([_logprobs_json(choice.logprobs) for choice in choices])
        self._clear_new()
        return entry

    def _clear_new(self) -> None:
        for choice in self._choices:
            choice.text, choice.tokens, choice.logprobs = "", 0, None if choice.logprobs is None else []
        self.prepend = ""


def _strings(pb_utils: Any, name: str, values: Iterable[str]) -> Any:
    return pb_utils.Tensor(name, np.asarray([value.encode("utf-8", "replace") for value in values], dtype=np.object_))


def _uint32(pb_utils: Any, name: str, values: list[int]) -> Any:
    return pb_utils.Tensor(name, np.asarray(values, dtype=np.uint32))


def _logprobs_json(positions: list[Any] | None) -> str:
    """A JSON list with an object per token, keyed by token id; "null" where none were asked for."""
    if positions is None:
        return "null"
    return json.dumps(
        [
            {
                token_id: {
                    "logprob": finite_logprob(entry.logprob),
                    "rank": entry.rank,
                    "decoded_token": entry.decoded_token,
                }
                for token_id, entry in position.items()
            }
            for position in positions
        ],
        allow_nan=False,
    )


def text_response(pb_utils: Any, text: str) -> Any:
    """A response whose `text_output` is one string: the answer of a control request, or of opening a channel."""
    return pb_utils.InferenceResponse(output_tensors=[_strings(pb_utils, "text_output", [text])])


def embedding_tensors(
    pb_utils: Any, embedding: list[float], returns: frozenset[str], num_input_tokens: int
) -> list[Any]:
    """The tensors that answer an `embedding_request`."""
    tensors = [_strings(pb_utils, "text_output", [json.dumps(embedding)])]
    if "return_num_input_tokens" in returns:
        tensors.append(_uint32(pb_utils, "num_input_tokens", [num_input_tokens]))
    if "return_num_output_tokens" in returns:
        tensors.append(_uint32(pb_utils, "num_output_tokens", [0]))
    return tensors
