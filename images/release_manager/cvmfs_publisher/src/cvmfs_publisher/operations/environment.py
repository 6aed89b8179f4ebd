# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a release manager's configuration, keys and spool directories are."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ..changes.change_set import Owner, find_owner
from ..errors import ConfigurationError, PublisherError, UsageError
from ..repository import MasterKey, Repository, RepositoryKey, ServerConfig, Signer
from ..repository.server_keys import require_supported
from ..repository.settings import check_repository_name
from ..repository.signing import load_public_keys
from ..repository.signing_service import SigningService
from ..storage import HttpStore, ObjectStore, open_store
from ..storage.http_client import tls_context
from ..storage.retry import RetryPolicy

SPOOL = Path("/var/spool/cvmfs")


class Environment:
    """The directories of one release manager.

    :param config_dir: has ``repositories.d/``, ``keys/`` and ``server.local``, as CernVM-FS's own ``/etc/cvmfs``
    :param notify: gets a line of text now and then while storage does not answer and requests are repeated
    """

    def __init__(self, config_dir: Path, notify: Callable[[str], None] | None = None) -> None:
        self.config_dir = config_dir
        self._notify = notify
        self.keys_dir = config_dir / "keys"

    @classmethod
    def of_process(cls) -> Environment:
        """Return the environment that ``CVMFS_CONFIG_DIR`` names, by default ``/etc/cvmfs``; it notifies by stderr."""
        return cls(
            Path(os.environ.get("CVMFS_CONFIG_DIR") or "/etc/cvmfs"),
            lambda text: print(text, file=sys.stderr, flush=True),
        )

    def names(self) -> list[str]:
        """Return the names of the repositories that are configured here."""
        directory = self.config_dir / "repositories.d"
        if not directory.is_dir():
            return []
        return sorted(path.name for path in directory.iterdir() if (path / "server.conf").is_file())

    def resolve(self, name: str | None) -> str:
        """Return `name`, or the name of the only repository here if None.

        :raises UsageError: when the name is not allowed, or None is not enough to tell which repository is meant
        """
        if name is not None:
            return check_repository_name(name)
        names = self.names()
        if len(names) != 1:
            raise UsageError(
                f"{len(names)} repositories are configured in {self.config_dir}", remedy="Name the one that is meant"
            )
        return names[0]

    def repository_dir(self, name: str) -> Path:
        """Return the directory of a repository's configuration files."""
        return self.config_dir / "repositories.d" / name

    def defaults(self) -> ServerConfig:
        """Read ``server.local``, whose settings are those of all repositories here; there need not be one.

        :raises ConfigurationError: when it is not readable
        """
        file = self.config_dir / "server.local"
        return ServerConfig.load(file) if file.exists() else ServerConfig({}, str(file))

    def settings(self, name: str) -> ServerConfig:
        """Read a repository's configuration: ``server.local``, then ``server.conf``, then ``client.conf``.

        What cannot be honoured is left to the caller, so that an error in it stands in the way of nothing that does
        not depend on it, such as signing the whitelist again.

        :raises ConfigurationError: when there is none, or it is not readable
        """
        directory = self.repository_dir(name)
        files = [self.config_dir / "server.local", directory / "server.conf", directory / "client.conf"]
        server_conf = files[1]
        settings = ServerConfig.load(*(file for file in files if file is server_conf or file.exists()))
        if settings.repository != name:
            raise ConfigurationError(
                f"{server_conf} is the configuration of {settings.repository}, not of {name}",
                remedy="Correct CVMFS_REPOSITORY_NAME, or move the directory",
            )
        return settings

    def supported_settings(self, name: str) -> ServerConfig:
        """Read a repository's configuration as `settings`, and refuse keys in it that cannot be honoured.

        :raises ConfigurationError: also then
        """
        settings = self.settings(name)
        directory = self.repository_dir(name)
        require_supported(self.defaults())
        require_supported(ServerConfig.load(directory / "server.conf"))
        if (directory / "client.conf").exists():
            require_supported(ServerConfig.load(directory / "client.conf"), for_clients=True)
        return settings

    def store(self, settings: ServerConfig) -> ObjectStore:
        """Open the storage that ``CVMFS_UPSTREAM_STORAGE`` names.

        ``X509_CERT_BUNDLE`` and ``X509_CERT_DIR`` may be in ``server.conf``, ``client.conf`` or the process's
        environment, as for CernVM-FS, and in ``s3.conf``.
        """
        return open_store(
            settings.require("CVMFS_UPSTREAM_STORAGE"), self._notify, authorities=self._authorities(settings)
        )

    def public_store(self, settings: ServerConfig) -> HttpStore:
        """Open the repository as clients do, at ``CVMFS_STRATUM0``; what does not answer at once is given up."""
        authorities = self._authorities(settings)
        context = tls_context(authorities.get("X509_CERT_BUNDLE"), authorities.get("X509_CERT_DIR"))
        return HttpStore(settings.require("CVMFS_STRATUM0"), timeout=10, retry=RetryPolicy(total=0), context=context)

    @staticmethod
    def _authorities(settings: ServerConfig) -> dict[str, str]:
        found = {key: settings.get(key) or os.environ.get(key) for key in ("X509_CERT_BUNDLE", "X509_CERT_DIR")}
        return {key: value for key, value in found.items() if value}

    def public_keys(self, settings: ServerConfig) -> list[Path]:
        """Return the files with the public master keys: ``CVMFS_PUBLIC_KEY``, or those that lie with the other keys."""
        listed = settings.get("CVMFS_PUBLIC_KEY", "")
        if listed:
            return [Path(file) for file in listed.split(":")]
        return [self.keys_dir / f"{settings.repository}.pub"]

    @contextlib.contextmanager
    def open(
        self,
        name: str,
        settings: ServerConfig | None = None,
        *,
        opened: Repository | None = None,
        unlisted: bool = False,
    ) -> Iterator[Repository]:
        """Open a repository, verified; closed on leaving.

        :param settings: its configuration, if it has been read already
        :param opened: the repository, if it is open already; it stays open, and is looked at again
        :param unlisted: as `Repository.open`
        :raises PublisherError: when it is not configured, not there, or not to be trusted
        """
        settings = settings or self.settings(name)
        if opened is not None:
            yield opened.reread()
            return
        with contextlib.closing(self.store(settings)) as store:
            yield self.open_in(store, settings, unlisted=unlisted)

    def open_in(self, store: ObjectStore, settings: ServerConfig, *, unlisted: bool = False) -> Repository:
        """Open a repository in storage that is open already.

        :param unlisted: as `Repository.open`
        :raises PublisherError: as `open`
        """
        keys = load_public_keys(self.public_keys(settings))
        return Repository.open(settings.repository, store, keys, unlisted=unlisted)

    def resolve_for_reading(self, name: str | None) -> str:
        """Return a repository's URL as it is, and else as `resolve`."""
        return name if name is not None and "://" in name else self.resolve(name)

    @contextlib.contextmanager
    def open_for_reading(self, name: str, keychain: Path | None = None) -> Iterator[Repository]:
        """Open a repository that is configured here, or any other by its URL; the latter needs no credentials.

        :param name: fully qualified name, or URL of the repository's root, as clients have it
        :param keychain: public master key, or a directory with it; by default the one in the key directory
        :raises PublisherError: as `open`
        """
        if "://" not in name and keychain is None:
            with self.open(name) as repository:
                yield repository
            return
        if "://" in name:
            store: ObjectStore = HttpStore(name, notify=self._notify)
            name = check_repository_name(_name_in(name))
        else:
            store = self.store(self.settings(name))
        with contextlib.closing(store):
            yield Repository.open(name, store, load_public_keys([self.public_key_in(keychain, name)]))

    def public_key_in(self, keychain: Path | None, name: str) -> Path:
        """Return the file with a repository's public master key.

        :param keychain: that file itself, or its directory; by default the key directory
        """
        directory = keychain or self.keys_dir
        return directory / f"{name}.pub" if directory.is_dir() else directory

    def repository_key(self, name: str) -> RepositoryKey:
        """Read the key that signs the repository's manifests."""
        return RepositoryKey.load(self.keys_dir / f"{name}.key", self.keys_dir / f"{name}.crt")

    def signer(self, settings: ServerConfig, *, unlisted: bool = False) -> Signer:
        """Return what signs the repository's manifests: its key, or the service that has it.

        :param unlisted: take the key if it is here, as the service signs nothing on top of a manifest whose certificate
            the whitelist does not list
        :raises ConfigurationError: when there is no key
        :raises SigningServiceUnreachable, SigningRefused: when the service does not answer, or is another repository's
        """
        socket = settings.get("CVMFS_SIGNING_SERVICE")
        if not socket or (unlisted and (self.keys_dir / f"{settings.repository}.key").exists()):
            return self.repository_key(settings.repository)
        return SigningService(Path(socket), settings.repository)

    def master_key(self, name: str) -> MasterKey:
        """Read the key that signs the repository's whitelist."""
        return MasterKey.load(self.keys_dir / f"{name}.masterkey")

    def spool_dir(self, settings: ServerConfig) -> Path:
        """Return the directory for a repository's sessions and temporary files; it is made if needed.

        :raises PublisherError: when it cannot be made
        """
        directory = Path(settings.get("CVMFS_SPOOL_DIR") or SPOOL / settings.repository)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise PublisherError(
                f"Cannot make the spool directory {directory}: {error.strerror}",
                remedy="Provide a writable volume there, or set CVMFS_SPOOL_DIR",
            ) from error
        return directory

    @contextlib.contextmanager
    def scratch_for_reading(self, name: str) -> Iterator[Path]:
        """Provide a temporary directory for a repository that `open_for_reading` opens; removed on leaving.

        Catalogs are large, and the system's directory for temporary files often is in memory. So it is only taken
        where there is no spool directory at all, or by who says so.

        :raises PublisherError: when it cannot be made
        """
        name = _name_in(name)
        if name in self.names():
            with self.scratch(self.settings(name)) as directory:
                yield directory
            return
        has_spool = os.access(SPOOL, os.W_OK | os.X_OK) and "TMPDIR" not in os.environ
        with _temporary_directory(SPOOL if has_spool else Path(tempfile.gettempdir()), "set TMPDIR") as directory:
            yield directory

    @contextlib.contextmanager
    def scratch(self, settings: ServerConfig, directory: Path | None = None) -> Iterator[Path]:
        """Provide a temporary directory; removed on leaving.

        :param directory: where it is made; by default in the spool directory
        :raises PublisherError: when it cannot be made
        """
        with _temporary_directory(directory or self.spool_dir(settings), "set CVMFS_SPOOL_DIR") as path:
            yield path

    def owner(self, settings: ServerConfig) -> Owner:
        """Return the user and group that ``CVMFS_USER`` names; root when it names none."""
        return find_owner(settings.get("CVMFS_USER") or "root")


def _name_in(name: str) -> str:
    """Return the name that a repository's URL has at its end; a name as it is."""
    return name.rstrip("/").rpartition("/")[2]


@contextlib.contextmanager
def writing_to(scratch: Path) -> Iterator[None]:
    """Turn failures to write to a scratch directory into errors that name it.

    :raises PublisherError: instead of OSError
    """
    try:
        yield
    except OSError as error:
        raise PublisherError(
            f"Cannot write to the scratch directory {scratch}: {error.strerror}",
            remedy="Free space there, or set CVMFS_SPOOL_DIR",
        ) from error


@contextlib.contextmanager
def _temporary_directory(parent: Path, otherwise: str) -> Iterator[Path]:
    try:
        temporary = tempfile.TemporaryDirectory(dir=parent, prefix="tmp-")
    except OSError as error:
        raise PublisherError(
            f"Cannot make a temporary directory in {parent}: {error.strerror}",
            remedy=f"Make room there, or {otherwise}",
        ) from error
    with temporary as path:
        yield Path(path)
