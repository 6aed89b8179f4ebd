# SPDX-License-Identifier: GPL-3.0-or-later
"""Release managers to test with: each has configuration, keys, spool and temporary directory of its own."""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cvmfs_publisher.changes.change_set import Change, ChangeSet, Content, Mode
from cvmfs_publisher.cli import main
from cvmfs_publisher.operations.check import CheckReport, check
from cvmfs_publisher.operations.environment import Environment
from cvmfs_publisher.operations.publish import PublishOptions, PublishResult, ingest
from cvmfs_publisher.repository.lease import LEASE_KEY, LeaseInfo, peek
from cvmfs_publisher.repository.manifest import MANIFEST_KEY, Manifest
from cvmfs_publisher.repository.reflog import REFLOG_KEY
from cvmfs_publisher.repository.whitelist import WHITELIST_KEY
from cvmfs_publisher.storage import ObjectStore, S3Config

NAME = "test.example.org"
PROGRAM = Path(sys.executable).with_name("cvmfs_server")
"""Not looked up on PATH, where CernVM-FS's own program has the same name."""

CONFINED = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
"""Begins the command line of a process for which permissions of files mean what they say."""

SMALL_CHUNKS = {
    "CVMFS_MIN_CHUNK_SIZE": "16384",
    "CVMFS_AVG_CHUNK_SIZE": "32768",
    "CVMFS_MAX_CHUNK_SIZE": "65536",
}


@dataclass(frozen=True)
class Outcome:
    """What came of a command."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on standard output."""
        document: dict[str, Any] = json.loads(self.stdout)
        return document

    def succeeded(self) -> Outcome:
        """Return itself, if it is a success."""
        assert self.code == 0, self.stderr
        return self


@dataclass(frozen=True)
class State:
    """Everything that a command which fails must leave as it was."""

    published: Mapping[str, bytes | None]
    """The objects that are replaced in place."""
    lease_is_free: bool
    files: Mapping[str, str]
    """What the release manager has on its disk, with digests."""


