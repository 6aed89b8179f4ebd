# SPDX-License-Identifier: GPL-3.0-or-later
"""What benchmarks share: a release manager's configuration for a repository, and its program, measured."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from cvmfs_publisher.operations.environment import Environment

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


class Measured(NamedTuple):
    """What a run of the program took, and what it printed.

    :param cpu: seconds of CPU time
    """

    seconds: float
    megabytes: float
    cpu: float
    output: str


def on_s3(name: str, directory: Path, url: str, bucket: str) -> Environment:
    """Make a release manager's configuration for a repository in an existing bucket, below a prefix of its own."""
    parts = urlsplit(url)
    try:
        keys = [os.environ[f"CVMFS_TEST_S3_{key}"] for key in ("ACCESS_KEY", "SECRET_KEY")]
    except KeyError as error:
        sys.exit(f"{error.args[0]} is not set")
    prefix = f"benchmark-{secrets.token_hex(4)}"
    directory.mkdir(parents=True, exist_ok=True)
    s3_conf = directory / "s3.conf"
    s3_conf.write_text(
        f"CVMFS_S3_HOST={parts.hostname}\nCVMFS_S3_PORT={parts.port}\nCVMFS_S3_BUCKET={bucket}\n"
        f"CVMFS_S3_USE_HTTPS={'true' if parts.scheme == 'https' else 'false'}\nCVMFS_S3_DNS_BUCKETS=false\n"
        f"CVMFS_S3_ACCESS_KEY={keys[0]}\nCVMFS_S3_SECRET_KEY={keys[1]}\n"
    )
    return configured(name, directory, f"S3,{directory}/unused,{prefix}@{s3_conf}", f"{url}/{bucket}/{prefix}")


def on_disk(name: str, directory: Path) -> Environment:
    """Make a release manager's configuration for a repository in ``storage`` below a directory."""
    return configured(name, directory, f"local,{directory}/unused,{directory}/storage", "http://localhost")


def configured(name: str, directory: Path, storage: str, url: str) -> Environment:
    """Make a release manager's configuration.

    :param storage: ``CVMFS_UPSTREAM_STORAGE``
    :param url: ``CVMFS_STRATUM0``
    """
    conf = directory / "etc" / "repositories.d" / name / "server.conf"
    conf.parent.mkdir(parents=True)
    (directory / "etc" / "keys").mkdir()
    conf.write_text(
        f"CVMFS_REPOSITORY_NAME={name}\nCVMFS_STRATUM0={url}\nCVMFS_SPOOL_DIR={directory}/spool\n"
        f"CVMFS_UPSTREAM_STORAGE={storage}\nCVMFS_USER=root\n"
    )
    return Environment(directory / "etc")


def variables(environment: Environment) -> dict[str, str]:
    """Return the environment variables with which the program finds a configuration."""
    return {**os.environ, "CVMFS_CONFIG_DIR": str(environment.config_dir)}


def server(environment: Environment, *arguments: str) -> Measured:
    """Run the program."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        env=variables(environment),
        check=True,
    )
    return Measured(*json.loads(done.stdout))


def report(what: str, measured: Measured) -> None:
    """Print a line about a run."""
    print(f"{what:20} {measured.seconds:6.2f} s  {measured.cpu:6.2f} s CPU  {measured.megabytes:5.0f} MB", flush=True)
