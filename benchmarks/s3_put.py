#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares S3 clients at writing many objects into an existing bucket: the publisher's own, obstore's and boto3's.

    s3_put.py URL BUCKET [--objects N] [--bytes N] [--connections N] [--rounds N]

The keys are in CVMFS_TEST_S3_ACCESS_KEY and CVMFS_TEST_S3_SECRET_KEY. Clients that are not installed are left out
(``pip install obstore boto3``). They take turns, so that all meet the same service; each one's best round counts. CPU
time is the client's alone, which matters where the service runs on the same machine, or the network is fast.
"""

from __future__ import annotations

import argparse
import collections
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from cvmfs_publisher.storage import S3Config, S3Store

Put = Callable[[str, bytes], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bucket")
    parser.add_argument("--objects", type=int, default=3000)
    parser.add_argument("--bytes", type=int, default=4096)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    try:
        keys = [os.environ[f"CVMFS_TEST_S3_{name}"] for name in ("ACCESS_KEY", "SECRET_KEY")]
    except KeyError as error:
        sys.exit(f"{error.args[0]} is not set")

    prefix = f"benchmark-{secrets.token_hex(4)}"
    store = own(arguments.url, arguments.bucket, keys, prefix)
    clients: dict[str, Put] = {"publisher": store.put}
    for name, make in (("obstore", obstore), ("boto3", boto3)):
        try:
            clients[name] = make(arguments.url, arguments.bucket, keys, prefix, arguments.connections)
        except ImportError:
            print(f"{name} is not installed", file=sys.stderr)
    data = os.urandom(arguments.bytes)
    best: dict[str, tuple[float, float]] = {}
    try:
        for turn in range(arguments.rounds):
            for name, put in clients.items():
                names = [f"data/{number % 256:02x}/{name}{turn}{number:030x}" for number in range(arguments.objects)]
                found = measure(put, names, data, arguments.connections)
                best[name] = min(best.get(name, found), found)
    finally:
        measure(lambda key, _: store.delete(key), [item.key for item in store.list("")], b"", arguments.connections)

    print(f"{arguments.objects} objects of {arguments.bytes} bytes, {arguments.connections} connections")
    for name, (seconds, cpu) in best.items():
        print(
            f"{name:10} {arguments.objects / seconds:8,.0f} PUT/s  "
            f"{arguments.objects * arguments.bytes / seconds / 1e6:7.1f} MB/s  "
            f"{cpu / arguments.objects * 1e6:7,.0f} us CPU per PUT  "
            f"rate of the publisher's client : this = {seconds / best['publisher'][0]:.2f}"
        )


def measure(put: Put, names: list[str], data: bytes, connections: int) -> tuple[float, float]:
    """Write all objects, and return the seconds of time and of CPU time that it took."""
    queue = collections.deque(names)

    def work() -> None:
        while True:
            try:
                key = queue.popleft()
            except IndexError:
                return
            put(key, data)

    threads = [threading.Thread(target=work) for _ in range(connections)]
    begin, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin, time.process_time() - cpu


def own(url: str, bucket: str, keys: list[str], prefix: str) -> S3Store:
    parts = urlsplit(url)
    return S3Store(
        S3Config(
            host=parts.hostname or "",
            port=parts.port,
            https=parts.scheme == "https",
            bucket=bucket,
            access_key=keys[0],
            secret_key=keys[1],
            prefix=prefix,
            dns_buckets=False,
        )
    )


def obstore(url: str, bucket: str, keys: list[str], prefix: str, _: int) -> Put:
    import obstore as library
    from obstore.store import S3Store as Store

    store = Store(
        bucket,
        endpoint=url,
        access_key_id=keys[0],
        secret_access_key=keys[1],
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    attributes: Any = {"Cache-Control": "max-age=259200", "Content-Type": "application/octet-stream"}
    return lambda key, data: library.put(store, f"{prefix}/{key}", data, use_multipart=False, attributes=attributes)


def boto3(url: str, bucket: str, keys: list[str], prefix: str, connections: int) -> Put:
    import boto3 as library
    from botocore.config import Config

    client: Any = library.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=connections),
    )
    return lambda key, data: client.put_object(
        Bucket=bucket, Key=f"{prefix}/{key}", Body=data, CacheControl="max-age=259200"
    )


if __name__ == "__main__":
    main()
