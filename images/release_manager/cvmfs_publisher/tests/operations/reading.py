# SPDX-License-Identifier: GPL-3.0-or-later
"""What a stranger sees of a repository, read over HTTP by the collection's own reader, which shares no code with the
publisher.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib
import os
import stat
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from operations.managers import ReleaseManager

_COLLECTION = Path(__file__).parents[5]
_NAMESPACE = "ansible_collections.cvmfs.publishing.plugins.module_utils"


def _import_reader() -> Any:
    """Import the reader from this checkout, where there need be no collection path and no Ansible."""
    name, directory = "", None
    for part in _NAMESPACE.split("."):
        name = f"{name}.{part}" if name else part
        if name == "ansible_collections.cvmfs.publishing":
            directory = _COLLECTION
        elif directory is not None:
            directory /= part
        if name not in sys.modules:
            module = ModuleType(name)
            module.__path__ = [] if directory is None else [str(directory)]
            sys.modules[name] = module
    return importlib.import_module(f"{_NAMESPACE}._reader")


reader = _import_reader()


@dataclass(frozen=True)
class Seen:
    """What there is at a path. Directories have no size, and only regular files have content."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    target: bytes = b""
    content: bytes | None = None
    names: frozenset[bytes] = frozenset()
    """Of a file with hard links: all its names in the directory."""


Tree = dict[bytes, Seen]


@dataclass(frozen=True)
class Reading:
    """A whole revision, read and verified."""

    revision: int
    tree: Tree
    catalogs: frozenset[bytes]
    """The paths at which catalogs begin."""


def read(url: str, public_key: Path) -> Reading:
    """Read the current revision, and assert that everything about it is as it should be."""
    repository = reader.Repository(url, [public_key.read_text()])
    revision = repository.revision()
    catalogs = {catalog.path: catalog for catalog in repository.catalogs()}
    tree: Tree = {}
    for path, catalog in catalogs.items():
        assert catalog.check() == []
        children = [catalogs[nested.path] for nested in catalog.nested]
        assert reader.check_counters(catalog, children) == []
        assert all(nested.size in (None, catalogs[nested.path].size) for nested in catalog.nested)
        tree |= _seen(repository, catalog)
        assert path in tree or path == b""
    return Reading(revision.number, tree, frozenset(catalogs))


def _seen(repository: Any, catalog: Any) -> Tree:
    groups: dict[tuple[bytes, int], set[bytes]] = {}
    found: Tree = {}
    own = {path: entry for path, entry in catalog.entries.items() if not entry.is_mountpoint}
    for path, entry in own.items():
        if entry.hardlink_group:
            groups.setdefault((os.path.dirname(path), entry.hardlink_group), set()).add(os.path.basename(path))
    for path, entry in own.items():
        content = None
        if entry.is_regular:
            content = b"".join(repository.get_object(piece.key, entry.compression) for piece in entry.pieces)
            assert len(content) == entry.size
        found[path] = Seen(
            entry.mode,
            entry.uid,
            entry.gid,
            entry.mtime * 10**9 + (entry.mtime_ns or 0),
            entry.symlink,
            content,
            frozenset(groups.get((os.path.dirname(path), entry.hardlink_group), ())),
        )
    return found


def on_disk(directory: Path) -> Tree:
    """Return what there is at and below a directory, by path relative to it."""
    top = os.fsencode(directory)
    found = {b"": _look(top)}
    for location, subdirectories, files in os.walk(top):
        inodes: dict[tuple[int, int], set[bytes]] = {}
        for name in files + subdirectories:
            path = os.path.join(location, name)
            status = os.lstat(path)
            if not stat.S_ISDIR(status.st_mode):
                inodes.setdefault((status.st_dev, status.st_ino), set()).add(name)
            found[os.path.relpath(path, top)] = _look(path)
        for names in inodes.values():
            for name in names if len(names) > 1 else ():
                relative = os.path.relpath(os.path.join(location, name), top)
                found[relative] = replace(found[relative], names=frozenset(names))
    return found


def _look(path: bytes) -> Seen:
    status = os.lstat(path)
    target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else b""
    content = None
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            content = file.read()
    return Seen(status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, target, content)


def below(tree: Tree, base: bytes) -> Tree:
    """Return what is at and below a directory, by path relative to it."""
    if not base:
        return tree
    return {path[len(base) + 1 :]: seen for path, seen in tree.items() if path == base or path.startswith(base + b"/")}


@contextlib.contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve a directory by HTTP, on this machine only, and yield its URL."""
    handler = functools.partial(_Handler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Keep silent."""

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(6, 1, 1)  # TCP_NODELAY: small answers must not wait for each other


def published(manager: ReleaseManager) -> Reading:
    """Read what a release manager's repository looks like from outside."""
    key = manager.keys / f"{manager.name}.pub"
    kind, _, location = manager.settings["CVMFS_UPSTREAM_STORAGE"].split(",", 2)
    if kind != "local":
        return read(manager.settings["CVMFS_STRATUM0"], key)
    with served(Path(location)) as url:
        return read(url, key)
