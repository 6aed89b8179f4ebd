# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees to publish: what real software looks like, and what no software should."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

MARKER = b".cvmfscatalog"
_MIB = 1 << 20
_DAY = 86_400 * 10**9
_YEAR = 365 * _DAY


@dataclass(frozen=True)
class File:
    """A regular file of `size` bytes; equal seeds give equal content."""

    size: int
    seed: int = 0
    mode: int = 0o644
    mtime: int = 1_700_000_000_123_456_789
    uid: int = 0
    gid: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Directory:
    """A directory and what is in it."""

    content: Mapping[bytes, Item] = field(default_factory=dict)
    mode: int = 0o755
    mtime: int = 1_600_000_000_000_000_001
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True)
class Symlink:
    """A symbolic link."""

    target: bytes
    mtime: int = 1_500_000_000_987_654_321


@dataclass(frozen=True)
class Fifo:
    """A named pipe."""

    mode: int = 0o600
    mtime: int = 1_400_000_000_000_000_000


@dataclass(frozen=True)
class HardLink:
    """One more name of a file in the same directory, whose name sorts before; does nothing if there is none."""

    name: bytes


Item = File | Directory | Symlink | Fifo | HardLink


def make(item: Directory, root: Path) -> Path:
    """Make the directory `root`, equal to `item`. What was there is removed."""
    shutil.rmtree(root, ignore_errors=True)
    _make(item, os.fsencode(root))
    return root


def _make(item: Item, location: bytes) -> None:
    if isinstance(item, HardLink):
        existing = os.path.join(os.path.dirname(location), item.name)
        if os.path.lexists(existing) and not stat.S_ISDIR(os.lstat(existing).st_mode):
            os.link(existing, location, follow_symlinks=False)
        return
    if isinstance(item, Symlink):
        os.symlink(item.target, location)
        os.utime(location, ns=(item.mtime, item.mtime), follow_symlinks=False)
        return
    if isinstance(item, Fifo):
        os.mkfifo(location, item.mode)
        os.utime(location, ns=(item.mtime, item.mtime))
        return
    if isinstance(item, File):
        Path(os.fsdecode(location)).write_bytes(content(item.size, item.seed))
        for attribute, value in item.xattrs.items():
            os.setxattr(location, attribute, value)
    else:
        os.mkdir(location)
        for name, child in sorted(item.content.items(), key=lambda pair: (isinstance(pair[1], HardLink), pair[0])):
            _make(child, location + b"/" + name)
    os.chown(location, item.uid, item.gid)
    os.chmod(location, item.mode)  # after chown, which clears setuid bits
    os.utime(location, ns=(item.mtime, item.mtime))


