"""A KV cache in fp8 takes half the memory of one in bfloat16, on vLLM's kernels, and answers nearly the same."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
import serving
import tiny_models
import torch
from transformers import LlamaConfig
from tritonode.cpu import attention

CACHE_BYTES = 16 << 20
PROMPT = [11, 45, 8, 301, 7, 99, 140] * 9
"""Longer than a block of the cache, so that what was kept is read again."""
ADAPTED = "adapter"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fp8")
    config = LlamaConfig(**{**tiny_models.SIZES, "num_attention_heads": 4})
    source = tiny_models.write_model(folder / "model", config)
    tiny_models.write_adapter(folder / ADAPTED, source, target_modules=["q_proj", "v_proj", "down_proj"])
    return folder


def _measure(folder: Path, kv_cache_dtype: str) -> tuple[int, list[dict[int, float]], list[dict[int, float]]]:
    """Tokens that fit into the cache, and log-probabilities alone and in a batch."""
    served = serving.Served(
        folder / "model", {ADAPTED: folder / ADAPTED}, dtype="bfloat16", kv_cache_dtype=kv_cache_dtype,
        kv_cache_memory_bytes=CACHE_BYTES, block_size=32,
    )  # fmt: skip
    try:
        cache: Any = served.engine.llm.vllm_config.cache_config
        alone = [served.logprobs(PROMPT, lora) for lora in (None, ADAPTED)]
        # The second time the prompt's first blocks come from the prefix cache.
        again = [served.logprobs(PROMPT, lora) for lora in (None, ADAPTED)]
        return cache.num_gpu_blocks * cache.block_size, alone, again
    finally:
        served.close()


def test_half_the_memory_and_nearly_the_same_answers(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.cpu._is_avx512_supported():
        pytest.skip("vLLM's fp8 cache needs AVX-512")
    # It would take precedence over kv_cache_memory_bytes.
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    attention._say_once.cache_clear()
    whole, wanted, _ = _measure(folder, "auto")
    logging.getLogger("vllm").propagate = True
    with caplog.at_level(logging.WARNING, attention.logger.name):
        tokens, *found = _measure(folder, "fp8")
    assert "ours lack kv_cache_dtype=fp8" in caplog.text
    # 2 layers, keys and values, 2 heads of 32: one byte each, in whole blocks.
    assert tokens == CACHE_BYTES // (2 * 2 * 2 * 32)
    assert tokens == 2 * whole
    for each in found:
        for numbers, near in zip(each, wanted, strict=True):
            both = numbers.keys() & near.keys()
            assert len(both) > 15
            assert max(abs(numbers[token] - near[token]) for token in both) < 0.5
        base, adapted = each
        assert max(abs(base[token] - adapted[token]) for token in base.keys() & adapted.keys()) > 0.1


def test_a_processor_without_kernels_for_it_refuses_the_load(folder: Path) -> None:
    if torch.cpu._is_avx512_supported() or torch.cpu._is_amx_tile_supported():
        pytest.skip("this processor has kernels for an fp8 cache")
    with pytest.raises(Exception, match="FP8 KV cache on CPU requires x86 with AVX-512 or AMX"):
        _measure(folder, "fp8")
