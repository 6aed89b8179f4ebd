# SPDX-License-Identifier: GPL-3.0-or-later
"""Hash and compression algorithms, chunks, grafted and external files, bundles, and what a revision says as a whole.

Each in both directions: what the native publisher writes, CernVM-FS's own client shows and its check finds in order,
and what CernVM-FS's own software writes, the native publisher reads, checks, and goes on with.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import itertools
import os
import re
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfs_publisher.catalog import CatalogTree
from cvmfs_publisher.content import ContentHash
from cvmfs_publisher.storage import open_store

from . import sources
from .native import KEEP_ALL, Adopt, NativeRepository, NewNative
from .services import Directory
from .trees import differences, read_directory, read_mount
from .upstream import CommandFailed, NewUpstream, Repository, TakeOver, Tools, Upstream, run

ALGORITHMS = ["sha1", "rmd160", "shake128"]
SMALL_CHUNKS = {
    "CVMFS_MIN_CHUNK_SIZE": "65536",
    "CVMFS_AVG_CHUNK_SIZE": "131072",
    "CVMFS_MAX_CHUNK_SIZE": "262144",
}
AUTHORIZATION = Path("/usr/libexec/cvmfs/authz")


def tree(number: int) -> sources.Directory:
    """Return small, chunked and empty files, in two catalogs."""
    return sources.Directory(
        {
            b"small": sources.File(1000 + number, number),
            b"large": sources.File(1_500_000, 7),
            b"changing": sources.File(700_000 + number, number),
            b"empty": sources.File(0),
            b"nested": sources.Directory(
                {b".cvmfscatalog": sources.File(0), b"file": sources.File(50 + number, number)}
            ),
        }
    )


def publish_theirs(theirs: Repository, item: sources.Directory, *options: str) -> None:
    """Let CernVM-FS's own software replace the directory ``tree``."""
    with theirs.publish(*options) as mounted:
        shutil.rmtree(mounted / "tree", ignore_errors=True)
        sources.make(item, mounted / "tree")


def goes_back_and_forth(
    upstream: Upstream, native: NativeRepository, theirs: Repository, source: Path, rounds: int = 1
) -> None:
    """Let both publish in turn, and look at each other's revisions."""
    for number in range(1, rounds + 1):
        publish_theirs(theirs, tree(10 * number))
        native.check()
        upstream.assert_shows(native, read_directory(sources.make(tree(10 * number), source)), b"tree")
        native.mirror(sources.make(tree(10 * number + 1), source), "tree")
        upstream.assert_shows(native, read_directory(source), b"tree")
        native.check()
        theirs.check()


# Hash algorithms


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_algorithm_of_native(
    upstream: Upstream, new_native: NewNative, take_over: TakeOver, served: Directory, tmp_path: Path, algorithm: str
) -> None:
    settings = {**SMALL_CHUNKS, "CVMFS_HASH_ALGORITHM": algorithm}
    native = new_native(served, **KEEP_ALL, **settings)
    source = sources.make(tree(1), tmp_path / "source")
    native.mirror(source, "tree", "-a", "first")
    upstream.assert_shows(native, read_directory(source), b"tree")
    native.server("tag", "-a", "second")
    native.server("resign")
    upstream.check(native)
    goes_back_and_forth(upstream, native, take_over(native, served, **settings), source)
    suffix = "" if algorithm == "sha1" else f"-{algorithm}"
    assert all(re.fullmatch(f"[0-9a-f]{{40}}{suffix}", native.manifest()[field]) for field in "CHXMY")


@pytest.mark.parametrize("algorithm", ["rmd160", "shake128"])
def test_algorithm_of_upstream(
    upstream: Upstream, new_upstream: NewUpstream, adopt: Adopt, served: Directory, tmp_path: Path, algorithm: str
) -> None:
    theirs = new_upstream(served, "-a", algorithm, **SMALL_CHUNKS)
    publish_theirs(theirs, tree(1))
    native = adopt(theirs, served, **SMALL_CHUNKS)
    native.check()
    goes_back_and_forth(upstream, native, theirs, tmp_path / "source")
    assert native.manifest()["C"].endswith(f"-{algorithm}")


