#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publishes one changed file in a repository of a million entries in 500 nested catalogs, in an existing bucket.

    one_file_in_a_million.py URL BUCKET [--catalogs N] [--entries N] [--rounds N]

The keys are in CVMFS_TEST_S3_ACCESS_KEY and CVMFS_TEST_S3_SECRET_KEY. The repository is made of catalogs alone, all of
whose files have one small content. Then the program is run as a user would: time is from its start to its end, memory
what it had at most. Every round must write just two catalogs: the one with the file, and the root.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cvmfs_publisher.catalog import MARKER, DirectoryEntry, WritableCatalogTree
from cvmfs_publisher.content import ContentHash, HashAlgorithm, put_object
from cvmfs_publisher.operations.environment import Environment
from cvmfs_publisher.operations.publish import commit_catalogs
from cvmfs_publisher.operations.transaction import exclusive

NAME = "million.example.org"
PROGRAM = Path(sys.executable).with_name("cvmfs_server")
_MEASURE = """
import json, os, subprocess, sys, time
begin = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
output = process.stdout.read()
_, status, usage = os.wait4(process.pid, 0)
assert status == 0
print(json.dumps([time.monotonic() - begin, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime, output.decode()]))
"""
"""Run by a process of its own: what a process had before it became another program counts, too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bucket")
    parser.add_argument("--catalogs", type=int, default=500)
    parser.add_argument("--entries", type=int, default=2000, help="in each catalog")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        environment = configure(Path(directory), arguments.url, arguments.bucket)
        settings = environment.settings(NAME)
        with contextlib.closing(environment.store(settings)) as store:
            try:
                server(environment, "mkfs", NAME)
                begin = time.monotonic()
                fill(environment, arguments.catalogs, arguments.entries)
                total = arguments.catalogs * arguments.entries
                print(f"{total} entries in {arguments.catalogs} catalogs, made in {time.monotonic() - begin:.0f} s")
                rounds(environment, Path(directory), arguments.catalogs, arguments.rounds)
                report("list-catalogs", server(environment, "list-catalogs", "-x", "-e", "-s", NAME))
                copy = ["-T", "/sw/v0=/sw/copy"]
                report("transaction -T", server(environment, "transaction", *copy, NAME))
                report("publish the copy", server(environment, "publish", NAME))
            finally:
                with ThreadPoolExecutor(16) as pool:
                    list(pool.map(store.delete, [info.key for info in store.list("")]))


def configure(directory: Path, url: str, bucket: str) -> Environment:
    """Make a release manager's configuration."""
    parts = urlsplit(url)
    try:
        keys = [os.environ[f"CVMFS_TEST_S3_{name}"] for name in ("ACCESS_KEY", "SECRET_KEY")]
    except KeyError as error:
        sys.exit(f"{error.args[0]} is not set")
    prefix = f"benchmark-{secrets.token_hex(4)}"
    s3_conf = directory / "s3.conf"
    s3_conf.write_text(
        f"CVMFS_S3_HOST={parts.hostname}\nCVMFS_S3_PORT={parts.port}\nCVMFS_S3_BUCKET={bucket}\n"
        f"CVMFS_S3_USE_HTTPS={'true' if parts.scheme == 'https' else 'false'}\nCVMFS_S3_DNS_BUCKETS=false\n"
        f"CVMFS_S3_ACCESS_KEY={keys[0]}\nCVMFS_S3_SECRET_KEY={keys[1]}\n"
    )
    conf = directory / "etc" / "repositories.d" / NAME / "server.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(
        f"CVMFS_REPOSITORY_NAME={NAME}\nCVMFS_STRATUM0={url}/{bucket}/{prefix}\nCVMFS_SPOOL_DIR={directory}/spool\n"
        f"CVMFS_UPSTREAM_STORAGE=S3,{directory}/unused,{prefix}@{s3_conf}\n"
    )
    return Environment(directory / "etc")


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


def rounds(environment: Environment, directory: Path, catalogs: int, count: int) -> None:
    source = directory / "source"
    source.mkdir()
    for turn in range(count):
        (source / "changed").write_text(f"{turn} {time.time_ns()}")
        before = catalogs_of(environment)
        target = f"sw/v{turn * 7 % catalogs}/package0"
        measured = server(environment, "ingest", "--json", "--directory", str(source), "-b", target, NAME)
        written = catalogs_of(environment) - before
        document = json.loads(measured[3])
        assert (document["added"] + document["modified"]) in (1, 2), document  # the directory's time changes, too
        assert len(written) == 2, written
        report("ingest of one file", measured)


def catalogs_of(environment: Environment) -> set[str]:
    """Return the hashes of all catalogs."""
    output = server(environment, "list-catalogs", "-x", "-h", NAME)[3]
    return {line.partition(" ")[0] for line in output.splitlines()}


def server(environment: Environment, *arguments: str) -> tuple[float, float, float, str]:
    """Run the program; return seconds, megabytes, seconds of CPU time, and what it printed."""
    variables = {**os.environ, "CVMFS_CONFIG_DIR": str(environment.config_dir)}
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, PROGRAM, *arguments], stdout=subprocess.PIPE, env=variables, check=True
    )
    measured: Any = json.loads(done.stdout)
    return tuple(measured)


def report(what: str, measured: tuple[float, float, float, str]) -> None:
    seconds, megabytes, cpu, _ = measured
    print(f"{what:20} {seconds:6.2f} s  {cpu:6.2f} s CPU  {megabytes:5.0f} MB", flush=True)


if __name__ == "__main__":
    main()
