# SPDX-License-Identifier: GPL-3.0-or-later
"""What is published in another way than as objects of the source's bytes, and what a revision says as a whole."""

from __future__ import annotations

import io
import os
import pwd
import secrets
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cvmfs_publisher.catalog import CatalogTree, DirectoryEntry
from cvmfs_publisher.changes.graft import MAX_GRAFT
from cvmfs_publisher.content import Compression, ContentHash, HashAlgorithm
from cvmfs_publisher.operations.mkfs import MkfsOptions, mkfs
from cvmfs_publisher.repository import ServerConfig
from operations.managers import NAME, ReleaseManager, changes_file, make, merge, mirror
from operations.reading import below, on_disk, published
from operations.test_interrupted import without_repository


def entry_of(manager: ReleaseManager, path: str) -> DirectoryEntry:
    """Return what a path is in the current revision."""
    with manager.store() as store, CatalogTree(store, manifest_of(manager).root_hash, manager.tmp) as tree:
        entry = tree.entry(path.encode())
    assert entry is not None, path
    return entry


def names_in(manager: ReleaseManager, path: str) -> set[bytes]:
    with manager.store() as store, CatalogTree(store, manifest_of(manager).root_hash, manager.tmp) as tree:
        return {entry.name for entry in tree.listing(path.encode())}


def properties_of(manager: ReleaseManager) -> dict[str, str]:
    """Return the properties of the root catalog."""
    with manager.store() as store, CatalogTree(store, manifest_of(manager).root_hash, manager.tmp) as tree:
        return tree.catalog(b"").properties()


manifest_of = ReleaseManager.manifest


def objects_of(manager: ReleaseManager) -> set[str]:
    """Return the keys of all objects with files or pieces of files."""
    with manager.store() as store:
        return {info.key for info in store.list("data/") if info.key[-1] not in "CHMX"}


def description_of(entry: DirectoryEntry) -> str:
    """Return a file's description as of a grafted file."""
    lines = [f"size={entry.size}", f"checksum={entry.hash or '0' * 40}", f"compression={entry.compression.setting}"]
    if entry.chunks:
        lines.append("chunk_offsets=" + ",".join(str(chunk.offset) for chunk in entry.chunks))
        lines.append("chunk_checksums=" + ",".join(str(chunk.hash) for chunk in entry.chunks))
    return "\n".join(lines) + "\n"


# Grafts


def as_directory(files: dict[str, str], directory: Path) -> tuple[str, ...]:
    make(directory, **files)
    return ("--directory", str(directory))


