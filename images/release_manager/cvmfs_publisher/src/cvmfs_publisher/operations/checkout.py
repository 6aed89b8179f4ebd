# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server checkout``: let the next transaction begin with a tag, and publish onto a branch.

Nothing in the repository's storage changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..content import ContentHash
from ..errors import RepositoryError, UsageError
from ..repository.history import check_branch_name
from .checked_out import Checkout, forget_checkout, note_checkout
from .environment import Environment
from .transaction import require_no_transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutResult:
    """What is checked out now.

    :param tag: with `root_hash` and `branch` None for the newest revision of the main line
    :param is_new: whether the branch is still to be made
    """

    repository: str
    tag: str | None
    root_hash: ContentHash | None
    branch: str | None
    is_new: bool


def checkout(environment: Environment, name: str, *, branch: str | None, tag: str | None) -> CheckoutResult:
    """Check out the head of a branch, or a tag for a new branch; without both, go back to the newest revision.

    :raises InTransaction: while a transaction is open
    :raises UsageError: for a tag without a branch, or a branch name that is not allowed
    :raises RepositoryError: when there is no such branch or tag, or the new branch exists
    """
    if tag is not None and branch is None:
        raise UsageError(
            "There is no branch for what is to be published", remedy="Add -b with the name of a new branch"
        )
    if branch is not None:
        check_branch_name(branch)
    settings = environment.settings(name)
    require_no_transaction(environment, settings)
    if branch is None:
        forget_checkout(environment, settings)
        return CheckoutResult(repository=name, tag=None, root_hash=None, branch=None, is_new=False)
    with environment.open(name, settings) as repository:
        history = repository.history()
    head = history.head_of(branch)
    if tag is None and head is None:
        raise RepositoryError(
            f"{name} has no branch {branch!r}",
            remedy=f"List them: cvmfs_server tag -b {name}; for a new one, add -t with the tag that it leaves",
        )
    if tag is not None and head is not None:
        raise RepositoryError(
            f"{name} already has a branch {branch!r}", remedy="Leave out -t to go on with it, or choose another name"
        )
    chosen = head or history.get(tag or "")
    note_checkout(
        environment,
        settings,
        Checkout(tag=chosen.name, root_hash=chosen.root_hash, branch=branch, previous_branch=chosen.branch),
    )
    return CheckoutResult(
        repository=name, tag=chosen.name, root_hash=chosen.root_hash, branch=branch, is_new=head is None
    )
