"""End this process when its host dies.

Triton's stub notices a dead host only while idle; when the host is killed in the middle of a stream the stub hangs,
ignores SIGTERM and keeps its memory. A pidfd becomes readable when its process ends (pidfd_open(2)).
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time


def watch_host(host_pid: int) -> None:
    """Start a daemon thread that kills this process and its descendants when `host_pid` has ended."""
    try:
        pidfd: int | None = os.pidfd_open(host_pid)
    except OSError:
        pidfd = None  # Linux before 5.3: poll instead.
    if os.getppid() != host_pid:
        _end()
    threading.Thread(target=_wait, args=(host_pid, pidfd), name="host-watch", daemon=True).start()


def _wait(host_pid: int, pidfd: int | None) -> None:
    if pidfd is not None:
        select.select([pidfd], [], [])
    else:
        while os.getppid() == host_pid:
            time.sleep(0.2)
    _end()


def _end() -> None:
    _unlink_shared_memory()
    end_process()


def end_process() -> None:
    """Kill this process's descendants, then this process."""
    for pid in _descendants(os.getpid()):
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    os.kill(os.getpid(), signal.SIGKILL)


def _unlink_shared_memory() -> None:
    """Remove the region that the host shared with this stub (the stub's second argument): the host no longer can."""
    try:
        with open("/proc/self/cmdline", "rb") as file:
            arguments = file.read().split(b"\0")
        os.unlink(os.path.join(b"/dev/shm", arguments[2].lstrip(b"/")))
    except (OSError, IndexError):
        pass


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    # The command name is in parentheses and may itself contain spaces and parentheses.
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry))
    found, todo = [], [root]
    while todo:
        for child in children.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found
