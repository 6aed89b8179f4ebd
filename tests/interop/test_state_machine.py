# SPDX-License-Identifier: GPL-3.0-or-later
"""File operations by chance, published step by step: by the native publisher alone, and by both in turns.

``CVMFS_INTEROP_RUNS`` says how many runs there are in each direction; every run is a few publishes of a few edits each.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from cvmfs_publisher.content import ContentHash
from cvmfs_publisher.paths import is_below
from cvmfs_publisher.storage import ObjectStore, open_store

from .edits import CHUNK_SETTINGS, Edit, edits
from .native import KEEP_ALL, Adopt, NativeRepository, NewNative, QuickRepository
from .services import Directory, Place
from .trees import Tree, differences, read_catalogs, read_directory, read_mount
from .upstream import Mount, NewUpstream, Repository, Upstream, run

_RUNS = int(os.environ.get("CVMFS_INTEROP_RUNS", "10"))
_STEPS = 12
_SETTINGS = {**CHUNK_SETTINGS, "CVMFS_AUTO_TAG": "false"}


@dataclass
class Judge:
    """A repository, kept for all runs, and all who look at it.

    :param theirs: the same repository in the hands of CernVM-FS's own publisher; None if only the native one publishes
    :param done: how often what was done
    """

    native: NativeRepository
    upstream: Upstream
    mount: Mount
    store: ObjectStore
    scratch: Path
    theirs: Repository | None = None
    done: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def compare(self, shadow: Path) -> None:
        """Let both look at the newest revision, and compare what they see with each other and with the truth."""
        self.upstream.check(self.native)
        self.native.check()
        root = ContentHash.parse(self.native.manifest()["C"]).with_suffix("C")
        with tempfile.TemporaryDirectory(dir=self.scratch) as directory:
            found = read_catalogs(self.store, root, Path(directory))
        assert not differences(read_directory(shadow), found)
        self.mount.update()
        assert self.mount.attribute("root_hash") == root.hex
        shown: Tree | None = None
        try:
            shown = read_mount(self.mount.path)
        except OSError as error:
            # To be told at the end, with the client's reasons: it should not be
            self.done["\n".join([f"remounted after {error}", *self.mount.messages()[-5:]])] += 1
        if shown is None or differences(shown, found):
            # It may still number names as in the revision before, so that hard links are none, or files are
            self.done["remounted"] += 1
            with self.upstream.mount(self.native) as mount:
                shown = read_mount(mount.path)
        assert not differences(shown, found)


class Steps(RuleBasedStateMachine):
    """Edits of a directory, the truth, that are published now and then."""

    judge: Judge
    """Set in subclasses, which are made for a test."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(dir=self.judge.scratch))
        self.shadow = self.directory / "shadow"
        self.shadow.mkdir()
        os.utime(self.shadow, ns=(0, 0))
        self.edits: list[Edit] = []
        self.number = 0
        self.turns = 0
        self._mirror()
        self.published = read_directory(self.shadow)

    @rule(data=st.data(), how_many=st.integers(1, 4))
    def edit(self, data: st.DataObject, how_many: int) -> None:
        for _ in range(how_many):
            self.number += 1
            edit = data.draw(edits(os.fsencode(self.shadow), self.number, on_overlay=self.judge.theirs is not None))
            if edit:
                edit.apply(os.fsencode(self.shadow))
                self.edits.append(edit)

    @precondition(lambda self: len(self.edits) > 2)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        self.turns += 1
        if self.judge.theirs and self.turns % 2:
            self._publish(self.by_upstream)
        else:
            ways = [self.as_a_directory, self.as_changes, self.as_an_archive, self.in_place]
            self._publish(data.draw(st.sampled_from(ways)))

    def teardown(self) -> None:
        try:
            self.turns += 1
            self._publish(self.by_upstream if self.judge.theirs and self.turns % 2 else self.as_a_directory)
            self.judge.done["runs"] += 1
        finally:
            shutil.rmtree(self.directory)

    def _publish(self, publisher: Callable[[], None]) -> None:
        if not self.edits:
            return
        try:
            publisher()
            self.judge.compare(self.shadow)
        except Exception as error:
            # Hypothesis does not show what happens just once
            self.judge.failures.append(f"{publisher.__name__} after {self.edits}: {error}")
            raise
        self.judge.done[publisher.__name__] += 1
        self.judge.done["edits"] += len(self.edits)
        self.edits.clear()
        self.published = read_directory(self.shadow)

    def by_upstream(self) -> None:
        theirs = self.judge.theirs
        assert theirs
        theirs.knows_reflog()  # of what the native publisher did
        theirs.server("transaction")
        try:
            for edit in self.edits:
                edit.apply(os.fsencode(theirs.mounted))
            theirs.server("publish")
        except BaseException:
            theirs.server("abort", "-f", expect=None)
            raise

    def as_a_directory(self) -> None:
        if any(self.shadow.iterdir()):
            self.judge.native.server("ingest", "--directory", self.shadow, "--mirror", "-b", "/")
        else:
            self._mirror()  # nothing but a change set can say that all of it is to go

    def as_changes(self) -> None:
        """As several sources and deletions."""
        changes: list[dict[str, Any]] = [{"delete": os.fsdecode(path)} for path in self._gone(new_directories=True)]
        for number, entry in enumerate(sorted(os.scandir(self.shadow), key=lambda entry: entry.name)):
            if entry.is_dir(follow_symlinks=False):
                mode = "mirror" if number % 2 else "merge"
                change = {"source": entry.path, "base_dir": entry.name, "mode": mode, "allow_empty": True}
                changes.append(change)
        self._change(*changes, {"source": str(self.shadow), "base_dir": "/", "mode": "merge"})

    def as_an_archive(self) -> None:
        archive = self.directory / "archive.tar"
        for location, _, files in os.walk(os.fsencode(self.shadow)):
            for status in (os.lstat(os.path.join(location, name)) for name in files):
                # tar knows no sockets, and no hard links of fifos
                if stat.S_ISSOCK(status.st_mode) or (stat.S_ISFIFO(status.st_mode) and status.st_nlink > 1):
                    return self.as_a_directory()
        options = ["--create", "--file", archive, "--directory", self.shadow, "--format=pax", "--xattrs"]
        run(["tar", *options, "."])
        deletions = [f"--delete={os.fsdecode(path)}" for path in self._gone()]
        self.judge.native.server("ingest", "-t", archive, "-b", "/", "-k", *deletions)
        return None

    def in_place(self) -> None:
        """In an interactive transaction."""
        if any(len(node.links) > 1 for tree in (self.published, read_directory(self.shadow)) for node in tree.values()):
            return self.as_a_directory()  # the kernel's overlay breaks them up
        native = self.judge.native
        # In processes of their own: one stays, and serves what is below the overlay
        NativeRepository._run(native, ["transaction", "--interactive", native.name], None, 0)
        try:
            for edit in self.edits:
                edit.apply(os.fsencode(native.union))
            NativeRepository._run(native, ["publish", native.name], None, 0)
        except BaseException:
            NativeRepository._run(native, ["abort", "-f", native.name], None, None)
            raise
        return None

    def _mirror(self) -> None:
        self._change({"source": str(self.shadow), "base_dir": "/", "mode": "mirror", "allow_empty": True})

    def _change(self, *changes: dict[str, Any]) -> None:
        """Publish, even if the edits come to nothing."""
        self.judge.native.server("transaction")
        change_set = json.dumps({"version": 1, "changes": changes})
        self.judge.native.server("publish", "--changes", "-", stdin=change_set)

    def _gone(self, *, new_directories: bool = False) -> list[bytes]:
        """Return what is published and either is not in the directory, or no directory there any more.

        :param new_directories: or was none before
        """
        tree = read_directory(self.shadow)
        gone: list[bytes] = []
        for path, node in sorted(self.published.items()):
            there = path in tree and (
                tree[path].is_directory == node.is_directory or (tree[path].is_directory and not new_directories)
            )
            if not there and not any(is_below(path, other) for other in gone):
                gone.append(path)
        return gone


