# SPDX-License-Identifier: GPL-3.0-or-later
"""The content pipeline."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import Fault, FaultyStore
from wire import Fate, Proxy, answer, stopwatch

from cvmfs_publisher.content import (
    BytesSource,
    Chunking,
    Compression,
    ContentHash,
    ContentPipeline,
    ContentResult,
    FileSource,
    HashAlgorithm,
)
from cvmfs_publisher.content.chunker import STEP, cut
from cvmfs_publisher.errors import AccessDenied, QuotaExceeded, SourceChanged, StorageError, UnreadableSource
from cvmfs_publisher.progress import Progress
from cvmfs_publisher.storage import LocalStore, ObjectStore, S3Store, Version
from cvmfs_publisher.storage.retry import RetryPolicy

pytestmark = pytest.mark.usefixtures("no_thread_leaks")

SMALL = Chunking(256 << 10, 512 << 10, 1 << 20)
SIZES = [0, 1, 100, 70_000, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, (1 << 20) + 5, 3_000_000, 9_999_999]


def content(size: int, seed: int = 0) -> bytes:
    """Half of it can be compressed."""
    dice = random.Random(f"{seed}/{size}")  # noqa: S311
    return b"".join(dice.randbytes(50) + b"always the same text, " * 2 for _ in range(size // 94 + 1))[:size]


def read_back(store: ObjectStore, result: ContentResult) -> bytes:
    """Return the content that a result stands for, having verified all of it."""
    if not result.chunks:
        assert result.hash is not None
        assert result.hash.suffix == ""
        names = [result.hash]
    else:
        assert result.hash is None
        position = 0
        for chunk in result.chunks:
            assert chunk.offset == position
            assert chunk.hash.suffix == "P"
            position += chunk.size
        assert position == result.size
        names = [chunk.hash for chunk in result.chunks]
    parts = []
    for name in names:
        stored = store.get(name.key())
        assert name.algorithm.digest(stored) == name.digest
        parts.append(zlib.decompress(stored) if result.compression is Compression.ZLIB else stored)
    for part, chunk in zip(parts, result.chunks, strict=False):
        assert len(part) == chunk.size
    return b"".join(parts)


@pytest.mark.parametrize("compression", Compression)
def test_stores_files_of_all_sizes(store: ObjectStore, tmp_path: Path, compression: Compression) -> None:
    wanted = {}
    with ContentPipeline[Path](store, chunking=SMALL, compression=compression, memory=4 << 20) as pipeline:
        for size in SIZES:
            path = tmp_path / str(size)
            path.write_bytes(content(size))
            wanted[path] = content(size)
            pipeline.submit(FileSource(str(path), path.stat()), path)
        results = {arg: result for result, arg in pipeline.drain()}
        assert not list(pipeline.completed())
    assert set(results) == set(wanted)
    uploaded = 0
    for path, result in results.items():
        assert read_back(store, result) == wanted[path]
        assert result.size == len(wanted[path])
        assert bool(result.chunks) == (result.size > SMALL.minimum and len(result.chunks) > 1)
        uploaded += result.uploaded_bytes
    stored = list(store.list("data/"))
    assert uploaded == sum(item.size for item in stored)
    assert len(stored) == sum(result.new_objects for result in results.values())


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize("upload", [True, False])
def test_stores_chunked_files_whole_as_well(
    store_local: LocalStore, tmp_path: Path, compression: Compression, upload: bool
) -> None:
    """The whole is the object that it would be if the file were not cut."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    chunked: dict[int, ContentResult] = {}
    whole: dict[int, ContentResult] = {}
    for chunking, results in ((SMALL, chunked), (None, whole)):
        with ContentPipeline[int](
            store_local, chunking=chunking, bulk=True, compression=compression, memory=4 << 20, scratch=scratch
        ) as pipeline:
            for size in SIZES:
                pipeline.submit(BytesSource(content(size)), size, upload=upload)
            results |= {arg: result for result, arg in pipeline.drain()}
    assert list(scratch.iterdir()) == []
    assert sum(bool(result.chunks) for result in chunked.values()) >= 3
    for size in SIZES:
        if chunked[size].chunks:
            assert chunked[size].hash == whole[size].hash
        assert sum(chunk.size for chunk in chunked[size].chunks) in (0, size)
    assert any(store_local.list("data/")) == upload
    if upload:
        for result in whole.values():
            assert read_back(store_local, result) == content(result.size)
        for result in chunked.values():
            assert b"".join(compression.decompress(store_local.get(chunk.hash.key())) for chunk in result.chunks) in (
                b"",
                content(result.size),
            )


