"""Which versions of vLLM are served, and where each has what has moved."""

from __future__ import annotations

import pytest
from tritonode.errors import UnsupportedError
from tritonode.vllm import versions


@pytest.mark.parametrize("text", ["0.26.0", "0.26.0+cpu", "0.32.1.dev3+g1a2b3c", "0.33.9", "0.33.0rc1"])
def test_a_version_in_the_range_is_served(text: str) -> None:
    assert versions.check(text) is None


@pytest.mark.parametrize("text", ["0.25.1", "0.34.0", "1.0.0", "0.6.3.post1"])
def test_another_version_is_refused_in_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(versions.ALLOW_VARIABLE, raising=False)
    with pytest.raises(UnsupportedError) as refused:
        versions.check(text)
    said = str(refused.value)
    assert said.startswith(f"vLLM {text} is not supported: this backend is tested with 0.26 to 0.33;")
    assert "\n" not in said and versions.ALLOW_VARIABLE in said
    assert refused.value.code == "UNSUPPORTED"


def test_another_version_is_tried_with_a_warning_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(versions.ALLOW_VARIABLE, "1")
    assert versions.check("0.34.0") == (
        "vLLM 0.34.0 is not supported: this backend is tested with 0.26 to 0.33; "
        "it is tried because TRITONODE_ALLOW_VLLM is set"
    )
    assert versions.check("0.33.0") is None
    monkeypatch.setenv(versions.ALLOW_VARIABLE, "0")
    with pytest.raises(UnsupportedError):
        versions.check("0.34.0")


def test_a_version_that_is_no_version_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="'unknown'"):
        versions.check("unknown")


def test_what_has_moved_is_where_its_version_has_it() -> None:
    moved = versions.MOVED["serve_arguments"]
    assert moved.place((0, 28)) == "vllm.entrypoints.openai.cli_args"
    assert moved.place((0, 29)) == moved.place((0, 32)) == "vllm.entrypoints.launchers.cli_args"
    # A version that is not known yet is taken for like the newest, an older one for like the oldest.
    assert moved.place((0, 33)) == moved.place((1, 0)) == "vllm.entrypoints.common.cli_args"
    assert moved.place((0, 20)) == moved.place((0, 26))
