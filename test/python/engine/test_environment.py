"""Devices and interfaces that the child's environment names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tritonode.contract import tensors as contract
from tritonode.engine import environment
from tritonode.engine.environment import ALLOW_NETWORK, check_addresses, visible_device
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


def test_ray_is_refused_unless_the_network_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW_NETWORK, raising=False)
    for world_size in (1, 2):
        with pytest.raises(SettingsError, match=r"'ray' starts daemons that listen.*TRITONODE_ALLOW_NETWORK=1"):
            check_addresses(world_size, "ray")


def test_on_a_cpu_ray_is_refused_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_NETWORK, "1")
    with pytest.raises(SettingsError, match="CPU build places no ranks on Ray"):
        check_addresses(2, "ray", on_cpu=True)


@pytest.mark.parametrize(
    ("users", "ours"),
    [
        (set(), True),
        ({"GOMP_SPINCOUNT"}, True),
        ({"OMP_NUM_THREADS"}, False),
        ({"VLLM_CPU_OMP_THREADS_BIND"}, False),
    ],
)
def test_the_number_of_threads_is_the_users_where_he_says_so(
    monkeypatch: pytest.MonkeyPatch, users: set[str], ours: bool
) -> None:
    monkeypatch.setattr(environment, "_users", users)
    assert environment.thread_count_is_ours() == ours


@pytest.mark.parametrize("executor", ["ray", "mp"])
def test_an_allowed_network_frees_addresses_and_interfaces(monkeypatch: pytest.MonkeyPatch, executor: str) -> None:
    monkeypatch.setattr(environment, "_users", {"VLLM_HOST_IP"})
    monkeypatch.setenv(ALLOW_NETWORK, "1")
    monkeypatch.setenv("VLLM_HOST_IP", "10.0.0.7")
    monkeypatch.setenv("VLLM_LOOPBACK_IP", "127.0.0.1")
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    check_addresses(2, executor)
    assert os.environ["VLLM_HOST_IP"] == "10.0.0.7"
    assert not {"VLLM_LOOPBACK_IP", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"} & set(os.environ)
    monkeypatch.delenv(ALLOW_NETWORK)
    with pytest.raises(SettingsError, match=r"VLLM_HOST_IP is '10.0.0.7'.*set TRITONODE_ALLOW_NETWORK=1"):
        check_addresses(2, "mp")


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


def test_cudas_compiler_is_found_where_flashinfer_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_TOOLKIT", "/nowhere")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    assert not environment.compiles_cuda()
    compiler = tmp_path / "toolkit" / "bin" / "nvcc"
    compiler.parent.mkdir(parents=True)
    compiler.touch(mode=0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    assert environment.compiles_cuda()
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setenv("PATH", str(compiler.parent))
    assert environment.compiles_cuda()


def test_without_it_vllm_samples_by_itself_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "VLLM_USE_FLASHINFER_SAMPLER"
    monkeypatch.setattr(environment, "compiles_cuda", lambda: False)
    monkeypatch.setenv(name, "1")
    environment.prepare()
    assert os.environ[name] == "1"
    monkeypatch.delenv(name)
    environment.prepare()
    assert os.environ[name] == "0"
