# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check every object of a repository, and compare its tree with a source. Private to the collection.

Objects are read once: while an object's hash is checked, a digest of its decompressed content is kept, and the
comparison needs only that. Reading and hashing are done in as many processes as there are processors, each with a few
connections.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import multiprocessing
import os
import shutil
import stat
import subprocess
import tarfile
import time
import typing as t

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError, action
from ansible_collections.cvmfs.publishing.plugins.module_utils._http import HttpError, HttpReader
from ansible_collections.cvmfs.publishing.plugins.module_utils._manifest import VerificationError, hash_is
from ansible_collections.cvmfs.publishing.plugins.module_utils._reader import (
    Repository,
    check_counters,
    object_key,
    printable,
    references,
    unpack,
)

_CONNECTIONS = 4  # of each process
_BATCH = 64  # objects that a process is given at a time
_MARKER = b".cvmfscatalog"
_READ = 1 << 20  # bytes read from a source at a time
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878, section 3.1.1


@dataclasses.dataclass
class Report:
    """What a verification saw. `differences` are (path, message), where a path in bytes has no leading slash."""

    revision: int = 0
    root_hash: str = ""
    repository: t.Optional[str] = None
    whitelist_expires: t.Optional[str] = None
    signed: bool = False
    catalogs: int = 0
    entries: int = 0
    objects: int = 0
    stored_bytes: int = 0
    content_bytes: int = 0
    compared: int = 0
    differences: list[tuple[bytes, str]] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What to compare the tree below `base_dir` with: a directory or a tar file.

    `mirror` says that the repository must have nothing there that the source has not. `owner` is None if owners do not
    matter, or a function from the source's (uid, gid) to those that are expected.
    """

    source: str
    base_dir: bytes = b""
    mirror: bool = True
    owner: t.Optional[t.Callable[[int, int], tuple[int, int]]] = None


class Verifier:
    """Verifies one repository. `progress(done, total, bytes)` is called now and then."""

    def __init__(self, url, public_keys, *, fqrn=None, progress=None, processes=None, **http_options):
        self._url = url
        self._http_options = http_options
        self._repository = Repository(url, public_keys, fqrn=fqrn, **http_options)
        self._signed = bool(public_keys)
        self._progress = progress or (lambda *dummy: None)
        self._processes = processes or os.cpu_count() or 1
        self._entries: dict = {}
        self._digests: dict[str, bytes] = {}

    def verify(self, comparisons=()):
        """Verify signatures, catalogs and objects, then compare.

        Return a :class:`Report`. VerificationError, HttpError.
        """
        revision = self._repository.revision()
        report = Report(
            revision=revision.number,
            root_hash=revision.root_hash,
            repository=revision.manifest.repository,
            whitelist_expires=revision.whitelist.expires.isoformat(),
            signed=self._signed,
        )
        self._check_root_objects(revision.manifest, report)
        self._check_catalogs(revision.root_hash, report)
        with concurrent.futures.ProcessPoolExecutor(self._processes, multiprocessing.get_context("fork")) as pool:
            self._check_objects(pool, report)
            for comparison in comparisons:
                self._compare(pool, comparison, report)
        report.differences.sort()
        return report

    def _check_root_objects(self, manifest, report):
        """The objects that the manifest names besides the root catalog. The certificate has been read before."""
        for printed_hash, suffix in ((manifest.history, "H"), (manifest.meta_info, "M")):
            if printed_hash is not None:
                self._repository.get_object(object_key(printed_hash, suffix))
        if manifest.reflog is not None:
            self._check_reflog(manifest, report)
        self._repository.tags()

    def _check_reflog(self, manifest, report):
        """The reference log; CernVM-FS's own garbage collection replaces it, and leaves the manifest as it is."""
        data = self._repository.get(".cvmfsreflog")
        if hash_is(manifest.reflog, data):
            return
        named = {manifest.root_hash, manifest.certificate, manifest.history, manifest.meta_info} - {None}
        if named <= references(data):
            report.warnings.append(".cvmfsreflog is not the one that the manifest names, but has all that is needed")
        else:
            report.differences.append((b".cvmfsreflog", "is not the reference log that the manifest names"))

    def _check_catalogs(self, root_hash, report):
        self._check_catalog(self._repository.catalog(root_hash), report)

    def _check_catalog(self, catalog, report):
        """Check a catalog and those below; return it without its entries, which are kept in one place."""
        report.catalogs += 1
        report.differences += catalog.check()
        children = []
        for nested in catalog.nested:
            child = self._repository.catalog(nested.printed_hash, nested.path)
            mountpoint, root = catalog.entries.get(nested.path), child.entries[nested.path]
            if nested.size and nested.size != child.size:
                report.differences.append(
                    (nested.path, f"has a catalog of {child.size} bytes, and {nested.size} in its parent's")
                )
            if mountpoint is not None and _metadata(mountpoint) != _metadata(root):
                report.differences.append((nested.path, "is described differently by its own catalog and its parent's"))
            children.append(self._check_catalog(child, report))
        report.differences += check_counters(catalog, children)
        self._entries.update((path, entry) for path, entry in catalog.entries.items() if not entry.is_mountpoint)
        catalog.entries = {}
        report.entries = len(self._entries)
        return catalog

    def _check_objects(self, pool, report):
        wanted: dict = {}
        for path, entry in self._entries.items():
            if not entry.is_external:
                for piece in entry.objects:
                    wanted.setdefault(piece.key, (path, piece.size, entry.compression))
        jobs = [(key, size, compression) for key, (dummy, size, compression) in wanted.items()]
        batches = [jobs[start : start + _BATCH] for start in range(0, len(jobs), _BATCH)]
        futures = [pool.submit(_check_batch, self._url, self._http_options, batch) for batch in batches]
        for future in concurrent.futures.as_completed(futures):
            for key, digest, stored, content, problem in future.result():
                report.objects += 1
                report.stored_bytes += stored
                report.content_bytes += content
                self._digests[key] = digest
                if problem:
                    report.differences.append((wanted[key][0], f"has a damaged object: {problem}"))
            self._progress(report.objects, len(jobs), report.stored_bytes)

    @action("compare the repository with {2.source}")
    def _compare(self, pool, comparison, report):
        below = {path: entry for path, entry in self._entries.items() if _is_below(path, comparison.base_dir)}
        if not below:
            report.differences.append((comparison.base_dir, "is not in the repository"))
            return
        read = _read_directory if os.path.isdir(comparison.source) else _read_tar
        found = read(comparison, below, pool)
        differences = report.differences
        groups: dict[t.Any, list] = {}
        for path, item in found.items():
            report.compared += 1
            entry = below.get(path)
            if entry is None:
                differences.append((path, "is not in the repository"))
                continue
            differences += [(path, message) for message in self._differences(entry, item, comparison)]
            if item.link is not None:
                groups.setdefault((os.path.dirname(path), item.link), []).append(path)
        if comparison.mirror:
            # Markers of nested catalogs may come from the publish's options instead of the source.
            known = {*found, *_parents(found), *(path for path in below if os.path.basename(path) == _MARKER)}
            differences += [(path, "is not in the source") for path in below if path not in known]
        differences += _hard_link_differences(below, found, groups)

    def _differences(self, entry, item, comparison):
        """Say in which ways an entry is not what the source has."""
        if stat.S_IFMT(entry.mode) != stat.S_IFMT(item.mode):
            yield f"is a {_kind(entry.mode)} and in the source a {_kind(item.mode)}"
            return
        if entry.mode != item.mode:
            yield f"has mode {entry.mode & 0o7777:04o} and in the source {item.mode & 0o7777:04o}"
        seconds, nanoseconds = divmod(item.mtime, 10**9)
        if entry.mtime != seconds or (entry.mtime_ns is not None and entry.mtime_ns != nanoseconds):
            yield f"has mtime {entry.mtime}.{entry.mtime_ns or 0:09d} and in the source {seconds}.{nanoseconds:09d}"
        if comparison.owner is not None:
            uid, gid = comparison.owner(item.uid, item.gid)
            if (entry.uid, entry.gid) != (uid, gid):
                yield f"belongs to {entry.uid}:{entry.gid} instead of {uid}:{gid}"
        if entry.symlink != item.symlink:
            yield f"points to {entry.symlink!r} and in the source to {item.symlink!r}"
        if entry.is_regular:
            if entry.size != item.size:
                yield f"has {entry.size} bytes and in the source {item.size}"
            elif not entry.is_external and item.digests != [self._digests[piece.key] for piece in entry.objects]:
                yield "has other content than in the source"


