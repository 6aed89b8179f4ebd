# SPDX-License-Identifier: GPL-3.0-or-later
"""Verification of objects, and comparison with sources: of a repository that CernVM-FS's own tools have made.

The source is made from what the catalogs say, so that nothing differs; then each test changes one thing.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import sqlite3
import stat
import subprocess
import tarfile
import zlib
from collections.abc import Callable

import pytest
from ansible_collections.cvmfs.publishing.plugins.module_utils import _reader, _verify
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError

TOOL = b"sw/1.0/bin/tool"
OBJECTS = 6  # of six files: two are empty, two chunks of the big one are equal


@pytest.fixture
def source(upstream_url: str, upstream_key: str, tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory that is what the repository has below /sw."""
    repository = _reader.Repository(upstream_url, [upstream_key])
    entries = sorted((path, entry) for path, entry in repository.walk() if path)
    for path, entry in entries:
        place = tmp_path / os.fsdecode(path)
        if entry.is_directory:
            place.mkdir()
        elif entry.is_regular:
            # The big file is all zeros; a hole is made faster.
            place.write_bytes(repository.read(path) if entry.size < 1 << 20 else b"")
            os.truncate(place, entry.size)
        elif stat.S_ISLNK(entry.mode):
            place.symlink_to(os.fsdecode(entry.symlink))
        else:
            os.mkfifo(place)
        if not stat.S_ISLNK(entry.mode):
            place.chmod(stat.S_IMODE(entry.mode))
    for path, entry in reversed(entries):
        time = entry.mtime * 10**9 + (entry.mtime_ns or 0)
        os.utime(tmp_path / os.fsdecode(path), ns=(time, time), follow_symlinks=False)
    return tmp_path / "sw"


Verify = Callable[..., _verify.Report]


@pytest.fixture
def verify(upstream_url: str, upstream_key: str) -> Verify:
    def run(*comparisons: _verify.Comparison) -> _verify.Report:
        return _verify.Verifier(upstream_url, [upstream_key], processes=2).verify(comparisons)

    return run


def test_counts(verify: Verify) -> None:
    report = verify()
    assert (report.revision, report.catalogs, report.entries, report.objects) == (2, 2, 14, OBJECTS)
    assert report.content_bytes == (16 << 20) + (4 << 20) + 10 + 2
    assert report.signed
    assert report.differences == []


def test_equal_trees(verify: Verify, source: pathlib.Path) -> None:
    report = verify(_verify.Comparison(str(source), b"sw"))
    assert report.compared == 13
    assert report.differences == []


def test_two_sources(verify: Verify, source: pathlib.Path) -> None:
    comparisons = [
        _verify.Comparison(str(source), b"sw"),
        _verify.Comparison(str(source / "1.0"), b"sw/1.0"),
    ]
    report = verify(*comparisons)
    assert report.compared == 13 + 7
    assert report.differences == []


def _append(tool: pathlib.Path) -> None:
    status = tool.stat()
    tool.write_bytes(b"int mine;\n")
    os.utime(tool, ns=(status.st_mtime_ns, status.st_mtime_ns))


def _replace_by_directory(tool: pathlib.Path) -> None:
    tool.unlink()
    tool.mkdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_append, "has other content than in the source"),
        (lambda tool: tool.write_bytes(b"longer than before"), "has 10 bytes and in the source 18"),
        (lambda tool: tool.chmod(0o644), "has mode 0755 and in the source 0644"),
        (lambda tool: os.utime(tool, (1, 1)), "and in the source 1.000000000"),
        (lambda tool: tool.unlink(), "is not in the source"),
        (_replace_by_directory, "is a file and in the source a directory"),
    ],
    ids=["content", "size", "mode", "mtime", "removed", "type"],
)
def test_a_file_that_differs(
    verify: Verify, source: pathlib.Path, change: Callable[[pathlib.Path], None], message: str
) -> None:
    change(source / "1.0" / "bin" / "tool")
    messages = [text for path, text in verify(_verify.Comparison(str(source), b"sw")).differences if path == TOOL]
    assert any(message in text for text in messages), messages


def test_a_chunk_that_differs(verify: Verify, source: pathlib.Path) -> None:
    zeros = source / "1.0" / "share" / "zeros"
    status = zeros.stat()
    with zeros.open("r+b") as stream:
        stream.seek(20 << 20)
        stream.write(b"1")
    os.utime(zeros, ns=(status.st_mtime_ns, status.st_mtime_ns))
    differences = verify(_verify.Comparison(str(source), b"sw")).differences
    assert differences == [(b"sw/1.0/share/zeros", "has other content than in the source")]


