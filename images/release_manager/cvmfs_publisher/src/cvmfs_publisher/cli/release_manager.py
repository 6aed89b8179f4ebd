# SPDX-License-Identifier: GPL-3.0-or-later
"""``release-manager``: the container's entry point.

With arguments it becomes that command. Without, it stays for as long as the container lives and keeps the leases of the
transactions that were opened in the container alive; when it is told to end, it releases them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

from ..errors import PublisherError
from ..operations.environment import Environment
from ..operations.transaction import Session, abort, find_session, renew

_NOT_FOUND = 127
_RENEW_EVERY = 30.0  # seconds; a lease lives several times as long


def main() -> None:
    """Run the command that the arguments name, or stay and renew leases until SIGTERM or SIGINT."""
    if len(sys.argv) > 1:
        try:
            os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606
        except OSError as error:
            print(f"release-manager: Cannot run {sys.argv[1]}: {error.strerror}.", file=sys.stderr)
            sys.exit(_NOT_FOUND)
    leaving = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: leaving.set())
    environment = Environment.of_process()
    while not leaving.wait(_RENEW_EVERY):
        _for_each_session(environment, renew, "renewed")
    _for_each_session(environment, _abort, "released")


def _for_each_session(environment: Environment, do: Callable[[Environment, Session], None], done: str) -> None:
    for name in environment.names():
        try:
            session = find_session(environment, environment.settings(name))
            if session is not None:
                do(environment, session)
        except PublisherError as error:
            # Neither fatal here nor the other repositories' concern: a publish finds out before it commits.
            print(f"release-manager: the lease on {name} was not {done}: {error}", file=sys.stderr, flush=True)


def _abort(environment: Environment, session: Session) -> None:
    abort(environment, session.repository, transaction_id=session.id, force=True)
