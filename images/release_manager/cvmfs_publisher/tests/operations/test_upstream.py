# SPDX-License-Identifier: GPL-3.0-or-later
"""CernVM-FS's own ``cvmfs_server`` under the lease. A stand-in takes its place, and the mounts are not made."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cvmfs_publisher.errors import LeaseHeld, NotInTransaction, PublisherError, UsageError
from cvmfs_publisher.operations import transaction, upstream
from cvmfs_publisher.operations.transaction import find_session, open_transaction
from operations.managers import NAME, ReleaseManager, mirror


class Program:
    """Stands in for their program: says which command lines it got, and whether the lease was held meanwhile."""

    def __init__(self, manager: ReleaseManager, code: int = 0, script: str = "") -> None:
        self._manager = manager
        self._script = script or f"raise SystemExit({code})"
        self.seen: list[tuple[str, ...]] = []
        self.was_held: list[bool] = []

    def __call__(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        assert command[0] == upstream.PROGRAM
        self.seen.append(tuple(command[1:]))
        self.was_held.append(is_held(self._manager))
        return subprocess.Popen([sys.executable, "-c", self._script])


def is_held(manager: ReleaseManager) -> bool:
    lease = manager.lease()
    return lease is not None and not lease.is_released


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the repositories that were to be mounted."""
    names: list[str] = []
    monkeypatch.setattr(upstream, "prepare", lambda _environment, settings: names.append(settings.repository))
    return names


def test_a_transaction_has_the_lease_until_it_is_published(manager: ReleaseManager, prepared: list[str]) -> None:
    program = Program(manager)
    assert upstream.run(manager.environment, ["transaction", NAME], program) == 0
    session = find_session(manager.environment, manager.environment.settings(NAME))
    assert session is not None
    assert is_held(manager)
    assert upstream.run(manager.environment, ["publish", "-a", "v1", NAME], program) == 0
    assert not is_held(manager)
    assert find_session(manager.environment, manager.environment.settings(NAME)) is None
    assert program.seen == [("transaction", NAME), ("publish", "-a", "v1", NAME)]
    assert program.was_held == [True, True]
    assert prepared == [NAME, NAME]


@pytest.mark.usefixtures("prepared")
def test_a_transaction_that_they_do_not_open_gives_the_lease_back(local: ReleaseManager) -> None:
    assert upstream.run(local.environment, ["transaction", NAME], Program(local, 17)) == 17
    assert not is_held(local)
    assert find_session(local.environment, local.environment.settings(NAME)) is None


@pytest.mark.usefixtures("prepared")
def test_a_publish_that_fails_stays_open_as_theirs_does(local: ReleaseManager) -> None:
    upstream.run(local.environment, ["transaction", NAME], Program(local))
    assert upstream.run(local.environment, ["publish", NAME], Program(local, 1)) == 1
    assert is_held(local)
    assert upstream.run(local.environment, ["abort", "-f", NAME], Program(local)) == 0
    assert not is_held(local)


@pytest.mark.usefixtures("prepared")
def test_a_transaction_can_be_named(local: ReleaseManager) -> None:
    program = Program(local)
    upstream.run(local.environment, ["transaction", NAME], program)
    session = find_session(local.environment, local.environment.settings(NAME))
    assert session is not None
    with pytest.raises(NotInTransaction):
        upstream.run(local.environment, ["publish", "--transaction", "another", NAME], program)
    upstream.run(local.environment, ["publish", "--transaction", session.id, "-a", "v1", NAME], program)
    assert program.seen[1:] == [("publish", "-a", "v1", NAME)]


@pytest.mark.usefixtures("prepared")
def test_nobody_else_publishes_meanwhile(local: ReleaseManager) -> None:
    other = local.another("other")
    open_transaction(other.environment, NAME)
    program = Program(local)
    for command in (["transaction", NAME], ["tag", "-a", "v1", NAME], ["gc", "-f", NAME], ["ingest", "-b", "x", NAME]):
        with pytest.raises(LeaseHeld):
            upstream.run(local.environment, command, program)
    assert program.seen == []
    assert upstream.run(local.environment, ["tag", "-l", NAME], program) == 0


@pytest.mark.usefixtures("prepared")
def test_what_was_published_in_between_is_not_taken_back(local: ReleaseManager, source: Path) -> None:
    upstream.run(local.environment, ["transaction", NAME], Program(local))
    local.expire_lease(1000)
    other = local.another("other")
    other.ingest(mirror(source))
    program = Program(local)
    with pytest.raises(NotInTransaction):  # the lease has gone
        upstream.run(local.environment, ["publish", NAME], program)
    assert program.seen == []


