# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories that CernVM-FS's own software made, in the hands of the native publisher."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from cvmfs_publisher.catalog import CatalogTree
from cvmfs_publisher.content import ContentHash
from cvmfs_publisher.paths import is_below
from cvmfs_publisher.repository import Certificate, MasterKey, Whitelist
from cvmfs_publisher.storage import open_store

from . import sources
from .native import KEEP_ALL, Adopt, NativeRepository, NewNative
from .services import Bucket, Directory, Place
from .trees import below, differences, read_directory, read_mount
from .upstream import CONFIGURATION, CommandFailed, NewUpstream, Published, TakeOver, Upstream, run


@pytest.mark.parametrize(
    "options",
    [(), ("-a", "shake128", "-z"), ("-Z", "none", "-g", "-v")],
    ids=["default", "shake128", "uncompressed"],
)
def test_native_goes_on(
    upstream: Upstream,
    new_upstream: NewUpstream,
    adopt: Adopt,
    bucket: Bucket,
    tmp_path: Path,
    options: tuple[str, ...],
) -> None:
    theirs = new_upstream(bucket, *options)
    copy = tmp_path / "copy"
    with theirs.publish("-a", "theirs") as mounted:
        sources.make(sources.awkward(1), mounted / "tree")
    sources.make(sources.awkward(1), copy)

    native = adopt(theirs, bucket)
    before = native.manifest()
    native.check()
    sources.make(sources.awkward(2), copy)
    result = native.mirror(copy, "tree", "-a", "ours")
    assert (result["previous_revision"], result["revision"]) == (2, 3)
    upstream.assert_shows(native, read_directory(copy), b"tree")
    native.check()
    after = native.manifest()
    assert {key: after[key] for key in "NDGAMX"} == {key: before[key] for key in "NDGAMX"}

    theirs.check()
    with theirs.publish("-a", "theirs-again") as mounted:
        (mounted / "theirs").write_text("theirs")
    upstream.check(native)
    native.check()
    assert {"theirs", "ours", "theirs-again"} < theirs.tags().keys()


def expire(repository: NativeRepository, bucket: Bucket) -> None:
    """Replace the whitelist by one that has expired, in all other respects right."""
    key = MasterKey.load(repository.keys / f"{repository.name}.masterkey")
    certificate = Certificate.load(repository.keys / f"{repository.name}.crt")
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=40)
    store = open_store(bucket.storage_of(repository.name))
    store.put(".cvmfswhitelist", Whitelist.create(repository.name, [certificate], now=past).signed(key))
    store.close()


def test_whitelists(upstream: Upstream, new_native: NewNative, bucket: Bucket, tmp_path: Path) -> None:
    """Each accepts the other's, and neither accepts one that has expired."""
    native = new_native(bucket, **KEEP_ALL)
    source = sources.make(sources.Directory({b"file": sources.File(5)}), tmp_path / "source")
    native.mirror(source, "tree")

    with upstream.imported(native, bucket.storage_of(native.name), native.keys) as theirs:
        upstream.assert_shows(native, read_directory(source), b"tree")
        native.check()

        expire(native, bucket)
        with pytest.raises(CommandFailed), upstream.mount(native):
            pass
        with pytest.raises(CommandFailed):
            upstream.check(native)
        with pytest.raises(CommandFailed):
            theirs.server("transaction")
        native.server("transaction", expect=22)

        native.server("resign")
        upstream.assert_shows(native, read_directory(source), b"tree")
        with theirs.publish() as mounted:
            (mounted / "theirs").touch()

        expire(native, bucket)
        theirs.server("resign")
        native.mirror(source, "tree/again")
        upstream.check(native)
        native.check()


def test_whitelist_that_expires_in_a_transaction(
    upstream: Upstream, new_native: NewNative, bucket: Bucket, tmp_path: Path
) -> None:
    native = new_native(bucket, **KEEP_ALL)
    source = sources.make(sources.Directory({b"file": sources.File(5)}), tmp_path / "source")
    native.server("transaction")
    expire(native, bucket)
    changes = f'{{"version": 1, "changes": [{{"source": "{source}", "base_dir": "tree", "mode": "mirror"}}]}}'
    assert "expired" in native.server("publish", "--changes", "-", stdin=changes, expect=1)
    native.server("resign")
    native.server("publish", "--changes", "-", stdin=changes)
    upstream.assert_shows(native, read_directory(source), b"tree")