def as_archive(files: dict[str, str], directory: Path) -> tuple[str, ...]:
    directory.mkdir()
    with tarfile.open(directory / "files.tar", "w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return ("-t", str(directory / "files.tar"))


FORMS = pytest.mark.parametrize("form", [as_directory, as_archive])


@FORMS
@pytest.mark.parametrize("compression", ["default", "none"])
def test_grafts(
    local: ReleaseManager,
    tmp_path: Path,
    form: Callable[[dict[str, str], Path], tuple[str, ...]],
    compression: str,
) -> None:
    """Files that are there already are published again, by their descriptions alone."""
    source = make(tmp_path / "source", small="some content", large=os.urandom(300_000))
    local.configure(CVMFS_COMPRESSION_ALGORITHM=compression)
    local.ingest(mirror(source))
    before = objects_of(local)
    small, large = entry_of(local, "sw/small"), entry_of(local, "sw/large")
    assert large.chunks
    files = {
        "a": "",
        ".cvmfsgraft-a": description_of(small),
        "sub__b": "other content",
        "sub__.cvmfsgraft-b": description_of(large),
        "sub__.cvmfscatalog": "",
    }
    if compression == "none":  # as configured
        files[".cvmfsgraft-a"] = files[".cvmfsgraft-a"].replace("compression=none\n", "")
    arguments = form(files, tmp_path / "grafts")
    local.server("ingest", *arguments, "-b", "grafts").succeeded()
    assert names_in(local, "grafts") | names_in(local, "grafts/sub") == {b"a", b"sub", b"b", b".cvmfscatalog"}
    for path, original in (("grafts/a", small), ("grafts/sub/b", large)):
        grafted = entry_of(local, path)
        assert (grafted.size, grafted.hash, grafted.chunks) == (original.size, original.hash, original.chunks)
        assert grafted.compression is original.compression
    tree = published(local).tree
    assert tree[b"grafts/a"].content == b"some content"
    assert tree[b"grafts/sub/b"].content == (source / "large").read_bytes()
    assert local.check().problems == []
    # A description says all: what the files next to them hold is not even stored, if it can be known in time
    if form is as_directory:
        assert len(objects_of(local) - before) == 1

    again = local.server("ingest", *arguments, "-b", "grafts", "--json").succeeded().document
    assert not again["changed"]


def test_graft_that_only_its_description_changes(local: ReleaseManager, tmp_path: Path) -> None:
    local.ingest(mirror(make(tmp_path / "source", one="one", two="two")))
    one, two = entry_of(local, "sw/one"), entry_of(local, "sw/two")
    grafts = make(tmp_path / "grafts", **{"file": "", ".cvmfsgraft-file": description_of(one)})
    local.ingest(mirror(grafts, "grafts"))
    (grafts / ".cvmfsgraft-file").write_text(description_of(two))
    result = local.ingest(mirror(grafts, "grafts"))
    assert result.paths.modified == [b"grafts/file"]
    assert published(local).tree[b"grafts/file"].content == b"two"
    # And back to a file of its own
    (grafts / ".cvmfsgraft-file").unlink()
    (grafts / "file").write_text("of its own")
    local.ingest(mirror(grafts, "grafts"))
    assert published(local).tree[b"grafts/file"].content == b"of its own"


def test_one_of_several_links_can_be_grafted(local: ReleaseManager, tmp_path: Path) -> None:
    local.ingest(mirror(make(tmp_path / "source", one="one")))
    grafts = make(tmp_path / "grafts", a="linked", **{".cvmfsgraft-b": description_of(entry_of(local, "sw/one"))})
    for name in ("b", "c"):
        (grafts / name).hardlink_to(grafts / "a")
    local.ingest(mirror(grafts, "grafts"))
    tree = published(local).tree
    assert [tree[b"grafts/" + name].content for name in (b"a", b"b", b"c")] == [b"linked", b"one", b"linked"]
    assert tree[b"grafts/a"].names == {b"a", b"c"}
    local.check()


@FORMS
def test_descriptions_of_nothing(
    local: ReleaseManager, tmp_path: Path, form: Callable[[dict[str, str], Path], tuple[str, ...]]
) -> None:
    """As upstream, only regular files are grafted; unlike upstream, others are mentioned."""
    files = {"a": "x", ".cvmfsgraft-b": "size=1\n", "d__f": "", ".cvmfsgraft-d": ""}
    done = local.server("ingest", *form(files, tmp_path / "files"), "-b", "sw").succeeded()
    assert names_in(local, "sw") == {b"a", b"d"}
    for name in ("b", "d"):
        assert f"/sw/.cvmfsgraft-{name} is left out: there is no such file" in done.stderr


@FORMS
@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"f": "", ".cvmfsgraft-f": "size=1\n"}, "sw/.cvmfsgraft-f does not describe a grafted file: it does not set"),
        ({"f": "", ".cvmfsgraft-f__g": ""}, "is not a regular file"),
        ({"f": "", ".cvmfsgraft-f": " " * (MAX_GRAFT + 1)}, "describe"),
    ],
    ids=["incomplete", "a directory", "too large"],
)
def test_bad_descriptions(
    local: ReleaseManager,
    tmp_path: Path,
    form: Callable[[dict[str, str], Path], tuple[str, ...]],
    files: dict[str, str],
    says: str,
) -> None:
    arguments = form(files, tmp_path / "files")
    local.refuses("ingest", *arguments, "-b", "sw", says=[says, ".cvmfsgraft-f"])


# External files, direct I/O


