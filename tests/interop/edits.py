# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of a directory tree, one system call or program each, that can be made in several copies of it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hypothesis import strategies as st

from cvmfs_publisher.paths import join, name, parent

from . import sources
from .sources import MARKER

CHUNK_SETTINGS = {
    "CVMFS_MIN_CHUNK_SIZE": str(32 << 10),
    "CVMFS_AVG_CHUNK_SIZE": str(64 << 10),
    "CVMFS_MAX_CHUNK_SIZE": str(128 << 10),
}
"""Settings with which a file need not be large to be chunked."""

_SIZES = st.one_of(
    st.integers(0, 200), st.sampled_from([0, 1, 4096, (32 << 10) - 1, 32 << 10, (128 << 10) + 1, 300_000])
)
_MODES = st.one_of(st.integers(0, 0o7777), st.sampled_from([0o644, 0o755, 0, 0o4711, 0o1777, 0o2755]))
_OWNERS = st.sampled_from([0, 1, 1000, 65534, 2**31, 2**32 - 2])
_PLAIN_NAMES = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])
_NAMES = st.one_of(
    _PLAIN_NAMES,
    st.sampled_from(
        [
            b" ",
            b"new\nline",
            b"tab\t\x01\x7f",
            b"\xff\xfe",
            b"\xc3\x28",
            "ü☃漢".encode(),
            b"-rf",
            b"*?[a]",
            b"'\"`$HOME\\",
            b"...",
            b".wh.a",
            b".hidden",
            b"#",
            b"a:b|c",
            b"n" * 255,
        ]
    ),
)
_TARGETS = st.sampled_from([b"a", b"../b", b"/usr/bin/env", b"no/such/thing", b".", b"\xff \n", b"l" * 3000])
_BASES = st.sampled_from([1_700_000_000 * 10**9, 1, 999_999_999, -86_400 * 10**9, 86_400 * 365 * 100 * 10**9])


@dataclass(frozen=True)
class Edit:
    """One change.

    :param what: a function of this module
    :param path: what changes
    :param arguments: more arguments of the function
    :param mtime: what is made or changed, and the directories in which a name changes, get this time (nanoseconds),
        so that copies stay equal
    """

    what: Callable[..., list[bytes]]
    path: bytes
    arguments: tuple[int | bytes, ...]
    mtime: int

    def apply(self, root: bytes) -> None:
        """Make the change in the tree at `root`."""
        for changed in filter(None, self.what(root, self.path, *self.arguments)):
            os.utime(join(root, changed), ns=(self.mtime, self.mtime), follow_symlinks=False)
        os.utime(root, ns=(0, 0))  # always the same: CernVM-FS's own publisher does not look at the root itself

    def __repr__(self) -> str:
        arguments = "".join(f", {argument!r}" for argument in self.arguments)
        return f"{self.what.__name__}({self.path!r}{arguments})"


def write(root: bytes, path: bytes, size: int, seed: int) -> list[bytes]:
    """Make a file, or write a file anew."""
    made = not os.path.lexists(join(root, path))
    with open(join(root, path), "wb") as stream:
        stream.write(sources.content(size, seed))
    return [path, parent(path)] if made else [path]


def append(root: bytes, path: bytes, size: int) -> list[bytes]:
    with open(join(root, path), "ab") as stream:
        stream.write(sources.content(size, 7))
    return [path]


def truncate(root: bytes, path: bytes, size: int) -> list[bytes]:
    os.truncate(join(root, path), size)
    return [path]


def overwrite(root: bytes, path: bytes, size: int, seed: int) -> list[bytes]:
    """Replace a file as careful programs do: write another, and rename it."""
    temporary = join(parent(path), b".temporary")
    write(root, temporary, size, seed)
    os.replace(join(root, temporary), join(root, path))
    return [path, parent(path)]


def chmod(root: bytes, path: bytes, mode: int) -> list[bytes]:
    os.chmod(join(root, path), mode)
    return [path]


def chown(root: bytes, path: bytes, uid: int, gid: int) -> list[bytes]:
    os.chown(join(root, path), uid, gid, follow_symlinks=False)
    return [path]


