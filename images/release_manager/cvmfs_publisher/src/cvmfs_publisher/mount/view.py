# SPDX-License-Identifier: GPL-3.0-or-later
"""One revision of a repository as a file system sees it: nodes that have numbers, attributes and content.

A node is a row of a catalog: its number is made of the catalog's and the row's. So nothing has to be remembered about a
node to find it again, and memory does not grow with the number of files that were looked at. What is remembered, of
directories and files in use, is there for speed, and bounded; only the nested catalogs seen so far are all known.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import os
import stat
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from .. import paths
from ..catalog import Catalog
from ..catalog.catalog import corrupt
from ..catalog.entry import Flag
from ..content import Chunk, Compression, ContentHash, HashSuffix
from ..errors import PublisherError, StorageError
from .cache import NotAtHand, ObjectCache
from .owners import Owners

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..catalog import DirectoryEntry, NestedReference, Statistics
    from ..catalog.catalog import Brief

ROOT = 1
"""The node of the repository's root."""

_CATALOG_SHIFT = 32  # a node's number has the catalog's above this bit, the row's below
_INODE_MASK = (1 << 60) - 1  # overlay file systems keep the highest bits for themselves
_OPEN_CATALOGS = 32
_KNOWN_DIRECTORIES = 20_000
_KNOWN_FILES = 256
_READ_AHEAD = 4  # chunks
_SMALL = 1 << 20  # bytes; of files that are fetched before they are asked for
_NEXT_FILES = 16
_NEAR = 4  # rows; directories and links are between files
_LONGEST_NAME = 255  # bytes
_DOT, _DOT_DOT = 1, 2  # offsets behind these two; those of other entries are row numbers, shifted by 2

Value = TypeVar("Value")


class Attributes(NamedTuple):
    """What ``stat`` tells about a node.

    :param node: its number, for as long as the view is open
    :param ino: the same in all views and revisions as long as the path is
    :param rdev: of a device, in the kernel's 32-bit encoding
    :param mtime: seconds since 1970
    """

    node: int
    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    mtime: int
    mtime_ns: int


class Listed(NamedTuple):
    """One entry of a directory; `offset` is where to go on behind it."""

    name: bytes
    offset: int
    attributes: Attributes


class _Branch:
    """A catalog's place in the view.

    :ivar number: what its nodes have in their numbers
    :ivar hash: its object
    :ivar path: of the directory whose content it holds
    :ivar inner: that directory's path as the catalog has it; differs below a bind mountpoint
    :ivar mountpoint: the directory's node
    :ivar salt: keeps inodes below different bind mountpoints apart
    :ivar fetched: the row of the file whose content was fetched last because somebody read it
    :ivar ahead: the last row of the files that have been fetched since nobody stopped reading one after the other
    :ivar groups: the first row that was seen of each hard link group, which stands for all of it
    """

    __slots__ = (
        "ahead",
        "binds",
        "catalog",
        "fetched",
        "groups",
        "hash",
        "inner",
        "lock",
        "mountpoint",
        "nested",
        "number",
        "path",
        "salt",
    )

    def __init__(
        self, number: int, content_hash: ContentHash, path: bytes, inner: bytes, mountpoint: int, salt: int
    ) -> None:
        self.number = number
        self.hash = content_hash
        self.path = path
        self.inner = inner
        self.mountpoint = mountpoint
        self.salt = salt
        self.groups: dict[int, int] = {}
        self.fetched = self.ahead = 0
        self.lock = threading.Lock()
        self.catalog: Catalog | None = None
        self.nested: dict[bytes, NestedReference] | None = None
        self.binds: dict[bytes, NestedReference] = {}


class _Directory(NamedTuple):
    """A directory, as its entries need it.

    :param path: in the view
    :param inner: in its catalog
    :param branch: the catalog that has its entries
    :param key: MD5 of `inner`
    """

    path: bytes
    inner: bytes
    branch: _Branch
    key: tuple[int, int]


class _File:
    """A regular file's content.

    :ivar starts: offsets of the pieces
    :ivar last: index of the piece that was read last
    """

    __slots__ = ("compression", "is_external", "last", "pieces", "size", "starts")

    def __init__(self, entry: DirectoryEntry) -> None:
        self.size = entry.size
        self.compression = entry.compression
        self.is_external = entry.is_external
        self.pieces = entry.chunks
        if not self.pieces and entry.hash is not None:
            self.pieces = (Chunk(0, entry.size, entry.hash),)
        self.starts = [piece.offset for piece in self.pieces]
        self.last = -1