def content(size: int, seed: int) -> bytes:
    """Return bytes of which one half can be compressed, and the other cannot."""
    noise = random.Random(seed).randbytes((size + 1) // 2)  # noqa: S311
    return (noise + b"cvmfs " * (size // 12 + 1))[:size]


# By hand: each thing that has ever been forgotten by somebody


def awkward(revision: int) -> Directory:
    """Return a tree of awkward things; each of its three revisions changes the kind of many of them."""
    swap = revision % 2
    flip: Item = Directory({b"inner": File(10, 1), b"deep": Directory({b"er": File(11, 2)})}) if swap else File(12, 3)
    tree: dict[bytes, Item] = {
        b"plain": File(5, revision, mtime=revision),
        b"constant": File(1000, 42),
        b"empty": File(0),
        b"empty directory": Directory(),
        b"flip": flip,
        b"flop": File(13, 4) if swap else Directory({b"inner": Symlink(b"../flip")}),
        b"link or directory": Symlink(b"plain") if swap else Directory({b"x": File(3, 5)}),
        b"fifo or file": Fifo() if swap else File(7, 6),
        b"names": Directory(
            {
                b"new\nline": File(1, 1),
                b"tab\tand\x01control\x7f": File(2, 2),
                b"latin1 \xe9\xe8\xff": File(3, 3),
                b"broken utf-8 \xc3\x28\xf0\x9f": Directory({b"\xfe\xfe": File(4, 4), b"\xed\xa0\x80": Directory()}),
                "ünïcödé ☃".encode(): Directory({"漢字".encode(): File(5, 5)}),
                b" leading and trailing ": File(6, 6),
                b"'quotes\"and`ticks`$HOME\\": File(7, 7),
                b"-rf": File(8, 8),
                b"*": File(9, 9),
                b"..." + b"x": File(10, 10),
                b"n" * 255: File(11, 11),
                "é".encode() * 127 + b"z": Directory({b"d" * 255: File(12, 12)}),
                b".cvmfsdirtab": File(0),
                b"symlink\n\xff": Symlink(b"to nowhere \xff\n"),
            }
        ),
        b"modes": Directory(
            {
                b"setuid": File(20, 1, mode=0o4755),
                b"setgid": File(20, 2, mode=0o2755),
                b"sticky": Directory({b"in": File(1, 1)}, mode=0o1777),
                b"setgid directory": Directory({b"in": File(1, 1)}, mode=0o2775),
                b"nothing": File(20, 3, mode=0),
                b"write only": File(20, 4, mode=0o200),
                b"owned": File(20, 5, uid=12345, gid=54321),
                b"huge owner": File(20, 6, uid=2**32 - 2, gid=2**31),
                b"changing": File(20, 7, mode=0o600 + revision),
            }
        ),
        b"times": Directory(
            {
                b"before 1970": File(1, 1, mtime=-5 * _YEAR - 1),
                b"a nanosecond before 1970": File(1, 2, mtime=-1),
                b"1970": File(1, 3, mtime=0),
                b"after 2038": File(1, 4, mtime=90 * _YEAR + 999_999_999),
                b"after 2106": File(1, 5, mtime=150 * _YEAR),
                b"old directory": Directory({}, mtime=-3 * _DAY),
                b"old symlink": Symlink(b"x", mtime=-_DAY),
                b"only the time changes": File(1, 6, mtime=1_700_000_000_000_000_000 + revision),
            }
        ),
        b"links": Directory(
            {
                b"a": File(30, 1),
                b"b": HardLink(b"a"),
                b"c": HardLink(b"a") if swap else File(30, 1),
                b"d": File(31, 2),
                b"e": HardLink(b"d"),
                b"symlink": Symlink(b"a"),
                b"symlink too": HardLink(b"symlink"),
                b"fifo": Fifo(),
                b"pipe": HardLink(b"fifo"),
                b"dangling": Symlink(b"no/such/thing"),
                b"absolute": Symlink(b"/usr/bin/env"),
                b"up": Symlink(b"../../../../.."),
                b"itself": Symlink(b"itself"),
                b"long": Symlink(b"l" * 4000),
            }
        ),
        b"equal": Directory({b"%d" % number: File(100, 77) for number in range(50)}),
        b"deep": _deep(40),
        b"nested": Directory(
            {
                MARKER: File(0),
                b"in": File(50, 1),
                b"two": Directory({MARKER: File(0), b"below": Directory({b"x": File(51, revision, mtime=revision)})}),
                b"only marker": Directory({MARKER: File(0)}),
                b"comes and goes": Directory({MARKER: File(0), b"f": File(52, 3)} if swap else {b"f": File(52, 3)}),
                b"linked": Directory({MARKER: File(0), b"a": File(1, 9), b"b": HardLink(b"a")}),
            }
        ),
        b"nested or file": Directory({MARKER: File(0), b"f": File(53, 1)}) if swap else File(54, 1),
    }
    if revision == 1:
        tree[b"gone in the second revision"] = Directory({MARKER: File(0), b"f": File(1, 1), b"d": _deep(3)})
    return Directory(tree)


def _deep(levels: int) -> Directory:
    directory = Directory({b"bottom": File(levels, levels)})
    for level in range(levels):
        directory = Directory({b"level %d" % level: directory})
    return directory


def large() -> Directory:
    """Return files around the sizes at which chunking begins and ends, and files that share chunks."""
    sizes = {size + by for size in (4 * _MIB, 8 * _MIB, 16 * _MIB) for by in (-1, 0, 1)}
    files: dict[bytes, Item] = {b"%d" % size: File(size, 1) for size in sorted(sizes)}
    return Directory(
        {
            **files,
            b"40 MB": File(40 * _MIB + 12345, 2),
            b"same": HardLink(b"40 MB"),
            b"copy": File(40 * _MIB + 12345, 2, mode=0o755),
        }
    )


# Real software


def virtual_environment(root: Path) -> Path:
    """Make a Python virtual environment, with pip, and with the shared libraries of a scientific package."""
    subprocess.run([sys.executable, "-m", "venv", "--copies", root], check=True)
    site_packages = next(root.glob("lib/python*/site-packages"))
    package = Path(np.__file__).parent
    for part in (package, package.with_name("numpy.libs")):
        if part.is_dir():
            unneeded = shutil.ignore_patterns("tests", "__pycache__")
            shutil.copytree(part, site_packages / part.name, symlinks=True, ignore=unneeded)
    (site_packages / MARKER.decode()).touch()
    return root


def git_checkout(root: Path) -> Path:
    """Make a git repository of some modules of Python's library, and check out a branch of it."""
    library = Path(os.__file__).parent
    for name in ("email", "json", "encodings", "importlib"):
        shutil.copytree(library / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(root), "-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "gc.auto=0"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "All"], ["checkout", "-qb", "work"]):
        subprocess.run([*git, *command], check=True)
    return root


# By chance

_NAMES = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"d e", b"\xff", b"n\nl", MARKER]),
    st.binary(min_size=1, max_size=255).filter(lambda name: not {0, ord("/")} & {*name} and name not in (b".", b"..")),
)
_TIMES = st.one_of(st.integers(-50 * _YEAR, 200 * _YEAR), st.sampled_from([-1, 0, 2**31 * 10**9]))
_OWNERS = st.sampled_from([0, 1, 1000, 65534, 2**31])
_FILES = st.builds(
    File,
    size=st.one_of(st.integers(0, 300), st.sampled_from([0, 4096, 4 * _MIB + 1])),
    seed=st.integers(0, 5),
    mode=st.integers(0, 0o7777),
    mtime=_TIMES,
    uid=_OWNERS,
    gid=_OWNERS,
)
_SYMLINKS = st.builds(
    Symlink,
    # Clients replace variables, $(NAME)
    target=st.binary(min_size=1, max_size=300).filter(lambda target: 0 not in target and b"$(" not in target),
    mtime=_TIMES,
)
_LEAVES = st.one_of(_FILES, _FILES, _SYMLINKS, st.builds(Fifo), st.builds(HardLink, _NAMES))


def _directories(children: st.SearchStrategy[Item]) -> st.SearchStrategy[Item]:
    return st.builds(
        lambda content, mode, mtime: Directory(_valid(content), mode, mtime),
        st.dictionaries(_NAMES, children, max_size=6),
        st.integers(0, 0o7777),
        _TIMES,
    )


def _valid(content: Mapping[bytes, Item]) -> Mapping[bytes, Item]:
    """Make what marks a nested catalog an empty file that is no hard link."""
    return {
        name: File(0) if name == MARKER else item
        for name, item in content.items()
        if not (isinstance(item, HardLink) and item.name == MARKER)
    }


TREES: st.SearchStrategy[Directory] = st.dictionaries(
    _NAMES.filter(lambda name: name != MARKER),
    st.recursive(_LEAVES, _directories, max_leaves=25),
    max_size=8,
).map(lambda content: Directory(_valid(content)))
"""Directories for hypothesis; without a marker at their top, so that they can be a repository's root."""
