# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read a repository as a stranger does: over anonymous HTTP, trusting nothing but the master key's public half.

Private to the collection. It shares no code with the publisher, so that one's mistakes are not repeated, and hidden,
by the other.
Formats: CernVM-FS documentation, "Implementation Notes"; catalog schema 2.5, revisions 0 to 7.

    repository = Repository("http://stratum0.example.org/cvmfs/software.example.org", [public_key_pem])
    repository.revision().number for path, entry in repository.walk(): ... repository.read(b"dir/file")
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import re
import sqlite3
import stat
import struct
import tempfile
import typing as t
import zlib
from hashlib import md5

from ansible_collections.cvmfs.publishing.plugins.module_utils._http import HttpReader, ObjectMissing
from ansible_collections.cvmfs.publishing.plugins.module_utils._manifest import (
    Lease,
    Manifest,
    VerificationError,
    Whitelist,
    WhitelistExpired,
    hash_is,
)
from ansible_collections.cvmfs.publishing.plugins.module_utils._rsa import pem_content

# Bits of a catalog entry's flags
_NESTED_MOUNTPOINT, _NESTED_ROOT, _CHUNKED, _EXTERNAL = 2, 32, 64, 128
_BIND_MOUNTPOINT, _HIDDEN = 0x4000, 0x8000
_HASH_SHIFT, _COMPRESSION_SHIFT, _THREE_BITS = 8, 11, 7
_ALGORITHM_SUFFIXES = {0: "", 1: "-rmd160", 2: "-shake128"}
_ZLIB, _UNCOMPRESSED = 0, 1

_COUNTERS = (
    "regular",
    "symlink",
    "special",
    "dir",
    "nested",
    "chunked",
    "chunks",
    "file_size",
    "chunked_size",
    "xattr",
    "external",
    "external_file_size",
)

Key = t.NewType("Key", str)  # where an object is, relative to the repository's URL


def object_key(printed_hash, suffix="") -> Key:
    """Return where the object with that hash is.

    The suffix says what it is: C catalog, P chunk, H history, X certificate, M metainfo.
    """
    return Key(f"data/{printed_hash[:2]}/{printed_hash[2:]}{suffix}")


def hash_of_key(key):
    """Return the printed hash that an object's place promises."""
    match = re.fullmatch(r"data/([0-9a-f]{2})/([0-9a-f]{38}(?:|-rmd160|-shake128))[A-Z]?", key)
    if match is None:
        raise VerificationError(f"{key} is no object's place")
    return "".join(match.groups())


def unpack(key, data, compression=_ZLIB):
    """Return the content of the object `key`, of which `data` is what the server gave.

    VerificationError if it is not that object.
    """
    if not hash_is(hash_of_key(key), data):
        raise VerificationError(f"Object {key} is damaged: its content has another hash")
    if compression == _UNCOMPRESSED:
        return data
    try:
        return zlib.decompress(data)
    except zlib.error as error:
        raise VerificationError(f"Object {key} cannot be decompressed: {error}") from None


def printable(path):
    """Return a path in bytes as text for people, with a leading slash."""
    return "/" + path.decode("utf-8", "backslashreplace")


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a file's content that is one object; the whole of it for files that are not chunked."""

    offset: int
    size: int
    key: Key


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file, directory, symbolic link or special file."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    mtime_ns: t.Optional[int]  # the part below a second; None where the catalog has whole seconds only
    symlink: bytes
    pieces: tuple
    bulk: t.Optional[Piece]  # the unchunked object that a chunked file may have besides its chunks
    compression: int
    linkcount: int
    hardlink_group: int
    xattrs: dict
    flags: int

    @property
    def is_directory(self):
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_regular(self):
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_mountpoint(self):
        """Whether a nested catalog begins here; the entry is the parent catalog's."""
        return bool(self.flags & _NESTED_MOUNTPOINT)

    @property
    def is_external(self):
        """Whether the content is not in the repository's own storage."""
        return bool(self.flags & _EXTERNAL)

    @property
    def objects(self):
        """All objects that the content is in."""
        return self.pieces + ((self.bulk,) if self.bulk else ())