def test_a_file_that_was_not_published(verify: Verify, source: pathlib.Path) -> None:
    status = source.stat()
    (source / "more").write_text("more")
    os.utime(source, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert verify(_verify.Comparison(str(source), b"sw")).differences == [(b"sw/more", "is not in the repository")]


def test_a_symbolic_link_that_differs(verify: Verify, source: pathlib.Path) -> None:
    link = source / "1.0" / "link"
    times = (link.lstat().st_mtime_ns,) * 2
    parent = (source / "1.0").stat().st_mtime_ns
    link.unlink()
    link.symlink_to("bin/other")
    os.utime(link, ns=times, follow_symlinks=False)
    os.utime(source / "1.0", ns=(parent, parent))
    differences = verify(_verify.Comparison(str(source), b"sw")).differences
    assert differences == [(b"sw/1.0/link", "points to b'bin/tool' and in the source to b'bin/other'")]


def test_merged_content_may_be_beside_other(verify: Verify, source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    part = tmp_path / "part" / "1.0" / "bin"
    part.mkdir(parents=True)
    shutil.copy2(source / "1.0" / "bin" / "tool", part)
    for directory in ("1.0/bin", "1.0"):
        shutil.copystat(source / directory, tmp_path / "part" / directory)
    shutil.copystat(source, tmp_path / "part")
    merged = _verify.Comparison(str(tmp_path / "part"), b"sw", mirror=False)
    assert verify(merged).differences == []
    mirrored = _verify.Comparison(str(tmp_path / "part"), b"sw", mirror=True)
    assert (b"sw/1.0/share/zeros", "is not in the source") in verify(mirrored).differences


def test_the_marker_of_a_nested_catalog_need_not_be_in_the_source(verify: Verify, source: pathlib.Path) -> None:
    nested = source / "1.0"
    status = nested.stat()
    (nested / ".cvmfscatalog").unlink()
    os.utime(nested, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert verify(_verify.Comparison(str(source), b"sw")).differences == []


def test_a_base_directory_that_is_not_there(verify: Verify, source: pathlib.Path) -> None:
    assert verify(_verify.Comparison(str(source), b"other")).differences == [(b"other", "is not in the repository")]


def test_owners(verify: Verify, source: pathlib.Path) -> None:
    comparison = _verify.Comparison(str(source), b"sw", owner=lambda *_owner: (0, 0))
    differences = verify(comparison).differences
    assert differences == [(b"sw/empty", "belongs to 1000:1001 instead of 0:0")]


def test_hard_links(verify: Verify, source: pathlib.Path) -> None:
    """The repository has none: two names of one file in the source are a difference, in one directory only."""
    names = [source / "new\nline", source / "empty"]
    times = [path.stat().st_mtime_ns for path in (source, names[1])]
    names[1].unlink()
    names[1].hardlink_to(names[0])
    os.utime(names[1], ns=(times[1], times[1]))
    os.utime(source, ns=(times[0], times[0]))
    differences = verify(_verify.Comparison(str(source), b"sw")).differences
    linked = [path for path, text in differences if text == "is hard linked to other names than in the source"]
    assert linked == [b"sw/empty", b"sw/new\nline"]


class TestTar:
    @pytest.fixture
    def archive(self, source: pathlib.Path, tmp_path: pathlib.Path) -> Callable[..., str]:
        def make(mode: str = "w", **options: object) -> str:
            path = tmp_path / "source.tar"
            with tarfile.open(path, mode, format=tarfile.PAX_FORMAT, errors="surrogateescape", **options) as archive:
                for child in sorted(source.iterdir()):
                    archive.add(child, arcname=f"./{child.name}")
            return str(path)

        return make

    @pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
    def test_equal_trees(self, verify: Verify, archive: Callable[..., str], mode: str) -> None:
        report = verify(_verify.Comparison(archive(mode), b"sw"))
        # Where a tar file has no entry for a directory, nothing is said about it: /sw itself.
        assert report.compared == 12
        # tarfile writes times as floating point numbers, which have no nanoseconds left.
        assert [text for path, text in report.differences if "mtime" not in text] == []

    def test_a_file_that_differs(self, verify: Verify, archive: Callable[..., str], source: pathlib.Path) -> None:
        _append(source / "1.0" / "bin" / "tool")
        assert (TOOL, "has other content than in the source") in verify(
            _verify.Comparison(archive(), b"sw")
        ).differences

    def test_zstd(self, verify: Verify, archive: Callable[..., str]) -> None:
        path = archive()
        subprocess.run(["zstd", "--quiet", "--rm", path], check=True)
        report = verify(_verify.Comparison(f"{path}.zst", b"sw"))
        assert report.compared == 12
        assert [text for path, text in report.differences if "mtime" not in text] == []

    def test_damaged_zstd(self, verify: Verify, archive: Callable[..., str]) -> None:
        path = pathlib.Path(archive())
        subprocess.run(["zstd", "--quiet", "--rm", path], check=True)
        packed = path.with_name(path.name + ".zst")
        os.truncate(packed, packed.stat().st_size - 4)  # what is missing is the checksum, or the end of the last block
        with pytest.raises(PublishingError, match="must be a directory or a tar file"):
            verify(_verify.Comparison(str(packed), b"sw"))

    def test_zstd_without_its_command(
        self, verify: Verify, archive: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = pathlib.Path(archive())
        subprocess.run(["zstd", "--quiet", "--rm", path], check=True)
        monkeypatch.setenv("PATH", "/nonexistent")
        with pytest.raises(PublishingError, match="Install zstd"):
            verify(_verify.Comparison(f"{path}.zst", b"sw"))

    def test_a_source_that_does_not_exist(self, verify: Verify) -> None:
        with pytest.raises(PublishingError, match="Cannot compare the repository with /nowhere: No such file"):
            verify(_verify.Comparison("/nowhere", b"sw"))

    def test_what_is_no_tar_file(self, verify: Verify, tmp_path: pathlib.Path) -> None:
        (tmp_path / "file").write_text("text")
        with pytest.raises(PublishingError, match="must be a directory or a tar file"):
            verify(_verify.Comparison(str(tmp_path / "file"), b"sw"))


class TestDamage:
    @pytest.fixture
    def tool(self, upstream_repository: pathlib.Path, upstream_url: str, upstream_key: str) -> pathlib.Path:
        """The object of a file."""
        entry = _reader.Repository(upstream_url, [upstream_key]).entry(TOOL)
        return upstream_repository / entry.pieces[0].key

    def test_another_content(self, verify: Verify, tool: pathlib.Path) -> None:
        tool.write_bytes(zlib.compress(b"int evil;\n"))
        ((path, message),) = verify().differences
        assert path == TOOL
        assert "its content has another hash" in message

    def test_missing(self, verify: Verify, tool: pathlib.Path) -> None:
        tool.unlink()
        ((path, message),) = verify().differences
        assert path == TOOL
        assert "does not exist" in message

    def test_the_reference_log(self, verify: Verify, upstream_repository: pathlib.Path) -> None:
        (upstream_repository / ".cvmfsreflog").write_bytes(b"x")
        differences = verify().differences
        assert differences == [(b".cvmfsreflog", "is not the reference log that the manifest names")]

    @pytest.mark.parametrize("is_whole", [True, False])
    def test_a_reference_log_that_was_replaced(
        self, verify: Verify, upstream_repository: pathlib.Path, is_whole: bool
    ) -> None:
        """Garbage collection of CernVM-FS's own tools does so; that is no difference if it has what is needed."""
        database = sqlite3.connect(upstream_repository / ".cvmfsreflog")
        with database:
            database.execute("INSERT INTO refs VALUES ('0123456789012345678901234567890123456789', 0, 1)")
            if not is_whole:
                database.execute("DELETE FROM refs WHERE type = 2")
        database.close()
        report = verify()
        assert len(report.warnings) == is_whole
        assert len(report.differences) != is_whole


def test_progress_is_counted(upstream_url: str, upstream_key: str) -> None:
    seen: list[tuple[int, int, int]] = []
    _verify.Verifier(upstream_url, [upstream_key], progress=lambda *count: seen.append(count)).verify()
    assert seen[-1][:2] == (OBJECTS, OBJECTS)


def test_progress_is_written_for_people(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "progress"
    _verify.ProgressLine(str(path))(1000, 1000, 2_000_000)
    assert path.read_text().startswith("Verifying: 1,000 of 1,000 objects  2.0 MB")
