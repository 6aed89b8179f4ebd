# SPDX-License-Identifier: GPL-3.0-or-later
"""``release-manager``: the container's entry point.

With arguments it becomes that command. Without, it stays for as long as the container lives and keeps the leases of the
transactions that were opened in the container alive; when it is told to end, it aborts them, but keeps those that are
edited in place: what was written in them is nowhere else.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from ..errors import PublisherError
from ..operations.environment import Environment
from ..operations.transaction import SessionLease, abort, find_session, suspend

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
    keepers: dict[str, threading.Thread] = {}
    while True:
        for name in environment.names():
            if name not in keepers or not keepers[name].is_alive():
                keepers[name] = threading.Thread(target=_Keeper(environment, name).run, args=(leaving,), name=name)
                keepers[name].start()
        if leaving.wait(_RENEW_EVERY):
            break
    for keeper in keepers.values():
        keeper.join()


class _Keeper:
    """Keeps the leases of one repository's transactions.

    Each has a thread of its own: storage that does not answer holds up nobody else's renewals.
    """

    def __init__(self, environment: Environment, name: str) -> None:
        self._environment = environment
        self._name = name
        self._id = ""
        self._lease: SessionLease | None = None

    def run(self, leaving: threading.Event) -> None:
        """Renew leases until it is time to leave, and end transactions then."""
        while not leaving.wait(_RENEW_EVERY):
            try:
                self._renew()
            except PublisherError as error:
                # A publish finds out before it commits
                self._tell("renewed", error)
        try:
            self._let_go()
        except PublisherError as error:
            self._tell("released", error)

    def _renew(self) -> None:
        session = find_session(self._environment, self._environment.settings(self._name))
        if self._lease is not None and (session is None or session.id != self._id):
            self._lease.close()
            self._lease = None
        if session is not None:
            self._lease, self._id = self._lease or SessionLease(self._environment, session), session.id
            self._lease.renew()

    def _let_go(self) -> None:
        session = find_session(self._environment, self._environment.settings(self._name))
        if session is None:
            return
        if session.is_interactive:
            suspend(self._environment, session)
        else:
            abort(self._environment, self._name, transaction_id=session.id, force=True)

    def _tell(self, done: str, error: PublisherError) -> None:
        sys.stderr.write(f"release-manager: the lease on {self._name} was not {done}: {error}\n")  # whole lines