class RevisionView:
    """One revision, read-only. All methods may be called from any thread.

    Most have a parameter `wait`. Unless it is true, they raise `NotAtHand` rather than ask the object store.
    Errors of the file system's user are `OSError`; those of repository and storage are `PublisherError`.

    :param name: the repository's fully qualified name
    :param root_hash: the revision's root catalog
    :param revision: its number
    :param cache: where objects come from; not closed with the view
    :param magic_xattrs: whether extended attributes tell about repository and objects, as those of CernVM-FS's client
    :param owner: user and group to show for everything, instead of those in the catalogs
    :param hard_links: show the names of a hard link group as one file; otherwise as files of their own
    :raises PublisherError: when the root catalog cannot be read
    """

    def __init__(
        self,
        name: str,
        root_hash: ContentHash,
        revision: int,
        cache: ObjectCache,
        *,
        magic_xattrs: bool = True,
        owner: tuple[int, int] | None = None,
        hard_links: bool = True,
    ) -> None:
        self.name = name
        self.root_hash = root_hash.with_suffix(HashSuffix.CATALOG)
        self.revision = revision
        self.magic_xattrs = magic_xattrs
        self._cache = cache
        self._owners = Owners()
        self._owner = owner
        self._hard_links = hard_links
        self._lock = threading.Lock()
        self._branches: list[_Branch] = []
        self._branch_numbers: dict[bytes, int] = {}
        self._open: OrderedDict[_Branch, None] = OrderedDict()
        self._directories: OrderedDict[int, _Directory] = OrderedDict()
        self._files: OrderedDict[int, _File] = OrderedDict()
        root = self._branch(b"", b"", self.root_hash, ROOT, 0)
        self._root_directory = _Directory(b"", b"", root, paths.md5path(b""))
        with self._opened(root, wait=True) as catalog:
            found = catalog.brief(self._root_directory.key)
            if found is None:
                raise corrupt(b"", "the root catalog has no root directory")
            self._root_row = found.number
            self.statistics: Statistics = catalog.statistics()

    @property
    def has_xattrs(self) -> bool:
        """Whether there may be any extended attribute to be found."""
        return self.magic_xattrs or self.statistics.total.xattr > 0

    def attributes(self, node: int, *, wait: bool) -> Attributes:
        """Return what ``stat`` tells about a node."""
        branch, brief = self._brief(node, wait=wait)
        return self._attributes(branch, brief)

    def lookup(self, node: int, name: bytes, *, wait: bool) -> Attributes | None:
        """Return what is in the directory `node` under this name; None for nothing."""
        if name == b".":
            return self.attributes(node, wait=wait)
        if name == b"..":
            return self.attributes(self._parent(node, wait=wait), wait=wait)
        if len(name) > _LONGEST_NAME:
            raise _error(errno.ENAMETOOLONG)
        directory = self._directory(node, wait=wait)
        with self._opened(directory.branch, wait=wait) as catalog:
            brief = catalog.brief(paths.md5path(paths.join(directory.inner, name)))
            if brief is None:
                return None
            self._note(directory, brief)
            return self._attributes(directory.branch, brief)

    def listing(self, node: int, offset: int, limit: int, *, wait: bool) -> list[Listed]:
        """Return the entries of a directory from `offset` on, at most `limit` of them (and the two with dots).

        :param offset: 0, or that of the last entry that was seen
        """
        directory = self._directory(node, wait=wait)
        found = []
        if offset < _DOT:
            found.append(Listed(b".", _DOT, self.attributes(node, wait=wait)))
        if offset < _DOT_DOT:
            found.append(Listed(b"..", _DOT_DOT, self.attributes(self._parent(node, wait=wait), wait=wait)))
        branch = directory.branch
        after = max(offset - _DOT_DOT, 0)
        with self._opened(branch, wait=wait) as catalog:
            briefs = catalog.briefs_in(directory.key, after, limit)
            while briefs:
                for brief in briefs:
                    if not brief.flags & Flag.HIDDEN:
                        self._note(directory, brief)
                        found.append(Listed(brief.name, brief.number + _DOT_DOT, self._attributes(branch, brief)))
                if found:
                    break
                briefs = catalog.briefs_in(directory.key, briefs[-1].number, limit)
        return found

    def target(self, node: int, *, wait: bool) -> bytes:
        """Return where a symbolic link points to; variables in it are not replaced."""
        entry = self._entry(node, wait=wait)
        if not entry.is_symlink:
            raise _error(errno.EINVAL)
        return entry.symlink

    def xattr_names(self, node: int, *, wait: bool) -> list[bytes]:
        """Return the names of a node's extended attributes; those that tell about the repository are not listed."""
        return sorted(self._entry(node, wait=wait).xattrs)

    def xattr(self, node: int, name: bytes, *, wait: bool) -> bytes:
        """Return the value of an extended attribute."""
        if name.startswith((b"user.overlay.", b"trusted.overlay.")):
            raise _error(errno.ENODATA)  # what union file systems ask for at each lookup
        entry = self._entry(node, wait=wait)
        value = entry.xattrs.get(name)
        if value is not None:
            return self._owners.acl(value) if name.startswith(b"system.posix_acl_") else value
        if self.magic_xattrs and name.startswith((b"user.", b"xfsroot.")):
            text = self._magic(name, entry)
            if text is not None:
                return text.encode("utf-8", "surrogateescape")
        raise _error(errno.ENODATA)

    def read(self, node: int, offset: int, size: int, *, wait: bool) -> bytes:
        """Return a part of a file's content; less than `size` bytes where it ends."""
        file = self._file(node, wait=wait)
        if file.is_external:
            raise StorageError(
                "The file is external: its content is not in the repository's storage",
                remedy="Read it through a client that is configured for the external data",
            )
        end = min(offset + size, file.size)
        if offset >= end:
            return b""
        if wait and file.size <= _SMALL:
            self._fetch_ahead(node)
        index = bisect.bisect_right(file.starts, offset) - 1
        found = []
        while offset < end:
            if not 0 <= index < len(file.pieces):
                raise corrupt(self.path(node), f"no object has byte {offset}")
            piece = file.pieces[index]
            length = min(end, piece.offset + piece.size) - offset
            if length <= 0:
                raise corrupt(self.path(node), f"no object has byte {offset}")
            self._read_ahead(file, index)
            found.append(
                self._cache.read(piece.hash, file.compression, piece.size, offset - piece.offset, length, wait=wait)
            )
            offset += length
            index += 1
        return found[0] if len(found) == 1 else b"".join(found)

    def path(self, node: int) -> bytes:
        """Return where a node is; of a file with several names any of them."""
        if node == ROOT:
            return b""
        _, brief = self._brief(node, wait=True)
        return paths.join(self._directory(self._parent(node, wait=True), wait=True).path, brief.name)

    def close(self) -> None:
        """Close the catalogs."""
        for branch in list(self._open):
            with branch.lock:
                self._shut(branch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Nodes

    def _locate(self, node: int) -> tuple[_Branch, int]:
        if node == ROOT:
            return self._branches[0], self._root_row
        number = (node >> _CATALOG_SHIFT) - 1
        if not 0 <= number < len(self._branches):
            raise _error(errno.ESTALE)
        return self._branches[number], node & (1 << _CATALOG_SHIFT) - 1

    def _node(self, branch: _Branch, brief: Brief) -> int:
        number = brief.number
        if brief.hardlink_group and self._hard_links:
            number = branch.groups.setdefault(brief.hardlink_group, number)
        elif branch.number == 0 and number == self._root_row:
            return ROOT
        return branch.number + 1 << _CATALOG_SHIFT | number

    def _brief(self, node: int, *, wait: bool) -> tuple[_Branch, Brief]:
        branch, number = self._locate(node)
        with self._opened(branch, wait=wait) as catalog:
            brief = catalog.numbered_brief(number)
        if brief is None:
            raise _error(errno.ESTALE)
        return branch, brief

    def _entry(self, node: int, *, wait: bool) -> DirectoryEntry:
        branch, number = self._locate(node)
        with self._opened(branch, wait=wait) as catalog:
            entry = catalog.numbered_entry(number)
        if entry is None:
            raise _error(errno.ESTALE)
        return entry

    def _attributes(self, branch: _Branch, brief: Brief) -> Attributes:
        mode = brief.mode
        kind = stat.S_IFMT(mode)
        is_device = kind in (stat.S_IFCHR, stat.S_IFBLK)
        nlink = brief.linkcount or 1
        if brief.hardlink_group and not self._hard_links:
            nlink = 1
        if brief.hardlink_group and self._hard_links:
            ino = paths.md5path(b"%s\0%d" % (branch.inner, brief.hardlink_group))[0]
        else:
            ino = brief.key_1
        return Attributes(
            self._node(branch, brief),
            (ino ^ branch.salt) & _INODE_MASK or 1,
            mode,
            nlink,
            *(self._owner or (self._owners.user(brief.uid), self._owners.group(brief.gid))),
            _device(brief.size) if is_device else 0,
            brief.size if kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK) else 0,
            brief.mtime,
            brief.mtime_ns or 0,
        )

    def _parent(self, node: int, *, wait: bool) -> int:
        if node == ROOT:
            return ROOT
        branch, brief = self._brief(node, wait=wait)
        if (brief.parent_1, brief.parent_2) == paths.md5path(branch.inner):
            return branch.mountpoint
        with self._opened(branch, wait=wait) as catalog:
            parent = catalog.brief((brief.parent_1, brief.parent_2))
        if parent is None:
            raise corrupt(branch.path, f"there is no directory for {paths.display(brief.name)}")
        return self._node(branch, parent)

    def _directory(self, node: int, *, wait: bool) -> _Directory:
        chain = []
        while (directory := self._known_directory(node)) is None:
            branch, brief = self._brief(node, wait=wait)
            if not stat.S_ISDIR(brief.mode):
                raise _error(errno.ENOTDIR)
            chain.append((node, branch, brief))
            node = self._parent(node, wait=wait)
        for child, branch, brief in reversed(chain):
            with self._opened(branch, wait=wait):
                directory = self._remember_directory(child, directory, brief)
        return directory

    def _known_directory(self, node: int) -> _Directory | None:
        if node == ROOT:
            return self._root_directory
        with self._lock:
            directory = self._directories.get(node)
            if directory is not None:
                self._directories.move_to_end(node)
        return directory

    def _note(self, directory: _Directory, brief: Brief) -> None:
        """Spare a later search if an entry that was found is a directory. Its catalog is open."""
        if brief.flags & Flag.DIRECTORY:
            node = self._node(directory.branch, brief)
            if node not in self._directories:
                # A reference that is missing or damaged is no reason not to show the mountpoint
                with contextlib.suppress(PublisherError):
                    self._remember_directory(node, directory, brief)

    def _remember_directory(self, node: int, parent: _Directory, brief: Brief) -> _Directory:
        """Note the directory `brief` in `parent`, whose catalog is open."""
        path = paths.join(parent.path, brief.name)
        inner = paths.join(parent.inner, brief.name)
        branch = parent.branch
        key = brief.key
        if brief.flags & Flag.NESTED_MOUNTPOINT:
            reference = (branch.nested or {}).get(inner)
            if reference is None:
                raise corrupt(path, "there is no reference to the nested catalog")
            branch = self._branch(path, inner, reference.hash, node, branch.salt)
        elif brief.flags & Flag.BIND_MOUNTPOINT:
            reference = branch.binds.get(inner)
            if reference is None:
                raise corrupt(path, "there is no reference to the other revision")
            inner = b""
            key = paths.md5path(inner)
            branch = self._branch(path, inner, reference.hash, node, paths.md5path(path)[0])
        directory = _Directory(path, inner, branch, key)
        with self._lock:
            _keep(self._directories, node, directory, _KNOWN_DIRECTORIES)
        return directory

    # Catalogs

    def _branch(self, path: bytes, inner: bytes, content_hash: ContentHash, mountpoint: int, salt: int) -> _Branch:
        with self._lock:
            number = self._branch_numbers.setdefault(path, len(self._branches))
            if number == len(self._branches):
                self._branches.append(_Branch(number, content_hash, path, inner, mountpoint, salt))
            return self._branches[number]

    @contextlib.contextmanager
    def _opened(self, branch: _Branch, *, wait: bool) -> Iterator[Catalog]:
        """Have a catalog for oneself. Not to be nested."""
        if not branch.lock.acquire(blocking=wait):
            raise NotAtHand
        try:
            if branch.catalog is None:
                self._load(branch, wait=wait)
            with self._lock:
                self._open[branch] = None
                self._open.move_to_end(branch)
            if len(self._open) > _OPEN_CATALOGS:
                self._shut_oldest()
            assert branch.catalog is not None
            yield branch.catalog
        finally:
            branch.lock.release()

    def _load(self, branch: _Branch, *, wait: bool) -> None:
        file = self._cache.pin(branch.hash, wait=wait)
        try:
            catalog = Catalog(file)
            if catalog.path != branch.inner:
                raise corrupt(branch.path, f"its catalog is that of /{paths.display(catalog.path)}")
            if branch.nested is None:
                branch.binds = {reference.path: reference for reference in catalog.bind_mountpoints()}
                branch.nested = {reference.path: reference for reference in catalog.nested()}
        except BaseException:
            self._cache.unpin(branch.hash)
            raise
        branch.catalog = catalog

    def _shut_oldest(self) -> None:
        with self._lock:
            oldest = next(iter(self._open))
        if oldest.lock.acquire(blocking=False):
            try:
                self._shut(oldest)
            finally:
                oldest.lock.release()

    def _shut(self, branch: _Branch) -> None:
        """Close a catalog whose lock is held."""
        with self._lock:
            self._open.pop(branch, None)
        if branch.catalog is not None:
            branch.catalog.close()
            branch.catalog = None
            self._cache.unpin(branch.hash)

    # Content

    def _file(self, node: int, *, wait: bool) -> _File:
        with self._lock:
            file = self._files.get(node)
            if file is not None:
                self._files.move_to_end(node)
                return file
        entry = self._entry(node, wait=wait)
        if not entry.is_regular:
            raise _error(errno.EISDIR if entry.is_directory else errno.EINVAL)
        file = _File(entry)
        with self._lock:
            _keep(self._files, node, file, _KNOWN_FILES)
        return file

    def _read_ahead(self, file: _File, index: int) -> None:
        """Fetch the next pieces in the background when a file is read from front to back."""
        if index == file.last + 1:
            for piece in file.pieces[index + 1 : index + 1 + _READ_AHEAD]:
                self._cache.prefetch(piece.hash, file.compression, piece.size)
        file.last = index

    def _fetch_ahead(self, node: int) -> None:
        """Fetch the next small files in the background when one after the other is read, in the order of listings."""
        branch, number = self._locate(node)
        with self._lock:
            is_next = branch.fetched < number <= max(branch.fetched + _NEAR, branch.ahead + 1)
            first = max(number, branch.ahead if is_next else 0) + 1
            last = number + _NEXT_FILES if is_next else number
            branch.fetched = number
            branch.ahead = max(last, first - 1)
        with self._opened(branch, wait=True) as catalog:
            entries = [catalog.numbered_entry(row) for row in range(first, last + 1)]
        for entry in entries:
            if entry is None or not entry.is_regular or entry.is_external or not 0 < entry.size <= _SMALL:
                continue
            for piece in _File(entry).pieces:
                self._cache.prefetch(piece.hash, entry.compression, piece.size)

    def _magic(self, name: bytes, entry: DirectoryEntry) -> str | None:
        """Return what CernVM-FS's client tells in an extended attribute; None if it tells nothing there."""
        match name:
            case b"user.fqrn":
                return self.name
            case b"user.revision":
                return str(self.revision)
            case b"user.root_hash":
                return self.root_hash.hex
            case b"user.pid":
                return str(os.getpid())
            case b"user.nclg":
                return str(len(self._open))
            case b"user.hash" if entry.hash is not None:
                return entry.hash.hex
            case b"user.rawlink" | b"xfsroot.rawlink" if entry.is_symlink:
                return entry.symlink.decode("utf-8", "surrogateescape")
        if not entry.is_regular:
            return None
        match name:
            case b"user.chunks":
                return str(len(entry.chunks) or 1)
            case b"user.chunk_list":
                pieces = _File(entry).pieces
                return "hash,offset,size\n" + "".join(f"{p.hash},{p.offset},{p.size}\n" for p in pieces)
            case b"user.compression":
                return "zlib" if entry.compression is Compression.ZLIB else "none"
            case b"user.external_file":
                return str(int(entry.is_external))
            case b"user.direct_io":
                return str(int(entry.is_direct_io))
        return None


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _device(number: int) -> int:
    """Return a device's number in the encoding that the kernel's file system interfaces have."""
    major, minor = os.major(number), os.minor(number)
    return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & 0xFFF00) << 12


def _keep(memory: OrderedDict[int, Value], key: int, value: Value, limit: int) -> None:
    memory[key] = value
    if len(memory) > limit:
        memory.popitem(last=False)