def test_external_files(local: ReleaseManager, tmp_path: Path) -> None:
    """They are described, with their hashes, but not stored; what the publisher needs to read itself is."""
    source = make(
        tmp_path / "source", small="small", large=os.urandom(300_000), sub__x="x", **{"sub__.cvmfscatalog": ""}
    )
    make(source, **{".cvmfsdirtab": "/sub\n/oth*\n"})
    local.configure(CVMFS_EXTERNAL_DATA="true", CVMFS_COMPRESSION_ALGORITHM="none")
    before = objects_of(local)
    result = local.ingest(merge(source, ""))
    assert not any("compressed" in warning for warning in result.warnings)
    assert result.files == 5
    small, large = entry_of(local, "small"), entry_of(local, "large")
    assert small.is_external
    assert small.hash == ContentHash.of(b"small")
    assert large.is_external
    assert len(large.chunks) > 3
    assert [chunk.hash.digest for chunk in large.chunks] == [
        HashAlgorithm.SHA1.digest((source / "large").read_bytes()[chunk.offset : chunk.offset + chunk.size])
        for chunk in large.chunks
    ]
    assert small.compression is Compression.NONE
    for path in (".cvmfsdirtab", "sub/.cvmfscatalog"):
        assert not entry_of(local, path).is_external
    assert len(objects_of(local) - before) == 2
    statistics_are_right(local)
    local.check()

    # The next publish reads the .cvmfsdirtab; -N stores what is new, and changes nothing else
    make(source, small="now stored")
    (source / "other").mkdir()
    changes = changes_file(tmp_path / "changes", {"source": str(source), "base_dir": "/", "mode": "merge"})
    local.server("transaction").succeeded()
    local.server("publish", "-N", "--changes", changes).succeeded()
    assert not entry_of(local, "small").is_external
    assert entry_of(local, "large").is_external
    assert entry_of(local, "other/.cvmfscatalog").is_regular
    local.check()


def statistics_are_right(manager: ReleaseManager) -> None:
    with manager.store() as store, CatalogTree(store, manifest_of(manager).root_hash, manager.tmp) as tree:
        catalog = tree.catalog(b"")
        assert catalog.statistics().own == catalog.count_own()
        assert catalog.count_own().external == 2


def test_external_by_option(local: ReleaseManager, tmp_path: Path) -> None:
    source = make(tmp_path / "source", file="content")
    changes = changes_file(tmp_path / "changes", {"source": str(source), "base_dir": "sw", "mode": "mirror"})
    local.server("transaction").succeeded()
    done = local.server("publish", "-X", "-d", "--changes", changes).succeeded()
    assert "compressed by zlib; for files as they are, use -Z none" in done.stderr
    entry = entry_of(local, "sw/file")
    assert entry.is_external
    assert entry.is_direct_io
    assert entry.hash is not None
    with local.store() as store:
        assert not store.exists(entry.hash.key())


@FORMS
def test_external_grafts(
    local: ReleaseManager, tmp_path: Path, form: Callable[[dict[str, str], Path], tuple[str, ...]]
) -> None:
    digests = [ContentHash.of(text) for text in (b"hello ", b"world")]
    text = f"size=11\nchecksum={'0' * 40}\nchunk_offsets=0,6\nchunk_checksums={digests[0]},{digests[1]}\n"
    local.configure(CVMFS_EXTERNAL_DATA="true", CVMFS_COMPRESSION_ALGORITHM="none")
    local.server("ingest", *form({"f": "", ".cvmfsgraft-f": text}, tmp_path / "files"), "-b", "sw").succeeded()
    entry = entry_of(local, "sw/f")
    assert entry.is_external
    assert [(chunk.offset, chunk.size) for chunk in entry.chunks] == [(0, 6), (6, 5)]
    assert entry.compression is Compression.NONE
    local.check()