@pytest.mark.usefixtures("prepared")
def test_a_revision_that_nobody_had_a_lease_for_is_not_taken_back(local: ReleaseManager, source: Path) -> None:
    upstream.run(local.environment, ["transaction", NAME], Program(local))
    settings = local.environment.settings(NAME)
    session = find_session(local.environment, settings)
    assert session is not None
    with local.store() as store:
        lease = store.get(".cvmfs_publishing_lease.json")
    local.expire_lease(1000)
    local.another("other").ingest(mirror(source))
    with local.store() as store:
        store.put(".cvmfs_publishing_lease.json", lease)
    program = Program(local)
    with pytest.raises(PublisherError, match="would take back what was published in between"):
        upstream.run(local.environment, ["publish", NAME], program)
    assert program.seen == []


@pytest.mark.usefixtures("prepared")
def test_a_command_whose_lease_is_lost_is_ended_before_it_commits(
    local: ReleaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "_RENEW_EVERY", 0.05)
    other = local.another("other")

    class Sleepy(Program):
        def __call__(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
            process = super().__call__(command)
            transaction.abort(other.environment, NAME, force=True)
            return process

    program = Sleepy(local, script="import time; time.sleep(60)")
    with pytest.raises(LeaseHeld, match="was broken"):
        upstream.run(local.environment, ["tag", "-a", "v1", NAME], program)
    assert program.seen == [("tag", "-a", "v1", NAME)]


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("command", ["mkfs", "import", "rmfs"])
def test_what_is_not_for_containers_is_refused(local: ReleaseManager, command: str) -> None:
    with pytest.raises(UsageError, match="is not for containers"):
        upstream.run(local.environment, [command, NAME], Program(local))


def test_a_repository_need_not_be_named_where_there_is_one(local: ReleaseManager, prepared: list[str]) -> None:
    assert upstream.run(local.environment, ["check", "-c"], Program(local, 7)) == 7
    assert prepared == [NAME]


def test_only_root_of_the_whole_machine_can_mount(
    local: ReleaseManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid_map = tmp_path / "uid_map"
    uid_map.write_text("         0     100000      65536\n")
    monkeypatch.setattr(upstream, "UID_MAP", uid_map)
    with pytest.raises(PublisherError, match="only root of the whole machine"):
        upstream.prepare(local.environment, local.environment.settings(NAME))


@pytest.mark.usefixtures("prepared")
def test_an_interrupted_command_is_over_before_the_lease_is_given_back(local: ReleaseManager, tmp_path: Path) -> None:
    """So are the programs that it has started, as their script does: they would go on to write."""
    started = tmp_path / "started"
    script = (
        "import pathlib, subprocess; child = subprocess.Popen(['sleep', '60']); "
        f"pathlib.Path({str(started)!r}).write_text(str(child.pid)); child.wait()"
    )
    processes: list[subprocess.Popen[bytes]] = []

    class Interrupted(Program):
        def __call__(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
            process = super().__call__(command)
            processes.append(process)
            while not (started.exists() and started.read_text()):
                time.sleep(0.02)
            main_thread = threading.main_thread().ident
            assert main_thread is not None
            threading.Timer(0.1, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
            return process

    # Where the tests run in the background of a shell, it is ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            upstream.run(local.environment, ["gc", "-f", NAME], Interrupted(local, script=script))
    finally:
        signal.signal(signal.SIGINT, before)
    assert processes[0].returncode is not None
    child = Path("/proc", started.read_text(), "status")
    for _ in range(100):
        if not child.exists() or "zombie" in child.read_text():
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child goes on")
    assert not is_held(local)


@pytest.mark.usefixtures("prepared")
def test_exit_code_of_a_command_that_was_killed(local: ReleaseManager) -> None:
    program = Program(local, script="import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert upstream.run(local.environment, ["check", NAME], program) == 137


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize(
    ("command", "writes"),
    [
        (["check", "-c", NAME], False),
        (["check", "-cr", NAME], True),
        (["check", "-s", "/software", NAME], False),
        (["tag", "-l", NAME], False),
        (["tag", "-i", "v-r", NAME], False),
        (["tag", "-m", "text", "-a", "v1", NAME], True),
        (["tag", "-rv1", NAME], True),
        (["tag", "--wrong", NAME], False),
    ],
)
def test_what_writes_has_the_lease(local: ReleaseManager, command: list[str], *, writes: bool) -> None:
    program = Program(local)
    upstream.run(local.environment, command, program)
    assert program.was_held == [writes]


@pytest.mark.usefixtures("prepared")
def test_a_time_that_is_none(local: ReleaseManager) -> None:
    with pytest.raises(UsageError, match="'soon' is no number of seconds"):
        upstream.run(local.environment, ["transaction", "-t", "soon", NAME], Program(local))
    assert not is_held(local)


def test_a_machine_that_cannot_be_set_up(
    local: ReleaseManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uid_map").write_text("0 0 4294967295\n")
    monkeypatch.setattr(upstream, "UID_MAP", tmp_path / "uid_map")
    monkeypatch.setattr(upstream, "FSTAB", tmp_path)
    with pytest.raises(PublisherError, match=f"{NAME} cannot be mounted: .*Is a directory"):
        upstream.prepare(local.environment, local.environment.settings(NAME))
