# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources and arguments that cannot be published: one clear error, and nothing happens. And odd ones that can."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import lzma
import os
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from cvmfs_publisher.changes.change_set import ChangeSet
from cvmfs_publisher.errors import SourceChanged
from cvmfs_publisher.operations.publish import PublishOptions, ingest
from operations.managers import NAME, ReleaseManager, changes_file, make, mirror, refusal
from operations.reading import below, on_disk, published
from operations.stores import MeanwhileEnvironment

# Directories


def test_an_unreadable_file(local: ReleaseManager, source: Path) -> None:
    (source / "lib" / "data").chmod(0)
    says = [f"Cannot read {source}/lib/data: Permission denied", "Make it readable for the release manager"]
    for command in (["ingest"], ["ingest", "--mirror"]):
        local.refuses(*command, "--directory", source, "-b", "sw", says=says, confined=True)


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
def test_an_unreadable_directory(local: ReleaseManager, source: Path, mode: int) -> None:
    (source / "lib").chmod(mode)
    try:
        says = [f"Cannot read {source}/lib", "Permission denied", "that the publishing user may read it"]
        local.refuses("ingest", "--directory", source, "-b", "sw", says=says, confined=True)
        local.refuses("ingest", "--dry-run", "--directory", source, "-b", "sw", says=says, confined=True)
    finally:
        (source / "lib").chmod(0o755)


def test_sources_that_are_none(local: ReleaseManager, source: Path) -> None:
    for option, name, says in (
        ("--directory", source / "none", [f"{source}/none", "No such file or directory"]),
        ("--directory", source / "README", [f"{source}/README"]),
        ("-t", source / "none.tar", [f"{source}/none.tar", "No such file or directory"]),
        ("-t", source / "README", [f"{source}/README", "Fetch or make the archive again"]),
        ("-t", "/dev/null", ["/dev/null"]),
    ):
        local.refuses("ingest", option, name, "-b", "sw", says=says)


def test_an_empty_directory_empties_nothing(local: ReleaseManager, source: Path, tmp_path: Path) -> None:
    """Most likely it is the wrong one, or what should be mounted there is not."""
    local.ingest(mirror(source))
    empty = tmp_path / "empty"
    empty.mkdir()
    says = [f"{empty} is empty; mirroring it would empty /sw", "allow_empty"]
    local.refuses("ingest", "--mirror", "--directory", empty, "-b", "sw", says=says)
    local.server("ingest", "--directory", empty, "-b", "sw").succeeded()
    assert below(published(local).tree, b"sw").keys() == on_disk(source).keys()


@contextlib.contextmanager
def busy(action: Callable[[int], None]) -> Iterator[None]:
    """Do something again and again, as fast as can be."""
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            action(number)
            number += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_file_that_grows(local: ReleaseManager, source: Path) -> None:
    log = source / "log"
    log.write_bytes(b"x" * 3_000_000)

    def grow(_: int) -> None:
        with log.open("ab") as file:
            file.write(b"line\n")
        time.sleep(0.0002)

    with busy(grow):
        refused_some_time(local, source, f"{log} changed while it was being read")


def test_a_file_that_is_replaced(local: ReleaseManager, source: Path) -> None:
    """A new file of the same size takes the name again and again."""

    def replace(number: int) -> None:
        temporary = source.parent / "temporary"
        temporary.write_bytes(bytes([number % 256]) * 500_000)
        temporary.rename(source / "lib" / "data")
        time.sleep(0.0002)

    replace(0)
    with busy(replace):
        refused_some_time(local, source, "changed while it was being read")


def test_files_that_come_and_go(local: ReleaseManager, source: Path) -> None:
    def toggle(number: int) -> None:
        (source / "lib" / f"lock{number % 7}").write_text("locked")
        (source / "lib" / f"lock{number % 7}").unlink()

    with busy(toggle):
        refused_some_time(local, source, f"{source}/lib")


def refused_some_time(local: ReleaseManager, source: Path, says: str) -> None:
    """Assert that a publish is refused, unless whoever changes the source was asleep for all of it."""
    for _ in range(20):
        before = local.state()
        outcome = local.server("ingest", "--mirror", "--directory", source, "-b", "sw")
        if outcome.code != 0:
            refusal(outcome, "ingest", [says, "changed while it was being read", "publish again"])
            assert local.state() == before
            return
    pytest.fail("The source was never seen to change")