@pytest.mark.parametrize(("old", "new"), [("sha1", "shake128"), ("rmd160", "sha1"), ("shake128", "rmd160")])
def test_changes_of_the_algorithm(
    upstream: Upstream,
    new_upstream: NewUpstream,
    adopt: Adopt,
    served: Directory,
    tmp_path: Path,
    old: str,
    new: str,
) -> None:
    theirs = new_upstream(served, "-a", old, **SMALL_CHUNKS)
    publish_theirs(theirs, tree(1))
    native = adopt(theirs, served, **SMALL_CHUNKS, CVMFS_HASH_ALGORITHM=new)
    source = sources.make(tree(2), tmp_path / "source")
    native.mirror(source, "tree")
    upstream.assert_shows(native, read_directory(source), b"tree")
    native.check()
    theirs.check()
    theirs.configure({"CVMFS_HASH_ALGORITHM": new})
    goes_back_and_forth(upstream, native, theirs, source)


# Compression and chunks


@pytest.mark.parametrize(("compression", "chunked"), itertools.product(["default", "none"], ["true", "false"]))
def test_compression_and_chunks(
    upstream: Upstream,
    new_native: NewNative,
    take_over: TakeOver,
    served: Directory,
    tmp_path: Path,
    compression: str,
    chunked: str,
) -> None:
    settings = {
        **SMALL_CHUNKS,
        "CVMFS_COMPRESSION_ALGORITHM": compression,
        "CVMFS_USE_FILE_CHUNKING": chunked,
    }
    native = new_native(served, **KEEP_ALL, **settings)
    source = sources.make(tree(1), tmp_path / "source")
    native.mirror(source, "tree")
    upstream.assert_shows(native, read_directory(source), b"tree")
    theirs = take_over(native, served, **settings)
    goes_back_and_forth(upstream, native, theirs, source)

    # Each publish may have a compression of its own; what it does not bring stays as it is
    other = "none" if compression == "default" else "default"
    native.mirror(sources.make(tree(3), source), "tree", "-Z", other)
    upstream.assert_shows(native, read_directory(source), b"tree")
    with upstream.mount(native) as mount:
        names = {"default": "zlib", "none": "none"}
        assert mount.attribute("compression", b"tree/small").strip("\0") == names[other]
        assert (int(mount.attribute("chunks", b"tree/large").strip("\0")) > 1) == (chunked == "true")
    theirs.check()
    publish_theirs(theirs, tree(4), "-Z", other)
    native.check()
    upstream.assert_shows(native, read_directory(sources.make(tree(4), source)), b"tree")


def test_bulk_chunks(
    upstream: Upstream, new_native: NewNative, take_over: TakeOver, served: Directory, tmp_path: Path
) -> None:
    """Large files as one object besides: deprecated, but still to be read, checked and written."""
    settings = {
        **SMALL_CHUNKS,
        "CVMFS_GENERATE_LEGACY_BULK_CHUNKS": "true",
        "CVMFS_COMPRESSION_ALGORITHM": "none",
    }
    native = new_native(served, **KEEP_ALL, **settings)
    source = sources.make(tree(1), tmp_path / "source")
    native.mirror(source, "tree")
    upstream.assert_shows(native, read_directory(source), b"tree")
    with upstream.mount(native) as mount:
        assert int(mount.attribute("chunks", b"tree/large").strip("\0")) > 1
        hash_text = mount.attribute("hash", b"tree/large").strip("\0")
    stored = served.path / native.name / "data" / hash_text[:2] / hash_text[2:]
    assert stored.read_bytes() == (source / "large").read_bytes()
    goes_back_and_forth(upstream, native, take_over(native, served, **settings), source)


# Grafts


def describe(tools: Tools, file: Path, output: Path, *options: str) -> None:
    """Let CernVM-FS's own program make a graft of a file."""
    run([tools.swissknife, "graft", "-i", file, "-o", output, *options])