@dataclasses.dataclass(frozen=True)
class Revision:
    """A verified revision: its manifest, and the whitelist that allows its signature."""

    manifest: Manifest
    whitelist: Whitelist
    certificate: t.Optional[bytes]  # DER

    @property
    def number(self):
        """The revision's number."""
        return self.manifest.revision

    @property
    def root_hash(self):
        """The printed hash of the root catalog."""
        return self.manifest.root_hash


class Repository:
    """A repository below a URL.

    Without public keys the signatures go unchecked, and `revision` says what the manifest claims.
    """

    def __init__(self, url, public_keys, *, fqrn=None, **http_options):
        self._http = HttpReader(url, **http_options)
        self._public_keys = list(public_keys)
        self._fqrn = fqrn
        self._read = {}

    @property
    def retries(self):
        """How many requests had to be repeated."""
        return self._http.retries

    def get(self, key):
        """Return what the server has at `key`. HttpError."""
        return self._http.get(key)

    def get_object(self, key, compression=_ZLIB):
        """Return the verified content of an object. HttpError, VerificationError."""
        return unpack(key, self.get(key), compression)

    def manifest(self):
        """Read the manifest, once; its signature is for :meth:`revision` to verify. VerificationError, HttpError."""
        return self._once("manifest", lambda: Manifest.parse(self.get(".cvmfspublished")))

    def whitelist(self):
        """Read the whitelist, once; its signature is for :meth:`revision` to verify. VerificationError, HttpError."""
        return self._once("whitelist", lambda: Whitelist.parse(self.get(".cvmfswhitelist")))

    def revision(self):
        """Read and verify manifest, whitelist and certificate, once. VerificationError, WhitelistExpired, HttpError."""
        return self._once("revision", self._read_revision)

    def _once(self, what, read):
        if what not in self._read:
            self._read[what] = read()
        return self._read[what]

    def _read_revision(self):
        manifest, whitelist = self.manifest(), self.whitelist()
        certificate = self.get_object(object_key(manifest.certificate, "X")) if manifest.certificate else None
        if self._public_keys:
            self._verify(manifest, whitelist, certificate)
        return Revision(manifest, whitelist, certificate)

    def _verify(self, manifest, whitelist, certificate_pem):
        names = {"manifest": manifest.repository, "whitelist": whitelist.repository}
        expected = self._fqrn or whitelist.repository
        for what, name in names.items():
            if name != expected:
                raise VerificationError(
                    f"The {what} is that of repository {name}, not of {expected}", remedy="Is the URL right?"
                )
        whitelist.verify(self._public_keys)
        if certificate_pem is None:
            raise VerificationError("The manifest .cvmfspublished names no certificate")
        der = certificate_der(certificate_pem)
        if not whitelist.lists(der):
            raise VerificationError("The whitelist does not list the certificate that the manifest is signed with")
        manifest.verify(der)
        if whitelist.is_expired():
            raise WhitelistExpired(
                f"The whitelist expired on {whitelist.expires:%Y-%m-%d at %H:%M} UTC",
                remedy="Sign it again, with the playbook cvmfs.publishing.resign.",
            )

    def catalog(self, printed_hash, path=b""):
        """Return the catalog with that hash, for the directory `path`. VerificationError, HttpError."""
        return Catalog(self.get_object(object_key(printed_hash, "C")), path)

    def catalogs(self, root_hash=None) -> t.Iterator[Catalog]:
        """Yield all catalogs, parents before children; by default those of the newest revision."""
        waiting = [(root_hash or self.revision().root_hash, b"")]
        while waiting:
            catalog = self.catalog(*waiting.pop())
            yield catalog
            waiting += [(nested.printed_hash, nested.path) for nested in catalog.nested]

    def walk(self, root_hash=None) -> t.Iterator[tuple[bytes, Entry]]:
        """Yield every path below the root, and the root, with its entry.

        A nested catalog's root is yielded once, as that catalog has it.
        """
        for catalog in self.catalogs(root_hash):
            for path, entry in catalog.entries.items():
                if not entry.is_mountpoint:
                    yield path, entry

    def entry(self, path):
        """Return the entry of `path`, or None if there is none."""
        catalog = self.catalog(self.revision().root_hash)
        while True:
            nested = next((n for n in catalog.nested if path == n.path or path.startswith(n.path + b"/")), None)
            if nested is None:
                return catalog.entries.get(path)
            catalog = self.catalog(nested.printed_hash, nested.path)

    def read(self, path):
        """Return the content of a regular file. VerificationError, HttpError, KeyError."""
        entry = self.entry(path)
        if entry is None or not entry.is_regular:
            raise KeyError(path)
        content = b"".join(self.get_object(piece.key, entry.compression) for piece in entry.pieces)
        if len(content) != entry.size:
            raise VerificationError(f"{printable(path)} has {len(content)} bytes, and {entry.size} in its catalog")
        return content

    def tags(self):
        """Return the named snapshots as dictionaries, newest first. VerificationError, HttpError."""
        history = self.manifest().history
        if history is None:
            return []
        with open_database(self.get_object(object_key(history, "H"))) as database:
            database.text_factory = lambda data: data.decode("utf-8", "backslashreplace")
            rows = database.execute(
                "SELECT name, hash, revision, timestamp, size, description FROM tags "
                "ORDER BY timestamp DESC, revision DESC"
            ).fetchall()
        names = ("name", "root_hash", "revision", "timestamp", "size", "description")
        return [dict(zip(names, row)) for row in rows]

    def totals(self):
        """Return the counters of the newest revision, by name, without reading its entries.

        VerificationError, HttpError.
        """
        data = self.get_object(object_key(self.manifest().root_hash, "C"))
        try:
            with open_database(data) as catalog:
                return _totals(dict(catalog.execute("SELECT counter, value FROM statistics")))
        except sqlite3.DatabaseError as error:
            raise VerificationError(f"The root catalog is no usable database: {error}") from None

    def lease(self):
        """Return the lease of whoever has a transaction open, or None. VerificationError, HttpError."""
        try:
            lease = Lease.parse(self.get(Lease.KEY))
        except ObjectMissing:
            return None
        return None if lease.is_over() else lease


