# SPDX-License-Identifier: GPL-3.0-or-later
"""The content pipeline: reads, compresses, hashes and uploads files, many at a time, in bounded memory.

Each worker thread carries a batch of small files through all stages. What takes time (reading, compression, hashing,
the network) runs without the interpreter's lock, so threads are enough to use all cores and to hide the store's
latency. Chunks of a large file are handed on by the worker that reads it, to whoever is free.
"""

from __future__ import annotations

import collections
import contextlib
import os
import tempfile
import threading
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from ..errors import StorageError
from ..storage import Cancellation
from .chunker import STEP, Chunking, cut
from .compression import LEVEL, Compression
from .digest_set import DigestSet
from .hash import ContentHash, HashAlgorithm, HashSuffix
from .objects import mapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    from ..progress import Progress
    from ..storage import Bytes, ObjectStore
    from .source import ClosableReader, ContentSource

Arg = TypeVar("Arg")

_SMALL = 256 << 10  # bytes; files below are read into a buffer that each worker keeps
_BATCH_FILES = 16
_BATCH_BYTES = 1 << 20
_QUEUED_FILES = 4096
_MOST_WORKERS = 64  # by default; s3.conf files name hundreds of connections, more than threads can make use of
_HELD_BYTES = 64 << 20  # that queued sources may occupy
_MEMORY_PER_CORE = 32 << 20  # bytes; keeps a core busy with chunks of large files


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a large file: `size` bytes from `offset` on."""

    offset: int
    size: int
    hash: ContentHash


@dataclass(frozen=True, slots=True)
class ContentResult:
    """What has become of a file's content.

    :param hash: the object with the whole content; None when it is in chunks only
    :param size: bytes read
    :param chunks: the pieces in order; empty when the content is one object
    :param compression: how the objects are stored
    :param uploaded_bytes: bytes that went to the store
    :param new_objects: number of objects that went to the store
    """

    hash: ContentHash | None
    size: int
    chunks: tuple[Chunk, ...]
    compression: Compression
    uploaded_bytes: int
    new_objects: int


class ContentPipeline(Generic[Arg]):
    """Turns files into objects.

    A context manager; leaving it on an error calls off what is not done yet. The first error of any worker is raised
    by the next call of `submit`, `completed` or `drain`, and calls off the rest.

    :param store: where objects go
    :param bulk: store files that are cut as one object, too
    :param known: says whether the store has an object already, because the current revision refers to it, say.
        Called from several threads.
    :param chunking: how to cut large files; None keeps every file whole
    :param workers: number of threads, at most 64; by default what the store serves best
    :param uploads: number of objects that are written at a time; by default as many as there are threads
    :param progress: told of files and bytes that are done
    :param memory: bytes of large files that may be in memory at a time, besides their compressed form; by default
        enough to keep all cores busy
    :param scratch: directory for the compressed form of large files that are kept whole
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        hash_algorithm: HashAlgorithm = HashAlgorithm.SHA1,
        compression: Compression = Compression.ZLIB,
        chunking: Chunking | None = Chunking(),  # noqa: B008  (immutable)
        bulk: bool = False,
        known: Callable[[ContentHash], bool] | None = None,
        workers: int | None = None,
        uploads: int | None = None,
        progress: Progress | None = None,
        memory: int | None = None,
        scratch: Path | None = None,
    ) -> None:
        self._store = store
        self._algorithm = hash_algorithm
        self._compression = compression
        self._chunking = chunking
        self._bulk = bulk
        self._known = known
        self._progress = progress
        self._scratch = scratch
        self._uploads = threading.BoundedSemaphore(uploads) if uploads else contextlib.nullcontext()
        if memory is None:
            memory = min(512 << 20, max(2, len(os.sched_getaffinity(0))) * _MEMORY_PER_CORE)
        self._memory = max(memory, chunking.maximum + STEP) if chunking else memory

        lock = threading.Lock()
        self._lock = lock
        self._work = threading.Condition(lock)  # idle workers wait for something to do
        self._room = threading.Condition(lock)  # workers that read large files wait for memory
        self._news = threading.Condition(lock)  # the caller waits for a shorter queue, results, or an error
        self._batch: list[_Task[Arg]] = []
        self._batch_bytes = 0
        self._batches: collections.deque[list[_Task[Arg]]] = collections.deque()
        self._pieces: collections.deque[_Piece[Arg]] = collections.deque()
        self._results: list[tuple[ContentResult, Arg]] = []
        self._queued = 0
        self._held = 0
        self._unfinished = 0
        self._idle = 0
        self._seen = {suffix: DigestSet() for suffix in (HashSuffix.NONE, HashSuffix.PARTIAL)}
        self._error: BaseException | None = None
        self._closing = False
        self._cancel = Cancellation()
        self._threads = [
            threading.Thread(target=self._run, name=f"content-{number}")
            for number in range(min(workers or store.concurrency, _MOST_WORKERS))
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                collections.deque(self.drain(), maxlen=0)
            else:
                self.call_off(error)
        finally:
            with self._lock:
                self._closing = True
                self._work.notify_all()
            for thread in self._threads:
                thread.join()

    def submit(self, source: ContentSource, arg: Arg, *, upload: bool = True) -> None:
        """Queue a file. Blocks while too much is queued.

        :param source: the content; read later, in another thread
        :param arg: comes back with the result
        :param upload: False to only find out what the objects would be
        :raises PublisherError: when something submitted earlier failed
        """
        held = source.held
        with self._lock:
            self._raise_error()
            while self._queued >= _QUEUED_FILES or (self._held and self._held + held > _HELD_BYTES):
                self._flush()
                self._news.wait()
                self._raise_error()
            self._queued += 1
            self._unfinished += 1
            self._held += held
            self._batch.append(_Task(source, arg, upload))
            self._batch_bytes += source.size
            if self._idle or len(self._batch) >= _BATCH_FILES or self._batch_bytes >= _BATCH_BYTES:
                self._flush()

    def completed(self) -> Iterator[tuple[ContentResult, Arg]]:
        """Yield what is done by now, each result once, in no particular order. Does not block.

        :raises PublisherError: when something submitted failed
        """
        with self._lock:
            self._raise_error()
            results, self._results = self._results, []
        yield from results

    def drain(self) -> Iterator[tuple[ContentResult, Arg]]:
        """Yield all results that were not yielded yet, until everything submitted is done.

        :raises PublisherError: when something submitted failed
        """
        done = False
        while not done:
            with self._lock:
                self._flush()
                while not self._results and self._unfinished and self._error is None:
                    self._news.wait()
                self._raise_error()
                results, self._results = self._results, []
                done = not self._unfinished
            yield from results

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _flush(self) -> None:
        """Make the files submitted last available to workers. Called with the lock held."""
        if self._batch:
            self._batches.append(self._batch)
            self._batch = []
            self._batch_bytes = 0
            self._work.notify()

    def call_off(self, error: BaseException) -> None:
        """Break off what is not done yet; the submitting thread gets `error`."""
        with self._lock:
            if self._error is None:
                self._error = error
            self._batch.clear()
            self._batches.clear()
            self._pieces.clear()
            self._room.notify_all()
            self._news.notify_all()
        self._cancel.set()

    def _run(self) -> None:
        """Work until the pipeline closes: the life of a worker thread."""
        buffer = memoryview(bytearray(_SMALL))
        while True:
            piece = batch = None
            with self._lock:
                while not (self._pieces or self._batches):
                    if self._closing:
                        return
                    if self._batch:
                        self._flush()
                        break
                    self._idle += 1
                    self._work.wait()
                    self._idle -= 1
                if self._pieces:
                    piece = self._pieces.popleft()
                else:
                    batch = self._batches.popleft()
            try:
                if piece is not None:
                    self._store_piece(piece)
                else:
                    self._take_batch(batch or [], buffer)
            except BaseException as error:  # its place is the thread that submits
                self.call_off(error)

    def _take_batch(self, batch: list[_Task[Arg]], buffer: memoryview) -> None:
        for task in batch:
            self._take(task, buffer)

    def _take(self, task: _Task[Arg], buffer: memoryview) -> None:
        """Carry one file through all stages; chunks of a large file may still be on their way afterwards."""
        if self._cancel.is_set():
            return
        reader = task.source.open()
        try:
            size = 0
            while count := reader.readinto(buffer[size:]):
                size += count
                if size == len(buffer):
                    break
            if not count:
                self._finish(self._store_whole(buffer[:size], task.upload), task.arg)
            elif self._chunking is None:
                self._finish(self._store_unchunked(reader, buffer, task.upload), task.arg)
            else:
                self._take_large(reader, task, buffer, self._chunking)
        finally:
            reader.close()
        with self._lock:
            self._queued -= 1
            self._held -= task.source.held
            self._news.notify()

    def _take_large(self, reader: ClosableReader, task: _Task[Arg], start: memoryview, chunking: Chunking) -> None:
        file = _LargeFile(task.arg, task.upload)
        pieces = cut(reader, chunking, start)
        last = False
        with contextlib.ExitStack() as stack:
            whole = stack.enter_context(_StoredForm(self._compression, self._scratch)) if self._bulk else None
            while not last:
                self._reserve(chunking.maximum + STEP)
                last = self._take_piece(file, pieces, chunking.maximum + STEP, whole)
            if whole is not None and file.size:
                content_hash, uploaded, new = self._upload_stored(whole, task.upload)
                with self._lock:
                    file.hash = content_hash
                    file.uploaded += uploaded
                    file.new += new
                self._finish_piece(file)

    def _take_piece(
        self,
        file: _LargeFile[Arg],
        pieces: Iterator[tuple[memoryview, bool]],
        reserved: int,
        whole: _StoredForm | None,
    ) -> bool:
        """Read a chunk, leave it to whoever is free, and say whether it was the last one.

        :param whole: gets the chunk as well
        """
        data, last = next(pieces)
        self._release(reserved - len(data))
        if whole is not None and not (last and not file.size):
            whole.write(data)
        if last and not file.size:
            try:
                self._finish(self._store_whole(data, file.upload), file.arg)
            finally:
                self._release(len(data))
            return last
        with self._lock:
            self._pieces.append(_Piece(file, file.size, data))
            file.size += len(data)
            file.unfinished += not last or whole is not None  # the last one takes the place of a reader that is done
            self._work.notify()
            self._room.notify_all()
        return last

    def _store_piece(self, piece: _Piece[Arg]) -> None:
        data = piece.data
        try:
            content_hash, uploaded, new = self._store_object(data, HashSuffix.PARTIAL, piece.file.upload)
        finally:
            self._release(len(data))
        if self._progress:
            self._progress.add(bytes=len(data))
        file = piece.file
        with self._lock:
            file.chunks.append(Chunk(piece.offset, len(data), content_hash))
            file.uploaded += uploaded
            file.new += new
        self._finish_piece(file)

    def _finish_piece(self, file: _LargeFile[Arg]) -> None:
        with self._lock:
            file.unfinished -= 1
            if file.unfinished:
                return
        chunks = tuple(sorted(file.chunks, key=lambda chunk: chunk.offset))
        result = ContentResult(file.hash, file.size, chunks, self._compression, file.uploaded, file.new)
        self._finish(result, file.arg)

    def _finish(self, result: ContentResult, arg: Arg) -> None:
        if self._progress:
            self._progress.add(files=1, bytes=0 if result.chunks else result.size)
        with self._lock:
            self._results.append((result, arg))
            self._unfinished -= 1
            self._news.notify()

    def _store_whole(self, data: Bytes, upload: bool) -> ContentResult:
        content_hash, uploaded, new = self._store_object(data, HashSuffix.NONE, upload)
        return ContentResult(content_hash, len(data), (), self._compression, uploaded, new)

    def _store_object(self, data: Bytes, suffix: HashSuffix, upload: bool) -> tuple[ContentHash, int, int]:
        """Return the name of the object with `data`, and the bytes and the number of objects uploaded for it."""
        stored = self._compression.compress(data)
        return self._upload(stored, suffix, upload)

    def _upload(self, stored: Bytes, suffix: HashSuffix, upload: bool) -> tuple[ContentHash, int, int]:
        content_hash = ContentHash.of(stored, self._algorithm, suffix)
        if not upload:
            return content_hash, 0, 0
        with self._lock:
            if not self._seen[suffix].add(content_hash.digest):
                return content_hash, 0, 0
        if self._known is not None and self._known(content_hash):
            return content_hash, 0, 0
        with self._uploads:
            self._store.put(content_hash.key(), stored, cancel=self._cancel)
        return content_hash, len(stored), 1

    def _store_unchunked(self, reader: ClosableReader, start: memoryview, upload: bool) -> ContentResult:
        """Store a large file as one object."""
        with _StoredForm(self._compression, self._scratch) as stored:
            block = start
            while len(block):
                stored.write(block)
                block = start[: reader.readinto(start) or 0]
            content_hash, uploaded, new = self._upload_stored(stored, upload)
        return ContentResult(content_hash, stored.size, (), self._compression, uploaded, new)

    def _upload_stored(self, stored: _StoredForm, upload: bool) -> tuple[ContentHash, int, int]:
        return self._upload(stored.finished(), HashSuffix.NONE, upload)

    def _reserve(self, size: int) -> None:
        """Take memory for `size` bytes, storing other pieces of large files while there is none."""
        while True:
            with self._lock:
                while self._memory < size and not self._pieces and self._error is None:
                    self._room.wait()
                if self._error is not None:
                    raise self._error
                if self._memory >= size:
                    self._memory -= size
                    return
                piece = self._pieces.popleft()
            self._store_piece(piece)
            del piece  # or its memory would stay taken while this waits

    def _release(self, size: int) -> None:
        with self._lock:
            self._memory += size
            self._room.notify_all()


@dataclass(frozen=True, slots=True)
class _Task(Generic[Arg]):
    """A file to take."""

    source: ContentSource
    arg: Arg
    upload: bool


class _LargeFile(Generic[Arg]):
    """Collects the chunks of one file."""

    def __init__(self, arg: Arg, upload: bool) -> None:
        self.arg = arg
        self.upload = upload
        self.size = 0
        self.unfinished = 1  # counts the reader as well
        self.hash: ContentHash | None = None
        self.chunks: list[Chunk] = []
        self.uploaded = 0
        self.new = 0


@dataclass(slots=True)
class _Piece(Generic[Arg]):
    """A chunk that waits to be stored."""

    file: _LargeFile[Arg]
    offset: int
    data: memoryview


class _StoredForm:
    """The stored form of a large file, on disk while it grows. A context manager.

    :param scratch: directory for it
    :raises StorageError: here and from all methods, when it cannot be written
    """

    def __init__(self, compression: Compression, scratch: Path | None) -> None:
        self.size = 0
        """Bytes of the file, uncompressed."""
        self._scratch = scratch
        self._compressor = zlib.compressobj(LEVEL) if compression is Compression.ZLIB else None
        with self._errors():
            self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115  (closed by __exit__)

    def write(self, block: memoryview) -> None:
        """Add a part of the file."""
        self.size += len(block)
        with self._errors():
            self._file.write(self._compressor.compress(block) if self._compressor else block)

    def finished(self) -> memoryview:
        """Return all of it, once everything has been added."""
        with self._errors():
            if self._compressor:
                self._file.write(self._compressor.flush())
            return mapped(self._file)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"Cannot write a temporary file in {self._scratch or tempfile.gettempdir()}: {error.strerror}",
                remedy="Make room there, or let large files be stored in chunks only (CVMFS_USE_FILE_CHUNKING=true)",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
