"""Devices and interfaces that the child's environment names."""

from __future__ import annotations

import os
from typing import Any

import pytest
from tritonode.contract import tensors as contract
from tritonode.engine.environment import check_addresses, visible_device
from tritonode.errors import SettingsError


@pytest.mark.parametrize(
    ("index", "inherited", "expected"),
    [
        (0, None, "0"),
        (3, None, "3"),
        (0, "2,3", "2"),
        (1, "2,3", "3"),
        (1, "2, 3", "3"),
        (0, "GPU-8f1c,MIG-77", "GPU-8f1c"),
    ],
)
def test_tritons_device_is_one_of_those_it_sees(index: int, inherited: str | None, expected: str) -> None:
    assert visible_device(index, inherited) == expected


def test_a_device_beyond_those_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"GPU 2.*CUDA_VISIBLE_DEVICES='2,3' shows 2"):
        visible_device(2, "2,3")


def test_several_ranks_talk_over_loopback_whichever_library_they_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "eth0")
    check_addresses(2)
    assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == ("lo", "lo")


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([], 1),
        ([{"kind": "KIND_MODEL", "count": 1, "gpus": []}], 1),
        ([{"kind": "KIND_MODEL", "count": 2, "gpus": []}], 2),
        ([{"kind": "KIND_GPU", "count": 1, "gpus": [0, 1]}], 2),
        ([{"kind": "KIND_GPU", "count": 2, "gpus": [0]}, {"kind": "KIND_CPU", "count": 1}], 3),
    ],
)
def test_instances_are_counted(groups: list[dict[str, Any]], expected: int) -> None:
    assert contract.instance_count({"instance_group": groups}) == expected
