# SPDX-License-Identifier: GPL-3.0-or-later
"""Interactive transactions, besides opening, publishing and aborting them: looking at their changes, mounting again."""

from __future__ import annotations

from ..changes.change_set import ChangeSet
from ..changes.report import Tell
from ..errors import NotInTransaction
from .environment import Environment
from .publish import PublishOptions, PublishResult, preview
from .transaction import Session, current_session, find_session, root_of, union_of
from .union import Union


def worktree_changes(environment: Environment, name: str, *, tell: Tell | None = None) -> PublishResult:
    """Say what was changed in the open interactive transaction, as a dry run of publishing it.

    Only the scratch area is read, and nothing is written.

    :param tell: as for `publish`
    :raises NotInTransaction: when there is none
    :raises UnionLost: when it is not mounted any more
    """
    _require_interactive(environment, name)
    return preview(environment, name, ChangeSet(), PublishOptions(), tell=tell)


def interactive_sessions(environment: Environment) -> list[str]:
    """Return the repositories that have an interactive transaction open here."""
    sessions = {name: find_session(environment, environment.settings(name)) for name in environment.names()}
    return [name for name, session in sessions.items() if session is not None and session.mount_point]


def mount_again(environment: Environment, name: str) -> Session:
    """Mount the open interactive transaction after its mounts were lost, with everything that was written so far.

    :raises NotInTransaction: when there is none
    :raises PublisherError: when it cannot be mounted
    """
    session, union = _require_interactive(environment, name)
    kind = session.union_kind
    if kind is None:
        raise NotInTransaction(
            f"The transaction {session.id} of {name} was interrupted while it was being opened",
            remedy=f"Drop it: cvmfs_server abort {name}",
        )
    union.mount_again(root_of(session), session.revision, kind, claimed=session.claimed)
    return session


def _require_interactive(environment: Environment, name: str) -> tuple[Session, Union]:
    settings = environment.settings(name)
    session = current_session(environment, settings)
    union = union_of(environment, settings, session)
    if union is None:
        raise NotInTransaction(
            f"The open transaction of {name} is mountless",
            remedy=f"Open an interactive one: cvmfs_server transaction --interactive {name}",
        )
    return session, union