@dataclass
class ReleaseManager:
    """One host's view of one repository.

    :param base: directory of everything
    :param settings: of ``server.conf``; without those that follow from `base`
    """

    base: Path
    settings: dict[str, str]
    name: str = NAME
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config_dir = self.base / "etc"
        self.keys = self.config_dir / "keys"
        self.spool = self.base / "spool"
        self.tmp = self.base / "tmp"
        for directory in (self.keys, self.tmp):
            directory.mkdir(parents=True, exist_ok=True)
        self.configure()

    @property
    def environment(self) -> Environment:
        return Environment(self.config_dir)

    @property
    def server_conf(self) -> Path:
        return self.config_dir / "repositories.d" / self.name / "server.conf"

    def configure(self, **settings: str) -> None:
        """Change settings."""
        self.settings |= settings
        values = {
            "CVMFS_REPOSITORY_NAME": self.name,
            "CVMFS_SPOOL_DIR": str(self.spool),
            "CVMFS_UNION_FS_TYPE": "none",
            **self.settings,
        }
        self.server_conf.parent.mkdir(parents=True, exist_ok=True)
        self.server_conf.write_text("".join(f"{key}='{value}'\n" for key, value in values.items()))

    def another(self, name: str) -> ReleaseManager:
        """Return another host's release manager for the same repository."""
        base = self.base.parent / name
        shutil.copytree(self.keys, base / "etc" / "keys")
        return ReleaseManager(base, dict(self.settings), self.name, dict(self.environ))

    # The command line

    def argv(self, command: str, *arguments: str | bytes | Path) -> list[str | bytes | Path]:
        """Return the command line of a subcommand on this repository."""
        return [PROGRAM, command, *arguments, self.name]

    @property
    def process_environment(self) -> dict[str, str]:
        """The environment variables of this release manager's processes."""
        variables = {"CVMFS_CONFIG_DIR": str(self.config_dir), "TMPDIR": str(self.tmp), "PATH": os.environ["PATH"]}
        return {**variables, **self.environ}

    def run(
        self,
        *arguments: str | bytes | Path,
        stdin: bytes = b"",
        real: bool = False,
        confined: bool = False,
        timeout: int = 120,
    ) -> Outcome:
        """Run ``cvmfs_server`` with exactly these arguments, in a process of its own.

        :param real: start the installed program; else a copy of this process goes on as that program, as most of the
            time would be spent on starting Python
        :param confined: without root's right to read and write everything; always the installed program
        """
        if real or confined:
            program = [*(CONFINED if confined else ()), PROGRAM, *arguments]
            done = subprocess.run(
                program, input=stdin, capture_output=True, env=self.process_environment, check=False, timeout=timeout
            )
            code, output, errors = done.returncode, done.stdout, done.stderr
        else:
            code, output, errors = run_in_copy(arguments, stdin, self.process_environment, timeout)
        stdout, stderr = (text.decode("utf-8", "surrogateescape") for text in (output, errors))
        assert "Traceback" not in stderr, stderr
        return Outcome(code, stdout, stderr)

    def server(self, command: str, *arguments: str | bytes | Path, **options: Any) -> Outcome:
        """Run a subcommand on this repository."""
        return self.run(command, *arguments, self.name, **options)

    def start(self, command: str, *arguments: str | bytes | Path) -> subprocess.Popen[bytes]:
        """Start a subcommand on this repository, and return its process."""
        return subprocess.Popen(
            self.argv(command, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.process_environment,
        )

    def refuses(
        self, command: str, *arguments: str | bytes | Path, says: Sequence[str], code: int = 1, **options: Any
    ) -> str:
        """Assert that a subcommand fails as it should, and return its message.

        It has the exit code `code`, one message that has all of `says` in it, and prints nothing else; it has
        published nothing, and leaves nothing behind.
        """
        before = self.state()
        outcome = self.server(command, *arguments, **options)
        message = refusal(outcome, command, says, code)
        assert self.state() == before
        return message

    # The repository

    @contextlib.contextmanager
    def store(self) -> Iterator[ObjectStore]:
        """Open the repository's storage."""
        with contextlib.closing(self.environment.store(self.environment.settings(self.name))) as store:
            yield store

    def manifest(self) -> Manifest:
        """Return the current manifest."""
        with self.store() as store:
            return Manifest.parse(store.get(MANIFEST_KEY))

    def lease(self) -> LeaseInfo | None:
        """Return the lease."""
        with self.store() as store:
            return peek(store)

    def expire_lease(self, seconds: int) -> None:
        """Turn the lease into one that expired that long ago."""
        with self.store() as store:
            document = json.loads(store.get(LEASE_KEY))
            document["expires"] = int(time.time()) - seconds
            store.put(LEASE_KEY, json.dumps(document).encode())

    def ingest(self, *changes: Change, **options: Any) -> PublishResult:
        """Publish changes, in this process."""
        return ingest(self.environment, self.name, ChangeSet(changes), PublishOptions(**options))

    def check(self) -> CheckReport:
        """Check everything, and assert that there are no problems."""
        report = check(self.environment, self.name, integrity=True)
        assert report.problems == []
        return report

    def state(self) -> State:
        """Return what a command that fails must leave as it was."""
        with self.store() as store:
            keys = (MANIFEST_KEY, WHITELIST_KEY, REFLOG_KEY)
            published = {key: store.get(key) if store.exists(key) else None for key in keys}
            lease = peek(store)
        return State(published, lease is None or lease.is_released, self.files())

    def files(self) -> dict[str, str]:
        """Return the files of this release manager, and those that its local storage is still working on.

        The statistics are not among them: they count what fails, too.
        """
        roots = [self.config_dir, self.spool, self.tmp]
        kind, temporary, _ = self.settings["CVMFS_UPSTREAM_STORAGE"].split(",", 2)
        if kind == "local":
            roots.append(Path(temporary))
        found = (path for root in roots for path in root.rglob("*") if path.name != "stats.db")
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "not a file"
            for path in found
        }


