# SPDX-License-Identifier: GPL-3.0-or-later
"""Repository paths: bytes, relative to the root, without leading or trailing slash; the root itself is ``b""``.

File names are bytes because CernVM-FS, like POSIX, allows any byte in them but ``/`` and NUL.
"""

from __future__ import annotations

import hashlib
import struct

from .errors import UsageError

ROOT = b""
_MAX_NAME = 255


def join(parent: bytes, name: bytes) -> bytes:
    """Return the path of `name` in the directory `parent`."""
    return parent + b"/" + name if parent else name


def parent(path: bytes) -> bytes:
    """Return the path of the directory that holds `path`; the root is its own parent."""
    return path.rpartition(b"/")[0]


def name(path: bytes) -> bytes:
    """Return the last component of `path`."""
    return path.rpartition(b"/")[2]


def is_below(path: bytes, directory: bytes) -> bool:
    """Say whether `path` is `directory` itself or lies inside it."""
    return not directory or path == directory or path.startswith(directory + b"/")


def parse(text: str | bytes) -> bytes:
    """Return the repository path that a user wrote; a leading and a trailing slash are allowed.

    :raises UsageError: for ``.``, ``..``, empty or over-long components, and NUL bytes
    """
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    stripped = raw.strip(b"/")
    if not stripped:
        return ROOT
    for component in stripped.split(b"/"):
        if component in (b"", b".", b"..") or b"\0" in component:
            raise UsageError(
                f"{display(raw)!r} is not a path inside a repository",
                remedy="Name it relative to the repository's root, without '.', '..' and double slashes",
            )
        if len(component) > _MAX_NAME:
            raise UsageError(
                f"{display(raw)!r} has a file name of more than {_MAX_NAME} bytes", remedy="Use a shorter name"
            )
    return stripped


def display(path: bytes) -> str:
    r"""Return `path` for messages and JSON: what is not printable UTF-8 appears as ``\xNN``."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def md5path(path: bytes) -> tuple[int, int]:
    """Return the key of `path` in a catalog: both halves of an MD5, as signed little-endian 64-bit numbers.

    The hashed text is the path with a leading slash; the root's is empty (CernVM-FS documentation, "File Catalog").
    """
    digest = hashlib.md5(b"/" + path if path else b"", usedforsecurity=False).digest()
    first, second = struct.unpack("<qq", digest)
    return first, second
