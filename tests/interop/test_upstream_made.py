# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories that CernVM-FS's own software made, in the hands of the native publisher."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cvmfs_publisher.repository import Certificate, MasterKey, Whitelist
from cvmfs_publisher.storage import open_store

from . import sources
from .native import NativeRepository
from .services import Bucket
from .test_native import KEEP_ALL, New
from .test_takeover import assert_shows, keep_all, tags_of
from .trees import below, differences, read_directory, read_mount
from .upstream import CONFIGURATION, CommandFailed, Repository, Upstream


def adopt(theirs: Repository, bucket: Bucket, directory: Path, *, with_master_key: bool = False) -> NativeRepository:
    """Give the native publisher what it needs to go on with a repository, and nothing more."""
    native = NativeRepository(theirs.name, theirs.url, directory)
    native.configure({"CVMFS_UPSTREAM_STORAGE": bucket.storage_of(theirs.name), **KEEP_ALL})
    native.keys.mkdir()
    for kind in ("pub", "key", "crt", *(["masterkey"] if with_master_key else [])):
        shutil.copy(CONFIGURATION / "keys" / f"{theirs.name}.{kind}", native.keys)
    return native


@pytest.mark.parametrize(
    "options",
    [(), ("-a", "shake128", "-z"), ("-Z", "none", "-g"), ("-v",)],
    ids=["default", "shake128", "uncompressed", "volatile"],
)
def test_native_goes_on(
    upstream: Upstream, new_name: Callable[[str], str], bucket: Bucket, tmp_path: Path, options: tuple[str, ...]
) -> None:
    with upstream.new_repository(new_name("up"), bucket, *options) as theirs:
        keep_all(theirs)
        copy = tmp_path / "copy"
        with theirs.publish("-a", "theirs") as mounted:
            sources.make(sources.awkward(1), mounted / "tree")
        sources.make(sources.awkward(1), copy)

        (tmp_path / "native").mkdir()
        native = adopt(theirs, bucket, tmp_path / "native")
        before = native.manifest()
        native.check()
        sources.make(sources.awkward(2), copy)
        result = native.mirror(copy, "tree", "-a", "ours")
        assert (result["previous_revision"], result["revision"]) == (2, 3) if "-v" not in options else True
        assert_shows(upstream, native, read_directory(copy))
        native.check()
        after = native.manifest()
        assert {key: after[key] for key in "NDGAMX"} == {key: before[key] for key in "NDGAMX"}

        theirs.check()
        with theirs.publish("-a", "theirs-again") as mounted:
            (mounted / "theirs").write_text("theirs")
        upstream.check(native)
        native.check()
        assert {"theirs", "ours", "theirs-again"} < tags_of(theirs).keys()