def touch(root: bytes, path: bytes) -> list[bytes]:  # noqa: ARG001
    return [path]


def set_xattr(root: bytes, path: bytes, attribute: bytes, value: bytes) -> list[bytes]:
    os.setxattr(join(root, path), attribute, value)
    return [path]


def remove_xattrs(root: bytes, path: bytes) -> list[bytes]:
    try:
        attributes = os.listxattr(join(root, path))
    except OSError as error:
        if error.errno != errno.ENOTSUP:  # so the native mount says that there are none in the whole revision
            raise
        attributes = []
    for attribute in attributes:
        if attribute.startswith("user."):
            os.removexattr(join(root, path), attribute)
    return [path]


def mkdir(root: bytes, path: bytes, mode: int) -> list[bytes]:
    os.mkdir(join(root, path))
    os.chmod(join(root, path), mode)
    return [path, parent(path)]


def symlink(root: bytes, path: bytes, target: bytes) -> list[bytes]:
    os.symlink(target, join(root, path))
    return [path, parent(path)]


def link(root: bytes, path: bytes, existing: bytes) -> list[bytes]:
    os.link(join(root, existing), join(root, path), follow_symlinks=False)
    return [path, parent(path)]


def fifo(root: bytes, path: bytes) -> list[bytes]:
    os.mkfifo(join(root, path))
    os.chmod(join(root, path), 0o644)
    return [path, parent(path)]


def socket(root: bytes, path: bytes) -> list[bytes]:
    os.mknod(join(root, path), stat.S_IFSOCK | 0o600)
    os.chmod(join(root, path), 0o600)
    return [path, parent(path)]


def remove(root: bytes, path: bytes) -> list[bytes]:
    """Remove a file, or a directory and all that is below it."""
    location = join(root, path)
    if stat.S_ISDIR(os.lstat(location).st_mode):
        shutil.rmtree(location)
    else:
        os.unlink(location)
    return [parent(path)]


def rename(root: bytes, path: bytes, new: bytes) -> list[bytes]:
    """Rename anything; a file may replace another."""
    try:
        os.rename(join(root, path), join(root, new))
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # As mv(1) does. Directories that the lower file system has cannot be renamed in an overlay
        _copy(join(root, path), join(root, new))
        shutil.rmtree(join(root, path))
    return [parent(path), parent(new)]


def copy(root: bytes, path: bytes, new: bytes) -> list[bytes]:
    """Copy a directory with all that is below it, also the markers of nested catalogs."""
    _copy(join(root, path), join(root, new))
    return [parent(new)]


def become_directory(root: bytes, path: bytes, file: bytes) -> list[bytes]:
    """Replace anything by a directory that has a file."""
    remove(root, path)
    mkdir(root, path, 0o755)
    write(root, join(path, file), 10, 1)
    return [join(path, file), path, parent(path)]


def become_file(root: bytes, path: bytes, size: int) -> list[bytes]:
    remove(root, path)
    return write(root, path, size, 2)


def become_symlink(root: bytes, path: bytes, target: bytes) -> list[bytes]:
    remove(root, path)
    return symlink(root, path, target)


def mark(root: bytes, path: bytes) -> list[bytes]:
    """Make a directory a nested catalog, or no nested catalog any more."""
    marker = join(path, MARKER)
    if os.path.lexists(join(root, marker)):
        return remove(root, marker)
    return write(root, marker, 0, 0)


def _copy(existing: bytes, new: bytes) -> None:
    subprocess.run(["cp", "--archive", "--no-target-directory", "--", existing, new], check=True)
    # In a directory with the set-group-ID bit, cp makes directories that have it, and does not take it from those
    # that are not to have it.
    for location, _, _ in os.walk(existing):
        os.chmod(new + location[len(existing) :], stat.S_IMODE(os.lstat(location).st_mode))


