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
    scratch = local.tmp / "scratch"
    local.refuses("check", "-x", scratch, says=[f"Cannot make a temporary directory in {scratch}"])
    scratch.mkdir()
    local.configure(CVMFS_SPOOL_DIR="/proc/nowhere")
    local.server("check", "-x", scratch).succeeded()
    assert list(scratch.iterdir()) == []
    local.configure(CVMFS_SPOOL_DIR=str(local.spool))
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
            (["-v", "-m", "-p", "-f", "none"], "\nGno\n"),
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
    local.server("ingest", "--fast-delete", "sw/lib", "-a", "v2").succeeded()
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


def test_options_of_publish(local: ReleaseManager, source: Path, tmp_path: Path) -> None:
    local.configure(CVMFS_EXTERNAL_DATA="true", CVMFS_COMPRESSION_ALGORITHM="none")
    changes = changes_file(tmp_path / "changes", {"source": str(source), "base_dir": "sw", "mode": "merge"})
    local.server("transaction").succeeded()
    done = local.server("publish", "-N", "-v", "-a", "v1", "-m", "the first", "--changes", changes).succeeded()
    assert {f"[add] /cvmfs/{NAME}/sw", f"[add] /cvmfs/{NAME}/sw/README"} < set(done.stdout.splitlines())
    tag = local.server("tag", "--json", "-i", "v1").succeeded().document
    assert (tag["revision"], tag["description"]) == (2, "the first")
    assert below(published(local).tree, b"sw") == on_disk(source)
    key = ContentHash.of(b"read me\n", HashAlgorithm.SHA1).key()
    assert (local.base.parent / "storage" / key).exists(), "not external, whatever the configuration says"
    local.check()


def test_options_of_rollback(local: ReleaseManager, source: Path) -> None:
    local.server("ingest", "--directory", source, "-b", "sw", "-a", "v1").succeeded()
    first = published(local)
    local.server("ingest", "-d", "sw", "-a", "v2").succeeded()
    before = local.state()
    declined = local.server("rollback", "-t", "v1", stdin=b"n\n")
    assert (declined.code, declined.stdout) == (1, "")
    assert "ROLLBACK to v1 AS THE LATEST REVISION" in declined.stderr
    assert local.state() == before
    done = local.server("rollback", "-t", "v1", "-f").succeeded()
    assert done.stderr == ""
    assert "removed tag v2 " in done.stdout
    assert (published(local).tree, published(local).revision) == (first.tree, 4)
    local.check()


def test_options_of_diff(local: ReleaseManager, source: Path) -> None:
    """Its lines are upstream's, which scripts read."""
    (source / "link").symlink_to("README")
    local.server("ingest", "--mirror", "--directory", source, "-b", "sw", "-a", "v1").succeeded()
    (source / "README").write_text("read me now\n")
    (source / "link").unlink()
    (source / "new").write_text("new")
    os.utime(source / "lib" / "data", (5, 5))
    local.server("ingest", "--mirror", "--directory", source, "-b", "sw", "-a", "v2").succeeded()
    os.utime(source / "lib" / "data", (7, 7))
    local.server("ingest", "--mirror", "--directory", source, "-b", "sw", "-a", "v3").succeeded()

    def diff(*options: str) -> list[str]:
        return local.server("diff", *options).succeeded().stdout.splitlines()

    assert diff("-m") == ["S F 0", "S S 0", "S D 0", "S N 0", "M[T] F /sw/lib/data"]
    assert diff("-m", "-i") == diff("-m")[:4]
    machine = diff("-m", "-s", "v1", "-d", "v2")
    assert machine[:4] == ["S F 1", "S S -1", "S D 0", "S N 0"]
    assert {line for line in machine[4:] if " D " not in line} == {
        "M[STC] F /sw/README",
        "M[T] F /sw/lib/data",
        "R S /sw/link -6",
        "A F /sw/new +3",
    }
    words = diff("-s", "v1", "-d", "v2", "-i")
    assert words[1:3] == ["d(# symlinks): -1", "d(# directories): 0"]
    assert set(words[4:]) == {
        "/sw/README modify file [size, content]",
        "/sw/link remove symlink -6 bytes",
        "/sw/new add file +3 bytes",
    }
    assert diff("-m", "-h")[0].startswith("# line descriptor: A - add, R - remove, M - modify")
    assert diff("-h", "-s", "v1", "-d", "v2")[0].startswith("DELTA: v1/r2 (")


def test_options_of_gc(local: ReleaseManager, source: Path) -> None:
    local.configure(CVMFS_GARBAGE_COLLECTION="true", CVMFS_AUTO_TAG="false")
    local.server("ingest", "--directory", source, "-b", "sw").succeeded()
    for base in ("first", "second"):
        local.server("ingest", "-d", "sw", "--directory", source / "bin", "-b", base).succeeded()
    gone = ContentHash.of(Compression.ZLIB.compress(b"read me\n"), HashAlgorithm.SHA1).key()
    orphan = f"data/00/{'0' * 38}"
    storage = local.base.parent / "storage"
    (storage / orphan).write_bytes(b"of a publish that was killed")
    local.server("gc", "-f", "-t", "1 hour ago").succeeded()
    assert (storage / gone).exists()
    local.server("gc", "-f", "-t", "tomorrow").succeeded()
    assert not (storage / gone).exists()
    young = local.server("gc", "-f", "--orphans", "--json").succeeded().document
    assert (young["orphans"], (storage / orphan).exists()) == (0, True)
    old = local.server("gc", "-f", "--orphans", "--orphans-before", "tomorrow", "--json").succeeded().document
    assert (old["orphans"], (storage / orphan).exists()) == (1, False)
    local.check()