@dataclasses.dataclass(frozen=True)
class Nested:
    """A nested catalog as its parent refers to it."""

    path: bytes
    printed_hash: str
    size: t.Optional[int]


class Catalog:
    """A catalog: the entries of a directory tree, down to where nested catalogs begin.

    `problems` are the ways in which the catalog contradicts itself or its place, as (path, message).
    """

    def __init__(self, data, path):
        self.path = path
        self.size = len(data)
        self.problems: list[tuple[bytes, str]] = []
        try:
            with open_database(data) as database:
                self._load(database)
        except sqlite3.DatabaseError as error:
            raise VerificationError(f"The catalog of {printable(path)} is no usable database: {error}") from None

    def _load(self, database):
        database.text_factory = bytes
        self.properties = dict(database.execute("SELECT key, value FROM properties"))
        self.counters = {
            name.decode(): value for name, value in database.execute("SELECT counter, value FROM statistics")
        }
        columns = {row[1].decode() for row in database.execute("PRAGMA table_info(catalog)")}
        nested_columns = {row[1].decode() for row in database.execute("PRAGMA table_info(nested_catalogs)")}
        size = "size" if "size" in nested_columns else "NULL"
        self.nested = [
            Nested(path.lstrip(b"/"), printed.decode(), size)
            for path, printed, size in database.execute(f"SELECT path, sha1, {size} FROM nested_catalogs")
        ]
        chunks: dict[tuple[int, int], list] = {}
        for first, second, offset, size, digest in database.execute(
            "SELECT md5path_1, md5path_2, offset, size, hash FROM chunks ORDER BY md5path_1, md5path_2, offset"
        ):
            chunks.setdefault((first, second), []).append((offset, size, digest))
        optional = [name if name in columns else "NULL" for name in ("mtimens", "xattr")]
        rows = database.execute(
            "SELECT md5path_1, md5path_2, parent_1, parent_2, name, hardlinks, hash, size, mode, mtime, flags, "
            f"symlink, uid, gid, {', '.join(optional)} FROM catalog"
        )
        children: dict[tuple[int, int], list] = {}
        root = None
        root_id = _path_id(self.path)
        self.rows = 0
        for row in rows:
            self.rows += 1
            if row[:2] == root_id:
                root = row
            else:
                children.setdefault(row[2:4], []).append(row)
        self.entries = self._tree(root, children, chunks)

    def _tree(self, root, children, chunks):
        """Give each row its path, from the root down. What cannot be reached is a problem."""
        if root is None:
            raise VerificationError(f"The catalog of {printable(self.path)} has no entry for its root")
        entries = {self.path: self._entry(self.path, root, chunks)}
        waiting = [(self.path, root[:2])]
        while waiting:
            parent, identity = waiting.pop()
            for row in children.get(identity, ()):
                name = row[4]
                path = parent + b"/" + name if parent else name
                if not name or b"/" in name or name in (b".", b"..") or _path_id(path) != row[:2]:
                    self.problems.append((path, "is stored under another path's hash"))
                    continue
                entry = self._entry(path, row, chunks)
                entries[path] = entry
                if entry.is_directory:
                    waiting.append((path, row[:2]))
        if len(entries) != self.rows:
            self.problems.append(
                (self.path, f"has {self.rows - len(entries)} entries in its catalog that no directory leads to")
            )
        return entries

    def _entry(self, path, row, chunks):
        hardlinks, digest, size, mode, mtime, flags, symlink, uid, gid, mtime_ns, xattr = row[5:]
        suffix = _ALGORITHM_SUFFIXES.get((flags >> _HASH_SHIFT) & _THREE_BITS)
        if suffix is None:
            raise VerificationError(f"{printable(path)} has a hash of an unknown algorithm")
        whole = Piece(0, size, object_key(digest.hex() + suffix)) if digest and stat.S_ISREG(mode) else None
        pieces, bulk = (whole,) if whole else (), None
        if flags & _CHUNKED:
            bulk = whole
            pieces = tuple(
                Piece(offset, length, object_key(chunk.hex() + suffix, "P"))
                for offset, length, chunk in chunks.get(row[:2], ())
            )
        return Entry(
            mode=mode,
            uid=uid,
            gid=gid,
            size=size,
            mtime=mtime,
            mtime_ns=mtime_ns,
            symlink=symlink or b"",
            pieces=pieces,
            bulk=bulk,
            compression=(flags >> _COMPRESSION_SHIFT) & _THREE_BITS,
            linkcount=hardlinks & 0xFFFFFFFF,
            hardlink_group=(hardlinks >> 32) & 0xFFFFFFFF,
            xattrs=parse_xattrs(xattr) if xattr else {},
            flags=flags,
        )

    def count(self):
        """Count what the counters of this catalog alone should say."""
        counts = dict.fromkeys(_COUNTERS, 0)
        for entry in self.entries.values():
            if entry.is_directory:
                counts["dir"] += 1
                counts["nested"] += entry.is_mountpoint
            elif entry.is_regular:
                counts["regular"] += 1
                counts["file_size"] += entry.size
                if entry.flags & _CHUNKED:
                    counts["chunked"] += 1
                    counts["chunked_size"] += entry.size
                    counts["chunks"] += len(entry.pieces)
                if entry.is_external:
                    counts["external"] += 1
                    counts["external_file_size"] += entry.size
            elif stat.S_ISLNK(entry.mode):
                counts["symlink"] += 1
            else:
                counts["special"] += 1
            counts["xattr"] += bool(entry.xattrs)
        return counts

    def totals(self):
        """Return the counters of this catalog and all below it, by name."""
        return _totals(self.counters)

    def check(self):
        """Look at each entry for contradictions, and return all `problems`."""
        root = self.entries[self.path]
        is_nested = self.path != b""
        self._expect(
            self.path,
            self.properties.get(b"root_prefix", b"").lstrip(b"/") == self.path,
            "has a catalog for another path",
        )
        self._expect(
            self.path, bool(root.flags & _NESTED_ROOT) == is_nested, "is wrongly marked as the root of a nested catalog"
        )
        if is_nested:
            self._expect(
                self.path,
                self.path + b"/.cvmfscatalog" in self.entries,
                "is a nested catalog without .cvmfscatalog in it",
            )
        mountpoints = {path for path, entry in self.entries.items() if entry.is_mountpoint and path != self.path}
        registered = {nested.path for nested in self.nested}
        for path in mountpoints ^ registered:
            self.problems.append((path, "is not both marked as a nested catalog and registered as one"))
        subdirectories: dict[bytes, int] = {}
        groups: dict[tuple[bytes, int], list] = {}
        for path, entry in self.entries.items():
            parent = os.path.dirname(path)
            if entry.is_directory and path != self.path:
                subdirectories[parent] = subdirectories.get(parent, 0) + 1
            elif entry.hardlink_group:
                groups.setdefault((parent, entry.hardlink_group), []).append(entry)
            self._check_entry(path, entry)
        for path, entry in self.entries.items():
            if entry.is_directory and not (entry.is_mountpoint or entry.flags & _BIND_MOUNTPOINT):
                links = 2 + subdirectories.get(path, 0)
                self._expect(path, entry.linkcount == links, f"has link count {entry.linkcount} where {links} is right")
        for (parent, group), members in groups.items():
            same = all(
                m.linkcount == len(members) and m.pieces == members[0].pieces and m.mode == members[0].mode
                for m in members
            )
            self._expect(parent, same, f"has a hard link group {group} whose members contradict each other")
        return self.problems

    def _check_entry(self, path, entry):
        self._expect(path, entry.linkcount > 0, "has link count 0")
        if entry.is_regular and not entry.is_external:
            position = 0
            for piece in entry.pieces:
                self._expect(path, piece.offset == position, f"has no chunk at offset {position}")
                position = piece.offset + piece.size
            self._expect(
                path, bool(entry.pieces) and position == entry.size, f"has content for {position} of {entry.size} bytes"
            )
        if entry.linkcount > 1 and not entry.is_directory:
            self._expect(path, entry.hardlink_group > 0, "has several links and no hard link group")

    def _expect(self, path, condition, problem):
        if not condition:
            self.problems.append((path, problem))


