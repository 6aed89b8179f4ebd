# SPDX-License-Identifier: GPL-3.0-or-later
"""A publish that dies, at whatever moment, leaves the old revision or the new one, and the next publish goes on."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import inspect
import itertools
import os
import random
import signal
import struct
import subprocess
import sys
import tarfile
import termios
import time
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from faults import EXIT_CODE, Fault

from cvmfs_publisher.changes.archive import IN_MEMORY
from cvmfs_publisher.changes.change_set import ChangeSet
from cvmfs_publisher.errors import RepositoryExists
from cvmfs_publisher.operations.check import check
from cvmfs_publisher.operations.environment import Environment
from cvmfs_publisher.operations.mkfs import MkfsOptions, mkfs
from cvmfs_publisher.operations.publish import PublishOptions, ingest
from cvmfs_publisher.operations.transaction import abort
from cvmfs_publisher.repository.lease import CLOCK_MARGIN, Lease
from cvmfs_publisher.repository.manifest import MANIFEST_KEY
from cvmfs_publisher.repository.reflog import REFLOG_KEY
from operations.conftest import from_template
from operations.managers import NAME, ReleaseManager, State, local_settings, make, mirror, soon
from operations.reading import Tree, below, on_disk, published
from operations.stores import FaultyEnvironment


def problems_of(manager: ReleaseManager) -> list[str]:
    """Return the problems that a check finds, but for that of a reflog that only the next publish will complete."""
    problems = check(manager.environment, NAME, integrity=True).problems
    return [text for text in problems if not (text.startswith(REFLOG_KEY) and "; the next publish " in text)]


FIRST = {"a": "1", "nested__b": "2", "nested__.cvmfscatalog": ""}
SECOND = {"a": "changed", "c": "new", "nested__d": "3", "nested__.cvmfscatalog": ""}


def is_whole(manager: ReleaseManager, old: Tree, new: Tree) -> int:
    """Assert that the repository has the old tree or the new one, and return the revision."""
    found = published(manager)
    assert below(found.tree, b"sw") == {2: old, 3: new}[found.revision]
    assert problems_of(manager) == []
    return found.revision


def goes_on(manager: ReleaseManager, source: Path, *, by_waiting: bool) -> None:
    """Assert that the next publish succeeds, once the dead one's lease is over.

    :param by_waiting: on another host, when the lease has expired, rather than after ``abort -f``
    """
    if by_waiting:
        if manager.lease() is not None:
            manager.expire_lease(CLOCK_MARGIN + 1)
        manager = manager.another(f"other-{os.urandom(4).hex()}")
    elif (manager.spool / "transaction.json").exists() or not manager.state().lease_is_free:
        abort(manager.environment, NAME, force=True)
    revision = manager.manifest().revision
    result = manager.ingest(mirror(source), tag="goes-on")
    assert result.revision == revision + 1
    assert below(published(manager).tree, b"sw") == on_disk(source)
    manager.check()


# At each operation on the storage


def test_death_at_every_operation(template: Path, tmp_path: Path) -> None:
    first, second = make(tmp_path / "first", **FIRST), make(tmp_path / "second", **SECOND)
    old, new = on_disk(first), on_disk(second)

    def publish_second(environment: Environment) -> None:
        ingest(environment, NAME, ChangeSet((mirror(second),)), PublishOptions())

    manager = from_template(template, tmp_path / "alive")
    manager.ingest(mirror(first))
    environment = FaultyEnvironment(manager)
    publish_second(environment)
    operations = environment.faulty.operations
    commit = operations.index(("put_if_match", MANIFEST_KEY)) + 1
    revisions = set()
    for number in range(1, len(operations) + 1):
        manager = from_template(template, tmp_path / str(number))
        manager.ingest(mirror(first))
        dies_doing(manager, Fault(nth=number, die="before"), publish_second)
        revision = is_whole(manager, old, new)
        assert revision == (2 if number <= commit else 3), (number, operations)
        revisions.add(revision)
        goes_on(manager, second, by_waiting=number % 2 == 0)
    assert revisions == {2, 3}


def test_death_in_mkfs(template: Path, tmp_path: Path) -> None:
    """Then there is a repository, or the next mkfs makes it, of the same keys."""
    source = make(tmp_path / "source", **FIRST)
    environment = FaultyEnvironment(without_repository(template, tmp_path / "alive"))
    mkfs(environment, NAME, MkfsOptions())
    finished = 0
    for number in range(1, len(environment.faulty.operations) + 1):
        manager = without_repository(template, tmp_path / str(number))
        dies_doing(manager, Fault(nth=number, die="before"), lambda mortal: mkfs(mortal, NAME, MkfsOptions()))
        with manager.store() as store:
            is_there = store.exists(MANIFEST_KEY)
        if not manager.state().lease_is_free:
            manager.expire_lease(CLOCK_MARGIN + 1)
        if is_there:
            finished += 1
            with pytest.raises(RepositoryExists):
                mkfs(manager.environment, NAME, MkfsOptions())
        else:
            mkfs(manager.environment, NAME, MkfsOptions())
        assert published(manager).revision == 1
        manager.ingest(mirror(source))
        manager.check()
    assert finished > 0


def without_repository(template: Path, base: Path) -> ReleaseManager:
    """Return a release manager with keys, and no repository yet."""
    manager = from_template(template, base)
    manager.configure(**local_settings(base / "srv" / NAME))
    return manager


def dies_doing(manager: ReleaseManager, fault: Fault, do: Callable[[FaultyEnvironment], object]) -> None:
    """Do something in a process that a fault kills."""
    assert in_copy(lambda: do(FaultyEnvironment(manager, [fault]))) == EXIT_CODE


def in_copy(do: Callable[[], object]) -> int:
    """Do something in a copy of this process.

    :returns: its exit code: 130 after an interruption, 1 when it failed
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            do()
            code = 0
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# The real program, at random moments


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A source that takes a moment to publish."""
    return make(tmp_path / "large", **{f"d{n % 10}__f{n}": os.urandom(3000) for n in range(300)})


SLOW = """
import os, signal, sys, time
from cvmfs_publisher.cli.main import main
from cvmfs_publisher.storage import LocalStore, S3Store