@dataclasses.dataclass
class _Item:
    """A path as the source has it. `mtime` is in nanoseconds; `digests` are those of the entry's objects' content;
    files with the
    same `link` are one."""

    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    symlink: bytes = b""
    digests: t.Optional[list] = None
    link: t.Any = None


def _read_directory(comparison, entries, pool):
    """Return what is in a directory, by its path in the repository."""
    top = os.fsencode(comparison.source)
    found = {comparison.base_dir: _item(os.lstat(top))} if comparison.base_dir or comparison.mirror else {}
    files, waiting = [], [(top, comparison.base_dir)]
    while waiting:
        directory, base = waiting.pop()
        with os.scandir(directory) as listing:
            for child in listing:
                path = base + b"/" + child.name if base else child.name
                status = child.stat(follow_symlinks=False)
                found[path] = item = _item(status)
                if stat.S_ISDIR(status.st_mode):
                    waiting.append((child.path, path))
                elif stat.S_ISLNK(status.st_mode):
                    item.symlink = os.readlink(child.path)
                elif stat.S_ISREG(status.st_mode):
                    item.size = status.st_size
                    item.link = (status.st_dev, status.st_ino) if status.st_nlink > 1 else None
                    if path in entries and entries[path].size == status.st_size:
                        files.append((child.path, path, _extents(entries[path])))
    batches = [files[start : start + _BATCH] for start in range(0, len(files), _BATCH)]
    for results in pool.map(_digest_batch, batches):
        for path, digests in results:
            found[path].digests = digests
    return found


