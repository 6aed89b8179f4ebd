# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks that are broken off in the middle: what an operator's power cut, closed laptop or Ctrl-C leaves of them.

The next run has to find out what is missing by looking, for it does not know what the one before has changed.
"""

from __future__ import annotations

import dataclasses
import pathlib
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence

PLUGINS = pathlib.Path(__file__).with_name("callback_plugins")


@dataclasses.dataclass
class Run:
    """An `ansible-playbook` that has ended, somehow."""

    rc: int
    output: str
    changes: list[str]
    "Tasks, with the items of loops, that have changed something."

    def expect(self, rc: int = 0) -> Run:
        """Fail with the output if the exit code is another."""
        assert self.rc == rc, f"after {self.changes}: {self.output}"
        return self


Playbook = Callable[[int], Run]
"A playbook, to be broken off after a number of changes; 0 lets it come to its end."


def run(command: Sequence[str], *, directory: pathlib.Path, environment: Mapping[str, str], after: int) -> Run:
    """Run `ansible-playbook`, and break it off after a number of changes."""
    with tempfile.NamedTemporaryFile("r", prefix="cvmfs-changes-") as changes:
        settings = {
            "ANSIBLE_CALLBACK_PLUGINS": str(PLUGINS),
            "ANSIBLE_CALLBACKS_ENABLED": "break_off",
            "CVMFS_BREAK_OFF_CHANGES": changes.name,
            "CVMFS_BREAK_OFF_AFTER": str(after),
        }
        done = subprocess.run(
            command,
            cwd=directory,
            env={**environment, **settings},
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
        )
        return Run(done.returncode, done.stdout, changes.read().splitlines())


def step_by_step(playbook: Playbook) -> list[str]:
    """Break off each run after its first change, until one has nothing left to change. Return what they have changed.

    So no run knows of another's changes, and what is done only by the run that has made a change is never done.
    """
    changes: list[str] = []
    while (broken := playbook(1)).rc == -signal.SIGKILL:
        changes += broken.changes
        assert len(changes) < 100, changes
    broken.expect()
    assert broken.changes == []
    return changes


def lost(expected: list[str], changes: list[str]) -> list[str]:
    """Return what a run changes that is not broken off, and others have not."""
    return [change for change in expected if change not in changes]
