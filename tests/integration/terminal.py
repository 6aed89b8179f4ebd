# SPDX-License-Identifier: GPL-3.0-or-later
"""A person at a terminal: types, reads, and may lose the connection."""

from __future__ import annotations

import os
import pathlib
import pty
import select
import subprocess
import time
from types import TracebackType
from typing import Self


class Terminal:
    """A command that has a terminal of its own, until the context is left."""

    def __init__(self, command: list[str], *, cwd: pathlib.Path | None = None) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *command],
            cwd=cwd,
            env={**os.environ, "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self._unread = b""
        self._all = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.hang_up()

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self._master, line.encode() + b"\n")

    def expect(self, text: str, seconds: float = 60) -> str:
        """Read until `text` comes; return what came before it. What was read is not looked at again."""
        before, found, rest = b"", b"", self._unread
        deadline = time.monotonic() + seconds
        while not found:
            assert time.monotonic() < deadline, f"{text!r} did not come:\n{self.transcript}"
            ready, _, _ = select.select([self._master], [], [], 0.5)
            data = self._read() if ready else b""
            if ready and not data:
                raise AssertionError(f"{text!r} did not come before the end:\n{self.transcript}")
            rest += data
            before, found, rest = (rest, b"", rest) if text.encode() not in rest else rest.partition(text.encode())
        self._unread = rest
        return before.decode(errors="replace")

    def hang_up(self) -> None:
        """Lose the connection."""
        os.close(self._master)
        self._process.wait(timeout=60)

    def end(self, seconds: float = 60) -> int:
        """Read on until the command has ended; return its exit code."""
        deadline = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < deadline, self.transcript
        code = self._process.wait(timeout=seconds)
        os.close(self._master)
        return code

    @property
    def transcript(self) -> str:
        """All that came."""
        return self._all.decode(errors="replace")

    def _read(self) -> bytes:
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # the command has ended
            data = b""
        self._all += data
        return data
