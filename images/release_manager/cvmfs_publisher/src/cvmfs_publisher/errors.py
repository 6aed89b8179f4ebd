# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of the publisher. Every message says what failed, on which object, and what to do next."""

from __future__ import annotations


class PublisherError(Exception):
    """Base of all errors that a user can be told about.

    :param message: what failed, on which object; no full stop at the end
    :param remedy: what to do next; no full stop at the end
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}." if self.remedy else f"{self.message}."


class HookFailed(PublisherError):
    """A site's own server hook failed.

    :param exit_code: the hook's, which becomes that of the subcommand
    """

    def __init__(self, message: str, *, remedy: str | None = None, exit_code: int) -> None:
        super().__init__(message, remedy=remedy)
        self.exit_code = exit_code


class UsageError(PublisherError):
    """The command line, or a document given on it, is not of the documented form."""


class ConfigurationError(PublisherError):
    """A configuration file is missing, incomplete, or names something that is not supported."""


class StorageError(PublisherError):
    """The object store failed."""


class ObjectNotFound(StorageError):
    """The store answered, and has no such object."""


class PreconditionFailed(StorageError):
    """A conditional write lost: the object is not in the state that the writer had seen."""


class OvertakenWrite(PreconditionFailed):
    """A conditional write was not answered at first; by now the object is another, whether or not ours was it."""


class UnansweredDeletion(PreconditionFailed):
    """A deletion was not answered at first, and has lost its permit since; it may still be under way."""


class AccessDenied(StorageError):
    """The store refused the credentials, or the operation to them."""


class EndpointUnreachable(StorageError):
    """The store did not answer within the time that retries are allowed to take."""


class QuotaExceeded(StorageError):
    """The store has no room left for this user or bucket."""


class CorruptObject(StorageError):
    """An object's content does not match its name."""


class RepositoryError(PublisherError):
    """The repository is not in a state that allows the operation."""


class RepositoryExists(RepositoryError):
    """There is a repository where a new one should be made."""


class RepositoryNotFound(RepositoryError):
    """There is no such repository."""


class SignatureError(RepositoryError):
    """A signature, fingerprint or key does not fit."""


class SigningRefused(RepositoryError):
    """The signing service does not sign what it was asked to."""


class SigningServiceUnreachable(PublisherError):
    """The signing service does not answer."""


class WhitelistExpired(RepositoryError):
    """The whitelist has expired; clients refuse the repository until it is resigned."""


class LeaseHeld(RepositoryError):
    """Somebody else has a transaction open."""


class ConcurrentPublish(RepositoryError):
    """Another publisher committed a revision since this transaction was opened."""


class NotInTransaction(RepositoryError):
    """The operation needs an open transaction."""


class InTransaction(RepositoryError):
    """The operation is refused while a transaction is open."""


class UnionInUse(RepositoryError):
    """A process is using the union file system of an interactive transaction."""


class UnionLost(RepositoryError):
    """The union file system of an interactive transaction is not mounted here."""


class SourceError(PublisherError):
    """Content to be published cannot be taken."""


class SourceChanged(SourceError):
    """A source file changed while it was being read."""


class UnreadableSource(SourceError):
    """A source file or directory cannot be read."""


class UnsafeArchive(SourceError):
    """An archive is cut short, or has entries that must not be published."""


class MountError(PublisherError):
    """A file system cannot be mounted or unmounted."""


class PathNotFound(RepositoryError):
    """A path that should be in the repository is not."""


class NotADirectory(RepositoryError):
    """A path that should be a directory of the repository is something else."""


class TemplateError(RepositoryError):
    """A directory cannot be copied to where a transaction is to begin with a copy of it."""