@dataclass(frozen=True)
class Names:
    """What is in a tree, by kind."""

    directories: list[bytes]
    files: list[bytes]
    others: list[bytes]

    @classmethod
    def of(cls, root: bytes) -> Names:
        """Look."""
        found = cls([b""], [], [])
        for location, directories, files in os.walk(root):
            below = location[len(root) + 1 :]
            for entry in directories + files:
                path = join(below, entry)
                mode = os.lstat(join(root, path)).st_mode
                if entry == MARKER:
                    continue
                kind = found.directories if stat.S_ISDIR(mode) else found.files if stat.S_ISREG(mode) else found.others
                kind.append(path)
        return cls(*map(sorted, (found.directories, found.files, found.others)))

    def __iter__(self) -> Iterator[bytes]:
        yield from self.directories[1:]
        yield from self.files
        yield from self.others


_MANY = 40


@st.composite
def edits(draw: st.DrawFn, root: bytes, number: int, *, on_overlay: bool) -> Edit | None:
    """Draw an edit that is possible in the tree at `root`; None if the one that was thought of is not.

    :param number: of this edit, for times that are not repeated
    :param on_overlay: nothing that CernVM-FS's own publisher does not keep: hard links, names that begin with ``.wh.``
    """
    names = Names.of(root)
    everything = list(names)
    kinds = ["make", "make", "file", "metadata", "move", "remove", "become", "mark"]
    kind = draw(st.sampled_from(kinds))
    what: Callable[..., list[bytes]]
    arguments: tuple[int | bytes, ...]
    if kind in ("make", "move"):
        path = join(draw(st.sampled_from(names.directories)), draw(_NAMES))
        if os.path.lexists(join(root, path)) or len(everything) > _MANY or path.count(b"/") > 5:
            return None
        if on_overlay and name(path).startswith(b".wh."):
            return None
    if kind == "make":
        makers = [write, mkdir, write, mkdir, symlink, fifo, socket, *([] if on_overlay else [link])]
        what = draw(st.sampled_from(makers))
        if what is write:
            arguments = (draw(_SIZES), draw(st.integers(0, 3)))
        elif what is mkdir:
            arguments = (draw(_MODES),)
        elif what is symlink:
            arguments = (draw(_TARGETS),)
        elif what is link:
            siblings = [other for other in names.files + names.others if parent(other) == parent(path)]
            if not siblings:
                return None
            arguments = (draw(st.sampled_from(siblings)),)
        else:
            arguments = ()
    elif kind == "move":
        what = draw(st.sampled_from([rename, rename, copy]))
        existing = names.directories[1:] if what is copy else everything
        if not existing:
            return None
        arguments = (path,)
        path = draw(st.sampled_from(existing))
        if (arguments[0] + b"/").startswith(path + b"/"):
            return None
    elif kind == "file":
        if not names.files:
            return None
        path = draw(st.sampled_from(names.files))
        what = draw(st.sampled_from([write, append, truncate, overwrite]))
        arguments = (draw(_SIZES), *([draw(st.integers(0, 3))] if what in (write, overwrite) else []))
    elif kind == "mark":
        if not names.directories[1:]:
            return None
        what, path, arguments = mark, draw(st.sampled_from(names.directories[1:])), ()
    else:
        if not everything:
            return None
        path = draw(st.sampled_from(everything))
        if kind == "remove":
            what, arguments = remove, ()
        elif kind == "become":
            what = draw(st.sampled_from([become_directory, become_file, become_symlink]))
            arguments = (draw({become_directory: _PLAIN_NAMES, become_file: _SIZES, become_symlink: _TARGETS}[what]),)
        else:
            what = draw(st.sampled_from([chmod, chown, touch, set_xattr, remove_xattrs]))
            if what in (chmod, set_xattr, remove_xattrs) and path in names.others:
                return None
            arguments = ()
            if what is chmod:
                arguments = (draw(_MODES),)
            elif what is chown:
                arguments = (draw(_OWNERS), draw(_OWNERS))
            elif what is set_xattr:
                arguments = (draw(st.sampled_from([b"user.a", b"user.b"])), draw(st.binary(max_size=20)))
    return Edit(what, path, arguments, draw(_BASES) + number * 1_000_000_007)
