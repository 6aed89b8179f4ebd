# SPDX-License-Identifier: GPL-3.0-or-later
"""The writable view of a repository that an interactive transaction has: where its parts are, and their life.

In a directory of the transaction's own below the spool directory are the read-only view of the revision that it began
with, and the scratch area that takes the changes. The union of both is mounted at ``CVMFS_UNION_DIR``, which is
``/cvmfs/<repository>``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from ..catalog import CatalogTree
from ..content import ContentHash
from ..errors import ConfigurationError, MountError, PublisherError, UnionInUse, UnionLost
from ..mount import ObjectCache, RevisionView, is_mounted, overlay, start, system, unmount, wait_for_end
from ..mount.overlay import Layers, UnionKind
from ..paths import ROOT, display
from ..repository import Repository, ServerConfig
from .environment import Environment

_FUSE = Path("/dev/fuse")
_CACHE_LIMIT = 4 << 30
"""Bytes of disk for what has been read of a revision."""
_MOST_NAMES = 5
_NONE = "none"
_FUSE_OVERLAY = "fuse-overlayfs"
_SUPPORTED = ("", "overlayfs", _FUSE_OVERLAY, _NONE)
_PROOF = "trusted.cvmfs_union"
"""An extended attribute of the directory: who can read it can read the marks of a union mounted by the host's root."""


def is_mountless(settings: ServerConfig) -> bool:
    """Say whether the settings want transactions to be mountless, unless something else is asked for."""
    return settings.get("CVMFS_UNION_FS_TYPE") == _NONE


def why_impossible() -> str | None:
    """Say why no union can be mounted here; None if it can, as far as that is to be seen beforehand."""
    try:
        os.close(os.open(_FUSE, os.O_RDWR))
    except OSError as error:
        return f"{_FUSE} cannot be opened: {error.strerror}"
    return None if system.may_mount() else "mounting takes the capability CAP_SYS_ADMIN"


def union_dir(settings: ServerConfig) -> Path:
    """Return where a repository's union is mounted.

    :raises ConfigurationError: when the settings ask for another union file system than there is
    """
    kind = settings.get("CVMFS_UNION_FS_TYPE", "")
    if kind not in _SUPPORTED:
        raise ConfigurationError(
            f"CVMFS_UNION_FS_TYPE={kind} in {settings.origin} is not supported by this engine",
            remedy="Set it to overlayfs, or use mountless transactions",
        )
    return Path(settings.get("CVMFS_UNION_DIR") or f"/cvmfs/{settings.repository}")


