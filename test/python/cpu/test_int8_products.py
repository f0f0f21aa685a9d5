"""When a load warns that int8 products are wrong on this processor: decided without such a processor."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

import tiny_models
import tiny_quantised
import torch
from transformers import LlamaConfig
from tritonode.cpu import checkpoint_layers, int8_products, linear_layers

OURS, THEIRS = checkpoint_layers.CompressedConfig.get_name(), "compressed-tensors"


def _config(activations: int | None, bits: int = 8) -> dict[str, Any]:
    inputs = None if activations is None else {"type": "int", "num_bits": activations}
    group = {"weights": {"type": "int", "num_bits": bits}, "input_activations": inputs}
    return {"format": "int-quantized" if activations else "pack-quantized", "config_groups": {"group_0": group}}


def _model(quantization: str | None, config: dict[str, Any] | None) -> Any:
    hf = SimpleNamespace() if config is None else SimpleNamespace(quantization_config=config)
    return SimpleNamespace(quantization=quantization, hf_config=SimpleNamespace(), hf_text_config=hf)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged. Loggers of vLLM's do not propagate, and its level may be set above."""
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    caplog.set_level(logging.WARNING, int8_products.logger.name)
    monkeypatch.delenv(linear_layers.VARIABLE, raising=False)
    monkeypatch.delenv(checkpoint_layers.VARIABLE, raising=False)
    return caplog


@pytest.fixture
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor with AVX2 alone."""
    monkeypatch.setattr(int8_products.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    monkeypatch.setattr(int8_products, "_has_avx_vnni", lambda: False)


@pytest.mark.usefixtures("avx2")
@pytest.mark.parametrize(
    ("quantization", "config", "warned"),
    [
        (THEIRS, _config(8), True),
        (OURS, _config(8), False),
        (THEIRS, _config(None), False),
        (THEIRS, _config(8, bits=4), False),
        (None, None, False),
        ("fp8", {"quant_method": "fp8"}, False),
    ],
    ids=["vllm", "ours", "W8A16", "W4A8", "plain", "fp8"],
)
def test_only_int8_by_int8_on_vllms_kernels_is_wrong(
    warnings: pytest.LogCaptureFixture, quantization: str | None, config: dict[str, Any] | None, warned: bool
) -> None:
    int8_products.warn(_model(quantization, config))
    assert bool(warnings.records) == warned


@pytest.mark.usefixtures("avx2")
def test_the_warning_says_what_to_do(warnings: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    int8_products.warn(_model(THEIRS, _config(8)))
    assert "use weights with 16-bit activations (W8A16)" in warnings.text
    monkeypatch.setenv(linear_layers.VARIABLE, "vllm")
    int8_products.warn(_model(THEIRS, _config(8)))
    assert "unset TRITONODE_CPU_LINEAR." in warnings.text


@pytest.mark.usefixtures("avx2")
@pytest.mark.parametrize(
    ("machine", "avx512_vnni", "avx_vnni"),
    [("x86_64", True, False), ("x86_64", False, True), ("aarch64", False, False)],
)
def test_processors_whose_products_are_right(
    warnings: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    avx512_vnni: bool,
    avx_vnni: bool,
) -> None:
    monkeypatch.setattr(int8_products.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: avx512_vnni)
    monkeypatch.setattr(int8_products, "_has_avx_vnni", lambda: avx_vnni)
    int8_products.warn(_model(THEIRS, _config(8)))
    assert not warnings.records


@pytest.mark.usefixtures("avx2")
@pytest.mark.parametrize("kernels", ["vllm", "tritonode"])
def test_a_checkpoint_as_vllm_reads_it(
    warnings: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernels: str
) -> None:
    from vllm.engine.arg_utils import EngineArgs

    source = tiny_models.write_model(tmp_path / "source", LlamaConfig(**tiny_models.SIZES))
    model = tmp_path / "w8a8"
    tiny_quantised.write_quantised(source, model, tmp_path / "plain", tiny_quantised.compressed_w8a8())
    monkeypatch.setenv(linear_layers.VARIABLE, kernels)
    checkpoint_layers.install()
    int8_products.warn(EngineArgs(str(model), skip_tokenizer_init=True).create_model_config())
    assert [record.name for record in warnings.records if "W8A8" in record.message] == (
        [int8_products.logger.name] if kernels == "vllm" else []
    )
