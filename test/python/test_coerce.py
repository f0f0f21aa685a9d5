"""JSON values read as the types that vLLM declares."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from tritonode.coerce import CoercionError, allows_none, coerce


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("true", bool, True),
        ("False", bool, False),
        (1, bool, True),
        ("0.8", float, 0.8),
        (3, float, 3.0),
        ("16", int, 16),
        (16.0, int, 16),
        ("auto", str | None, "auto"),
        (None, int | None, None),
        ("64", str | list[str] | None, "64"),
        (["64"], str | list[str] | None, ["64"]),
        (["1", 2], list[int], [1, 2]),
        ({"5": "0.5"}, dict[int, float], {5: 0.5}),
        ("8", Literal[1, 8, 16], 8),
        ("auto", Literal["auto", "half"], "auto"),
        ({"a": 1}, Any, {"a": 1}),
    ],
)
def test_reads(value: Any, hint: Any, expected: Any) -> None:
    result = coerce(value, hint)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("maybe", bool, "expected true or false, got 'maybe'"),
        (True, int, "expected a whole number, got True"),
        (1.5, int, "expected a whole number, got 1.5"),
        ("x", float, "expected a number, got 'x'"),
        (3, str, "expected a string, got 3"),
        (None, int | str, "must not be null"),
        ("9", Literal[1, 8], "expected one of [1, 8], got '9'"),
        ("ab", list[int], "expected a list"),
        ([], dict[int, float], "expected an object"),
        ("x" * 200, bool, "..."),
    ],
)
def test_refuses_with_the_value(value: Any, hint: Any, message: str) -> None:
    with pytest.raises(CoercionError) as failure:
        coerce(value, hint)
    assert message in str(failure.value)
    assert len(str(failure.value)) < 200


def test_allows_none() -> None:
    assert allows_none(int | None)
    assert allows_none(Any)
    assert not allows_none(int)
    assert not allows_none(int | str)
