"""A process that imports what every rank imports and is then forked, once for each rank.

It starts when a model of several ranks begins to load, and so imports while this process does; or it is itself a fork
of a warm child that gets such a model, and has imported already. Its forks start at once and share its memory.

A fork copies only the thread that calls it. What another thread has locked stays locked in the copy, and OpenMP's
threads are missing there. So this process forks only while it has a single thread, which it counts before each fork.
If there are more, or if it has ended, ranks are spawned as vLLM does.
"""

from __future__ import annotations

import gc
import io
import json
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
from multiprocessing import forkserver, popen_forkserver, reduction, resource_tracker, spawn, util
from multiprocessing.context import set_spawning_popen
from pathlib import Path
from typing import Any, NoReturn

from tritonode.vllm import lazy_packages

from .threads import note_environment

# A rank's process id, then its exit code.
_NUMBER = struct.Struct("q")
# Descriptors of one message (SCM_MAX_FD in the kernel).
_MOST_DESCRIPTORS = 253
_LARGEST_MESSAGE = 1 << 20


class _Fork:
    """A process that this one has forked, with what `RankServer` needs of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _serve_and_exit(ours: socket.socket, theirs: socket.socket) -> NoReturn:
    code = 1
    try:
        ours.close()
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        serve(theirs.detach())
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        sys.stderr.flush()
    finally:
        os._exit(code)


class RankServer:
    """The process, seen from the engine's."""

    running: RankServer | None = None

    def __init__(self, channel: socket.socket, process: subprocess.Popen[bytes] | _Fork) -> None:
        self._socket = channel
        self._process = process

    @classmethod
    def start(cls) -> None:
        """Start it, once. Returns at once; a rank waits for its imports."""
        if cls.running is not None or not hasattr(os, "pidfd_open"):
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            program = f"import sys; sys.path[:] = {sys.path!r}; from tritonode.ranks import server; "
            process = subprocess.Popen(
                [
                    os.fsdecode(spawn.get_executable()),
                    *util._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                    "-c",
                    f"{program}server.serve({theirs.fileno()})",
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        cls.running = cls(ours, process)

    @classmethod
    def fork_this_process(cls) -> None:
        """Make it a copy of this process, which has imported everything. Does nothing if it has several threads."""
        if cls.running is not None or not hasattr(os, "pidfd_open") or _threads() != 1:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            _serve_and_exit(ours, theirs)
        theirs.close()
        cls.running = cls(ours, _Fork(pid))

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(self, descriptors: list[int]) -> tuple[int, int, int]:
        """Make a process that runs what is written for it.

        Returns its process id, the descriptor that its exit code comes from, and the one to write to. Raises OSError or
        EOFError if the server has ended or refuses.
        """
        status, their_status = os.pipe()
        their_data, data = os.pipe()
        try:
            tracker = resource_tracker.getfd()
            assert tracker is not None
            given = [their_data, their_status, tracker, *descriptors]
            socket.send_fds(self._socket, [pickle.dumps(dict(os.environ))], given)
        except BaseException:
            os.close(status)
            os.close(data)
            raise
        finally:
            os.close(their_data)
            os.close(their_status)
        try:
            return forkserver.read_signed(status), status, data
        except BaseException:
            os.close(status)
            os.close(data)
            raise

    def close(self) -> None:
        """End the server. Ranks that it has started go on."""
        if RankServer.running is self:
            RankServer.running = None
        self._socket.close()
        self._process.kill()
        self._process.wait()


class ForkedPopen(popen_forkserver.Popen):
    """`multiprocessing`'s handle of a process that a server forks, for this server."""

    def _launch(self, process_obj: Any) -> None:
        server = RankServer.running
        if server is None:
            raise EOFError("there is no server of ranks")
        content = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(spawn.get_preparation_data(process_obj._name), content)
            reduction.dump(process_obj, content)
        finally:
            set_spawning_popen(None)
        self.pid, self.sentinel, data = server.fork(self._fds)  # type: ignore[attr-defined]
        # The rank sees by the end of this pipe that this process has ended.
        kept = os.dup(data)
        self.finalizer = util.Finalize(
            self,
            util.close_fds,  # type: ignore[attr-defined]
            (kept, self.sentinel),
        )
        with open(data, "wb") as file:
            file.write(content.getbuffer())


def import_what_ranks_import() -> None:
    """Import what a rank on the CPU imports until its engine runs. Imports torch and vLLM."""
    lazy_packages.install_on_cpu()
    from tritonode.vllm.early_imports import import_early
    from tritonode.vllm.platform import compile_eagerly, is_cpu

    compile_eagerly()
    if is_cpu():
        import_early()


def is_of_use(model_directory: str) -> bool:
    """Whether the model in this folder runs in several ranks that can be forked. Imports neither torch nor vLLM."""
    if os.environ.get("VLLM_WORKER_MULTIPROC_METHOD") != "spawn" or not lazy_packages.is_cpu_build():
        return False
    # Else each rank gets an environment of its own, which OpenMP reads when torch is imported.
    if os.environ.get("VLLM_CPU_OMP_THREADS_BIND") != "nobind":
        return False
    try:
        arguments = json.loads(Path(model_directory, "model.json").read_text(encoding="utf-8"))
        sizes = [int(arguments.get(name, 1)) for name in ("tensor_parallel_size", "pipeline_parallel_size")]
        return max(sizes) > 1 and arguments.get("distributed_executor_backend") in (None, "mp")
    except (OSError, ValueError, TypeError, AttributeError):
        # The load reports what is wrong with the file.
        return False


def serve(descriptor: int) -> None:
    """Import, then fork for each message until the engine's process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # numpy's OpenBLAS makes threads when it is imported; nothing in a rank computes with it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.disable()
    import_what_ranks_import()
    from tritonode.vllm import executor  # noqa: F401

    gc.collect()
    # Collections would write to the memory that the ranks share.
    gc.freeze()
    gc.enable()
    # Ranks, too, leave a model's folder as it is: see model.py.
    sys.dont_write_bytecode = True
    statuses: dict[int, tuple[int, int]] = {}
    with socket.socket(fileno=descriptor) as requests:
        poll = select.poll()
        poll.register(requests, select.POLLIN)
        while True:
            for ready, _ in poll.poll():
                if ready == requests.fileno():
                    message, descriptors, _, _ = socket.recv_fds(requests, _LARGEST_MESSAGE, _MOST_DESCRIPTORS)
                    if not message:
                        return
                    pid = _fork(requests, message, descriptors, [own for _, own in statuses.values()])
                    if pid:
                        handle = os.pidfd_open(pid)
                        statuses[handle] = pid, os.dup(descriptors[1])
                        poll.register(handle, select.POLLIN)
                        _tell(descriptors[1], pid)
                    for each in descriptors:
                        os.close(each)
                else:
                    pid, status = statuses.pop(ready)
                    poll.unregister(ready)
                    os.close(ready)
                    _tell(status, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                    os.close(status)


def _tell(descriptor: int, number: int) -> None:
    try:
        os.write(descriptor, _NUMBER.pack(number))
    except BrokenPipeError:
        pass


def _fork(requests: socket.socket, message: bytes, descriptors: list[int], others: list[int]) -> int:
    """Fork; returns 0 without a fork if that is not safe. The fork runs its process and does not return."""
    threads = _threads()
    if threads != 1:
        print(f"tritonode: ranks are spawned: the server of ranks has {threads} threads", file=sys.stderr)
        return 0
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        data, status, tracker, *inherited = descriptors
        requests.close()
        for descriptor in (status, *others):
            os.close(descriptor)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        note_environment()
        os.environ.clear()
        os.environ.update(pickle.loads(message))
        resource_tracker._resource_tracker._fd = tracker  # type: ignore[attr-defined]
        forkserver._forkserver._inherited_fds = inherited  # type: ignore[attr-defined]
        code = spawn._main(data, os.dup(data))  # type: ignore[attr-defined]
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        sys.stderr.flush()
    finally:
        os._exit(code)
