# SPDX-License-Identifier: GPL-3.0-or-later
"""Notes what a playbook changes, and breaks it off after a number of changes. See ../breaking_off.py."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    """A change is a task, or one item of a task that loops."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "break_off"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._changes = pathlib.Path(os.environ["CVMFS_BREAK_OFF_CHANGES"])
        self._left = int(os.environ["CVMFS_BREAK_OFF_AFTER"])  # 0: never

    def v2_runner_on_ok(self, result: Any) -> None:
        if "results" not in result.result:
            self._count(result, "")

    def v2_runner_item_on_ok(self, result: Any) -> None:
        self._count(result, f" ({self._get_item_label(result.result)})")

    def _count(self, result: Any, item: str) -> None:
        if not result.result.get("changed"):
            return
        with self._changes.open("a") as stream:
            stream.write(f"{result.task.get_name()}{item}\n")
        self._left -= 1
        if self._left == 0:
            for process in [*_descendants(os.getpid()), os.getpid()]:
                with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                    os.kill(process, signal.SIGKILL)


def _descendants(process: int) -> Iterator[int]:
    """Ansible's workers, and what they have started."""
    children = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended by itself
        for task in pathlib.Path(f"/proc/{process}/task").iterdir():
            children += (task / "children").read_text().split()
    for child in children:
        yield int(child)  # before its children: it starts no more
        yield from _descendants(int(child))
