# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository of CernVM-FS's own tools moves from local storage to a bucket, and back to them, while it is in use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from .native import KEEP_ALL, NativeRepository
from .services import Bucket, Directory
from .trees import read_directory
from .upstream import CONFIGURATION, CommandFailed, NewUpstream, Upstream


def add(root: Path, name: str) -> None:
    """Add a file to a tree; what is made has the same times everywhere."""
    root.mkdir(exist_ok=True)
    (root / name).write_text(f"This is {name}")
    for path in (root / name, root):
        os.utime(path, ns=(1_234_567_890_000_000_000, 1_234_567_890_000_000_000))


@pytest.mark.parametrize("algorithm", ["sha1", "rmd160", "shake128"])
def test_there_and_back(
    upstream: Upstream, new_upstream: NewUpstream, served: Directory, bucket: Bucket, tmp_path: Path, algorithm: str
) -> None:
    theirs = new_upstream(served, "-z", "-a", algorithm)
    copy = tmp_path / "copy"
    add(copy, "first")
    with theirs.publish("-a", "before") as mounted:
        add(mounted / "tree", "first")
    native = NativeRepository.at(theirs.name, bucket.url_of(theirs.name), tmp_path / "native")
    native.configure({"CVMFS_UPSTREAM_STORAGE": bucket.storage_of(theirs.name), **KEEP_ALL})
    native.keys.mkdir(parents=True)
    for kind in ("pub", "key", "crt"):
        shutil.copy(CONFIGURATION / "keys" / f"{theirs.name}.{kind}", native.keys)
    old = served.storage_of(theirs.name)

    # While theirs is in use, and at the cut-over, nothing is signed
    assert native.document("copy", "--from", old)["changed"]
    add(copy, "more")
    with theirs.publish() as mounted:
        add(mounted / "tree", "more")
    theirs.server("transaction")
    with pytest.raises(CommandFailed):
        theirs.server("transaction")
    again = native.document("copy", "--from", old)
    assert again["changed"]
    assert again["objects"] < again["present"]
    assert not native.document("copy", "--from", old)["changed"]
    assert native.manifest() == theirs.manifest()
    upstream.assert_shows(native, read_directory(copy), b"tree")

    # It goes on in the bucket, ...
    add(copy, "native")
    native.mirror(copy, "tree", "-a", "native")
    upstream.assert_shows(native, read_directory(copy), b"tree")

    # ... and back with theirs
    assert native.document("copy", "--to", old)["changed"]
    theirs.server("abort", "-f")
    theirs.check()
    assert {"before", "native"} <= theirs.tags().keys()
    add(copy, "theirs")
    with theirs.publish() as mounted:
        add(mounted / "tree", "theirs")
    upstream.assert_shows(theirs, read_directory(copy), b"tree")
    theirs.server("gc", "-r", "0", "-f")
    theirs.check()
    native.document("copy", "--from", old, "--overwrite")
    native.check()
