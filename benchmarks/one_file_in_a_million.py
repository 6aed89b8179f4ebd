#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publishes one changed file in a repository of a million entries in 500 nested catalogs, in an existing bucket.

    one_file_in_a_million.py URL BUCKET [--catalogs N] [--entries N] [--rounds N] [--seconds S] [--megabytes M]

The keys are in CVMFS_TEST_S3_ACCESS_KEY and CVMFS_TEST_S3_SECRET_KEY. The repository is made of catalogs alone, all of
whose files have one small content. Then the program is run as a user would: time is from its start to its end, memory
what it had at most. Every round must write just two catalogs: the one with the file, and the root. The exit code is 1
when the best round takes longer than ``--seconds``, or any has more memory than ``--megabytes``.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from release_manager import Measured, on_s3, report, server

from cvmfs_publisher.catalog import MARKER, DirectoryEntry, WritableCatalogTree
from cvmfs_publisher.content import ContentHash, HashAlgorithm, put_object
from cvmfs_publisher.operations.environment import Environment
from cvmfs_publisher.operations.publish import commit_catalogs
from cvmfs_publisher.operations.transaction import exclusive

NAME = "million.example.org"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bucket")
    parser.add_argument("--catalogs", type=int, default=500)
    parser.add_argument("--entries", type=int, default=2000, help="in each catalog")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="that a publish may take (default: %(default)s)")
    parser.add_argument("--megabytes", type=float, default=300.0, help="that it may have (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        environment = on_s3(NAME, Path(directory), arguments.url, arguments.bucket)
        settings = environment.settings(NAME)
        with contextlib.closing(environment.store(settings)) as store:
            try:
                server(environment, "mkfs", NAME)
                begin = time.monotonic()
                fill(environment, arguments.catalogs, arguments.entries)
                total = arguments.catalogs * arguments.entries
                print(f"{total} entries in {arguments.catalogs} catalogs, made in {time.monotonic() - begin:.0f} s")
                found = rounds(environment, Path(directory), arguments.catalogs, arguments.rounds)
                report("list-catalogs", server(environment, "list-catalogs", "-x", "-e", "-s", NAME))
                copy = ["-T", "/sw/v0=/sw/copy"]
                report("transaction -T", server(environment, "transaction", *copy, NAME))
                report("publish the copy", server(environment, "publish", NAME))
            finally:
                with ThreadPoolExecutor(16) as pool:
                    list(pool.map(store.delete, [info.key for info in store.list("")]))
    seconds, megabytes = min(measured.seconds for measured in found), max(measured.megabytes for measured in found)
    if seconds > arguments.seconds or megabytes > arguments.megabytes:
        sys.exit(
            f"One file took {seconds:.2f} s and {megabytes:.0f} MB; "
            f"the limits are {arguments.seconds:g} s and {arguments.megabytes:g} MB"
        )


def fill(environment: Environment, catalogs: int, entries: int) -> None:
    """Publish the catalogs."""
    settings = environment.settings(NAME)
    timestamp = int(time.time())
    with (
        contextlib.closing(environment.store(settings)) as store,
        exclusive(environment, settings, store) as lease,
        environment.open(NAME, settings) as repository,
        environment.scratch(settings) as scratch,
        WritableCatalogTree(store, repository.manifest.root_hash, scratch) as tree,
    ):
        content, _ = put_object(store, b"content")
        for path, entry in million(content, catalogs, entries, timestamp):
            tree.add(path, entry)
        manifest = replace(repository.manifest, revision=repository.manifest.revision + 1)
        manifest = commit_catalogs(repository, tree, manifest, HashAlgorithm.SHA1, timestamp)
        repository.commit(manifest, environment.repository_key(NAME), lease=lease)


def million(
    content: ContentHash, catalogs: int, entries: int, timestamp: int
) -> Iterator[tuple[bytes, DirectoryEntry]]:
    """Yield what there is in the repository, directories before their content."""
    directory = DirectoryEntry(name=b"", mode=0o40755, size=4096, mtime=timestamp)
    file = DirectoryEntry(name=b"", mode=0o100644, size=7, mtime=timestamp, hash=content)
    yield b"sw", directory
    for number in range(catalogs):
        base = b"sw/v%d" % number
        yield base, directory
        yield base + b"/" + MARKER, file
        left = itertools.count(2)  # root and marker
        for package in itertools.count():
            if next(left) >= entries:
                break
            yield base + b"/package%d" % package, directory
            for module in range(99):
                if next(left) >= entries:
                    break
                yield base + b"/package%d/module-with-a-name-%d.py" % (package, module), file


def rounds(environment: Environment, directory: Path, catalogs: int, count: int) -> list[Measured]:
    """Publish one file as many times; return what was measured."""
    found = []
    source = directory / "source"
    source.mkdir()
    for turn in range(count):
        (source / "changed").write_text(f"{turn} {time.time_ns()}")
        before = catalogs_of(environment)
        target = f"sw/v{turn * 7 % catalogs}/package0"
        measured = server(environment, "ingest", "--json", "--directory", str(source), "-b", target, NAME)
        written = catalogs_of(environment) - before
        document = json.loads(measured.output)
        assert (document["added"] + document["modified"]) in (1, 2), document  # the directory's time changes, too
        assert len(written) == 2, written
        report("ingest of one file", measured)
        found.append(measured)
    return found


def catalogs_of(environment: Environment) -> set[str]:
    """Return the hashes of all catalogs."""
    output = server(environment, "list-catalogs", "-x", "-h", NAME).output
    return {line.partition(" ")[0] for line in output.splitlines()}


if __name__ == "__main__":
    main()