def _item(status):
    return _Item(status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)


def _read_tar(comparison, entries, dummy_pool):
    """Return what is in a tar file, by its path in the repository.

    A later member of the same name replaces an earlier one.
    """
    found: dict[bytes, _Item] = {}
    try:
        with _open_tar(comparison.source) as archive:
            for member in archive:
                name = _member_path(member.name, comparison.base_dir)
                if member.islnk():
                    target = _member_path(member.linkname, comparison.base_dir)
                    original = found[target]
                    # Hard links across directories become files of their own, as upstream has it.
                    original.link = original.link or target
                    found[name] = dataclasses.replace(original)
                    continue
                found[name] = _tar_item(archive, member, entries.get(name))
    except (tarfile.TarError, EOFError, KeyError) as error:
        raise PublishingError(f"It cannot be read: {error}", remedy="It must be a directory or a tar file.") from None
    if not comparison.base_dir:
        found.pop(b"", None)
    return found


@contextlib.contextmanager
def _open_tar(path):
    """Open a tar file to be read once and forwards. Python's tarfile knows zstd from version 3.14 on only."""
    with open(path, "rb") as stream:
        is_zstd = stream.read(len(_ZSTD_MAGIC)) == _ZSTD_MAGIC
    if not is_zstd:
        with tarfile.open(path, "r|*", errors="surrogateescape") as archive:
            yield archive
        return
    program = shutil.which("zstd")
    if program is None:
        raise PublishingError("It is compressed with zstd, and there is no command zstd", remedy="Install zstd.")
    with subprocess.Popen([program, "-dcq", "--", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|", errors="surrogateescape") as archive:
            yield archive
        while process.stdout.read(_READ):  # what follows the end mark; else zstd would miss its reader
            pass
    if process.returncode != 0:
        raise tarfile.ReadError("zstd finds it damaged")


def _tar_item(archive, member, entry):
    types = {
        "isdir": stat.S_IFDIR,
        "issym": stat.S_IFLNK,
        "isfifo": stat.S_IFIFO,
        "ischr": stat.S_IFCHR,
        "isblk": stat.S_IFBLK,
    }
    kind = next((mode for test, mode in types.items() if getattr(member, test)()), stat.S_IFREG)
    mode = 0o777 if kind == stat.S_IFLNK else member.mode & 0o7777
    item = _Item(kind | mode, member.uid, member.gid, _tar_mtime(member))
    if kind == stat.S_IFLNK:
        item.symlink = os.fsencode(member.linkname)
    elif kind == stat.S_IFREG:
        item.size = member.size
        if entry is not None and entry.size == member.size:
            item.digests = _digests(archive.extractfile(member), _extents(entry))
    return item


def _tar_mtime(member):
    """The time in nanoseconds. A float, as tarfile has it, is too coarse for that; the header's text is not."""
    seconds, _dot, fraction = str(member.pax_headers.get("mtime", member.mtime)).partition(".")
    return int(seconds) * 10**9 + int((fraction + "000000000")[:9])


def _member_path(name, base_dir):
    parts = [part for part in os.fsencode(name).split(b"/") if part not in (b"", b".")]
    return b"/".join(([base_dir] if base_dir else []) + parts)


def _extents(entry):
    return [(piece.offset, piece.size) for piece in entry.objects]


def _digest_batch(files):
    """In a worker process: digest parts of files. Returns (path, digests)."""
    results = []
    for name, path, extents in files:
        with open(name, "rb", buffering=0) as stream:
            results.append((path, _digests(stream, extents)))
    return results


def _digests(stream, extents):
    """Digest extents of a stream, which is read once and forwards.

    Chunks follow each other, and a bulk object spans them all.
    """
    digests = [hashlib.sha256() for dummy in extents]
    position = 0
    while True:
        data = stream.read(_READ)
        if not data:
            break
        for digest, (offset, size) in zip(digests, extents):
            first, last = max(offset - position, 0), min(offset + size - position, len(data))
            if first < last:
                digest.update(memoryview(data)[first:last])
        position += len(data)
    return [digest.digest() for digest in digests]


def _hard_link_differences(entries, found, groups):
    """Compare hard links within each directory.

    The names that are one file in the source must be one in the repository.
    """
    wanted = {}
    for members in groups.values():
        for path in members:
            wanted[path] = frozenset(members)
    published: dict = {}
    for path, entry in entries.items():
        if entry.hardlink_group and path in found:
            published.setdefault((os.path.dirname(path), entry.hardlink_group), set()).add(path)
    actual = {path: frozenset(members) for members in published.values() for path in members}
    for path in set(wanted) | set(actual):
        if path in entries and wanted.get(path, frozenset((path,))) != actual.get(path, frozenset((path,))):
            yield path, "is hard linked to other names than in the source"


def _check_batch(url, http_options, batch):
    """In a worker process: read and check objects.

    Returns (key, digest of the content, stored bytes, content bytes, problem) for each.
    """
    threads = min(_CONNECTIONS, len(batch))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        parts = pool.map(
            lambda part: _check_part(url, http_options, part), (batch[first::threads] for first in range(threads))
        )
        return [result for part in parts for result in part]


def _check_part(url, http_options, part):
    reader = HttpReader(url, **http_options)
    try:
        return [_check_object(reader, *job) for job in part]
    finally:
        reader.close()


def _check_object(reader, key, size, compression):
    try:
        stored = reader.get(key)
        content = unpack(key, stored, compression)
    except (HttpError, VerificationError) as error:
        return key, b"", 0, 0, str(error)
    problem = None if len(content) == size else f"{key} has {len(content)} bytes of content instead of {size}"
    return key, hashlib.sha256(content).digest(), len(stored), len(content), problem


def _metadata(entry):
    return (entry.mode, entry.uid, entry.gid, entry.mtime, entry.mtime_ns, entry.xattrs, entry.linkcount)


def _is_below(path, base_dir):
    return not base_dir or path == base_dir or path.startswith(base_dir + b"/")


def _parents(paths):
    """All directories above `paths`, and the root: what a source need not name to have it."""
    found = {b""}
    for path in paths:
        parent = os.path.dirname(path)
        while parent not in found:
            found.add(parent)
            parent = os.path.dirname(parent)
    return found


def _kind(mode):
    names = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link"}
    return names.get(stat.S_IFMT(mode), "special file")


class ProgressLine:
    """Writes a line about a verification to a file every second, for people who wait. `path` may be None."""

    def __init__(self, path):
        self._path = path
        self._begin = self._last = time.monotonic()

    def __call__(self, done, total, size):
        now = time.monotonic()
        if self._path is None or (now - self._last < 1 and done < total):
            return
        self._last = now
        rate = done / max(now - self._begin, 0.001)
        left = (total - done) / rate if rate else 0
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(f"Verifying: {done:,} of {total:,} objects  {size / 1e6:,.1f} MB  ")
            stream.write(f"{rate:,.0f} objects/s  {left:.0f} s left\n")


def describe(differences, limit=1000):
    """Return differences as dictionaries for a module's result."""
    return [{"path": printable(path), "difference": message} for path, message in differences[:limit]]