def run_in_copy(
    arguments: Sequence[str | bytes | Path], stdin: bytes, environ: Mapping[str, str], timeout: int
) -> tuple[int, bytes, bytes]:
    """Run the command line in a copy of this process; return exit code, standard output and standard error."""
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        source.write(stdin)
        source.seek(0)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for number, file in enumerate((source, output, errors)):
                    os.dup2(file.fileno(), number)
                sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
                faulthandler.dump_traceback_later(timeout, exit=True, file=2)
                os.environ.clear()
                os.environ.update(environ)
                tempfile.tempdir = None
                main.main([os.fsdecode(argument) for argument in arguments])
            except SystemExit as leaving:
                code = int(leaving.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        errors.seek(0)
        return code, output.read(), errors.read()


def refusal(outcome: Outcome, command: str, says: Sequence[str], code: int = 1) -> str:
    """Assert that an outcome is one clear error, and return the message. Progress may have been told before it."""
    assert outcome.code == code, (outcome.code, outcome.stderr)
    assert outcome.stdout == ""
    lines = [
        line
        for line in outcome.stderr.splitlines()
        if not line.startswith(("Publishing ", "Copying ")) and "trying again" not in line
    ]
    assert len(lines) == 1, outcome.stderr
    message = lines[0]
    assert message.startswith(f"cvmfs_server {command}: "), message
    assert message.endswith("."), message
    assert ". " in message, f"no remedy in {message!r}"
    for text in says:
        assert text in message, f"{text!r} is not in {message!r}"
    return message


def soon(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def local_settings(storage: Path) -> dict[str, str]:
    """Return the settings of a repository in a directory."""
    return {
        "CVMFS_STRATUM0": "http://127.0.0.1/nowhere",
        "CVMFS_UPSTREAM_STORAGE": f"local,{storage}/data/txn,{storage}",
        **SMALL_CHUNKS,
    }


def s3_settings(config: S3Config, s3_conf: Path, **settings: str) -> dict[str, str]:
    """Write an ``s3.conf``, and return the settings of a repository in a bucket.

    :param settings: more ``CVMFS_S3_*`` settings, without that beginning
    """
    values = {
        "HOST": config.host,
        "PORT": str(config.port),
        "USE_HTTPS": "true" if config.https else "false",
        "BUCKET": config.bucket,
        "DNS_BUCKETS": "false",
        "ACCESS_KEY": config.access_key,
        "SECRET_KEY": config.secret_key,
        **settings,
    }
    s3_conf.parent.mkdir(parents=True, exist_ok=True)
    s3_conf.write_text("".join(f"CVMFS_S3_{key}={value}\n" for key, value in values.items()))
    return {
        "CVMFS_STRATUM0": f"{config.endpoint}/{config.bucket}/{config.prefix}",
        "CVMFS_UPSTREAM_STORAGE": f"S3,{s3_conf.parent}/unused,{config.prefix}@{s3_conf}",
        **SMALL_CHUNKS,
    }


def times_of_leases(monkeypatch: pytest.MonkeyPatch, lifetime: int, renew_every: float) -> None:
    """Let leases end fast."""
    monkeypatch.setattr("cvmfs_publisher.repository.lease.LIFETIME", lifetime)
    monkeypatch.setattr("cvmfs_publisher.repository.lease.CLOCK_MARGIN", 1)
    monkeypatch.setattr("cvmfs_publisher.operations.transaction._RENEW_EVERY", renew_every)


def mirror(source: Path, base_dir: str = "sw", **options: Any) -> Content:
    return Content(str(source), base_dir.encode(), Mode.MIRROR, **options)


def merge(source: Path, base_dir: str = "sw", **options: Any) -> Content:
    return Content(str(source), base_dir.encode(), Mode.MERGE, **options)


def changes_file(file: Path, *changes: Mapping[str, Any]) -> Path:
    """Write a change set for ``publish --changes``."""
    file.write_text(json.dumps({"version": 1, "changes": changes}))
    return file


def make(directory: Path, **files: str | bytes) -> Path:
    """Make files in a new directory; a double underscore in a name stands for a slash."""
    for name, content in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return directory