def test_no_room_for_the_whole(store_local: LocalStore, tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="Cannot write a temporary file in"),
        ContentPipeline[None](store_local, chunking=SMALL, bulk=True, scratch=tmp_path / "missing") as pipeline,
    ):
        pipeline.submit(BytesSource(content(3_000_000)), None)


def test_cuts_like_the_chunker(store_local: LocalStore) -> None:
    data = content(5_000_000)
    with ContentPipeline[None](store_local, chunking=SMALL) as pipeline:
        pipeline.submit(BytesSource(data), None)
        ((result, _),) = pipeline.drain()
    import io

    sizes = [len(piece) for piece, _ in cut(io.BytesIO(data), SMALL)]
    assert [chunk.size for chunk in result.chunks] == sizes


def test_one_chunk_is_a_whole_file(store_local: LocalStore) -> None:
    """As upstream does, a file that turns out to have one chunk only is no chunked file."""
    data = content(300 << 10)
    with ContentPipeline[None](store_local, chunking=Chunking(256 << 10, 8 << 20, 16 << 20)) as pipeline:
        pipeline.submit(BytesSource(data), None)
        ((result, _),) = pipeline.drain()
    assert not result.chunks
    assert read_back(store_local, result) == data


@pytest.mark.parametrize("compression", Compression)
def test_keeps_files_whole_when_told(store_local: LocalStore, tmp_path: Path, compression: Compression) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with ContentPipeline[int](store_local, chunking=None, compression=compression, scratch=scratch) as pipeline:
        for size in SIZES:
            pipeline.submit(BytesSource(content(size)), size)
        for result, size in pipeline.drain():
            assert read_back(store_local, result) == content(size)
            assert not result.chunks
    assert not list(scratch.iterdir())


def test_names_the_scratch_directory_when_it_fails(store_local: LocalStore, tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match=r"no-such.*CVMFS_USE_FILE_CHUNKING"),
        ContentPipeline[None](store_local, chunking=None, scratch=tmp_path / "no-such") as pipeline,
    ):
        pipeline.submit(BytesSource(content(1 << 20)), None)


def test_uploads_equal_content_once(store_local: LocalStore) -> None:
    store = FaultyStore(store_local)
    with ContentPipeline[int](store) as pipeline:
        for number in range(200):
            pipeline.submit(BytesSource(b"equal %d" % (number % 2)), number)
        results = [result for result, _ in pipeline.drain()]
    assert len(results) == 200
    assert len(store.operations) == 2 == sum(result.new_objects for result in results)
    assert len({result.hash for result in results}) == 2


def test_does_not_upload_what_is_known(store_local: LocalStore) -> None:
    def run(known: set[ContentHash]) -> list[ContentResult]:
        with ContentPipeline[None](store, known=known.__contains__, chunking=SMALL) as pipeline:
            for size in SIZES:
                pipeline.submit(BytesSource(content(size)), None)
            return [result for result, _ in pipeline.drain()]

    store = FaultyStore(store_local)
    first = run(set())
    known = {result.hash for result in first if result.hash} | {c.hash for result in first for c in result.chunks}
    done = len(store.operations)
    second = run(known)
    assert len(store.operations) == done
    assert sum(result.uploaded_bytes for result in second) == 0
    assert {(result.hash, result.chunks) for result in second} == {(result.hash, result.chunks) for result in first}


def test_hash_algorithm(store_local: LocalStore) -> None:
    with ContentPipeline[None](store_local, hash_algorithm=HashAlgorithm.SHAKE128) as pipeline:
        pipeline.submit(BytesSource(b"x"), None)
        ((result, _),) = pipeline.drain()
    assert result.hash is not None
    assert result.hash.key().endswith("-shake128")
    assert read_back(store_local, result) == b"x"


def test_gives_results_as_they_come(store_local: LocalStore) -> None:
    seen = 0
    with ContentPipeline[int](store_local) as pipeline:
        for number in range(8000):
            pipeline.submit(BytesSource(b"%d" % number), number)
            seen += len(list(pipeline.completed()))
        assert seen
        seen += len(list(pipeline.drain()))
        assert seen == 8000
        pipeline.submit(BytesSource(b"more"), 0)
        assert len(list(pipeline.drain())) == 1


def test_reports_progress(store_local: LocalStore) -> None:
    progress = Progress("Test", stream=None)
    with ContentPipeline[int](store_local, progress=progress, chunking=SMALL) as pipeline:
        for size in SIZES:
            pipeline.submit(BytesSource(content(size)), size)
    assert (progress.files, progress.bytes) == (len(SIZES), sum(SIZES))