def test_external_archive(local: ReleaseManager, tmp_path: Path) -> None:
    local.configure(CVMFS_EXTERNAL_DATA="true", CVMFS_COMPRESSION_ALGORITHM="none")
    arguments = as_archive({"f": "content", "big": "x" * (5 << 20)}, tmp_path / "files")
    before = objects_of(local)
    for changed in (True, False):
        done = local.server("ingest", *arguments, "-b", "sw", "--json").succeeded()
        assert done.document["changed"] is changed
        assert entry_of(local, "sw/f").is_external
        assert entry_of(local, "sw/big").is_external
    assert objects_of(local) == before


# Bundles


def test_bundles(local: ReleaseManager, tmp_path: Path) -> None:
    local.ingest(merge(make(tmp_path / "source", **{".cvmfsbundles": "{}"}), ""))
    assert entry_of(local, ".cvmfsbundles").is_regular
    local.check()


def subdirectory(directory: Path) -> None:
    make(directory, **{"sub__.cvmfsbundles": "{}"})


def no_file(directory: Path) -> None:
    (directory / ".cvmfsbundles").mkdir(parents=True)


def linked(directory: Path) -> None:
    make(directory, **{".cvmfsbundles": "{}"})
    (directory / "other").hardlink_to(directory / ".cvmfsbundles")


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (subdirectory, ["/sub/.cvmfsbundles is not in the repository's root directory"]),
        (no_file, ["/.cvmfsbundles is not a regular file"]),
        (linked, ["/.cvmfsbundles is a hard link"]),
    ],
)
def test_bundles_that_upstream_refuses(
    local: ReleaseManager, tmp_path: Path, prepare: Callable[[Path], None], says: Sequence[str]
) -> None:
    prepare(tmp_path / "source")
    local.refuses("ingest", "--directory", tmp_path / "source", "-b", "/", says=says)


# Compression and chunks


@pytest.mark.parametrize("setting", ["default", "none", "zlib"])
@pytest.mark.parametrize("option", [None, "default", "none"])
@pytest.mark.parametrize("chunked", ["true", "false"])
def test_compression(local: ReleaseManager, tmp_path: Path, setting: str, option: str | None, chunked: str) -> None:
    source = make(tmp_path / "source", small="some content", large="large" * 60_000)
    local.configure(CVMFS_COMPRESSION_ALGORITHM=setting, CVMFS_USE_FILE_CHUNKING=chunked)
    local.ingest(mirror(source), compression=option)
    for name in ("small", "large"):
        entry = entry_of(local, f"sw/{name}")
        assert entry.compression is Compression.from_setting(option or setting)
        assert bool(entry.chunks) == (name == "large" and chunked == "true")
    assert below(published(local).tree, b"sw") == on_disk(source)
    local.check()


def test_bulk_chunks(local: ReleaseManager, tmp_path: Path) -> None:
    """Large files are stored whole as well, and both ways are checked."""
    source = make(tmp_path / "source", small="some content", large=os.urandom(300_000))
    local.configure(CVMFS_GENERATE_LEGACY_BULK_CHUNKS="true", CVMFS_COMPRESSION_ALGORITHM="none")
    local.ingest(mirror(source))
    entry = entry_of(local, "sw/large")
    assert len(entry.chunks) > 3
    assert entry.hash == ContentHash.of((source / "large").read_bytes())
    assert not local.ingest(mirror(source), checksum=True).changed
    local.check()
    with local.store() as store:
        store.delete(entry.hash.key())
    assert local.server("check").code == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"CVMFS_MIN_CHUNK_SIZE": "32768"}, ["Chunk sizes 32768, 32768, 65536 are not in order"]),
        ({"CVMFS_AVG_CHUNK_SIZE": "65536"}, ["Chunk sizes 16384, 65536, 65536 are not in order"]),
        ({"CVMFS_MIN_CHUNK_SIZE": "31"}, ["Chunk sizes 31, 32768, 65536", "at least 32 bytes"]),
        ({"CVMFS_MAX_CHUNK_SIZE": "many"}, ["CVMFS_MAX_CHUNK_SIZE=many", "is no number"]),
        ({"CVMFS_USE_FILE_CHUNKING": "maybe"}, ["CVMFS_USE_FILE_CHUNKING=maybe", "neither true nor false"]),
        ({"CVMFS_COMPRESSION_ALGORITHM": "lzma"}, ["CVMFS_COMPRESSION_ALGORITHM=lzma"]),
        ({"CVMFS_MAXIMAL_CONCURRENT_WRITES": "-1"}, ["CVMFS_MAXIMAL_CONCURRENT_WRITES=-1", "is no number"]),
        ({"CVMFS_REPOSITORY_TTL": "1h"}, ["CVMFS_REPOSITORY_TTL=1h", "is no number"]),
        ({"CVMFS_EXTERNAL_DATA": "2"}, ["CVMFS_EXTERNAL_DATA=2", "neither true nor false"]),
        ({"CVMFS_CATALOG_ALT_PATHS": "2"}, ["CVMFS_CATALOG_ALT_PATHS=2", "neither true nor false"]),
    ],
)
def test_wrong_settings(local: ReleaseManager, tmp_path: Path, settings: dict[str, str], says: Sequence[str]) -> None:
    source = make(tmp_path / "source", file="content")
    local.configure(**settings)
    local.refuses("ingest", "--directory", source, "-b", "sw", says=says)