@pytest.mark.parametrize("algorithm", ["sha1", "shake128"])
@pytest.mark.parametrize("packed", [False, True], ids=["directory", "tar"])
def test_grafts(
    tools: Tools,
    upstream: Upstream,
    new_native: NewNative,
    served: Directory,
    tmp_path: Path,
    algorithm: str,
    packed: bool,
) -> None:
    """What CernVM-FS's own program describes is grafted, and read by its client."""
    native = new_native(served, CVMFS_HASH_ALGORITHM=algorithm, CVMFS_COMPRESSION_ALGORITHM="none")
    original = tmp_path / "original"
    original.mkdir()
    (original / "small").write_bytes(os.urandom(3000))
    (original / "large").write_bytes(os.urandom(2_500_000))
    grafts = tmp_path / "grafts"
    grafts.mkdir()
    describe(tools, original / "small", grafts / "small", "-a", algorithm)
    describe(tools, original / "large", grafts / "large", "-a", algorithm, "-c", "1")
    assert (grafts / "large").stat().st_size == 0
    if packed:
        subprocess.run(["tar", "-C", grafts, "-cf", tmp_path / "grafts.tar", "."], check=True)
        native.server("ingest", "-t", tmp_path / "grafts.tar", "-b", "tree")
    else:
        native.mirror(grafts, "tree")
    with pytest.raises(CommandFailed):  # nobody has put the content there yet
        upstream.check(native)

    for name in ("small", "large"):
        store_grafted(served.path / native.name, grafts / f".cvmfsgraft-{name}", original / name)
    upstream.check(native)
    native.check()
    with upstream.mount(native) as mount:
        assert sorted(os.listdir(mount.path / "tree")) == ["large", "small"]
        for name in ("small", "large"):
            assert (mount.path / "tree" / name).read_bytes() == (original / name).read_bytes()


def store_grafted(storage: Path, description: Path, file: Path) -> None:
    """Put the objects of a grafted, uncompressed file into a repository."""
    values = dict(line.split("=", 1) for line in description.read_text().splitlines())
    content = file.read_bytes()
    texts = values["chunk_checksums"].split(",") if "chunk_checksums" in values else [values["checksum"]]
    for number, text in enumerate(texts):
        piece, kind = (content[number << 20 : (number + 1) << 20], "P") if len(texts) > 1 else (content, "")
        (storage / "data" / text[:2] / (text[2:].removesuffix("P") + kind)).write_bytes(piece)


def test_grafts_of_upstream(
    tools: Tools, upstream: Upstream, new_upstream: NewUpstream, adopt: Adopt, served: Directory, tmp_path: Path
) -> None:
    """The native publisher checks them, keeps them, and describes the same files as CernVM-FS does."""
    theirs = new_upstream(served, "-Z", "none", CVMFS_ENABLE_MTIME_NS="false", CVMFS_INCLUDE_XATTRS="false")
    content = os.urandom(2_500_000)
    file = tmp_path / "file"
    file.write_bytes(content)
    with theirs.publish() as mounted:
        (mounted / "tree").mkdir()
        describe(tools, file, mounted / "tree" / "grafted", "-c", "1")
        shutil.copy(mounted / "tree" / ".cvmfsgraft-grafted", tmp_path / "description")
    store_grafted(served.path / theirs.name, tmp_path / "description", file)
    native = adopt(theirs, served)
    native.check()

    ours = tmp_path / "ours"
    ours.mkdir()
    shutil.copy(tmp_path / "description", ours / ".cvmfsgraft-grafted")
    (ours / "grafted").touch()
    native.mirror(ours, "again")
    upstream.check(native)
    native.check()
    with upstream.mount(native) as mount:
        for directory in ("tree", "again"):
            assert (mount.path / directory / "grafted").read_bytes() == content
        attributes = [mount.attribute("chunk_list", f"{directory}/grafted".encode()) for directory in ("tree", "again")]
        assert attributes[0] == attributes[1]