def test_a_directory_that_changes_after_it_was_listed(local: ReleaseManager, source: Path) -> None:
    def add_a_file() -> None:
        (source / "lib" / "late").write_text("late")

    environment = MeanwhileEnvironment(local, "data/", add_a_file)
    before = local.state()
    with pytest.raises(SourceChanged, match="changed while it was being read"):
        ingest(environment, NAME, ChangeSet((mirror(source),)), PublishOptions())
    assert local.state() == before


def test_device_nodes(local: ReleaseManager, source: Path) -> None:
    try:
        os.mknod(source / "null", 0o20666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("device nodes need root")
    says = [f"{source}/null is a character device", "CVMFS_IGNORE_SPECIAL_FILES=true"]
    local.refuses("ingest", "--directory", source, "-b", "sw", says=says)
    local.configure(CVMFS_IGNORE_SPECIAL_FILES="true")
    outcome = local.server("ingest", "--directory", source, "-b", "sw").succeeded()
    assert "1 fifos, sockets and device nodes were left out" in outcome.stderr
    assert b"sw/null" not in published(local).tree


def test_sockets_and_fifos(local: ReleaseManager, source: Path) -> None:
    """They are published, and not waited for."""
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "socket"))
    local.server("ingest", "--directory", source, "-b", "sw").succeeded()
    assert below(published(local).tree, b"sw") == on_disk(source)


def test_links_are_not_followed(local: ReleaseManager, source: Path) -> None:
    (source / "shadow").symlink_to("/etc/shadow")
    (source / "loop").symlink_to(".")
    (source / "dangling").symlink_to("nowhere")
    local.server("ingest", "--directory", source, "-b", "sw").succeeded()
    assert below(published(local).tree, b"sw") == on_disk(source)


# Archives


