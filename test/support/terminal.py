"""Runs a program in a pseudo-terminal and types into it: `terminal.py JSON`, with `argv`, `steps` and `timeout` (s).

Each step waits until what the program has written since the last step matches `wait` (a regular expression), then types
`type`. Prints a JSON object: the exit code, all that was written, and how many steps are left.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import sys
import termios
import time


def main() -> None:
    request = json.loads(sys.argv[1])
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(request["argv"][0], request["argv"])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    screen, seen, ends_at = "", 0, time.monotonic() + request["timeout"]
    steps = list(request["steps"])
    while time.monotonic() < ends_at:
        if steps and re.search(steps[0]["wait"], screen[seen:]):
            seen = len(screen)
            os.write(terminal, steps.pop(0)["type"].encode())
        if not select.select([terminal], [], [], 0.2)[0]:
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux's way to say that the program has closed it
            break
        if not data:
            break
        screen += data.decode("utf-8", "replace")
    else:
        os.kill(pid, 9)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(json.dumps({"code": code, "screen": screen, "left": len(steps)}))


main()
