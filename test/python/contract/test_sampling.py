"""`sampling_parameters` read with vLLM's own types. Imports vLLM."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tritonode.engine import environment

environment.prepare()

from tritonode.contract.sampling import parse_sampling_parameters  # noqa: E402
from tritonode.errors import InvalidRequestError  # noqa: E402
from tritonode.vllm.requests import RequestOutputKind  # noqa: E402


def parse(stream: bool = False, **values: Any) -> Any:
    return parse_sampling_parameters(json.dumps(values), stream=stream)


def test_strings_are_read_as_their_types() -> None:
    params = parse(temperature="0.1", top_p="0.95", max_tokens="100", ignore_eos="false", n="1").sampling
    assert (params.temperature, params.top_p, params.max_tokens, params.ignore_eos) == (0.1, 0.95, 100, False)


def test_nothing_is_vllms_default() -> None:
    assert parse_sampling_parameters("", stream=False).sampling.max_tokens == 16
    assert parse_sampling_parameters("{}", stream=False).lora_name is None


def test_null_is_unlimited_or_the_default() -> None:
    params = parse(max_tokens=None, temperature=None, stop=None).sampling
    assert params.max_tokens is None
    assert params.temperature == 1.0


def test_only_news_is_streamed() -> None:
    assert parse(stream=True).sampling.output_kind is RequestOutputKind.DELTA
    assert parse(stream=False).sampling.output_kind is RequestOutputKind.FINAL_ONLY


def test_the_adapter_and_the_priority_travel_beside() -> None:
    parsed = parse(lora_name="alpaca", priority="3")
    assert (parsed.lora_name, parsed.priority) == ("alpaca", 3)


@pytest.mark.parametrize("form", [{"choice": ["a", "b"]}, '{"choice": ["a", "b"]}'])
def test_structured_outputs_in_both_forms(form: Any) -> None:
    assert parse(structured_outputs=form).sampling.structured_outputs.choice == ["a", "b"]


def test_logit_bias_keys_are_token_ids() -> None:
    assert parse(logit_bias={"5": "1.5"}).sampling.logit_bias == {5: 1.5}


def test_repetition_detection_is_an_object() -> None:
    detection = parse(
        repetition_detection={"max_pattern_size": 4, "min_pattern_size": 1, "min_count": 3}
    ).sampling.repetition_detection
    assert detection.max_pattern_size == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"temprature": 0}', "unknown sampling parameter 'temprature' (did you mean 'temperature'?)"),
        ('{"output_kind": 1}', "unknown sampling parameter 'output_kind'"),
        ('{"top_p": 3}', "top_p"),
        ('{"n": 0}', "n"),
        ('{"lora_name": 5}', "sampling parameter 'lora_name': expected a string"),
        ('{"structured_outputs": 5}', "sampling parameter 'structured_outputs': expected an object"),
        ('{"logit_bias": {"x": 1}}', "sampling parameter 'logit_bias'"),
        ("{", "not valid JSON"),
        ("3", "must be a JSON object, not int"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_refuses_by_name(text: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as failure:
        parse_sampling_parameters(text, stream=False)
    assert message in str(failure.value)