def archive(*members: tuple[tarfile.TarInfo, bytes], **options: Any) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def member(name: str, content: bytes = b"", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


GOOD = archive(*(member(f"d/f{number}", os.urandom(2000)) for number in range(20)))
ZSTD = zstandard.ZstdCompressor(write_checksum=True).compress(GOOD)
DEVICE: dict[str, Any] = {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}
SYMLINK: dict[str, Any] = {"type": tarfile.SYMTYPE, "linkname": "/etc"}

ARCHIVES: list[tuple[str, bytes, list[str]]] = [
    ("up", archive(member("a", b"1"), member("../../etc/passwd", b"x")), ["has '..' in the name '../../etc/passwd'"]),
    ("up in the middle", archive(member("a/../../b", b"x")), ["has '..' in the name 'a/../../b'"]),
    ("absolute", archive(member("a", b"1"), member("/etc/passwd", b"x")), ["has the absolute name '/etc/passwd'"]),
    ("character device", archive(member("dev/null", **DEVICE)), ["character device", "CVMFS_IGNORE_SPECIAL_FILES"]),
    ("block device", archive(member("sda", **{**DEVICE, "type": tarfile.BLKTYPE})), ["block device"]),
    ("below a link", archive(member("a", **SYMLINK), member("a/passwd", b"x")), ["'a', which is a symlink"]),
    ("below a file", archive(member("a", b"x"), member("a/b", b"x")), ["'a', which is not a directory"]),
    ("hard link to nothing", archive(member("a", type=tarfile.LNKTYPE, linkname="none")), ["hard link to 'none'"]),
    ("hard link up", archive(member("a", type=tarfile.LNKTYPE, linkname="../x")), ["has '..' in the name '../x'"]),
    ("long name", archive(member("n" * 256, b"x"), format=tarfile.PAX_FORMAT), ["more than 255 bytes"]),
    ("cut short", GOOD[: len(GOOD) // 2], ["cut short"]),
    ("cut short in a header", GOOD[:700], []),
    ("damaged", GOOD[:2560] + b"\xff" * 512 + GOOD[3072:], []),
    ("no tar", b"This is no archive.\n" * 100, []),
    ("gzip of no tar", gzip.compress(b"This is no archive.\n" * 100), []),
    ("gzip, cut short", gzip.compress(GOOD)[:-2000], []),
    ("gzip, without its end", gzip.compress(GOOD)[:-8], []),
    ("gzip, damaged", gzip.compress(GOOD)[:5000] + b"\0" * 100 + gzip.compress(GOOD)[5100:], ["damaged"]),
    ("xz, cut short", lzma.compress(GOOD)[:-2000], []),
    ("xz, damaged", lzma.compress(GOOD)[:5000] + b"\0" * 100 + lzma.compress(GOOD)[5100:], ["damaged"]),
    ("zstd, cut short", zstandard.compress(GOOD)[:-2000], []),
    ("zstd, damaged", ZSTD[:5000] + b"\0" * 100 + ZSTD[5100:], []),
    ("empty", b"", []),
]  # fmt: skip


@pytest.mark.parametrize(("content", "says"), [case[1:] for case in ARCHIVES], ids=[case[0] for case in ARCHIVES])
def test_archives(local: ReleaseManager, tmp_path: Path, content: bytes, says: list[str]) -> None:
    file = tmp_path / "content.tar"
    file.write_bytes(content)
    local.refuses("ingest", "-t", file, "-b", "sw", says=[str(file), *says])
    local.refuses("ingest", "-t", "-", "-b", "sw", stdin=content, says=["The archive on standard input", *says])


def test_an_archive_whose_writer_dies(local: ReleaseManager) -> None:
    """A pipe that ends too early."""
    script = f"head -c {len(GOOD) // 2} | {local.argv('ingest')[0]!s} ingest -t - -b sw {NAME}"
    done = subprocess.run(
        ["sh", "-c", script], input=GOOD, env=local.process_environment, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"The archive on standard input" in done.stderr
    assert local.manifest().revision == 1
    assert [path.name for path in local.spool.iterdir()] == ["stats.db"]


def test_archives_that_are_fine(local: ReleaseManager, tmp_path: Path) -> None:
    """All compressions, from files and from standard input."""
    packers: list[Callable[[bytes], bytes]] = [bytes, gzip.compress, lzma.compress, zstandard.compress]
    for number, pack in enumerate(packers):
        file = tmp_path / "content"
        file.write_bytes(pack(GOOD))
        local.server("ingest", "-t", file, "-b", f"a{number}").succeeded()
        local.server("ingest", "-t", "-", "-b", f"b{number}", stdin=pack(GOOD)).succeeded()
    tree = published(local).tree
    (content, *others) = [
        {p: seen.content for p, seen in below(tree, f"{k}{n}".encode()).items()} for k in "ab" for n in range(4)
    ]
    assert len(content) == 22
    assert all(other == content for other in others)


# Names


def test_odd_names(manager: ReleaseManager, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    top = os.fsencode(source)
    for name in (
        b"new\nline",
        b"\xff\xfe not UTF-8",
        b"n" * 255,
        b"\xc3\xbc" * 127,
        b" ",
        b"'\"$(id)`",
        b"-rf",
        b"\x01\x7f",
    ):
        os.mkdir(top + b"/" + name)
        with open(top + b"/" + name + b"/" + name, "wb") as file:
            file.write(name)
        os.symlink(name, top + b"/" + name + b"/link")
    manager.server("ingest", "--mirror", "--directory", source, "-b", "sw").succeeded()
    assert below(published(manager).tree, b"sw") == on_disk(source)
    tar = subprocess.run(["tar", "-C", source, "--format=posix", "-c", "."], capture_output=True, check=True).stdout
    manager.server("ingest", "-k", "-t", "-", "-b", "tar", stdin=tar).succeeded()
    assert below(published(manager).tree, b"tar") == on_disk(source)
    manager.server("ingest", "-d", b"sw/\xff\xfe not UTF-8", "-d", b"sw/new\nline").succeeded()
    left = published(manager).tree
    assert not any(path.startswith((b"sw/\xff", b"sw/new")) for path in left)
    manager.check()


def test_names_that_are_too_long(local: ReleaseManager, source: Path) -> None:
    for arguments in (["--directory", str(source), "-b", "a/" + "n" * 256], ["-d", "n" * 256]):
        local.refuses("ingest", *arguments, says=["has a file name of more than 255 bytes", "Use a shorter name"])


def test_deep_trees(local: ReleaseManager, tmp_path: Path) -> None:
    """Paths that are longer than what the system takes in one piece are refused."""
    source = tmp_path / "source"
    source.mkdir()
    descriptor = os.open(source, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("d" * 200, dir_fd=descriptor)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    with open(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor), "w") as file:
        file.write("deep")
    os.close(descriptor)
    local.refuses("ingest", "--directory", source, "-b", "sw", says=["/dddd", "File name too long"])


# Places


def test_a_path_into_a_file(local: ReleaseManager, source: Path) -> None:
    for place in ("new_repository", "new_repository/a/b"):
        says = ["/new_repository is not a directory in the repository", "Publish elsewhere, or delete it"]
        local.refuses("ingest", "--directory", source, "-b", place, says=says)
        local.refuses("ingest", "--dry-run", "--directory", source, "-b", place, says=says)


def test_a_file_in_place_of_a_directory(local: ReleaseManager, source: Path, tmp_path: Path) -> None:
    local.ingest(mirror(source))
    other = make(tmp_path / "other", lib="now a file")
    says = ["/sw/lib is a directory with something in it", "Delete the directory in the same change set"]
    local.refuses("ingest", "--directory", other, "-b", "sw", says=says)
    local.server("ingest", "-d", "sw/lib", "--directory", other, "-b", "sw").succeeded()
    assert published(local).tree[b"sw/lib"].content == b"now a file"
    local.check()


def test_places_that_are_taken(local: ReleaseManager, source: Path) -> None:
    says = ["/.cvmfs", "belongs to CernVM-FS itself"]
    local.refuses("ingest", "--directory", source, "-b", ".cvmfs/x", says=says)
    local.refuses("ingest", "-d", ".cvmfs", says=says)
    (source / ".cvmfscatalog").write_text("")
    local.refuses("ingest", "--directory", source, "-b", "/", says=[".cvmfscatalog", "publish it into a subdirectory"])
    (source / ".cvmfscatalog").unlink()
    (source / ".cvmfscatalog").mkdir()
    says = ["/sw/.cvmfscatalog is not a regular file", "empty regular file"]
    local.refuses("ingest", "--directory", source, "-b", "sw", says=says)


def test_a_marker_with_hard_links(local: ReleaseManager, source: Path) -> None:
    (source / ".cvmfscatalog").hardlink_to(source / "README")
    says = ["/sw/.cvmfscatalog is a hard link", "Make it a file of its own"]
    local.refuses("ingest", "--directory", source, "-b", "sw", says=says)


# Change sets, tags and numbers


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"{}", "lacks the key 'version'"),
        (b'{"version": 2, "changes": []}', "version 2"),
        (b'{"version": 1}', "lacks the key 'changes'"),
        (b'{"version": 1, "changes": {}}', "'changes' must be a list"),
        (b'{"version": 1, "changes": [1]}', "change 1 is not a JSON object"),
        (b'{"version": 1, "changes": [], "more": 1}', "unknown key 'more'"),
        (b'{"version": 1, "changes": [{"delete": "/"}]}', "The root of a repository cannot be deleted"),
        (b'{"version": 1, "changes": [{"delete": "a/../b"}]}', "'a/../b' is not a path inside a repository"),
        (b'{"version": 1, "changes": [{"delete": "a", "mode": "mirror"}]}', "unknown key 'mode'"),
        (b'{"version": 1, "changes": [{"source": "/x", "base_dir": "a"}]}', "lacks the key 'mode'"),
        (b'{"version": 1, "changes": [{"source": "/x", "base_dir": "a", "mode": "copy"}]}', "'mirror' or 'merge'"),
        (b'{"version": 1, "changes": [{"source": "/x", "base_dir": "", "mode": "merge"}]}', "'base_dir'"),
        (b'{"version": 1, "changes": [{"source": "\\u0000", "base_dir": "a", "mode": "merge"}]}', "'source'"),
    ],
)
def test_change_sets(local: ReleaseManager, tmp_path: Path, document: bytes, says: str) -> None:
    file = tmp_path / "changes.json"
    file.write_bytes(document)
    local.refuses("publish", "--dry-run", "--changes", file, says=[says])
    local.refuses("publish", "--dry-run", "--changes", "-", stdin=document, says=[says])


def test_a_failing_change_undoes_those_before(local: ReleaseManager, source: Path, tmp_path: Path) -> None:
    file = changes_file(
        tmp_path / "changes",
        {"delete": "new_repository"},
        {"source": str(source), "base_dir": "sw", "mode": "mirror"},
        {"source": str(source / "none"), "base_dir": "other", "mode": "mirror"},
    )
    local.server("transaction").succeeded()
    local.refuses("publish", "--changes", file, says=[f"{source}/none"])
    local.refuses(
        "publish", "--changes", "-", stdin=json.dumps({"version": 1}).encode(), says=["lacks the key 'changes'"]
    )
    assert published(local).revision == 1
    (source / "none").mkdir()
    local.server("publish", "--changes", file).succeeded()
    assert published(local).tree.keys() >= {b"sw/README", b"other"}


def test_tags(local: ReleaseManager) -> None:
    local.server("ingest", "-d", "new_repository", "-a", "v1").succeeded()
    local.server("transaction").succeeded()
    for name, says in (
        ("v1", "already has a tag 'v1'"),
        ("trunk", "'trunk' follows the newest revisions"),
        ("trunk-previous", "'trunk-previous' follows the newest revisions"),
        ("with blank", "'with blank' is not a tag name"),
        ("käse", "is not a tag name"),
        ("", "'' is not a tag name"),
        ("new\nline", "is not a tag name"),
    ):
        local.refuses("publish", "-a", name, says=[says])
        local.refuses("publish", "--dry-run", "-a", name, says=[says])
    local.server("abort", "-f").succeeded()
    for arguments, says in (
        (["-a", "trunk"], "'trunk' follows the newest revisions"),
        (["-a", "with blank"], "'with blank' is not a tag name"),
        (["-f", "-r", "none"], f"{NAME} has no tag 'none'"),
        (["-f", "-r", "v1", "-r", "none"], f"{NAME} has no tag 'none'"),
        (["-f", "-r", "trunk"], "'trunk' follows the newest revisions"),
        (["-i", "none"], f"{NAME} has no tag 'none'"),
        (["-a", "v2", "-h", "0" * 40], f"{NAME} has no root catalog {'0' * 40}"),
        (["-a", "v2", "-h", "nonsense"], "nonsense"),
    ):
        local.refuses("tag", *arguments, says=[says])
    local.refuses("check", "-t", "none", says=[f"{NAME} has no tag 'none'"])
    local.refuses("check", "-s", "none", says=["There is no nested catalog at /none"])


def test_revision_numbers(local: ReleaseManager) -> None:
    local.server("transaction").succeeded()
    local.server("publish", "-n", "10").succeeded()
    local.server("transaction").succeeded()
    for number in ("1", "9", "10"):
        says = [f"Revision {number} is not newer than the current revision 10", "Give a larger number, or none"]
        local.refuses("publish", "-n", number, says=says)
        local.refuses("publish", "--dry-run", "-n", number, says=says)
    local.server("publish", "-n", "11").succeeded()
    assert published(local).revision == 11


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"CVMFS_UPLOAD_STATS_PLOTS": "yes"}, "CVMFS_UPLOAD_STATS_PLOTS"),
        ({"CVMFS_NO_SUCH_KEY": "1"}, "CVMFS_NO_SUCH_KEY"),
        ({"CVMFS_AUTO_TAG": "perhaps"}, "CVMFS_AUTO_TAG=perhaps"),
        ({"CVMFS_AUTO_TAG_TIMESPAN": "once upon a time"}, "CVMFS_AUTO_TAG_TIMESPAN=once upon a time"),
        ({"CVMFS_COMPRESSION_ALGORITHM": "lzma"}, "CVMFS_COMPRESSION_ALGORITHM=lzma"),
        ({"CVMFS_AVG_CHUNK_SIZE": "1"}, "CVMFS_MIN_CHUNK_SIZE < CVMFS_AVG_CHUNK_SIZE"),
        ({"CVMFS_AVG_CHUNK_SIZE": "8M"}, "CVMFS_AVG_CHUNK_SIZE=8M"),
        ({"CVMFS_USER": "nobody-of-that-name"}, "There is no user 'nobody-of-that-name'"),
        ({"CVMFS_REPOSITORY_TTL": "soon"}, "CVMFS_REPOSITORY_TTL=soon"),
    ],
)
def test_settings(local: ReleaseManager, source: Path, setting: dict[str, str], says: str) -> None:
    local.configure(**setting)
    local.refuses("ingest", "--directory", source, "-b", "sw", says=[says])


def test_a_configuration_of_another_repository(local: ReleaseManager) -> None:
    text = local.server_conf.read_text()
    local.server_conf.write_text(text.replace(NAME, "other.example.org"))
    for damaged in (
        text.replace(NAME, "other.example.org", 1),
        text + "rm -rf /\n",
        text + 'X="\n',
        text + "X=$(id)\n",
        "",
    ):
        local.server_conf.write_text(damaged)
        for command in ("info", "transaction", "publish"):
            outcome = local.server(command)
            assert outcome.code == 1
            assert str(local.server_conf) in outcome.stderr