def test_new_key(upstream: Upstream, new_native: NewNative, bucket: Bucket, tmp_path: Path) -> None:
    """CernVM-FS's own software replaces the repository key; with the new one the native publisher goes on."""
    native = new_native(bucket, **KEEP_ALL)
    source = sources.make(sources.Directory({b"file": sources.File(5)}), tmp_path / "source")
    native.mirror(source, "tree")
    with upstream.imported(native, bucket.storage_of(native.name), native.keys, "-t"):
        old = (native.keys / f"{native.name}.crt").read_bytes()
        with pytest.raises(CommandFailed, match="not in the whitelist"):
            native.mirror(source, "tree/again")
        native.server("abort", "-f")
        for kind in ("key", "crt"):
            shutil.copy(CONFIGURATION / "keys" / f"{native.name}.{kind}", native.keys)
        assert (native.keys / f"{native.name}.crt").read_bytes() != old
        native.mirror(source, "tree/again")
        upstream.check(native)
        native.check()
    native.server("resign", "-p")
    upstream.check(native)


def test_same_archive(
    upstream: Upstream, take_over: TakeOver, new_native: NewNative, bucket: Bucket, tmp_path: Path
) -> None:
    """Both publishers make the same of one archive, but for what is not right in CernVM-FS's own."""
    native = new_native(bucket, **KEEP_ALL)
    source = sources.make(sources.awkward(1), tmp_path / "source")
    (source / "links" / "pipe").unlink()  # tar has no hard links of pipes
    archive = tmp_path / "archive.tar"
    run(["tar", "--create", "--file", archive, "--directory", source, "--format=pax", "."])
    native.server("ingest", "-t", archive, "-b", "native", "-k")
    theirs = take_over(native, bucket)
    theirs.server("ingest", "-t", str(archive), "-b", "upstream/", "-k")
    upstream.check(native)
    native.check()
    with upstream.mount(native) as mount:
        tree = read_mount(mount.path)
    ours, theirs_read = below(tree, b"native"), below(tree, b"upstream")
    assert not differences(read_directory(source), ours)
    # It reads -1.5 s as -0.5 s, and leaves out hard links of symlinks and the like
    for path in (b"times/before 1970", b"times/a nanosecond before 1970", b"links", b"nested/linked"):
        for part in (ours, theirs_read):
            for found in [name for name in part if is_below(name, path)]:
                del part[found]
    assert not differences(theirs_read, ours)


def chunks_of(repository: Published, place: Place, scratch: Path, path: bytes) -> dict[bytes, list[tuple[int, int]]]:
    """Return offset and size of each chunk of the files below a directory."""
    root = ContentHash.parse(repository.manifest()["C"]).with_suffix("C")
    with (
        contextlib.closing(open_store(place.storage_of(repository.name))) as store,
        CatalogTree(store, root, scratch) as tree,
    ):
        return {
            file.removeprefix(path): [(chunk.offset, chunk.size) for chunk in entry.chunks]
            for file, entry in tree.walk(path)
            if entry.is_regular
        }


def test_files_are_cut_at_the_same_places(
    new_upstream: NewUpstream, adopt: Adopt, served: Directory, tmp_path: Path
) -> None:
    """And so equal content in them is stored once, whoever publishes it."""
    theirs = new_upstream(served)
    native = adopt(theirs, served)
    native.mirror(sources.make(sources.large(), tmp_path / "source"), "native")
    theirs.check()
    with theirs.publish() as mounted:
        sources.make(sources.large(), mounted / "upstream")
    cut = chunks_of(theirs, served, tmp_path, b"native")
    assert len(cut[b"/40 MB"]) > 3
    assert cut == chunks_of(theirs, served, tmp_path, b"upstream")


_DIRTAB = b"""\
# a comment
/tree/*
! *.svn
/tree/sw/*/lib
/tree/no/such/directory
/deep/*/*
"""