@contextlib.contextmanager
def judge(
    upstream: Upstream, native: NativeRepository, place: Place, scratch: Path, theirs: Repository | None = None
) -> Iterator[Judge]:
    """Mount a repository for all runs."""
    store = open_store(place.storage_of(native.name))
    quick = QuickRepository(native.name, native.url, native.public_key, native.config_dir)
    # Else the kernel keeps the attributes of the mounted root for a minute, whatever it is told
    with contextlib.closing(store), upstream.mount(native, "CVMFS_KCACHE_TIMEOUT=0\n") as mount:
        yield Judge(quick, upstream, mount, store, scratch, theirs)


def take_steps(judge: Judge, runs: int, report: Callable[[str], None]) -> None:
    """Run the state machine, and say how often."""
    machine = type("Machine", (Steps,), {"judge": judge})
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=runs,
                stateful_step_count=_STEPS,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
                phases=[Phase.generate],
            ),
        )
    finally:
        for failure in judge.failures[:1]:
            report(f"{judge.native.name}: {failure}")
        report(f"{judge.native.name}: " + ", ".join(f"{number} {what}" for what, number in judge.done.items()))


def _runs(place: Place) -> int:
    return _RUNS if isinstance(place, Directory) else max(1, _RUNS // 5)


def test_native_publishes_and_upstream_reads(
    upstream: Upstream, new_native: NewNative, place: Place, tmp_path: Path, report: Callable[[str], None]
) -> None:
    native = new_native(place, **KEEP_ALL, **_SETTINGS)
    with judge(upstream, native, place, tmp_path) as all_who_look:
        take_steps(all_who_look, _runs(place), report)


def test_upstream_publishes_and_native_goes_on(
    upstream: Upstream,
    new_upstream: NewUpstream,
    adopt: Adopt,
    place: Place,
    tmp_path: Path,
    report: Callable[[str], None],
) -> None:
    theirs = new_upstream(place, "-g", **_SETTINGS)
    native = adopt(theirs, place, **_SETTINGS)
    with judge(upstream, native, place, tmp_path, theirs) as all_who_look:
        take_steps(all_who_look, _runs(place), report)
