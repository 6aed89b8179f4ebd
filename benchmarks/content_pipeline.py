#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures the content pipeline: reading, compressing, hashing and uploading a tree of files.

    content_pipeline.py [TREE] [--files N --megabytes M] [--s3 URL BUCKET] [--connections N]

TREE is a directory; without one, a tree like a software release is made: many small files, some shared libraries. With
--s3 the objects go to an existing bucket (keys in CVMFS_TEST_S3_ACCESS_KEY and CVMFS_TEST_S3_SECRET_KEY; they are
deleted afterwards), otherwise to a temporary directory.

Two limits are measured in the same run: the store's rate for objects of the same number and average size, written by
as many threads that do nothing else; and the speed of zlib at the level that CernVM-FS uses, on all cores. The last
line says how much longer these two would take one after the other than the pipeline takes for everything.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import resource
import secrets
import stat
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from cvmfs_publisher.content import ContentPipeline, FileSource
from cvmfs_publisher.progress import Progress
from cvmfs_publisher.storage import LocalStore, ObjectStore, S3Config, S3Store

SAMPLE = 100  # megabytes of the tree that zlib is measured with

Item = TypeVar("Item")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", nargs="?", type=Path)
    parser.add_argument("--files", type=int, default=5150)
    parser.add_argument("--megabytes", type=int, default=93)
    parser.add_argument("--s3", nargs=2, metavar=("URL", "BUCKET"))
    parser.add_argument("--connections", type=int, default=16)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="content_pipeline-") as scratch:
        tree = arguments.tree or make_tree(Path(scratch, "tree"), arguments.files, arguments.megabytes * 10**6)
        store = open_store(arguments, Path(scratch, "store"))
        try:
            measure(tree, store, arguments.connections)
        finally:
            delete_all(store, arguments.connections)


def measure(tree: Path, store: ObjectStore, connections: int) -> None:
    files = [(path, status) for path, status in walk(tree)]
    total = sum(status.st_size for _, status in files)
    print(f"{len(files):,} files, {total / 1e6:,.1f} MB in {tree}; to {store.describe()}")

    begin, cpu = time.perf_counter(), time.process_time()
    objects = stored = 0
    with (
        Progress("Publishing", total_files=len(files), total_bytes=total) as progress,
        ContentPipeline[None](store, workers=connections, progress=progress) as pipeline,
    ):
        for path, status in files:
            pipeline.submit(FileSource(path, status), None)
            for result, _ in pipeline.completed():
                objects += result.new_objects
                stored += result.uploaded_bytes
        for result, _ in pipeline.drain():
            objects += result.new_objects
            stored += result.uploaded_bytes
    seconds = time.perf_counter() - begin
    cpu = time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"pipeline        {seconds:7.1f} s  {rates(len(files), total, seconds)}")
    print(f"                {objects:,} objects, {stored / 1e6:,.1f} MB stored, ratio {stored / total:.3f}")
    print(f"                {memory:,.0f} MiB resident at most, {cpu / len(files) * 1e6:,.0f} us of CPU time per file")

    raw = put_objects(store, objects, stored, connections)
    print(f"store alone     {raw:7.1f} s  {rates(objects, stored, raw)}")
    sample = list(read_sample(files))
    size = sum(map(len, sample))
    zlib_seconds = in_threads(sample, lambda data: zlib.compress(data, 6), os.cpu_count() or 1) * total / size
    print(f"zlib -6 alone   {zlib_seconds:7.1f} s  {total / 1e6 / zlib_seconds:,.1f} MB/s on {os.cpu_count()} cores")
    print(f"pipeline : store alone          = {seconds / raw:5.2f}")
    print(f"(store + zlib) : pipeline       = {(raw + zlib_seconds) / seconds:5.2f}")


def rates(count: int, size: int, seconds: float) -> str:
    return f"{count / seconds:,.0f}/s, {size / 1e6 / seconds:,.1f} MB/s"


def put_objects(store: ObjectStore, count: int, total: int, connections: int) -> float:
    """Write as many objects with as many bytes as the pipeline did, all of the average size."""
    data = os.urandom(max(1, total // max(1, count)))
    keys = [f"data/{number % 256:02x}/raw{number:037x}" for number in range(count)]
    return in_threads(keys, lambda key: store.put(key, data), connections)


def read_sample(files: list[tuple[bytes, os.stat_result]]) -> Iterator[bytes]:
    """Read an evenly chosen part of the tree."""
    total = sum(status.st_size for _, status in files)
    share = min(1.0, SAMPLE * 1e6 / max(1, total))
    dice = random.Random(1)  # noqa: S311
    for path, _ in files:
        if dice.random() <= share:
            with open(path, "rb") as file:
                yield file.read()


def in_threads(items: Iterable[Item], action: Callable[[Item], object], count: int) -> float:
    """Do something with all items, in `count` threads, and return the seconds it took."""
    queue = collections.deque(items)

    def work() -> None:
        while True:
            try:
                item = queue.popleft()
            except IndexError:
                return
            action(item)

    threads = [threading.Thread(target=work) for _ in range(count)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin


def walk(tree: Path) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield the regular files of a tree."""
    for directory, _, names in os.walk(os.fsencode(tree)):
        for name in names:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                yield path, status


def make_tree(root: Path, count: int, total: int) -> Path:
    """Make a tree like a Python software release: a third of its bytes in small text files, the rest in libraries."""
    dice = random.Random(1)  # noqa: S311
    words = [dice.randbytes(dice.randrange(1, 6)).hex().encode() for _ in range(3000)]
    large = max(1, count // 500)
    small = total // 3 // count
    for number in range(count - large):
        size = min(int(dice.lognormvariate(0, 1.5) * small / 3), 200 * small)
        text = b" ".join(dice.choices(words, k=size // 7 + 1))[:size]
        directory = root / f"{number // 2000:03}" / f"{number // 50 % 40:02}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number}.py").write_bytes(text)
    machine = b"".join(dice.randbytes(8) + dice.choice(words) * 2 for _ in range(50_000))
    for number in range(large):
        size = int(dice.uniform(0.2, 1.8) * total * 2 / 3 / large)
        with (root / f"lib{number}.so").open("wb") as file:
            while size > 0:
                start = dice.randrange(len(machine) // 2)
                size -= file.write(machine[start:][:size])
    return root


def open_store(arguments: argparse.Namespace, directory: Path) -> ObjectStore:
    """Return an empty store."""
    if not arguments.s3:
        return LocalStore(directory)
    url, bucket = arguments.s3
    parts = urlsplit(url)
    try:
        keys = [os.environ[f"CVMFS_TEST_S3_{name}"] for name in ("ACCESS_KEY", "SECRET_KEY")]
    except KeyError as error:
        sys.exit(f"{error.args[0]} is not set")
    config = S3Config(
        host=parts.hostname or "",
        port=parts.port,
        https=parts.scheme == "https",
        bucket=bucket,
        access_key=keys[0],
        secret_key=keys[1],
        prefix=f"benchmark-{secrets.token_hex(4)}",
        dns_buckets=False,
        parallel=arguments.connections,
    )
    return S3Store(config)


def delete_all(store: ObjectStore, connections: int) -> None:
    """Remove everything from a store."""
    in_threads([item.key for item in store.list("")], store.delete, connections)


if __name__ == "__main__":
    main()