# What a revision says as a whole


def test_time_to_live(local: ReleaseManager, tmp_path: Path) -> None:
    """Clients take it from the root catalog."""
    assert local.manifest().ttl == 240
    assert "TTL" not in properties_of(local)
    local.configure(CVMFS_REPOSITORY_TTL="900")
    source = make(tmp_path / "source", file="x")
    for changed in (True, False):
        assert local.ingest(mirror(source)).changed is changed
    assert (local.manifest().ttl, properties_of(local)["TTL"]) == (900, "900")
    local.configure(CVMFS_REPOSITORY_TTL="")
    local.ingest(mirror(make(tmp_path / "source", file="y")))
    assert (local.manifest().ttl, properties_of(local)["TTL"]) == (900, "900")
    local.configure(CVMFS_REPOSITORY_TTL="240")
    assert local.ingest().changed
    assert (local.manifest().ttl, properties_of(local)["TTL"]) == (240, "240")


def test_flags_follow_the_configuration(local: ReleaseManager) -> None:
    assert not local.ingest().changed
    local.configure(CVMFS_GARBAGE_COLLECTION="true")
    assert local.ingest().changed
    local.configure(CVMFS_CATALOG_ALT_PATHS="true")
    assert local.ingest().changed
    manifest = local.manifest()
    assert manifest.garbage_collectable
    assert manifest.has_alt_catalog_path
    with local.store() as store:
        for content_hash in (manifest.root_hash, manifest.certificate, manifest.history, manifest.meta_info):
            assert store.exists(f".cvmfsalt-{content_hash}")


def test_confidential(template: Path, tmp_path: Path) -> None:
    manager = without_repository(template, tmp_path / "manager")
    mkfs(manager.environment, NAME, MkfsOptions(requirement="x509%members"))
    assert properties_of(manager)["voms_authz"] == "x509%members"
    assert manager.manifest().has_alt_catalog_path
    source = make(tmp_path / "source", file="x")
    manager.ingest(mirror(source))
    assert properties_of(manager)["voms_authz"] == "x509%members"

    changes = changes_file(tmp_path / "changes")
    authz = tmp_path / "authz"
    for text, changed in (("x509%others\n", True), ("x509%others\n", False), ("", True)):
        authz.write_text(text)
        manager.server("transaction").succeeded()
        preview = manager.server("publish", "--dry-run", "--json", "-F", authz, "--changes", changes).succeeded()
        done = manager.server("publish", "--json", "-F", authz, "--changes", changes).succeeded()
        assert preview.document["changed"] is done.document["changed"] is changed
        assert properties_of(manager).get("voms_authz") == (text or None)


