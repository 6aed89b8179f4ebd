# SPDX-License-Identifier: GPL-3.0-or-later
"""What the options of subcommands do, as far as other tests do not need them anyway."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from operations.managers import NAME, ReleaseManager, changes_file, local_settings
from operations.reading import below, on_disk, published

from cvmfs_publisher.content import Compression, ContentHash, HashAlgorithm
from cvmfs_publisher.repository.manifest import MANIFEST_KEY


def test_what_check_looks_for(local: ReleaseManager, source: Path) -> None:
    local.server("ingest", "-c", "--directory", source, "-b", "a/sw", "-a", "v1").succeeded()
    local.server("ingest", "-d", "a/sw/lib").succeeded()
    reading = published(local)
    assert reading.catalogs == {b"", b"a/sw"}
    assert local.server("check").succeeded().stdout == "Checked 2 catalogs, 9 entries, 6 objects: no problems found.\n"
    lines = local.server("check", "-s", "a/sw").succeeded().stdout
    assert lines == "Checked 1 catalogs, 5 entries, 4 objects: no problems found.\n"
    local.refuses("check", "-s", "a", says=["There is no nested catalog at /a"])
    assert local.server("check", "--json", "-t", "v1").succeeded().document["revision"] == 2
    storage = local.base.parent / "storage"
    key = ContentHash.of(Compression.ZLIB.compress(b"read me\n"), HashAlgorithm.SHA1).key()
    (storage / key).write_bytes(b"damaged")
    local.server("check").succeeded()
    damaged = local.server("check", "-i")
    assert (damaged.code, damaged.stdout.count("1 problems found")) == (1, 1)
    assert f"/a/sw/README: Object {key} in directory {storage} does not match its name" in damaged.stderr
    (storage / key).unlink()
    missing = local.server("check", "--json")
    assert missing.code == 1
    assert missing.document["problems"] == [f"{key} is missing; /a/sw/README refers to it"]
    local.server("check", "-c").succeeded()


def test_owners(local: ReleaseManager, source: Path) -> None:
    local.server("ingest", "-u", "1234", "-g", "4321", "--directory", source, "-b", "sw").succeeded()
    tree = below(published(local).tree, b"sw")
    assert {(seen.uid, seen.gid) for seen in tree.values()} == {(1234, 4321)}
    tar = subprocess.run(
        ["tar", "-C", source, "--owner=:77", "--group=:88", "-c", "."], capture_output=True, check=True
    ).stdout
    for options, owner in ((["-k"], (77, 88)), (["-u", "55"], (55, 55)), ([], (0, 0))):
        local.server("ingest", *options, "-t", "-", "-b", "tar", stdin=tar).succeeded()
        tree = below(published(local).tree, b"tar")
        assert {(seen.uid, seen.gid) for seen in tree.values()} == {owner}


def test_checksum(local: ReleaseManager, source: Path, tmp_path: Path) -> None:
    """Content that has changed behind unchanged attributes is only seen by reading it."""
    local.server("ingest", "--directory", source, "-b", "sw").succeeded()
    status = (source / "README").stat()
    (source / "README").write_bytes(b"READ ME\n")
    os.utime(source / "README", ns=(status.st_atime_ns, status.st_mtime_ns))
    changes = changes_file(tmp_path / "changes", {"source": str(source), "base_dir": "sw", "mode": "merge"})
    for options, modified in (([], 0), (["--checksum"], 1)):
        planned = local.server("publish", "--dry-run", "--json", *options, "--changes", changes).succeeded()
        local.server("transaction").succeeded()
        done = local.server("publish", "--json", *options, "--changes", changes).succeeded()
        assert [planned.document["modified"], done.document["modified"]] == [modified, modified]
        assert planned.document["paths"] == done.document["paths"]
        assert planned.document["uploaded_bytes"] == 0
    assert published(local).tree[b"sw/README"].content == b"READ ME\n"


def test_compression(local: ReleaseManager, source: Path, tmp_path: Path) -> None:
    changes = changes_file(tmp_path / "changes", {"source": str(source), "base_dir": "sw", "mode": "merge"})
    for options in ([], ["--dry-run"]):
        local.server("transaction").succeeded() if not options else None
        says = ["lzma is not a compression algorithm", "Use default or none"]
        local.refuses("publish", *options, "-Z", "lzma", "--changes", changes, says=says)
    local.server("publish", "-Z", "none", "--changes", changes).succeeded()
    assert below(published(local).tree, b"sw") == on_disk(source)
    key = ContentHash.of(b"read me\n", HashAlgorithm.SHA1).key()
    assert (local.base.parent / "storage" / key).read_bytes() == b"read me\n"
    local.check()


def test_the_transaction_that_is_meant(local: ReleaseManager) -> None:
    mine = local.server("transaction", "--json").succeeded().document["id"]
    for command in ("publish", "abort"):
        local.refuses(command, "--transaction", "another", says=[f"is {mine}, not another", "Leave it to whoever"])
    local.server("publish", "--transaction", mine, "-a", "mine").succeeded()
    mine = local.server("transaction", "--json").succeeded().document["id"]
    local.server("abort", "--transaction", mine).succeeded()  # no question: the identifier is certain


def test_options_of_mkfs(template: Path, tmp_path: Path) -> None:
    for number, (options, line) in enumerate(
        (
            (["-a", "shake128"], "-shake128\n"),
            (["-a", "rmd160", "-Z", "none"], "-rmd160\n"),
            (["-z"], "\nGyes\n"),
            (["-v", "-m", "replicable", "-p", "-f", "none"], "\nGno\n"),
        )
    ):
        base = tmp_path / str(number)
        manager = ReleaseManager(base / "manager", local_settings(base / "storage"))
        keychain = template / "manager" / "etc" / "keys"
        manager.server("mkfs", *options, "-k", keychain).succeeded()
        with manager.store() as store:
            assert line.encode() in store.get(MANIFEST_KEY)
        own = {file.name: file.read_bytes() for file in manager.keys.iterdir()}
        assert own == {file.name: file.read_bytes() for file in keychain.iterdir()}
        assert published(manager).revision == 1
        manager.check()


def test_results_are_documents(local: ReleaseManager, source: Path) -> None:
    """Options that no other test needs: results as documents, other spellings, and what is accepted for upstream."""
    local.configure(CVMFS_AUTO_TAG="false", CVMFS_GARBAGE_COLLECTION="true")
    local.server("ingest", "-c", "--directory", source, "-b", "sw", "-a", "v1").succeeded()
    local.server("ingest", "--fast-delete", "-d", "sw/lib", "-a", "v2").succeeded()
    root_hash = local.manifest().root_hash
    local.server("tag", "-a", "same", "--hash", root_hash.hex).succeeded()
    assert local.server("diff", "--from", "v1", "--to", "v2", "--json").succeeded().document
    assert local.server("diff", "--json").succeeded().document["to"]["root_hash"] == root_hash.hex
    local.server("check", "--repair-reflog").succeeded()
    assert local.server("list-catalogs", "-t").succeeded().stdout == "/\n├─ /sw\n"
    hashes = local.server("list-catalogs", "-d", "-x").succeeded().stdout
    assert hashes == local.server("list-catalogs", "-h", "-x").succeeded().stdout
    assert hashes.startswith(root_hash.hex)

    local.server("transaction", "--mountless").succeeded()
    assert "mountless" in local.refuses("mount", says=["is mountless"])
    local.run("mount", "-a").succeeded()
    local.run("mount", "--all").succeeded()
    local.server("publish", "-f", "-d", "-a", "v3").succeeded()

    assert local.server("gc", "-f", "-r", "9", "--orphans", "--orphans-before", "yesterday", "--json").document
    for command in ("eliminate-hardlinks", "eliminate-bulk-hashes", "fix-stats"):
        assert local.server(command, "-f", "--json").succeeded().document["repository"] == NAME
    revision = local.manifest().revision
    assert local.server("rollback", "-t", "v1", "-f", "--json").succeeded().document["revision"] == revision + 1
    checked_out = local.server("checkout", "-t", "v1", "-b", "branch", "--json").succeeded().document
    assert checked_out["branch"] == "branch"
    local.check()
