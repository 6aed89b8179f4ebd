# SPDX-License-Identifier: GPL-3.0-or-later
"""Random trees and changes, and a simple model of what they make of a repository."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from hypothesis import strategies as st

from cvmfs_publisher.changes.change_set import Change, Content, Deletion, Mode
from operations.reading import Seen, Tree, on_disk

MARKER = b".cvmfscatalog"
LARGE = b"".join(hashlib.sha256(bytes([number % 251])).digest() for number in range(6_000))
"""Content that is cut into chunks."""


@dataclass
class Node:
    """Something in a tree; a ``link`` is one more name of another file in its directory, if there is one."""

    kind: str
    mode: int
    mtime_ns: int
    content: bytes = b""
    children: dict[bytes, Node] = field(default_factory=dict)


def _is_name(name: bytes) -> bool:
    return b"/" not in name and b"\0" not in name and name not in (b".", b"..") and not name.startswith(b".cvmfs")


names = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"a.", b"d"]),
    st.sampled_from(
        [b"a", b"b", b"new\nline", b"caf\xe9", "ü".encode(), b"\xff\xfe", b"n" * 255, b" ", b"-rf", b"\\x61"]
    ),
    st.binary(min_size=1, max_size=12).filter(_is_name),
)
_times = st.one_of(
    st.integers(min_value=0, max_value=2**31 * 10**9),
    st.sampled_from([0, 1, 999_999_999, 10**9, 1_700_000_000 * 10**9 + 1, 1_700_000_000 * 10**9 + 2, 2**32 * 10**9]),
)
_modes = st.sampled_from([0o644, 0o755, 0o600, 0o4755, 0o2711, 0o1777, 0o444, 0o000])
_contents = st.one_of(st.sampled_from([b"", b"same", b"SAME", b"LARGE"]), st.binary(max_size=40))
_targets = st.one_of(
    st.sampled_from([b"a", b"../b", b"/etc/passwd", b"$(VARIABLE)/x", b"t" * 400]),
    st.binary(min_size=1, max_size=20).filter(lambda target: b"\0" not in target),
)
_leaves = st.one_of(
    st.builds(Node, st.just("file"), _modes, _times, _contents),
    st.builds(Node, st.just("file"), _modes, _times, _contents),
    st.builds(Node, st.just("symlink"), st.just(0o777), _times, _targets),
    st.builds(Node, st.just("fifo"), _modes, _times),
    st.builds(Node, st.just("link"), _modes, _times),
)


def _directories(children: st.SearchStrategy[Node], *, markers: bool = True) -> st.SearchStrategy[Node]:
    marker = st.one_of(
        st.none(), st.builds(Node, st.just("file"), st.just(0o644), _times, st.sampled_from([b"", b"x"]))
    )

    def build(mode: int, mtime_ns: int, inside: dict[bytes, Node], marked: Node | None) -> Node:
        return Node("directory", mode | 0o700, mtime_ns, b"", inside | ({MARKER: marked} if marked else {}))

    inside = st.dictionaries(names, children, max_size=4)
    return st.builds(build, _modes, _times, inside, marker if markers else st.none())


trees = _directories(st.recursive(_leaves, _directories, max_leaves=12), markers=False)


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
        if child.kind != "fifo":  # tar does not see that fifos are linked
            files.append(place)
    os.chmod(path, node.mode)
    os.utime(path, ns=(0, node.mtime_ns))


def pack(directory: Path, archive: Path) -> Path:
    """Make a tar archive of a directory."""
    subprocess.run(["tar", "-C", directory, "--format=posix", "-cf", archive, "."], check=True)
    return archive


# Changes


@dataclass(frozen=True)
class Step:
    """One change, of which the source is still to be made.

    :param kind: ``mirror``, ``merge``, or ``delete``
    :param tree: None for deletions
    """

    kind: str
    path: bytes
    tree: Node | None = None
    as_archive: bool = False
    allow_empty: bool = False
    nested: bool = False

    def change(self, source: Path) -> Change:
        """Make the source, and return the change."""
        if self.tree is None:
            return Deletion(self.path)
        write(self.tree, os.fsencode(source))
        archive = pack(source, source.with_suffix(".tar")) if self.as_archive else source
        return Content(
            str(archive),
            self.path,
            Mode(self.kind),
            keep_ownership=True,
            allow_empty=self.allow_empty,
            nested_catalog=self.nested,
        )


_places = st.sampled_from([b"", b"a", b"b", b"a/b", b"a/a/c", b"b/new\nline"])
_brought = st.builds(
    Step, st.sampled_from(["mirror", "mirror", "merge"]), _places, trees, st.booleans(), st.booleans(), st.booleans()
)
_deleted = st.builds(
    Step,
    st.just("delete"),
    st.one_of(_places.filter(bool), st.sampled_from([b"a/" + MARKER, b"a/a", b"new_repository", b"a/a/" + MARKER])),
)
steps = st.one_of(_brought, _brought, _deleted)


class Refused(Exception):
    """The model says that such a change is refused."""


ANYTHING = -1
"""In the model: the time of a directory that the publisher makes up."""


class Model:
    """A repository's tree as a dictionary. Files with the same inode are hard links if they are in one directory."""

    def __init__(self, tree: Tree) -> None:
        self.tree = dict(tree)
        self.inodes: dict[bytes, object] = {path: object() for path in tree}

    def apply(self, step: Step, source: Path) -> None:
        """Do what a change does.

        :param source: the directory that the change's source was made of
        """
        if step.tree is None:
            for path in self._below(step.path):
                self._forget(path)
            return
        brought = on_disk(source)
        base = step.path
        self._make_base(base)
        if any(os.path.basename(path) == MARKER and seen.names for path, seen in brought.items()):
            raise Refused("a marker with hard links")
        published = set(self._below(base)) - {base, _join(base, MARKER)}
        if step.kind == "mirror" and len(brought) == 1 and published and not step.allow_empty:
            raise Refused("an empty source")
        nested = step.nested and base
        if nested and MARKER not in brought and _join(base, MARKER) not in self.tree:
            brought[MARKER] = Seen(stat.S_IFREG | 0o644, 0, 0, ANYTHING, content=b"")
        if base == b"" and MARKER in brought:
            raise Refused("a marker in the root")
        if step.kind == "mirror":
            kept = {_join(base, path) for path in brought} | ({_join(base, MARKER)} if nested else set())
            for path in self._below(base):
                if path not in kept:
                    self._forget(path)
        inodes: dict[tuple[bytes, frozenset[bytes]], object] = {}
        for path in sorted(brought):
            self._put(_join(base, path), brought[path], inodes, is_mirror=step.kind == "mirror")

    def _put(
        self, path: bytes, seen: Seen, inodes: dict[tuple[bytes, frozenset[bytes]], object], *, is_mirror: bool
    ) -> None:
        old = self.tree.get(path)
        if old is not None and stat.S_ISDIR(old.mode) and not stat.S_ISDIR(seen.mode):
            if self._children(path) and not is_mirror:
                raise Refused("a file in place of a directory")
            for inner in self._below(path):
                self._forget(inner)
        self.tree[path] = replace(seen, names=frozenset())
        group = (os.path.dirname(path), seen.names)
        self.inodes[path] = inodes.setdefault(group, object()) if seen.names else object()

    def _make_base(self, base: bytes) -> None:
        components = base.split(b"/") if base else []
        for depth in range(1, len(components) + 1):
            path = b"/".join(components[:depth])
            if path not in self.tree:
                self.tree[path] = Seen(stat.S_IFDIR | 0o755, 0, 0, ANYTHING)
                self.inodes[path] = object()
            elif not stat.S_ISDIR(self.tree[path].mode):
                raise Refused("a path into a file")

    def _below(self, path: bytes) -> list[bytes]:
        return [p for p in self.tree if p == path or (p.startswith(path + b"/") if path else p)]

    def _children(self, path: bytes) -> bool:
        return any(p != path for p in self._below(path))

    def _forget(self, path: bytes) -> None:
        del self.tree[path], self.inodes[path]

    @property
    def expected(self) -> Tree:
        """The tree as it is to be read."""
        links: dict[tuple[bytes, object], set[bytes]] = {}
        for path, inode in self.inodes.items():
            links.setdefault((os.path.dirname(path), inode), set()).add(os.path.basename(path))
        return {path: replace(seen, names=self._names(path, links)) for path, seen in self.tree.items()}

    def _names(self, path: bytes, links: dict[tuple[bytes, object], set[bytes]]) -> frozenset[bytes]:
        found = links[os.path.dirname(path), self.inodes[path]] if path else set()
        return frozenset(found) if len(found) > 1 else frozenset()

    @property
    def catalogs(self) -> frozenset[bytes]:
        """The paths at which catalogs have to begin."""
        return frozenset({b""} | {os.path.dirname(path) for path in self.tree if os.path.basename(path) == MARKER})


def _join(base: bytes, path: bytes) -> bytes:
    return base + b"/" + path if base and path else base or path


def differences(expected: Tree, found: Tree) -> Iterator[str]:
    """Say how a tree that was read differs from the model's."""
    for path in sorted(expected.keys() | found.keys()):
        left, right = expected.get(path), found.get(path)
        if left is not None and right is not None and left.mtime_ns == ANYTHING:
            left = replace(left, mtime_ns=right.mtime_ns)
        if left != right:
            yield f"{path!r}: expected {left}, found {right}"