# Sources that cannot be taken


def publish(store: ObjectStore, *sources: FileSource) -> None:
    with ContentPipeline[None](store) as pipeline:
        for source in sources:
            pipeline.submit(source, None)
        list(pipeline.drain())


def test_source_changed_since_it_was_looked_at(store_local: LocalStore, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen = path.stat()
    for change in (
        lambda: path.write_bytes(b"newer"),
        lambda: os.utime(path, ns=(1, 1)),
        lambda: path.chmod(0o640),
        lambda: os.replace(_other(tmp_path), path),
        path.unlink,
    ):
        change()
        with pytest.raises(SourceChanged, match=rf"{path} changed.*publish again"):
            publish(store_local, FileSource(str(path), seen))
        assert not list(store_local.list("data/"))


def _other(directory: Path) -> Path:
    other = directory / "other"
    other.write_bytes(b"old")
    return other


@pytest.mark.parametrize("size", [1000, 5 << 20])
@pytest.mark.parametrize("change", ["append", "overwrite", "truncate"])
def test_source_changes_while_it_is_read(store_local: LocalStore, tmp_path: Path, size: int, change: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(size))

    class Unsteady(FileSource):
        def open(self):  # type: ignore[no-untyped-def]
            reader = super().open()
            first = bytearray(500)
            assert reader.readinto(memoryview(first)) == 500
            if change == "truncate":
                os.truncate(path, size - 100)
            else:
                with path.open("ab" if change == "append" else "r+b") as file:
                    file.write(b"x")
            return reader

    with pytest.raises(SourceChanged, match=str(path)):
        publish(store_local, Unsteady(str(path), path.stat()))


def test_unreadable_sources(store_local: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    for name in ("missing", "link"):
        with pytest.raises(UnreadableSource, match=rf"Cannot read {tmp_path}/{name}: .*leave it out"):
            publish(store_local, FileSource(str(tmp_path / name)))
    with pytest.raises(UnreadableSource, match="Is a directory"):
        publish(store_local, FileSource(str(tmp_path)))


def test_source_without_permission(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming somebody else needs root")
    path = tmp_path / "secret"
    path.touch(0o600)
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setuid(65534)
            FileSource(str(path)).open()
        except UnreadableSource as error:
            os._exit(0 if "Permission denied" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_names_are_any_bytes(store_local: LocalStore, tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"new\nline \xff" + b"x" * 200)
    with pytest.raises(UnreadableSource, match=r"new\\nline \\xffxxx"):
        publish(store_local, FileSource(path))
    Path(os.fsdecode(path)).write_bytes(b"x")
    publish(store_local, FileSource(path))
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        publish(store_local, FileSource(os.path.basename(path), dir_fd=directory))
    finally:
        os.close(directory)


# Errors


def endless() -> Iterator[BytesSource]:
    number = 0
    while True:
        number += 1
        yield BytesSource(b"%d" % number)


def publish_many(store: ObjectStore, harvest: str) -> None:
    """Submit files until an error comes out, in one of the ways it can."""
    with ContentPipeline[None](store) as pipeline:
        for source, _ in zip(endless(), range(100 if harvest in ("drain", "leave") else 10**9), strict=False):
            pipeline.submit(source, None)
            if harvest == "completed":
                list(pipeline.completed())
        if harvest == "drain":
            list(pipeline.drain())


@pytest.mark.parametrize("harvest", ["submit", "completed", "drain", "leave"])
def test_raises_the_first_error(store_local: LocalStore, harvest: str) -> None:
    store = FaultyStore(store_local, [Fault(20, ("put",), times=10**9, error=QuotaExceeded("full"))])
    with pytest.raises(QuotaExceeded, match="full"):
        publish_many(store, harvest)
    assert len(list(store_local.list("data/"))) == 19


def test_an_error_of_the_caller_calls_off_the_rest(store_local: LocalStore) -> None:
    store = FaultyStore(store_local, [Fault(1, ("put",), times=10**9, delay=0.05)])
    with (  # noqa: PT012
        stopwatch() as elapsed,
        pytest.raises(KeyError),
        ContentPipeline[None](store, workers=2) as pipeline,
    ):
        for source, _ in zip(endless(), range(1000), strict=False):
            pipeline.submit(source, None)
        raise KeyError
    assert elapsed() < 10, "all of them take 25 s"


def test_a_failing_source_calls_off_large_files(store_local: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(UnreadableSource), ContentPipeline[None](store_local, chunking=SMALL) as pipeline:  # noqa: PT012
        for number in range(20):
            pipeline.submit(BytesSource(content(3_000_000, number)), None)
        pipeline.submit(FileSource(str(tmp_path / "missing")), None)
        list(pipeline.drain())


def test_one_refusal_ends_uploads_that_hang(proxy: Proxy, make_s3) -> None:  # type: ignore[no-untyped-def]
    """The store refuses one object while the other requests hang or wait for another attempt."""
    store: S3Store = make_s3(host="127.0.0.1", port=proxy.port, parallel=8, retry=RetryPolicy())
    store.exists("first contact")
    stalled = [Fate(forward=False, delay=60, answer=b"")] * 4
    busy = [Fate(forward=False, answer=answer(503, "SlowDown", Retry_After="60"))] * 3
    proxy.plan = [*stalled, *busy, Fate(forward=False, delay=0.5, answer=answer(403, "AccessDenied"))]
    with stopwatch() as elapsed, pytest.raises(AccessDenied):
        publish_many(store, "drain")
    assert elapsed() < 30


def test_survives_failures_on_the_wire(proxy: Proxy, make_s3, store_s3: S3Store) -> None:  # type: ignore[no-untyped-def]
    """A third of all requests fails in some way, and nothing is missing in the end."""
    store: S3Store = make_s3(host="127.0.0.1", port=proxy.port)
    dice = random.Random(4)  # noqa: S311
    fates = [
        Fate(forward=False, answer=answer(503, "SlowDown")),
        Fate(forward=False, answer=b""),
        Fate(answer=b""),
        Fate(cut=30),
    ]
    proxy.rule = lambda _: dice.choice(fates) if dice.random() < 1 / 3 else Fate()
    sizes = {number: dice.randrange(30_000) for number in range(300)} | {300: 3_000_000}
    with ContentPipeline[int](store, chunking=SMALL) as pipeline:
        for number, size in sizes.items():
            pipeline.submit(BytesSource(content(size, number)), number)
        results = {number: result for result, number in pipeline.drain()}
    assert set(results) == set(sizes)
    for number, result in results.items():
        assert read_back(store_s3, result) == content(sizes[number], number)


# Memory and threads


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Large files that cannot be compressed, files in memory, and many small ones: none makes the process grow."""
    script = f"""
import os, resource
from cvmfs_publisher.content import BytesSource, ContentPipeline, FileSource
from cvmfs_publisher.storage import LocalStore
os.chdir({str(tmp_path)!r})
for name in ("a", "b", "c"):
    with open(name, "wb") as file:
        for _ in range(80):
            file.write(os.urandom(1 << 20))
begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with LocalStore("store") as store, ContentPipeline(store, workers=16) as pipeline:
    for name in ("a", "b", "c"):
        pipeline.submit(FileSource(name), name)
    for number in range(10000):
        pipeline.submit(BytesSource(b"%d" % number), number)
    for number in range(100):
        pipeline.submit(BytesSource(os.urandom(1 << 20)), number)
    chunks = sum(len(result.chunks) for result, _ in pipeline.drain())
assert chunks > 20
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begin) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300


def test_holds_no_more_pieces_than_allowed(store_local: LocalStore) -> None:
    """With memory for one chunk, several large files still get through."""
    with ContentPipeline[int](store_local, chunking=SMALL, memory=SMALL.maximum + STEP, workers=6) as pipeline:
        for number in range(12):
            pipeline.submit(BytesSource(content(4_000_000, number)), number)
        for result, number in pipeline.drain():
            assert read_back(store_local, result) == content(4_000_000, number)


def test_can_be_left_without_use(store_local: LocalStore) -> None:
    with ContentPipeline[None](store_local):
        assert threading.active_count() > 1


def test_no_more_are_written_at_a_time_than_asked_for(tmp_path: Path) -> None:
    class Watched(LocalStore):
        lock, running, most = threading.Lock(), 0, 0

        def put(self, *arguments: Any, **options: Any) -> Version:
            with self.lock:
                self.running += 1
                self.most = max(self.most, self.running)
            time.sleep(0.01)
            with self.lock:
                self.running -= 1
            return super().put(*arguments, **options)

    for uploads, most in ((2, 2), (None, 6)):
        with (
            Watched(tmp_path / f"{uploads}") as watched,
            ContentPipeline[None](watched, workers=6, uploads=uploads) as pipeline,
        ):
            for number in range(600):  # in several batches
                pipeline.submit(BytesSource(f"{number}".encode()), None)
            list(pipeline.drain())
        assert 1 < watched.most <= most
        assert (watched.most > 2) == (uploads is None)
