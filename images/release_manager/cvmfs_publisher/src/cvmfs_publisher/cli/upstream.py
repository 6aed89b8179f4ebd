# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server`` of the image with CernVM-FS's own tools: theirs, with the lease around it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from ..errors import PublisherError, UsageError
from ..operations.environment import Environment
from ..operations.upstream import prepare, run
from .main import INTERRUPTED, handle_interruptions


def main() -> None:
    """Run one of its subcommands, and leave with its exit code."""
    sys.exit(_guarded("cvmfs_server", lambda: run(Environment.of_process(), sys.argv[1:])))


def with_repository() -> None:
    """Become a command, with a repository mounted: ``with-repository FQRN COMMAND...``."""
    sys.exit(_guarded("with-repository", _with_repository))


def _with_repository() -> int:
    if len(sys.argv) < 3:
        raise UsageError(
            "with-repository was given no command",
            remedy="Name a repository and a command: with-repository FQRN COMMAND...",
        )
    environment = Environment.of_process()
    prepare(environment, environment.settings(sys.argv[1]))
    try:
        os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606
    except OSError as error:
        raise PublisherError(
            f"Cannot run {sys.argv[2]}: {error.strerror}", remedy="Name a command that this image has"
        ) from error


def _guarded(program: str, do: Callable[[], int]) -> int:
    handle_interruptions(program)
    try:
        return do()
    except PublisherError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{program}: interrupted.", file=sys.stderr)
        return INTERRUPTED