# External files


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves files, and parts of them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data, status = path.read_bytes(), 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is not None:
            data, status = data[int(wanted[1]) : int(wanted[2]) + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def served_with_ranges(directory: Path) -> Iterator[str]:
    handler = functools.partial(_Ranges, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_external_files(
    upstream: Upstream, new_native: NewNative, take_over: TakeOver, served: Directory, tmp_path: Path
) -> None:
    settings = {
        **SMALL_CHUNKS,
        "CVMFS_EXTERNAL_DATA": "true",
        "CVMFS_COMPRESSION_ALGORITHM": "none",
    }
    native = new_native(served, **KEEP_ALL, **settings)
    outside = tmp_path / "outside"
    outside.mkdir()
    source = sources.make(tree(1), outside / "tree")
    before = set((served.path / native.name / "data").rglob("*"))
    native.mirror(source, "tree")
    stored = set((served.path / native.name / "data").rglob("*")) - before
    assert not any(path.name[-1] == "P" for path in stored)
    native.check()
    upstream.check(native)
    with served_with_ranges(outside) as url:
        options = f"CVMFS_EXTERNAL_URL={url}\nCVMFS_EXTERNAL_HTTP_PROXY=DIRECT\n"
        with upstream.mount(native, options) as mount:
            assert mount.attribute("external_file", b"tree/small").strip("\0") == "1"
            found = read_mount(mount.path / "tree")
            assert not differences(read_directory(source), found)

        theirs = take_over(native, served, **settings)
        publish_theirs(theirs, tree(2))
        sources.make(tree(2), source)
        native.check()
        changes = {"source": str(source), "base_dir": "other", "mode": "mirror"}
        native.publish(changes, options=("-N", "-d"))
        upstream.check(native)
        with upstream.mount(native, options) as mount:
            assert mount.attribute("external_file", b"tree/small").strip("\0") == "1"
            assert mount.attribute("external_file", b"other/small").strip("\0") == "0"
            assert mount.attribute("direct_io", b"other/small").strip("\0") == "1"
            for name in ("tree", "other"):
                assert not differences(read_directory(source), read_mount(mount.path / name))


# Bundles, flags


def test_bundles(
    upstream: Upstream, new_native: NewNative, take_over: TakeOver, served: Directory, tmp_path: Path
) -> None:
    native = new_native(served, **KEEP_ALL)
    source = sources.make(sources.Directory({b".cvmfsbundles": sources.File(0)}), tmp_path / "source")
    (source / ".cvmfsbundles").write_text("{}")
    native.mirror(source)
    upstream.assert_shows(native, read_directory(source))
    theirs = take_over(native, served)
    with theirs.publish() as mounted:
        (mounted / ".cvmfsbundles").write_text('{"changed": []}')
    native.check()

    # What one refuses, the other refuses, too
    sources.make(sources.Directory({b"sub": sources.Directory({b".cvmfsbundles": sources.File(0)})}), source)
    native.server("ingest", "--directory", source, "-b", "/", expect=1)
    theirs.server("transaction")
    (theirs.mounted / "sub").mkdir()
    (theirs.mounted / "sub" / ".cvmfsbundles").write_text("{}")
    with pytest.raises(CommandFailed):
        theirs.server("publish")
    theirs.server("abort", "-f")


def test_membership(upstream: Upstream, new_native: NewNative, served: Directory, tmp_path: Path) -> None:
    """Clients ask their helper, and show the requirement; the copies outside of data/ are enough to begin with."""
    native = new_native(served, **KEEP_ALL, CVMFS_VOMS_AUTHZ="allow%members", CVMFS_CATALOG_ALT_PATHS="true")
    source = sources.make(tree(1), tmp_path / "source")
    native.mirror(source, "tree")
    upstream.check(native)
    native.check()
    assert native.manifest()["A"] == "yes"

    def helper(name: str) -> str:
        return f"CVMFS_AUTHZ_HELPER={AUTHORIZATION / name}\n"

    with upstream.mount(native, helper("cvmfs_allow_helper")) as mount:
        assert mount.attribute("authz").strip("\0") == "allow%members"
        assert not differences(read_directory(source), read_mount(mount.path / "tree"))
    open_to_all = tmp_path / "authz"
    open_to_all.write_text("")
    native.configure({"CVMFS_UPSTREAM_STORAGE": served.storage_of(native.name), **KEEP_ALL})
    native.publish(options=("-F", str(open_to_all)))
    with upstream.mount(native, helper("cvmfs_deny_helper")) as mount:
        with pytest.raises(OSError, match="No data available"):
            mount.attribute("authz")
        assert not differences(read_directory(source), read_mount(mount.path / "tree"))


def test_membership_of_upstream(
    upstream: Upstream, new_native: NewNative, take_over: TakeOver, served: Directory, tmp_path: Path
) -> None:
    native = new_native(served, **KEEP_ALL)
    theirs = take_over(native, served)
    authz = tmp_path / "authz"
    authz.write_text("allow%theirs")
    with theirs.publish("-F", str(authz)) as mounted:
        (mounted / "file").write_text("theirs")
    source = sources.make(tree(1), tmp_path / "source")
    native.mirror(source, "tree")
    native.check()
    with upstream.mount(native, f"CVMFS_AUTHZ_HELPER={AUTHORIZATION}/cvmfs_allow_helper\n") as mount:
        assert mount.attribute("authz").strip("\0") == "allow%theirs"


def test_volatile_collectable_short_lived(
    upstream: Upstream, new_native: NewNative, take_over: TakeOver, served: Directory, tmp_path: Path
) -> None:
    settings = {"CVMFS_GARBAGE_COLLECTION": "true", "CVMFS_REPOSITORY_TTL": "77"}
    native = new_native(served, **KEEP_ALL, **settings)
    native.mirror(sources.make(tree(1), tmp_path / "source"), "tree")
    upstream.check(native)
    with upstream.mount(native) as mount:
        assert int(mount.attribute("revision").strip("\0")) == 2
    theirs = take_over(native, served, **settings)
    publish_theirs(theirs, tree(2))
    assert (native.manifest()["D"], native.manifest()["G"]) == ("77", "yes")
    native.mirror(sources.make(tree(3), tmp_path / "source"), "tree")
    assert (native.manifest()["D"], native.manifest()["G"]) == ("77", "yes")
    native.check()


def test_volatile_of_upstream(
    upstream: Upstream, new_upstream: NewUpstream, adopt: Adopt, served: Directory, tmp_path: Path
) -> None:
    theirs = new_upstream(served, "-v", "-z", CVMFS_AUTO_GC="false")
    native = adopt(theirs, served)
    native.mirror(sources.make(tree(1), tmp_path / "source"), "tree")
    upstream.check(native)
    assert native.manifest()["G"] == "yes"
    root = ContentHash.parse(native.manifest()["C"]).with_suffix("C")
    store = open_store(served.storage_of(native.name))
    with contextlib.closing(store), CatalogTree(store, root, tmp_path) as catalogs:
        assert catalogs.catalog(b"").properties()["volatile"] == "1"


# Extended attributes


def access_list(user: int) -> bytes:
    """Return the kernel's form of an access control list that lets one more user read."""
    entries = [
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, user),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 4, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    ]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_attributes_and_access_lists(
    upstream: Upstream, new_native: NewNative, take_over: TakeOver, served: Directory, tmp_path: Path
) -> None:
    """With attributes that no catalog can hold, which are left out as upstream leaves them out."""
    native = new_native(served, **KEEP_ALL)
    source = sources.make(tree(1), tmp_path / "source")
    os.setxattr(source / "small", "system.posix_acl_access", access_list(4711))
    os.setxattr(source / "nested", "system.posix_acl_default", access_list(4712))
    os.setxattr(source / "large", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 0, 0, 0, 0))
    os.setxattr(source / "empty", "user.fits", b"x" * 255)
    expected = read_directory(source)
    os.setxattr(source / "empty", "user.too-long", b"x" * 257)
    native.mirror(source, "tree")
    upstream.assert_shows(native, expected, b"tree")
    native.check()
    with upstream.mount(native) as mount:
        assert os.getxattr(mount.path / "tree" / "small", "system.posix_acl_access") == access_list(4711)

    theirs = take_over(native, served)
    with theirs.publish() as mounted:
        os.setxattr(mounted / "tree" / "small", "user.theirs", b"theirs")
    native.check()
    os.removexattr(source / "empty", "user.too-long")
    os.setxattr(source / "small", "user.theirs", b"theirs")
    upstream.check(native)
    with upstream.mount(native) as mount:
        assert not differences(read_directory(source), read_mount(mount.path / "tree"))