def test_same_nested_catalogs(
    upstream: Upstream, new_upstream: NewUpstream, new_native: NewNative, served: Directory, tmp_path: Path
) -> None:
    """Both publishers make the same of .cvmfsdirtab, now and as directories come and go."""

    def fill(root: Path, directories: Sequence[str]) -> None:
        (root / ".cvmfsdirtab").write_bytes(_DIRTAB)
        for directory in directories:
            (root / directory).mkdir(parents=True)
            (root / directory / "file").write_text(directory)

    def catalogs(repository: Published) -> list[bytes]:
        root = ContentHash.parse(repository.manifest()["C"]).with_suffix("C")
        with (
            contextlib.closing(open_store(served.storage_of(repository.name))) as store,
            CatalogTree(store, root, tmp_path) as tree,
        ):
            return [path for path, _ in tree.catalogs()]

    first = ["tree/a", "tree/b.svn", "tree/sw/1/lib/x", "tree/sw/1/bin", "deep/1/2/3", "deep/4"]
    more = ["tree/c", "tree/sw/2/lib", "deep/4/5"]
    native = new_native(served, **KEEP_ALL)
    source = tmp_path / "source"
    source.mkdir()
    theirs = new_upstream(served)
    for directories in (first, more):
        with theirs.publish() as mounted:
            fill(mounted, directories)
        fill(source, directories)
        native.mirror(source)
        assert catalogs(native) == catalogs(theirs)
        upstream.check(native)
    with theirs.publish() as mounted:
        shutil.rmtree(mounted / "tree" / "a")
        shutil.rmtree(mounted / "tree" / "sw" / "1")
    shutil.rmtree(source / "tree" / "a")
    shutil.rmtree(source / "tree" / "sw" / "1")
    native.mirror(source)
    assert catalogs(native) == catalogs(theirs)
    upstream.check(native)


def test_what_the_client_knows(upstream: Upstream, new_native: NewNative, served: Directory, tmp_path: Path) -> None:
    """Magic attributes, and a scrub of the storage."""
    native = new_native(served, **KEEP_ALL)
    native.mirror(sources.make(sources.awkward(1), tmp_path / "source"))
    root = ContentHash.parse(native.manifest()["C"]).with_suffix("C")
    with (
        contextlib.closing(open_store(served.storage_of(native.name))) as store,
        CatalogTree(store, root, tmp_path) as tree,
        upstream.mount(native) as mount,
    ):
        plain = tree.entry(b"plain")
        assert plain is not None
        assert plain.hash is not None
        assert mount.attribute("hash", b"plain") == plain.hash.hex
        assert mount.attribute("compression", b"plain") == "zlib"
        counters = dict(line.split(",") for line in mount.attribute("repo_counters").split())
        total = tree.statistics().total
        assert counters["regular"] == str(total.regular)
        assert counters["file_size"] == str(total.file_size)
        assert counters["nested"] == str(total.nested) == str(len(list(tree.catalogs())) - 1)
    run([upstream.tools.swissknife, "scrub", "-r", served.path / native.name / "data"])


def test_publishers_in_each_other_s_way(
    upstream: Upstream, take_over: TakeOver, new_native: NewNative, bucket: Bucket, tmp_path: Path
) -> None:
    """Who publishes second is refused, and what was published first is not lost."""
    native = new_native(bucket, **KEEP_ALL)
    source = sources.make(sources.Directory({b"file": sources.File(5)}), tmp_path / "source")
    changes = f'{{"version": 1, "changes": [{{"source": "{source}", "base_dir": "ours", "mode": "mirror"}}]}}'
    theirs = take_over(native, bucket)
    native.server("transaction")
    with theirs.publish() as mounted:
        (mounted / "first").touch()
    assert "revision" in native.server("publish", "--changes", "-", stdin=changes, expect=1)
    native.server("abort", "-f")
    assert native.manifest()["S"] == "2"

    theirs.server("transaction")
    (theirs.mounted / "second").touch()
    native.mirror(source, "ours")
    with pytest.raises(CommandFailed, match="reflog"):
        theirs.server("publish")
    assert native.manifest()["S"] == "3"
    theirs.server("abort", "-f")
    theirs.check()
    with theirs.publish() as mounted:
        (mounted / "second").touch()
    upstream.check(native)
    with upstream.mount(native) as mount:
        assert {"first", "second", "ours"} < set(os.listdir(mount.path))
