# SPDX-License-Identifier: GPL-3.0-or-later
"""Random changes to a catalog tree, side by side with a plain dictionary.

After each commit the published catalogs are read by the judge, which knows nothing of the publisher's code, and by
CernVM-FS's own check where it is installed; counters are recomputed from the entries.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cvmfs_publisher import paths
from cvmfs_publisher.catalog import MARKER, DirectoryEntry, WritableCatalogTree

from .conftest import Workshop, chunked, directory, regular, symlink

names = st.sampled_from([b"a", b"b", b"cc", b"\xff\n", b"x" * 255, b"%"])
pick = st.integers(0, 1 << 16)
metadata = st.fixed_dictionaries(
    {
        "uid": st.sampled_from([0, 1000, 2**32 - 1]),
        "mtime": st.integers(-(2**31), 2**33),
        "mtime_ns": st.none() | st.integers(0, 999_999_999),
        "xattrs": st.sampled_from([{}, {b"user.a": b"\0"}]),
    }
)
contents = st.one_of(
    st.builds(regular, st.binary(max_size=3)),
    st.builds(lambda sizes: chunked(b"c", tuple(sizes)), st.lists(st.integers(1, 9), min_size=1, max_size=3)),
    st.builds(symlink, st.sampled_from([b"a", b"../\xfe"])),
    st.just(regular(b"", mode=0o010644, hash=None)),
)


class Comparison(RuleBasedStateMachine):
    """The tree under test, and `model`: what should be at which path."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp())
        self.workshop = Workshop(self.base)
        self.tree: WritableCatalogTree = self.workshop.change()
        self.model: dict[bytes, DirectoryEntry] = {b"": directory()}
        self.links: dict[bytes, frozenset[bytes]] = {}
        """Each hard link with all members of its group."""

    def teardown(self) -> None:
        self.workshop.close()
        shutil.rmtree(self.base)

    # What there is to choose from

    def a_directory(self, number: int) -> bytes:
        found = sorted(path for path, entry in self.model.items() if entry.is_directory)
        return found[number % len(found)]

    def an_entry(self, number: int) -> bytes:
        found = sorted(path for path in self.model if path)
        return found[number % len(found)]

    # Changes to the model

    def forget(self, path: bytes) -> None:
        """Remove one path from the model."""
        del self.model[path]
        rest = self.links.pop(path, frozenset()) - {path}
        for member in rest:
            if len(rest) > 1:
                self.links[member] = rest
            else:
                self.links.pop(member)

    def forget_tree(self, path: bytes) -> None:
        for below in [known for known in self.model if paths.is_below(known, path)]:
            self.forget(below)

    # Rules

    @rule(number=pick, name=names, attributes=metadata)
    def add_directory(self, number: int, name: bytes, attributes: dict[str, object]) -> None:
        path = paths.join(self.a_directory(number), name)
        entry = directory(**attributes)
        if path not in self.model:
            self.tree.add(path, entry)
            self.model[path] = entry

    @rule(number=pick, name=names, entry=contents, attributes=metadata)
    def put_file(self, number: int, name: bytes, entry: DirectoryEntry, attributes: dict[str, object]) -> None:
        path = paths.join(self.a_directory(number), name)
        entry = replace(entry, **attributes)  # type: ignore[arg-type]
        self.tree.replace(path, entry)
        self.forget_tree(path)
        self.model[path] = entry

    @rule(number=pick)
    def add_marker(self, number: int) -> None:
        path = paths.join(self.a_directory(number), MARKER)
        if path != MARKER:
            self.tree.replace(path, regular())
            self.model[path] = regular()

    @rule(number=pick)
    def remove_marker(self, number: int) -> None:
        markers = sorted(path for path in self.model if paths.name(path) == MARKER)
        if markers:
            path = markers[number % len(markers)]
            self.tree.remove(path)
            self.forget(path)

    @precondition(lambda self: len(self.model) > 1)
    @rule(number=pick)
    def remove(self, number: int) -> None:
        path = self.an_entry(number)
        self.tree.remove(path)
        self.forget_tree(path)

    @precondition(lambda self: len(self.model) > 1)
    @rule(number=pick)
    def become_a_directory(self, number: int) -> None:
        path = self.an_entry(number)
        if paths.name(path) == MARKER:
            return
        self.tree.replace(path, directory())
        if not self.model[path].is_directory:
            self.forget(path)
        self.model[path] = directory()

    @rule(number=pick, attributes=metadata)
    def touch(self, number: int, attributes: dict[str, object]) -> None:
        path = self.a_directory(number)
        self.tree.touch(path, directory(**attributes))
        self.model[path] = directory(**attributes)

    @precondition(lambda self: len(self.model) > 1)
    @rule(number=pick, name=names)
    def link(self, number: int, name: bytes) -> None:
        existing = self.an_entry(number)
        path = paths.join(paths.parent(existing), name)
        if self.model[existing].is_directory or paths.name(existing) == MARKER or path in self.model:
            return
        self.tree.link(existing, path)
        self.model[path] = self.model[existing]
        group = self.links.get(existing, frozenset([existing])) | {path}
        for member in group:
            self.links[member] = group

    @rule(reopen=st.booleans())
    def commit(self, reopen: bool) -> None:
        found = self.workshop.commit(self.tree)
        assert found.rows.keys() == {b"/" + path if path else b"" for path in self.model}
        expected = {paths.parent(path) for path in self.model if paths.name(path) == MARKER}
        assert {path[1:] for path in found.catalogs} == expected | {b""}
        for path, entry in self.model.items():
            row = found.rows[b"/" + path if path else b""]
            assert (row.mode, row.size, row.mtime, row.mtime_ns, row.uid) == (
                entry.mode,
                entry.size,
                entry.mtime,
                entry.mtime_ns,
                entry.uid,
            )
            assert (row.xattr is not None) == bool(entry.xattrs)
            assert row.hash == (entry.hash.digest if entry.hash else None)
            assert row.chunks == tuple((chunk.offset, chunk.size, chunk.hash.digest) for chunk in entry.chunks)
            members = self.links.get(path)
            if members:
                assert row.links == len(members)
                assert {found.rows[b"/" + member].group for member in members} == {row.group}
        if reopen:
            self.tree.close()
            self.tree = self.workshop.change()

    @invariant()
    def reads_as_the_model(self) -> None:
        seen = dict(self.tree.walk())
        assert list(seen) == sorted(self.model, key=lambda path: path.split(b"/"))
        for path, entry in self.model.items():
            subdirectories = sum(
                other.is_directory and paths.parent(below) == path for below, other in self.model.items() if below
            )
            expected = replace(
                entry,
                name=paths.name(path),
                linkcount=2 + subdirectories if entry.is_directory else len(self.links.get(path, (path,))),
                hardlink_group=seen[path].hardlink_group,
                is_nested_mountpoint=paths.join(path, MARKER) in self.model and path != b"",
            )
            assert seen[path] == expected
            assert self.tree.entry(path) == expected
            assert bool(seen[path].hardlink_group) == (path in self.links)


Comparison.TestCase.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
TestAgainstAModel = Comparison.TestCase
