# SPDX-License-Identifier: GPL-3.0-or-later
"""The container's entry point keeps the leases of open transactions, and gives them back when it ends."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from operations.managers import ReleaseManager

PROGRAM = Path(sys.executable).with_name("release-manager")
OFTEN = "import cvmfs_publisher.cli.release_manager as program; program._RENEW_EVERY = 0.1; program.main()"


@contextlib.contextmanager
def running(manager: ReleaseManager) -> Iterator[subprocess.Popen[str]]:
    """Run the entry point without arguments, with renewals that are more frequent than usual."""
    process = subprocess.Popen(
        [sys.executable, "-c", OFTEN], env=manager.process_environment, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def soon(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_renews_leases_and_gives_them_back(local: ReleaseManager) -> None:
    with running(local) as process:
        local.server("transaction").succeeded()
        local.expire_lease(10)
        soon(lambda: local.lease().expires > time.time() + 100)  # type: ignore[union-attr]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    state = local.state()
    assert state.lease_is_free
    assert not list(local.spool.iterdir())


def test_survives_trouble_with_a_repository(local: ReleaseManager) -> None:
    """It tells about a lost lease and a repository that is not in order, and goes on with the others."""
    broken = local.config_dir / "repositories.d" / "broken.example.org"
    broken.mkdir()
    (broken / "server.conf").write_text("this is no setting\n")
    local.server("transaction").succeeded()
    local.another("other").server("abort", "-f").succeeded()
    with running(local) as process:
        assert process.stderr is not None
        told = [process.stderr.readline() for _ in range(4)]
        assert any("the lease on broken.example.org was not renewed: " in line for line in told)
        assert any(f"the lease on {local.name} was not renewed: The transaction on" in line for line in told)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert local.state().lease_is_free
    assert not list(local.spool.iterdir())


def test_becomes_another_program(local: ReleaseManager) -> None:
    environment = local.process_environment
    done = subprocess.run([PROGRAM, "echo", "it", "-n"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "it -n\n"
    done = subprocess.run([PROGRAM, "/no/such"], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (127, "release-manager: Cannot run /no/such: No such file or directory.\n")
