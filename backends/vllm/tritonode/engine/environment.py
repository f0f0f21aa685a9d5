"""Settings of the child process that must be in place before torch and vLLM are imported.

They are the process's own: the stub runs only this model. Whatever the user has set in the environment stands.
"""

from __future__ import annotations

import faulthandler
import ipaddress
import locale
import os
import signal
import socket

from tritonode.errors import SettingsError

# Each line: why the engine needs it when it runs inside somebody else's application.
_DEFAULTS = {
    # Telemetry and hub look-ups are network traffic that nobody asked for.
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Without it vLLM's get_ip() opens a UDP socket towards a public resolver to learn its own address.
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOOPBACK_IP": "127.0.0.1",
    # A second process would bring ZMQ sockets and a second import of torch.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # Adapters come from folders; nothing may resolve a name against a hub.
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    # Threads bound to CPUs lose nearly all speed as soon as the host itself is busy on one of them: pace.py binds them
    # while it is not.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # How many times an idle OpenMP thread looks for work before it sleeps. This many are quickest on an idle host and
    # starve a busy one, where pace.py makes it a hundred: docs/benchmarks.md has the figures.
    "GOMP_SPINCOUNT": "20000",
    # oneDNN keeps the last 1,024 matrix products that it has prepared, 0.3 MiB each. Each number of tokens in a step is
    # another one, for each shape of weights: 300 MiB, in no time. Preparing one anew takes 0.2 to 0.5 ms.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    "TOKENIZERS_PARALLELISM": "false",
    # A progress bar writes carriage returns into the log.
    "TQDM_DISABLE": "1",
}

# Settings of how threads wait, and of where they run: a user who has set one has chosen.
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_BINDING = ("VLLM_CPU_OMP_THREADS_BIND", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY")
# For processes that pace.py is not at work in: a tenth slower on an idle host than the default.
_UNPACED_SPINS = "2000"
_users: set[str] = set()


def prepare_vllm() -> None:
    """Keep vLLM from compiling helpers of its sampler at their first use. Imports a part of vLLM; call it first.

    On a CPU vLLM hands a handful of one-line functions to torch's inductor when they are first called: the first
    request with logprobs took 10 s here, and would fail on a machine without a C++ compiler. The decorators read this
    attribute when their modules are imported.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        current_platform.simple_compile_backend = "eager"


def prepare() -> None:
    """Set the defaults above where the user has set nothing, and a UTF-8 locale.

    The interpreter that Triton embeds starts in the C locale and ignores PYTHONUTF8; torch 2.13 then fails to import
    with an ASCII decode error.
    """
    if not _users:  # a second call would find what the first has set
        _users.update(os.environ)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    # urllib3 asks, when it is imported, whether IPv6 works: by binding a TCP socket to ::1.
    socket.has_ipv6 = False
    for name in ("C.UTF-8", "C.utf8", "en_US.UTF-8"):
        try:
            locale.setlocale(locale.LC_CTYPE, name)
            return
        except locale.Error:
            continue


def waiting_is_ours(paced: bool) -> bool:
    """Tell whether how long threads wait awake is left to this package, and settle it for processes that start later.

    Args:
        paced: whether this process's own threads are the engine's, so that :mod:`pace` can watch over them.
    """
    if any(name in _users for name in _WAITING):
        return False
    if not paced:
        os.environ["GOMP_SPINCOUNT"] = _UNPACED_SPINS
    return paced


def binding_is_ours() -> bool:
    """Tell whether which CPUs threads run on is left to this package."""
    return not any(name in _users for name in _BINDING)


def report_crashes() -> None:
    """On a fatal signal write Python's stacks to the log and die at once. For the main thread, after torch is imported.

    torch's own handler looks every C++ symbol up first: 1.4 s in which the host's requests would hang.
    """
    for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    faulthandler.enable()


def check_addresses(world_size: int) -> None:
    """Several ranks talk over sockets: loopback ones, or none. Raises SettingsError for any other address."""
    if world_size == 1:
        return
    for name in ("VLLM_HOST_IP", "VLLM_LOOPBACK_IP", "MASTER_ADDR"):
        address = os.environ.get(name, "127.0.0.1")
        try:
            loopback = ipaddress.ip_address(address).is_loopback
        except ValueError:
            loopback = address == "localhost"
        if not loopback:
            raise SettingsError(
                f"{name} is {address!r}: the ranks of a model talk over loopback here, nothing may listen elsewhere; "
                "unset it, or serve the model repository with a stock tritonserver"
            )
    # gloo binds to what the host's name resolves to, NCCL to any interface but this one, unless they are told.
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    os.environ["NCCL_SOCKET_IFNAME"] = "lo"


def visible_device(index: int, inherited: str | None) -> str:
    """What CUDA_VISIBLE_DEVICES must be for the device that Triton numbers `index`.

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