def test_requirement_of_the_configuration(local: ReleaseManager) -> None:
    """It makes a repository confidential that is not; one that is keeps the requirement of the last publish -F."""
    local.configure(CVMFS_VOMS_AUTHZ="first")
    assert local.ingest().changed
    assert properties_of(local)["voms_authz"] == "first"
    local.configure(CVMFS_VOMS_AUTHZ="second")
    assert not local.ingest().changed


@pytest.mark.parametrize(("content", "says"), [(None, "No such file"), (b"\xff", "it is not UTF-8 text")])
def test_unreadable_requirement(local: ReleaseManager, tmp_path: Path, content: bytes | None, says: str) -> None:
    authz = tmp_path / "authz"
    if content is not None:
        authz.write_bytes(content)
    local.server("transaction").succeeded()
    local.refuses("publish", "-F", authz, says=["Cannot read the membership requirement", str(authz), says])


@pytest.mark.parametrize("compression", ["default", "none"])
def test_mkfs_with_everything(template: Path, tmp_path: Path, compression: str) -> None:
    manager = without_repository(template, tmp_path / "manager")
    done = manager.server(
        *("mkfs", "-v", "-z", "-a", "shake128", "-Z", compression, "-m", "-p", "-f", "none")
    ).succeeded()
    assert "Garbage collection spares all revisions" in done.stderr
    manifest = manager.manifest()
    assert manifest.garbage_collectable
    assert manifest.root_hash.algorithm is HashAlgorithm.SHAKE128
    assert properties_of(manager)["volatile"] == "1"
    assert entry_of(manager, "new_repository").compression is Compression.from_setting(compression)
    assert published(manager).tree[b"new_repository"].content
    manager.ingest(mirror(make(tmp_path / "source", file="x")))
    assert properties_of(manager)["volatile"] == "1"
    manager.check()


@pytest.mark.skipif(os.geteuid() != 0, reason="uses /var/spool/cvmfs")
def test_configuration_that_mkfs_writes(template: Path, tmp_path: Path) -> None:
    """Options are there, and a publish takes what mkfs has written."""
    base = without_repository(template, tmp_path / "manager")
    manager = ReleaseManager(base.base, base.settings, f"t{secrets.token_hex(4)}.example.org")
    storage = manager.settings["CVMFS_UPSTREAM_STORAGE"]
    manager.server_conf.unlink()
    options = (
        "-u",
        storage,
        "-z",
        "-X",
        "-Z",
        "none",
        "-a",
        "rmd160",
        "-V",
        "members",
        "-G",
        "4 weeks ago",
        "-o",
        "nobody",
        "-f",
        "fuse-overlayfs",
        "-x",
        "http://proxy:3128",
    )
    try:
        manager.server("mkfs", *options).succeeded()
    finally:
        shutil.rmtree(Path("/var/spool/cvmfs") / manager.name)
    text = manager.server_conf.read_text()
    for line in (
        "CVMFS_GARBAGE_COLLECTION=true",
        "CVMFS_AUTO_GC=true",
        "CVMFS_EXTERNAL_DATA=true",
        "CVMFS_COMPRESSION_ALGORITHM=none",
        "CVMFS_HASH_ALGORITHM=rmd160",
        "CVMFS_VOMS_AUTHZ=members",
        "CVMFS_CATALOG_ALT_PATHS=true",
        "CVMFS_AUTO_TAG_TIMESPAN='4 weeks ago'",
        "CVMFS_USER=nobody",
        "CVMFS_UNION_FS_TYPE=fuse-overlayfs",
        "CVMFS_SERVER_PROXY=http://proxy:3128",
    ):
        assert f"{line}\n" in text
    client = ServerConfig.load(manager.server_conf.with_name("client.conf"))
    assert client["CVMFS_HTTP_PROXY"] == "http://proxy:3128"
    assert entry_of(manager, "new_repository").uid == pwd.getpwnam("nobody").pw_uid
    manager.server_conf.write_text(text + f"CVMFS_SPOOL_DIR={manager.spool}\n")
    manager.server("ingest", "--directory", make(tmp_path / "source", file="x"), "-b", "sw").succeeded()
    assert entry_of(manager, "sw/file").is_external
