# SPDX-License-Identifier: GPL-3.0-or-later
"""What is checked out: the tag that the next transaction begins with, and the branch that it is published onto.

It is noted in a file of the release manager's spool directory, in CernVM-FS's own form: tag, root catalog, branch, and
the branch of the tag, with blanks between them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..content import ContentHash, HashSuffix
from ..errors import ConfigurationError, CorruptObject, PublisherError, RepositoryError
from ..repository import ServerConfig
from .environment import Environment

_FILE = "checkout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """What the next transaction begins with.

    :param root_hash: of the tag
    :param branch: where the next revision goes
    :param previous_branch: the tag's; empty for the main line
    """

    tag: str
    root_hash: ContentHash
    branch: str
    previous_branch: str


def find_checkout(environment: Environment, settings: ServerConfig) -> Checkout | None:
    """Return what is checked out here, or None for the newest revision.

    :raises ConfigurationError: when the file that says so is damaged
    """
    file = _file(environment, settings)
    try:
        fields = file.read_text().removesuffix("\n").split(" ")
        tag, root_hash, branch, previous_branch = fields if len(fields) == 4 else (*fields, "")
        return Checkout(
            tag=tag,
            root_hash=ContentHash.parse(root_hash).with_suffix(HashSuffix.CATALOG),
            branch=branch,
            previous_branch=previous_branch,
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, CorruptObject) as error:
        raise ConfigurationError(
            f"The file {file}, which says what is checked out, cannot be used ({error})",
            remedy=f"Check out again, or go back to the newest revision: cvmfs_server checkout {settings.repository}",
        ) from None


def forget_checkout(environment: Environment, settings: ServerConfig) -> None:
    """Go back to the newest revision of the main line."""
    _file(environment, settings).unlink(missing_ok=True)


def refuse_checked_out(environment: Environment, settings: ServerConfig, what: str) -> None:
    """Refuse what is for the newest revision only.

    :param what: the subject of the message, such as ``Tags``
    :raises RepositoryError: when something is checked out
    """
    found = find_checkout(environment, settings)
    if found is not None:
        raise RepositoryError(
            f"{what} cannot be changed while {found.tag} is checked out for the branch {found.branch}",
            remedy=f"Go back to the newest revision: cvmfs_server checkout {settings.repository}",
        )


def note_checkout(environment: Environment, settings: ServerConfig, found: Checkout) -> None:
    """Let the next transaction begin with what is given.

    :raises PublisherError: when it cannot be noted
    """
    file = _file(environment, settings)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_text(f"{found.tag} {found.root_hash.hex} {found.branch} {found.previous_branch}\n")
        os.replace(temporary, file)
    except OSError as error:
        raise PublisherError(
            f"Cannot write {file}: {error.strerror}", remedy="Make room there, or set CVMFS_SPOOL_DIR"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _file(environment: Environment, settings: ServerConfig) -> Path:
    return environment.spool_dir(settings) / _FILE
