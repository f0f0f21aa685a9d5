"""The slots of a decoding step, on vLLM's own block table."""

from __future__ import annotations

import pytest
import torch
from tritonode.engine import environment
from tritonode.vllm import versions

environment.prepare()
environment.prepare_vllm()
if not versions.since(0, 32):
    pytest.skip("makes block tables as vLLM 0.32 does", allow_module_level=True)

from tritonode.vllm.slots import map_decoding_here  # noqa: E402
from vllm.v1.worker.block_table import BlockTable, SlotMappingMode  # noqa: E402

BLOCK = 16


def block_table(mode: SlotMappingMode = SlotMappingMode.TOKEN_TO_KV_SLOT) -> BlockTable:
    table = BlockTable(BLOCK, 4, 8, 64, False, torch.device("cpu"), 1, mode)
    for row, blocks in enumerate(([5, 1], [7], [134_217_727, 3, 2])):
        table.add_row(blocks, row)
    table.commit_block_table(3)
    table.slot_mapping.gpu.fill_(-7)
    return table


def test_one_token_for_each_request() -> None:
    map_decoding_here()
    table = block_table()
    table.compute_slot_mapping(3, torch.tensor([0, 1, 2, 3], dtype=torch.int32), torch.tensor([17, 3, 4]))
    # The last one is beyond 31 bits.
    assert table.slot_mapping.gpu[:4].tolist() == [1 * BLOCK + 1, 7 * BLOCK + 3, 134_217_727 * BLOCK + 4, -7]


def test_others_are_vllms(monkeypatch: pytest.MonkeyPatch) -> None:
    map_decoding_here()
    from vllm.v1.worker import block_table as module

    table, recurrent = block_table(), block_table(SlotMappingMode.NONE)
    asked: list[int] = []
    monkeypatch.setattr(module, "_COMPUTE_SLOT_MAPPING_KERNEL", lambda requests, *_: asked.append(requests))
    table.compute_slot_mapping(2, torch.tensor([0, 1, 3], dtype=torch.int32), torch.tensor([17, 3, 4]))
    table.compute_slot_mapping(3, torch.tensor([0, 0, 1, 3], dtype=torch.int32), torch.tensor([17, 3, 4]))
    recurrent.compute_slot_mapping(1, torch.tensor([0, 1]), torch.tensor([0]))
    assert asked == [2, 3]
