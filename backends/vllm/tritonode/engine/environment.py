"""Environment variables of this process that must be set before torch and vLLM are imported.

They affect no one else: the stub runs only this model. A variable that the user has set is left as it is.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import ipaddress
import locale
import os
import shutil
import signal
import socket
from typing import Any

from tritonode.errors import SettingsError
from tritonode.vllm import lazy_packages, left_out, versions

# Each comment says why the engine needs the setting inside another application.
_DEFAULTS = {
    # No telemetry and no hub look-ups: the user asked for neither.
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Without it vLLM's get_ip() opens a UDP socket to a public resolver to find its own address.
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOOPBACK_IP": "127.0.0.1",
    # A second process would need ZMQ sockets and a second import of torch.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # Adapters come from folders; no name is looked up on a hub.
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    # Bound threads lose nearly all their speed when the host is busy on one of their CPUs. cpu/pace.py binds them while
    # it is not.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # How many times an idle OpenMP thread checks for work before it sleeps. This value is fastest on an idle host and
    # starves a busy one, where cpu/pace.py lowers it to a hundred: docs/benchmarks/peers.md has the figures.
    "GOMP_SPINCOUNT": "20000",
    # oneDNN caches the last 1,024 matrix products that it has prepared, 0.3 MiB each. Every number of tokens in a step
    # needs its own for every shape of weights, so the cache soon takes 300 MiB. Preparing one takes 0.2 to 0.5 ms.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    "TOKENIZERS_PARALLELISM": "false",
    # A progress bar writes carriage returns into the log.
    "TQDM_DISABLE": "1",
}

# How threads wait, how many a rank has, and where they run. If the user has set one of these, this package does not
# change it.
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_COUNT = ("OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND")
_BINDING = ("VLLM_CPU_OMP_THREADS_BIND", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY")
# For processes without cpu/pace.py: a tenth slower on an idle host than the default above.
_UNPACED_SPINS = "2000"
_users: set[str] = set()


def prepare_vllm() -> str | None:
    """Check vLLM's version, and set what must be set in vLLM itself before the rest of it is imported.

    Returns a warning about the version, or None. Raises UnsupportedError for a version that is not served.
    """
    warning = versions.check()
    left_out.explain()
    lazy_packages.install_on_cpu()
    from tritonode.vllm.platform import compile_eagerly

    compile_eagerly()
    return warning


def prepare() -> None:
    """Set the defaults above where the user has set nothing, and a UTF-8 locale.

    The interpreter that Triton embeds starts in the C locale and ignores PYTHONUTF8; torch 2.13 then fails to import
    with an ASCII decode error.
    """
    if not _users:  # a second call would find what the first has set
        _users.update(os.environ)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not compiles_cuda():
        # On a GPU vLLM samples with FlashInfer, which builds its kernels with nvcc while the first model is loaded.
        os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    # When urllib3 is imported, it tests whether IPv6 works by binding a TCP socket to ::1.
    socket.has_ipv6 = False
    for name in ("C.UTF-8", "C.utf8", "en_US.UTF-8"):
        try:
            locale.setlocale(locale.LC_CTYPE, name)
            return
        except locale.Error:
            continue


_TOOLKIT = "/usr/local/cuda"


def compiles_cuda() -> bool:
    """Whether FlashInfer finds CUDA's compiler, or has its kernels built already."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), _TOOLKIT]
    places = os.pathsep.join(os.path.join(home, "bin") for home in homes if home)
    found = shutil.which("nvcc") or shutil.which("nvcc", path=places)
    return found is not None or importlib.util.find_spec("flashinfer_jit_cache") is not None


def waiting_is_ours(paced: bool) -> bool:
    """Return whether this package may choose how long threads spin, and set it for processes that start later.

    Args:
        paced: whether the engine runs on threads of this process, so that `cpu.pace` can control them.
    """
    if any(name in _users for name in _WAITING):
        return False
    if not paced:
        os.environ["GOMP_SPINCOUNT"] = _UNPACED_SPINS
    return paced


def binding_is_ours() -> bool:
    """Return whether this package may choose the CPUs that threads run on."""
    return not any(name in _users for name in _BINDING)


def thread_count_is_ours() -> bool:
    """Return whether this package may choose how many OpenMP threads each rank of an engine has."""
    return not any(name in _users for name in _COUNT)


def report_crashes() -> None:
    """On a fatal signal, write Python's stacks to the log and end at once.

    Call it on the main thread, after torch is imported. torch's own handler resolves every C++ symbol first, which
    takes 1.4 s in which the host's requests would hang.
    """
    for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    faulthandler.enable()


# Set it to allow a model's ranks on a network, or Ray's daemons on the machine.
ALLOW_NETWORK = "TRITONODE_ALLOW_NETWORK"
_ADDRESSES = ("VLLM_HOST_IP", "VLLM_LOOPBACK_IP")


def check_addresses(world_size: int, executor: Any = None, *, on_cpu: bool = False) -> None:
    """Check that the engine does not use the network, unless TRITONODE_ALLOW_NETWORK=1 allows it.

    The ranks of an engine connect over loopback only. Ray starts daemons that listen on every interface, and may place
    ranks on other machines. `executor` is the engine argument `distributed_executor_backend`.

    Raises SettingsError for Ray or an address that is not loopback without that variable, and for Ray on a CPU.
    """
    if executor == "ray":
        if on_cpu:
            raise SettingsError(
                "distributed_executor_backend 'ray': vLLM's CPU build places no ranks on Ray (its platform has no "
                "resource of Ray's); use 'mp'"
            )
        if os.environ.get(ALLOW_NETWORK) != "1":
            raise SettingsError(
                "distributed_executor_backend 'ray' starts daemons that listen on the network; if that is meant, load "
                f"the model with {ALLOW_NETWORK}=1 in its environment, or use 'mp' for ranks on this machine alone"
            )
    elif world_size == 1:
        return
    if os.environ.get(ALLOW_NETWORK) == "1":
        for name in _ADDRESSES:
            if name not in _users:  # this package set it to loopback, for an engine on one machine
                os.environ.pop(name, None)
        return
    for name in (*_ADDRESSES, "MASTER_ADDR"):
        address = os.environ.get(name, "127.0.0.1")
        try:
            loopback = ipaddress.ip_address(address).is_loopback
        except ValueError:
            loopback = address == "localhost"
        if not loopback:
            raise SettingsError(
                f"{name} is {address!r}: the ranks of a model connect over loopback here and may not listen elsewhere; "
                f"unset it, or set {ALLOW_NETWORK}=1 in the model's environment if that is meant"
            )
    # By default gloo binds to the address of the host's name, and NCCL to any interface but loopback.
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    os.environ["NCCL_SOCKET_IFNAME"] = "lo"


def visible_device(index: int, inherited: str | None) -> str:
    """Return the value of CUDA_VISIBLE_DEVICES for the device that Triton numbers `index`.

    Triton numbers the devices that it sees itself: with "2,3" inherited, its device 0 is the machine's 2. The entries
    may be UUIDs too. Raises SettingsError for a number beyond the inherited list.
    """
    if inherited is None:
        return str(index)
    devices = [device.strip() for device in inherited.split(",")]
    if index >= len(devices):
        raise SettingsError(
            f"the model is placed on GPU {index}, and CUDA_VISIBLE_DEVICES={inherited!r} shows {len(devices)}; "
            "correct `gpus` of the instance_group in config.pbtxt"
        )
    return devices[index]
