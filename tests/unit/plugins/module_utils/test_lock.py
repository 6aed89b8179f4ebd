# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock between the tasks of one host, with real processes."""

from __future__ import annotations

import pathlib
import stat
import subprocess
import sys
import time

import pytest
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._lock import lock

PURPOSE = "remove container rm"


def test_one_at_a_time(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "lock")
    with lock(path=path, purpose=PURPOSE):
        assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600
        began = time.monotonic()
        with pytest.raises(PublishingError) as caught, lock(path=path, purpose=PURPOSE, seconds=1):
            pass
        assert 1 <= time.monotonic() - began < 10
    assert str(caught.value) == (
        "Another task on this host has been at work to remove container rm for more than 1 seconds. Let it end, and try"
        f" again. If it hangs, end the process that `fuser -v {path}` shows: the lock ends with it. Leave the file"
        " where it is."
    )
    with lock(path=path, purpose=PURPOSE, seconds=0):
        pass


def test_it_is_waited_for(tmp_path: pathlib.Path) -> None:
    """As long as the process that has it lives."""
    program = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX);"
        " print(flush=True); time.sleep(1)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with lock(path=str(tmp_path / "lock"), purpose=PURPOSE):
            assert process.wait(10) == 0


def test_what_is_started_meanwhile_does_not_keep_it(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "lock")
    with lock(path=path, purpose=PURPOSE):
        daemon = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with lock(path=path, purpose=PURPOSE, seconds=0):
            pass
    finally:
        daemon.kill()
        daemon.wait()


def test_it_ends_with_an_error(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "lock")
    with pytest.raises(ZeroDivisionError), lock(path=path, purpose=PURPOSE):
        raise ZeroDivisionError
    with lock(path=path, purpose=PURPOSE, seconds=0):
        pass


def test_a_directory_that_is_not_there(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "missing" / "lock"
    with (
        pytest.raises(PublishingError, match=f"Cannot open the lock {path}: No such file"),
        lock(path=str(path), purpose=PURPOSE),
    ):
        pass