class Union:
    """The union of one transaction.

    :param directory: the transaction's own; made by `mount`
    :param target: where it is mounted
    :param meanwhile: entered, in the process that serves the revision, for as long as it does
    """

    def __init__(
        self,
        environment: Environment,
        settings: ServerConfig,
        directory: Path,
        target: Path,
        meanwhile: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._environment = environment
        self._settings = settings
        self._meanwhile = meanwhile
        self.directory = directory
        self.target = target
        self.scratch = directory / "scratch"
        self._view = directory / "rdonly"
        self._server = directory / "mount.pid"
        self._layers = Layers(self._view, self.scratch, directory / "work")

    def create(self, repository: Repository, root_hash: ContentHash, *, claimed: bool) -> UnionKind:
        """Make the directories, and mount a revision with nothing changed; return which union file system it is.

        :param root_hash: the revision's root catalog
        :param claimed: show everything as this process's user's, where no other user is known
        :raises PublisherError: when that is impossible here
        """
        if overlay.is_union(self.target):
            raise PublisherError(
                f"A union file system is mounted at {self.target} already",
                remedy="See whose it is. If nobody's, unmount it",
            )
        try:
            for directory in (self._view, self.scratch, self._layers.work):
                directory.mkdir(parents=True)
            self._adopt_root(repository, root_hash, claimed=claimed)
        except OSError as error:
            raise PublisherError(
                f"Cannot prepare the scratch area {self.scratch}: {error.strerror}",
                remedy="Make room there, or set CVMFS_SPOOL_DIR",
            ) from error
        kinds = [UnionKind.FUSE_OVERLAY] if self._settings.get("CVMFS_UNION_FS_TYPE") == _FUSE_OVERLAY else UnionKind
        return self._mount(root_hash, repository.manifest.revision, kinds, claimed=claimed)

    def mount_again(self, root_hash: ContentHash, revision: int, kind: UnionKind, *, claimed: bool) -> None:
        """Mount what was mounted before, with everything that was written to it. Nothing is done if it is there.

        :raises PublisherError: when that is impossible here
        """
        if self._is_alive():
            overlay.thaw(self.target)
            return
        while overlay.is_union(self.target):  # over a view that has died
            system.unmount(self.target, lazily=True)
        unmount(self._view, lazy=True)
        self._mount(root_hash, revision, [kind], claimed=claimed)

    def _is_alive(self) -> bool:
        try:
            return overlay.is_union(self.target) and any(self._view.iterdir())
        except OSError:
            return False

    def _mount(self, root_hash: ContentHash, revision: int, kinds: Iterable[UnionKind], *, claimed: bool) -> UnionKind:
        make_mount_point(self.target)
        reasons = []
        for kind in kinds:
            self._mount_view(root_hash, revision, kind, claimed=claimed)
            try:
                overlay.mount_union(kind, self._layers, self.target)
                if kind is UnionKind.OVERLAY:
                    os.setxattr(self.directory, _PROOF, b"1")
            except OSError as error:
                reasons.append(f"{kind.value}: {error.strerror}")
            except BaseException:
                unmount(self._view, lazy=True)
                raise
            else:
                return kind
        unmount(self._view, lazy=True)
        raise PublisherError(
            f"No union file system can be mounted at {self.target} ({'; '.join(reasons)})",
            remedy="Have the spool directory on a volume, allow the container to mount, or use a mountless transaction",
        )

    def _mount_view(self, root_hash: ContentHash, revision: int, kind: UnionKind, *, claimed: bool) -> None:
        """Mount the revision as that union file system needs it, unless it is mounted so already."""
        # fuse-overlayfs shows a change of a hard link under all of its names, but only makes it under one
        hard_links = kind is not UnionKind.FUSE_OVERLAY
        if is_mounted(self._view):
            if hard_links:
                return
            self._unmount_view(lazy=False)
        owner = (os.geteuid(), os.getegid()) if claimed else None

        @contextlib.contextmanager
        def view() -> Iterator[RevisionView]:
            with (
                self._meanwhile(),
                contextlib.closing(self._environment.store(self._settings)) as store,
                ObjectCache(store, self.directory / "cache", _CACHE_LIMIT) as cache,
                RevisionView(
                    self._settings.repository,
                    root_hash,
                    revision,
                    cache,
                    magic_xattrs=False,
                    owner=owner,
                    hard_links=hard_links,
                ) as opened,
            ):
                yield opened

        server = start(view, self._view, self.directory / "mount.log")
        self._server.write_text(str(server))

    def _unmount_view(self, *, lazy: bool) -> None:
        unmount(self._view, lazy=lazy)
        with contextlib.suppress(OSError, ValueError, MountError):
            wait_for_end(int(self._server.read_text()))

    def require_mounted(self, kind: UnionKind | None) -> None:
        """Make sure that the union is there, and that this process can read its scratch area.

        :raises UnionLost: when it is not
        """
        name = self._settings.repository
        if kind is None or not overlay.is_union(self.target):
            raise UnionLost(
                f"{name} has an interactive transaction open, but is not mounted at {self.target}; "
                "perhaps its container or machine was started anew",
                remedy=f"Go on with what was written: cvmfs_server mount {name}. Or drop it: cvmfs_server abort {name}",
            )
        if kind is UnionKind.OVERLAY:
            try:
                os.getxattr(self.directory, _PROOF)
            except OSError as error:
                raise UnionLost(
                    f"This process has not the rights to read the scratch area of {self.target}: {error.strerror}",
                    remedy="Do it with the rights that the transaction was opened with",
                ) from error

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Keep the union from being written to; if the block fails, it can be written to again.

        :raises UnionInUse: when a file is open for writing
        """
        try:
            overlay.freeze(self.target)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise self._in_use("has files open for writing", writing=True) from error
            raise UnionInUse(
                f"{self.target} cannot be made read-only: {error.strerror}",
                remedy="Publish with the rights that the transaction was opened with",
            ) from error
        try:
            yield
        except BaseException:
            overlay.thaw(self.target)
            raise

    def flush(self) -> None:
        """Have everything in the scratch area that was written to the union."""
        descriptor = os.open(self.target, os.O_RDONLY)
        try:
            system.syncfs(descriptor)
        finally:
            os.close(descriptor)

    def detach(self) -> None:
        """Unmount, even if something is using it, and keep what was written.

        :raises MountError: when it cannot be unmounted
        """
        try:
            while overlay.is_union(self.target):
                system.unmount(self.target, lazily=True)
        except OSError as error:
            raise MountError(f"Cannot unmount {self.target}: {error.strerror}", remedy="Unmount it as root") from error
        unmount(self._view, lazy=True)

    def close(self, *, force: bool) -> list[str]:
        """Unmount, and remove the directory; return warnings.

        :param force: also if something is using it, which then goes on using what it has open
        :raises UnionInUse: when something is using it; then nothing has changed
        """
        warnings = []
        while overlay.is_union(self.target):
            try:
                system.unmount(self.target)
            except OSError as error:
                if error.errno != errno.EBUSY or not force:
                    raise self._in_use("is in use", writing=False) from error
                warnings.append(f"{self._in_use('is still in use', writing=False).message}")
                system.unmount(self.target, lazily=True)
        self._unmount_view(lazy=force)
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.directory.exists():
            warnings.append(f"{self.directory} was not removed completely")
        return warnings

    def _adopt_root(self, repository: Repository, root_hash: ContentHash, *, claimed: bool) -> None:
        """Give the scratch area's root the attributes of the repository's, which it hides."""
        with (
            self._environment.scratch(self._settings) as scratch,
            CatalogTree(repository.store, root_hash, scratch) as tree,
        ):
            root = tree.entry(ROOT)
        if root is None:
            return
        if not claimed:
            os.chown(self.scratch, root.uid, root.gid)
        os.chmod(self.scratch, root.mode & 0o7777)
        for name, value in root.xattrs.items():
            os.setxattr(self.scratch, name, value)
        time = root.mtime * 10**9 + (root.mtime_ns or 0)
        os.utime(self.scratch, ns=(time, time))

    def _in_use(self, what: str, *, writing: bool) -> UnionInUse:
        users = list(system.users_of(self.target, writing=writing))
        names = ", ".join(f"{user} with {display(user.path)}" for user in users[:_MOST_NAMES])
        names += ", …" if len(users) > _MOST_NAMES else ""
        return UnionInUse(
            f"{self.target} {what}: {names or 'by a process that cannot be seen here'}",
            remedy="End that, or leave the directory, and try again",
        )


def make_mount_point(target: Path) -> None:
    """Make the directory; where the file system above is read-only, as in a container, in a temporary one."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        return
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise _no_mount_point(target, error) from error
    above = next(directory for directory in target.parents if directory.is_dir())
    try:
        if any(above.iterdir()):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        system.mount("tmpfs", above, "tmpfs", system.MS_NOSUID | system.MS_NODEV, b"mode=755,size=64k")
        target.mkdir(parents=True)
    except OSError as error:
        raise _no_mount_point(target, error) from error


def _no_mount_point(target: Path, error: OSError) -> PublisherError:
    return PublisherError(
        f"Cannot make the mount point {target}: {error.strerror}",
        remedy="Make that directory, or set CVMFS_UNION_DIR",
    )