def check_counters(catalog, children):
    """Return how the counters of a catalog differ from what is in it and in the catalogs directly below, as (path,
    message).
    """
    problems = []
    computed = catalog.count()
    for name in _COUNTERS:
        below = sum(
            child.counters.get(f"self_{name}", 0) + child.counters.get(f"subtree_{name}", 0) for child in children
        )
        for counter, value in ((f"self_{name}", computed[name]), (f"subtree_{name}", below)):
            found = catalog.counters.get(counter)
            if found is not None and found != value:  # older catalogs do not have all of them
                problems.append(
                    (catalog.path, f"has a catalog whose counter {counter} is {found} where {value} is right")
                )
    return problems


def parse_xattrs(data):
    """Read a catalog's extended attributes.

    Version, count, then lengths of key and value, key, value. VerificationError.
    """
    try:
        version, count = struct.unpack_from("BB", data)
        if version != 1:
            raise VerificationError(f"Extended attributes of version {version} are unknown")
        found, position = {}, 2
        for dummy in range(count):
            key_size, value_size = struct.unpack_from("BB", data, position)
            position += 2
            found[data[position : position + key_size]] = data[position + key_size : position + key_size + value_size]
            position += key_size + value_size
    except struct.error:
        raise VerificationError("Extended attributes are cut short") from None
    return found


