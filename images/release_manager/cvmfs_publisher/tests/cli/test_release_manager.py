# SPDX-License-Identifier: GPL-3.0-or-later
"""The container's entry point keeps the leases of open transactions, and aborts mountless ones in the end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from operations.managers import ReleaseManager, s3_settings, soon
from operations.reading import published
from operations.unions import Checkout, enter_mount_namespace, needs_mounting

from cvmfs_publisher.operations.transaction import Session
from cvmfs_publisher.storage import S3Config

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


@needs_mounting
def test_keeps_what_was_written(local: ReleaseManager) -> None:
    """A container that is stopped, and started again, has what was edited in place, to go on with and to publish."""
    enter_mount_namespace()
    checkout = Checkout(local)
    checkout.open()
    (checkout.root / "file").write_text("content")
    local.expire_lease(10)
    with running(local) as process, open(checkout.root / "open", "w") as stream:
        stream.write("unfinished")
        stream.flush()
        soon(lambda: local.lease().expires > time.time() + 100)  # type: ignore[union-attr]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not checkout.root.is_mount()
    lease = local.lease()
    assert lease is not None
    assert not lease.is_released
    local.server("mount").succeeded()
    assert (checkout.root / "open").read_text() == "unfinished"
    local.server("publish").succeeded()
    assert published(local).tree.keys() == {b"", b"file", b"new_repository", b"open"}
    assert checkout.leftovers == []


def test_survives_trouble_with_a_repository(local: ReleaseManager) -> None:
    """It tells about a lost lease and a repository that is not in order, and goes on with the others."""
    broken = local.config_dir / "repositories.d" / "broken.example.org"
    broken.mkdir()
    (broken / "server.conf").write_text("this is no setting\n")
    local.server("transaction").succeeded()
    local.another("other").server("abort", "-f").succeeded()
    with running(local) as process:
        assert process.stderr is not None
        told = [process.stderr.readline() for _ in range(10)]
        assert any("the lease on broken.example.org was not renewed: " in line for line in told)
        assert any(f"the lease on {local.name} was not renewed: The transaction on" in line for line in told)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert local.state().lease_is_free
    assert not list(local.spool.iterdir())


def test_storage_that_does_not_answer_holds_up_nobody_else(local: ReleaseManager, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        config = S3Config(host="127.0.0.1", port=port, bucket="bucket", access_key="k", secret_key="s", prefix="a")  # noqa: S106
        spool = tmp_path / "spool"
        spool.mkdir()
        settings = {**s3_settings(config, tmp_path / "s3.conf"), "CVMFS_SPOOL_DIR": str(spool)}
        other = ReleaseManager(local.base, settings, "a.example.org")  # the first by name
        session = Session(id="x", repository=other.name, path="", revision=1, root_hash="", opened=0, token="t")  # noqa: S106
        (spool / "transaction.json").write_text(json.dumps(dataclasses.asdict(session)))
        local.server("transaction").succeeded()
        local.expire_lease(10)
        with running(local) as process:
            silent.settimeout(30)
            connection, _ = silent.accept()
            with connection:
                local.expire_lease(10)
                soon(lambda: local.lease().expires > time.time() + 100)  # type: ignore[union-attr]
                process.send_signal(signal.SIGTERM)
                soon(lambda: local.lease().is_released)  # type: ignore[union-attr]


def test_becomes_another_program(local: ReleaseManager) -> None:
    environment = local.process_environment
    done = subprocess.run([PROGRAM, "echo", "it", "-n"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "it -n\n"
    done = subprocess.run([PROGRAM, "/no/such"], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (127, "release-manager: Cannot run /no/such: No such file or directory.\n")
