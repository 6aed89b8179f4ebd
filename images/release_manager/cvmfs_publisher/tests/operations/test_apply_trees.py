# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees of all kinds are published from directories and archives, and read back."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from changes.repository import Repository, Seen, merge, mirror, on_disk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvmfs_publisher.errors import SourceError
from cvmfs_publisher.operations.apply import ChangeReport

SETTINGS = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
LARGE = b"".join(hashlib.sha256(bytes([number % 251])).digest() for number in range(8_000))
"""Content that is cut into chunks."""


@dataclass
class Node:
    """A file, symlink, fifo or hard link (content is another name) or directory, to be made on disk."""

    kind: str
    mode: int
    mtime_ns: int
    content: bytes = b""
    children: dict[bytes, Node] = field(default_factory=dict)


_names = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b".hidden", b"new\nline", b"caf\xe9", b"\xff\xfe", b"n" * 255, b"with space"]),
    st.binary(min_size=1, max_size=12).filter(
        lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
    ),
).filter(lambda name: not name.startswith(b".cvmfs"))
_times = st.integers(min_value=0, max_value=4_000_000_000 * 10**9)
_modes = st.sampled_from([0o644, 0o755, 0o600, 0o4755, 0o1777, 0o444, 0o000])
_contents = st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"same", b"LARGE"]))
_targets = st.one_of(
    st.sampled_from([b"a", b"../b", b"/etc/passwd", b"dangling \xff", b"$(VARIABLE)"]),
    st.binary(min_size=1, max_size=20).filter(lambda target: b"\0" not in target),
)
_leaves = st.one_of(
    st.builds(Node, st.just("file"), _modes, _times, _contents),
    st.builds(Node, st.just("symlink"), st.just(0o777), _times, _targets),
    st.builds(Node, st.just("fifo"), _modes, _times),
    st.builds(Node, st.just("link"), _modes, _times),
)
_marker = st.one_of(st.none(), st.builds(Node, st.just("file"), st.just(0o644), _times))


def _directories(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    return st.builds(
        lambda mode, mtime, inside, marker: Node(
            "directory", mode | 0o700, mtime, b"", inside | ({b".cvmfscatalog": marker} if marker else {})
        ),
        _modes,
        _times,
        st.dictionaries(_names, children, max_size=5),
        _marker,
    )


_trees = st.builds(
    lambda mode, mtime, inside: Node("directory", mode | 0o700, mtime, b"", inside),
    _modes,
    _times,
    st.dictionaries(_names, st.recursive(_leaves, _directories, max_leaves=14), min_size=1, max_size=6),
)


def write(node: Node, path: bytes) -> None:
    """Make a directory with all that is below it."""
    os.mkdir(path)
    files: list[bytes] = []
    for name, child in sorted(node.children.items()):
        place = path + b"/" + name
        if child.kind == "directory":
            write(child, place)
            continue
        if child.kind == "link" and files:
            os.link(files[len(name) % len(files)], place, follow_symlinks=False)
            continue
        if child.kind == "symlink":
            os.symlink(child.content, place)
        elif child.kind == "fifo":
            os.mkfifo(place)
        else:
            with open(place, "wb") as file:
                file.write(LARGE if child.content == b"LARGE" else child.content)
        if child.kind != "symlink":
            os.chmod(place, child.mode)
        os.utime(place, ns=(0, child.mtime_ns), follow_symlinks=False)
        if name != b".cvmfscatalog" and child.kind != "fifo":  # tar does not see that fifos are linked
            files.append(place)
    os.chmod(path, node.mode)
    os.utime(path, ns=(0, node.mtime_ns))


def _tar(source: Path, archive: Path, *options: str) -> None:
    subprocess.run(["tar", "-C", source, *options, "-cf", archive, "."], check=True)


@SETTINGS
@given(first=_trees, second=_trees)
def test_a_mirrored_directory_is_what_is_published(first: Node, second: Node) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        source = base / "source"
        repository = Repository(base / "repository")
        for tree in (first, second):
            write(tree, os.fsencode(source))
            expected = on_disk(source)
            predicted = repository.preview(mirror(source, "a/b"))
            before = repository.seen(b"a/b") if repository.root else {}
            report = repository.publish(mirror(source, "a/b"))
            assert repository.seen(b"a/b") == expected

            parents = 0 if before else 1
            assert report.added.count == len(expected.keys() - before.keys()) + parents
            assert report.removed.count == len(before.keys() - expected.keys())
            assert _numbers(predicted) == _numbers(report)
            again = repository.publish(mirror(source, "a/b"))
            assert _numbers(again) == (0, 0, 0)
            assert not again.changed
            shutil.rmtree(source)


@SETTINGS
@given(first=_trees, second=_trees)
def test_an_archive_is_published_as_the_directory_that_it_was_made_of(first: Node, second: Node) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        source, archive = base / "source", base / "content.tar"
        repository = Repository(base / "repository")
        for tree in (first, second):
            write(tree, os.fsencode(source))
            _tar(source, archive, "--format=posix")
            repository.publish(mirror(archive, "", keep_ownership=True))
            assert repository.seen() == on_disk(source)
            assert _numbers(repository.publish(mirror(source, ""))) == (0, 0, 0)
            assert _numbers(repository.publish(mirror(archive, "", keep_ownership=True))) == (0, 0, 0)
            shutil.rmtree(source)


@SETTINGS
@given(first=_trees, second=_trees)
def test_a_merge_adds_and_replaces(first: Node, second: Node) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        repository = Repository(base / "repository")
        seen = []
        for number, tree in enumerate((first, second)):
            source = base / str(number)
            write(tree, os.fsencode(source))
            seen.append(on_disk(source))
        repository.publish(merge(base / "0"))
        expected = merged(*seen)
        if expected is None:
            with pytest.raises(SourceError, match="is a directory with something in it"):
                repository.publish(merge(base / "1"))
            return
        predicted = repository.preview(merge(base / "1"))
        report = repository.publish(merge(base / "1"))
        assert repository.seen(b"sw") == expected
        assert _numbers(report) == _numbers(predicted)
        assert report.added.count == len(expected.keys() - seen[0].keys())
        assert report.removed.count == 0
        assert not repository.publish(merge(base / "1")).changed


def merged(below: dict[bytes, Seen], above: dict[bytes, Seen]) -> dict[bytes, Seen] | None:
    """Return what a merge has to make of two trees; None if it has to refuse."""
    result = {}
    for path, old in below.items():
        new = above.get(path)
        if new is None:
            names = frozenset(name for name in old.names if os.path.join(os.path.dirname(path), name) not in above)
            result[path] = replace(old, names=names if len(names) > 1 else frozenset())
        elif stat.S_ISDIR(old.mode) and not stat.S_ISDIR(new.mode) and _is_full(path, below):
            return None
    return result | above


def _is_full(path: bytes, tree: dict[bytes, Seen]) -> bool:
    return any(other.startswith(path + b"/") for other in tree)


def _numbers(report: ChangeReport) -> tuple[int, int, int]:
    return report.added.count, report.modified.count, report.removed.count