def certificate_der(data):
    """Return an X.509 certificate as DER, from PEM. VerificationError."""
    try:
        return pem_content(data.decode("ascii", "replace"), "CERTIFICATE")
    except ValueError as error:
        raise VerificationError(f"The certificate cannot be read: {error}") from None


def timestamp(seconds):
    """Return seconds since the epoch as text in UTC, ISO 8601, or None."""
    if seconds is None:
        return None
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat()


@contextlib.contextmanager
def open_database(data):
    """Open an SQLite database that is in memory, read-only."""
    with tempfile.NamedTemporaryFile(prefix="cvmfs-catalog-") as stream:
        stream.write(data)
        stream.flush()
        database = sqlite3.connect(f"file:{stream.name}?mode=ro&immutable=1", uri=True)
        try:
            yield database
        finally:
            database.close()


def _totals(counters):
    return {name: counters.get(f"self_{name}", 0) + counters.get(f"subtree_{name}", 0) for name in _COUNTERS}


def references(data):
    """Return the printed hashes in a reference log; none when it is no usable database."""
    try:
        with open_database(data) as database:
            return {row[0] for row in database.execute("SELECT hash FROM refs")}
    except sqlite3.DatabaseError:
        return set()


def _path_id(path):
    """The MD5 of a path with a leading slash, of nothing for the root, as two signed 64 bit halves."""
    return struct.unpack("<qq", md5(b"/" + path if path else b"", usedforsecurity=False).digest())