def slow(put):
    def put_slowly(self, key, *arguments, **options):
        time.sleep(0.05 if key.startswith("data/") else 0)
        return put(self, key, *arguments, **options)
    return put_slowly

def slow_in(name, seconds, change):
    def change_slowly(self, key, data, *arguments, **options):
        if name == "delete" or b'"is_released": true' in data:
            os.write(2, name.encode() + bytes([10]))
            time.sleep(seconds)
        return change(self, key, data, *arguments, **options)
    return change_slowly

for kind in (LocalStore, S3Store):
    kind.put = slow(kind.put)
    kind.put_if_match = slow_in("release", RELEASE, kind.put_if_match)
    kind.delete_many = slow_in("delete", 1, kind.delete_many)
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have it ignored by what they run in the background
main(sys.argv[1:])
"""


def start_slowly(
    manager: ReleaseManager, command: str, *arguments: str | Path, release: float = 0
) -> subprocess.Popen[bytes]:
    """Start a command in which uploads and deletions take their time, and that takes seconds to give the lease back."""
    return subprocess.Popen(
        [sys.executable, "-c", SLOW.replace("RELEASE", str(release)), *manager.argv(command, *arguments)[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=manager.process_environment,
    )


def begin_slowly(manager: ReleaseManager, source: Path, *, release: float = 0) -> subprocess.Popen[bytes]:
    """Start to publish a source, which takes seconds, and return the process once it has begun."""
    process = start_slowly(manager, "ingest", "--mirror", "--directory", source, "-b", "sw", release=release)
    soon(lambda: not manager.state().lease_is_free)
    return process


def is_at(process: subprocess.Popen[bytes], what: bytes) -> None:
    """Wait until a process says that it begins to do something."""
    assert process.stderr is not None
    while line := process.stderr.readline():  # in no other way: what is read ahead would be lost
        if line.strip() == what:
            return
    pytest.fail(f"it has ended before: {what!r}")


def test_kill(manager: ReleaseManager, large: Path, tmp_path: Path) -> None:
    first = make(tmp_path / "first", **FIRST)
    manager.ingest(mirror(first))
    old, new = on_disk(first), on_disk(large)
    started = time.monotonic()
    manager.server("ingest", "--mirror", "--dry-run", "--directory", large, "-b", "sw").succeeded()
    duration = 2 * (time.monotonic() - started)
    revision = 2
    moments = random.Random(0)  # noqa: S311
    for number in range(6):
        if number == 0:
            process = begin_slowly(manager, large)
        else:
            process = manager.start("ingest", "--mirror", "--directory", large, "-b", "sw")
            time.sleep(moments.uniform(0.1, 1) * duration)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = published(manager)
        assert below(found.tree, b"sw") in (old, new)
        assert problems_of(manager) == []
        assert number or not manager.state().lease_is_free
        # Back to the start, by this host or another
        survivor = manager.another(f"survivor-{number}") if number % 2 else manager
        if not manager.state().lease_is_free:
            survivor.server("abort", "-f").succeeded()
        if (manager.spool / "transaction.json").exists():
            manager.server("abort", "-f").succeeded()
        result = survivor.ingest(mirror(first), tag=f"back-{number}")
        assert result.revision == found.revision + 1 > revision
        revision = result.revision
        assert below(published(manager).tree, b"sw") == old
        survivor.check()


def assert_cleaned_up(process: subprocess.Popen[bytes], manager: ReleaseManager, before: State, large: Path) -> None:
    """An ingest that was told to end has left all as it was `before`, and can be repeated."""
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, b"")
    assert stderr.splitlines()[-1] == b"cvmfs_server ingest: interrupted."
    assert manager.state() == before
    manager.server("ingest", "--directory", large, "-b", "sw").succeeded()
    manager.check()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals(manager: ReleaseManager, large: Path, number: signal.Signals) -> None:
    """Unlike SIGKILL, they leave time to clean up."""
    before = manager.state()
    process = begin_slowly(manager, large)
    process.send_signal(number)
    assert_cleaned_up(process, manager, before, large)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_twice(manager: ReleaseManager, large: Path, number: signal.Signals) -> None:
    """As from timeout(1) and impatient hands: the cleaning up comes to its end all the same."""
    before = manager.state()
    process = begin_slowly(manager, large, release=0.5)
    process.send_signal(number)
    is_at(process, b"release")
    process.send_signal(number)
    assert_cleaned_up(process, manager, before, large)


def interrupted_at(number: int, files: Collection[str], do: Callable[[], object]) -> int:
    """Do something in a copy of this process, with an interruption at the nth line that it executes in some files.

    :returns: exit code: 130 after the interruption, 0 when it had fewer lines than that
    """
    left = number

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal left
        if frame.f_code.co_filename not in files:
            return None
        left -= event == "line"
        if left < 0:
            raise KeyboardInterrupt  # and that ends the tracing
        return trace

    def do_traced() -> None:
        sys.settrace(trace)
        do()

    return in_copy(do_traced)


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_an_interruption_at_any_line(local: ReleaseManager, tmp_path: Path, step: int) -> None:
    """Of what opens, publishes in and ends a transaction: neither a lease nor a session stays."""
    sources = [make(tmp_path / name, **content) for name, content in (("first", FIRST), ("second", SECOND))]
    files = {inspect.getfile(what) for what in (abort, ingest, Environment, Lease)}
    before = local.state()
    revisions = set()
    for number in itertools.count(0, step):
        changes = ChangeSet((mirror(sources[number % 2]),))
        code = interrupted_at(
            number, files, functools.partial(ingest, local.environment, NAME, changes, PublishOptions())
        )
        assert dataclasses.replace(local.state(), published=before.published) == before, number
        revisions.add(local.manifest().revision)
        if code == 0:
            break
        assert code == 130
    assert len(revisions) > 2
    local.check()


def with_garbage(manager: ReleaseManager, tmp_path: Path) -> None:
    """Publish some revisions, and keep only the two that the newest tags name."""
    manager.configure(CVMFS_GARBAGE_COLLECTION="true", CVMFS_AUTO_TAG="false")
    for number in range(3):
        manager.ingest(mirror(make(tmp_path / f"old{number}", old=f"{number}" * 1000)))
    manager.ingest(mirror(make(tmp_path / "newest", **SECOND)))


def test_a_garbage_collection_that_is_interrupted_twice(manager: ReleaseManager, tmp_path: Path) -> None:
    """It deletes nothing once it has given the lease back, which it does not if it cannot tell; nobody loses anything.

    The first interruption comes as soon as a thread begins, when the pool may not know it yet.
    """
    with_garbage(manager, tmp_path)
    process = start_slowly(manager, "gc", "-f", "-r", "0", release=0.5)
    is_at(process, b"delete")
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    lines = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 130
    assert lines[-1] == b"cvmfs_server gc: interrupted."
    assert [line for line in lines if line.startswith(b"delete")] == []
    assert (b"release" in lines) == manager.state().lease_is_free
    goes_on(manager, tmp_path / "old0", by_waiting=not manager.state().lease_is_free)


def test_an_abort_that_is_interrupted_twice(manager: ReleaseManager) -> None:
    """The transaction is open, or it is not; the next abort ends it."""
    before = manager.state()
    manager.server("transaction").succeeded()
    process = start_slowly(manager, "abort", "-f", release=0.5)
    is_at(process, b"release")
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[1].splitlines()[-1] == b"cvmfs_server abort: interrupted."
    assert process.returncode in (130, -signal.SIGTERM)  # the latter if Python was about to end
    manager.server("abort", "-f").succeeded()
    assert manager.state() == before
    manager.server("transaction").succeeded()


def test_who_insists_does_not_wait(manager: ReleaseManager, large: Path, tmp_path: Path) -> None:
    """And leaves things as SIGKILL does, with the lease."""
    first = make(tmp_path / "first", **FIRST)
    manager.ingest(mirror(first))
    process = begin_slowly(manager, large, release=60)
    process.send_signal(signal.SIGINT)
    is_at(process, b"release")
    time.sleep(2.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1].splitlines()[-1].startswith(b"cvmfs_server: interrupted again, and left")
    assert process.returncode == 130
    assert not manager.state().lease_is_free
    assert below(published(manager).tree, b"sw") == on_disk(first)
    assert problems_of(manager) == []
    goes_on(manager, large, by_waiting=False)


def test_archive_that_does_not_go_on(manager: ReleaseManager) -> None:
    """In the middle of a large file, which one thread reads while another waits."""
    before = manager.state()
    header = tarfile.TarInfo("large")
    header.size = IN_MEMORY * 2
    with subprocess.Popen(
        manager.argv("ingest", "-t", "-", "-b", "sw"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=manager.process_environment,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(header.tobuf() + b"x" * IN_MEMORY)
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while unread(process.stdin.fileno()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 130
        assert process.stderr is not None
        assert process.stderr.read().splitlines()[-1] == b"cvmfs_server ingest: interrupted."
    assert manager.state() == before


def unread(pipe: int) -> int:
    """Return how many bytes in a pipe wait for being read."""
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(count)
