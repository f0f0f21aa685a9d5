"""How many bits activations keep in products with quantised weights, by processor."""

from __future__ import annotations

import pytest
import torch
from tritonode.cpu import packed_layers, punica_library
from tritonode.errors import SettingsError


@pytest.mark.parametrize(
    ("level", "dtype", "with_4", "with_8"),
    [
        ("avx512_bf16", torch.bfloat16, 16, 16),
        ("avx512_bf16", torch.float16, 8, 8),
        ("avx512", torch.bfloat16, 8, 16),
        ("avx2", torch.bfloat16, 8, 16),
        ("avx2", torch.float16, 8, 16),
        ("neon", torch.bfloat16, 8, 8),
        ("portable", torch.bfloat16, 8, 8),
    ],
)
def test_sixteen_where_they_are_cheap(
    monkeypatch: pytest.MonkeyPatch, level: str, dtype: torch.dtype, with_4: int, with_8: int
) -> None:
    monkeypatch.delenv(packed_layers.ACTIVATIONS, raising=False)
    monkeypatch.setattr(punica_library, "level", lambda: level)
    assert packed_layers.activation_bits(dtype, 4) == with_4
    assert packed_layers.activation_bits(dtype, 8) == with_8
    for named in ("8", "16"):
        monkeypatch.setenv(packed_layers.ACTIVATIONS, named)
        assert packed_layers.activation_bits(dtype, 4) == packed_layers.activation_bits(dtype, 8) == int(named)


def test_another_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(packed_layers.ACTIVATIONS, "12")
    with pytest.raises(SettingsError, match="TRITONODE_CPU_ACTIVATION_BITS='12': use 8 or 16"):
        packed_layers.activation_bits(torch.bfloat16, 4)
