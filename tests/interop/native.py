# SPDX-License-Identifier: GPL-3.0-or-later
"""This project's publisher, run as its users run it: by its command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from cvmfs_publisher.cli import main

from .upstream import CommandFailed, Published, environment, run

PROGRAM = Path(sys.executable).with_name("cvmfs_server")
"""Not looked up on PATH, where CernVM-FS's own program has the same name."""

KEEP_ALL = {"CVMFS_ENABLE_MTIME_NS": "true", "CVMFS_INCLUDE_XATTRS": "true"}
"""Settings with which nothing of a source is lost."""


@dataclass(frozen=True)
class NativeRepository(Published):
    """A repository with a configuration directory for the native publisher of its own.

    :param config_dir: what ``CVMFS_CONFIG_DIR`` names
    """

    config_dir: Path

    @classmethod
    def at(cls, name: str, url: str, config_dir: Path) -> NativeRepository:
        """Return a repository that is still to be configured."""
        return cls(name, url, config_dir / "keys" / f"{name}.pub", config_dir)

    @property
    def keys(self) -> Path:
        return self.config_dir / "keys"

    @property
    def union(self) -> Path:
        """Where an interactive transaction can be edited."""
        return self.config_dir / "union"

    def configure(self, settings: Mapping[str, str]) -> None:
        """Write a ``server.conf`` of what a publisher has to know, and nothing more."""
        directory = self.config_dir / "repositories.d" / self.name
        directory.mkdir(parents=True, exist_ok=True)
        values = {
            "CVMFS_REPOSITORY_NAME": self.name,
            "CVMFS_STRATUM0": self.url,
            "CVMFS_SPOOL_DIR": str(self.config_dir / "spool"),
            "CVMFS_UNION_FS_TYPE": "none",  # transactions are mountless unless they ask for more
            "CVMFS_UNION_DIR": str(self.union),  # CernVM-FS's own publisher has its own
            **settings,
        }
        (directory / "server.conf").write_text("".join(f"{key}={value}\n" for key, value in values.items()))

    def server(self, command: str, *options: str | Path, stdin: str | None = None, expect: int | None = 0) -> str:
        """Run a subcommand on this repository, and return what it prints.

        :raises CommandFailed: when it has another exit code
        """
        done = self._run([command, *options, self.name], stdin, expect)
        return done.stdout + done.stderr

    def document(self, command: str, *options: str | Path, stdin: str | None = None, expect: int = 0) -> dict[str, Any]:
        """Run a subcommand, and return the JSON document that it prints."""
        done = self._run([command, "--json", *options, self.name], stdin, expect)
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def publish(self, *changes: Mapping[str, Any], options: tuple[str, ...] = ()) -> dict[str, Any]:
        """Publish changes in a transaction, and return what the publisher says about it."""
        self.server("transaction", "--mountless")
        change_set = json.dumps({"version": 1, "changes": changes})
        result = self.document("publish", "--changes", "-", *options, stdin=change_set)
        assert result["changed"], result
        return result

    def mirror(self, source: Path, base_dir: str = "/", *options: str) -> dict[str, Any]:
        """Make a directory of the repository equal to a source, and publish."""
        change = {"source": str(source), "base_dir": base_dir, "mode": "mirror", "allow_empty": True}
        return self.publish(change, options=options)

    def check(self) -> None:
        """Let the publisher check everything, and every byte of every object."""
        self.server("check", "-i")

    def _run(
        self, arguments: list[str | Path], stdin: str | None, expect: int | None
    ) -> subprocess.CompletedProcess[str]:
        argv = ["env", f"CVMFS_CONFIG_DIR={self.config_dir}", PROGRAM, *arguments]
        return run(argv, stdin=stdin, expect=expect)


class QuickRepository(NativeRepository):
    """The same without processes: to start one takes longer than most subcommands do."""

    def _run(
        self, arguments: list[str | Path], stdin: str | None, expect: int | None
    ) -> subprocess.CompletedProcess[str]:
        argv = [os.fspath(argument) for argument in arguments]
        reading = io.TextIOWrapper(io.BytesIO((stdin or "").encode()))
        out, err = (io.TextIOWrapper(io.BytesIO(), errors="backslashreplace", write_through=True) for _ in range(2))
        variables = {**environment(), "CVMFS_CONFIG_DIR": str(self.config_dir)}
        with (
            mock.patch.dict(os.environ, variables, clear=True),
            mock.patch("sys.stdin", reading),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = main.run(argv)
        stdout, stderr = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
        if expect is not None and code != expect:
            raise CommandFailed(f"{argv}: exit code {code} instead of {expect}\n{stdout}\n{stderr}")
        return subprocess.CompletedProcess(argv, code, stdout, stderr)


NewNative = Callable[..., NativeRepository]
"""The fixture ``new_native``."""

Adopt = Callable[..., NativeRepository]
"""The fixture ``adopt``."""
