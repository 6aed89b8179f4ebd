# SPDX-License-Identifier: GPL-3.0-or-later
"""What repositories are kept in and read from: an S3 bucket, a local web server."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config


@dataclass(frozen=True)
class Bucket:
    """A bucket that everybody may read.

    :param url: of the bucket, for anonymous reading
    :param configuration: the ``s3.conf`` with which both engines write
    """

    name: str
    url: str
    configuration: Path

    def url_of(self, repository: str) -> str:
        """Return the URL of a repository's root."""
        return f"{self.url}/{repository}"

    def storage_of(self, repository: str) -> str:
        """Return ``CVMFS_UPSTREAM_STORAGE`` of a repository."""
        return f"S3,/tmp,{repository}@{self.configuration}"

    def mkfs_options(self, repository: str) -> list[str]:
        """Return the options with which CernVM-FS's own ``cvmfs_server mkfs`` makes a repository here."""
        del repository  # it appends the name itself
        return ["-w", self.url, "-s", str(self.configuration)]


@dataclass(frozen=True)
class Directory:
    """A directory that is served.

    :param url: of the directory
    """

    path: Path
    url: str

    def url_of(self, repository: str) -> str:
        """Return the URL of a repository's root."""
        return f"{self.url}/{repository}"

    def storage_of(self, repository: str) -> str:
        """Return ``CVMFS_UPSTREAM_STORAGE`` of a repository."""
        return f"local,{self.path / repository}/data/txn,{self.path / repository}"

    def mkfs_options(self, repository: str) -> list[str]:
        """Return the options with which CernVM-FS's own ``cvmfs_server mkfs`` makes a repository here."""
        return ["-w", self.url_of(repository), "-u", self.storage_of(repository)]


Place = Bucket | Directory
"""Where repositories can be."""


@contextlib.contextmanager
def bucket(name: str, endpoint: str, access_key: str, secret_key: str, directory: Path) -> Iterator[Bucket]:
    """Create a bucket with CernVM-FS's access rules; it is removed at the end, with everything in it.

    :param directory: where its ``s3.conf`` is written
    """
    s3 = boto3.resource(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, proxies={}),
    )
    made = s3.create_bucket(Bucket=name)
    try:
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Principal": "*", "Action": action, "Resource": f"arn:aws:s3:::{name}{resource}"}
                # With the right to list, a missing object is a 404, which clients want, rather than a 403
                for action, resource in (("s3:GetObject", "/*"), ("s3:ListBucket", ""))
            ],
        }
        made.Policy().put(Policy=json.dumps(policy))
        where = urllib.parse.urlsplit(endpoint)
        configuration = directory / "s3.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            f"CVMFS_S3_HOST={where.hostname}\n"
            f"CVMFS_S3_PORT={where.port or (443 if where.scheme == 'https' else 80)}\n"
            f"CVMFS_S3_USE_HTTPS={'true' if where.scheme == 'https' else 'false'}\n"
            f"CVMFS_S3_BUCKET={name}\n"
            "CVMFS_S3_DNS_BUCKETS=false\n"
            "CVMFS_S3_REGION=us-east-1\n"
            f"CVMFS_S3_ACCESS_KEY={access_key}\n"
            f"CVMFS_S3_SECRET_KEY={secret_key}\n"
            "CVMFS_S3_MAX_NUMBER_OF_PARALLEL_CONNECTIONS=16\n"
        )
        yield Bucket(name, f"{endpoint.rstrip('/')}/{name}", configuration)
    finally:
        made.objects.all().delete()
        made.delete()


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it makes each small file cost 40 ms

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # on a busy machine clients would get nothing from a shorter one, and say EIO


@contextlib.contextmanager
def served(directory: Path) -> Iterator[Directory]:
    """Serve a directory on the loopback interface."""
    handler = functools.partial(_Handler, directory=str(directory))
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Directory(directory, f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()
