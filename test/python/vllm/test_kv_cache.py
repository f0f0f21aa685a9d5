"""The KV cache of a CPU engine takes memory as it is used."""

from __future__ import annotations

import psutil
import torch
from tritonode.engine import environment

environment.prepare()
environment.prepare_vllm()

from tritonode.vllm.kv_cache import take_memory_as_it_is_used  # noqa: E402
from vllm.v1.worker import utils  # noqa: E402

MIB = 1 << 20


def resident() -> int:
    return psutil.Process().memory_info().rss


def test_memory_is_taken_when_it_is_written() -> None:
    take_memory_as_it_is_used()
    take_memory_as_it_is_used()
    before = resident()
    cache = utils.torch.zeros(512 * MIB, dtype=torch.int8, device=torch.device("cpu"))
    assert cache.shape == (512 * MIB,) and cache.dtype == torch.int8
    assert resident() - before < 64 * MIB
    assert int(cache[:: 4 * MIB].abs().sum()) == 0
    cache[256 * MIB :] = 1
    assert resident() - before > 200 * MIB
    assert cache.view(torch.bfloat16).numel() == 256 * MIB


def test_other_tensors_are_torchs_own() -> None:
    take_memory_as_it_is_used()
    assert utils.torch.zeros(3, 4).shape == (3, 4)
    assert utils.torch.zeros(8, dtype=torch.int8).tolist() == [0] * 8
    assert utils.torch.ones(2).tolist() == [1.0, 1.0]
    assert torch.zeros.__module__ != "tritonode.vllm.kv_cache"
