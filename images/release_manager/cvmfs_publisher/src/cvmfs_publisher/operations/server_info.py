# SPDX-License-Identifier: GPL-3.0-or-later
"""The documents next to the repositories that describe their server, ``info/v1/``, and ``cvmfs_server update-info``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from ..errors import ConfigurationError, ObjectNotFound, PreconditionFailed, PublisherError
from ..repository import ServerConfig, metainfo
from ..storage import ObjectStore
from .environment import Environment


def announce(environment: Environment, settings: ServerConfig) -> list[str]:
    """List a repository, and describe its server if nothing does; return warnings."""
    name = settings.repository

    def add(existing: bytes | None) -> bytes | None:
        if existing is not None and metainfo.lists(existing, name):
            return None
        return metainfo.add_repository(existing, name)

    try:
        with _server(environment, settings) as server:
            if server is None:
                return []
            with contextlib.suppress(PreconditionFailed):
                server.put_if_absent(metainfo.SERVER_META_KEY, metainfo.dump(metainfo.SERVER_META))
            _edit(server, metainfo.REPOSITORIES_KEY, add)
    except PublisherError as error:  # the repository is there, with or without
        return [f"{metainfo.REPOSITORIES_KEY} does not list {name}: {error}"]
    return []


def withdraw(environment: Environment, settings: ServerConfig) -> list[str]:
    """Take a repository off the list; return warnings."""
    name = settings.repository

    def remove(existing: bytes | None) -> bytes | None:
        if existing is None or not metainfo.lists(existing, name):
            return None
        return metainfo.remove_repository(existing, name)

    try:
        with _server(environment, settings) as server:
            if server is not None:
                _edit(server, metainfo.REPOSITORIES_KEY, remove)
    except PublisherError as error:
        return [f"{metainfo.REPOSITORIES_KEY} may still list {name}: {error}"]
    return []


def server_meta(environment: Environment, name: str) -> bytes:
    """Return what the server of a repository says about itself.

    :raises ConfigurationError: when there is no place for that
    """
    with _require_server(environment, name) as server:
        try:
            return server.get(metainfo.SERVER_META_KEY)
        except ObjectNotFound:
            return metainfo.dump(metainfo.SERVER_META)


def update_info(environment: Environment, name: str, meta: bytes | None) -> list[str]:
    """Bring the documents that describe the server of a repository up to date.

    :param meta: what the server is to say about itself, JSON; None to leave that as it is
    :returns: the names of the repositories that are configured here and listed now
    :raises UsageError: when that is no JSON object
    :raises ConfigurationError: when there is no place for these documents
    """
    if meta is not None:
        metainfo.check_meta(meta)
        with _require_server(environment, name) as server:
            server.put(metainfo.SERVER_META_KEY, meta)
    names = environment.names()
    for listed in names:
        warnings = announce(environment, environment.settings(listed))
        if warnings:
            raise ConfigurationError(warnings[0], remedy="Correct the cause, and try again")
    return names


@contextlib.contextmanager
def _server(environment: Environment, settings: ServerConfig) -> Iterator[ObjectStore | None]:
    """Open the storage beside a repository; None when the repository is not in a directory of any other."""
    kind, temporary, location = settings.require("CVMFS_UPSTREAM_STORAGE").split(",", 2)
    path, at, config = location.partition("@")
    parent = path.rpartition("/")[0]
    if kind == "local" and not parent:
        yield None
        return
    beside = ServerConfig({**settings, "CVMFS_UPSTREAM_STORAGE": f"{kind},{temporary},{parent}{at}{config}"})
    with contextlib.closing(environment.store(beside)) as server:
        yield server


@contextlib.contextmanager
def _require_server(environment: Environment, name: str) -> Iterator[ObjectStore]:
    with _server(environment, environment.settings(name)) as server:
        if server is None:
            raise ConfigurationError(
                f"There is no directory around {name} in its storage", remedy="Keep it one directory further down"
            )
        yield server


def _edit(server: ObjectStore, key: str, edit: Callable[[bytes | None], bytes | None]) -> None:
    """Change a document that others may be changing; `edit` returns None when there is nothing to do."""
    while True:
        try:
            existing, version = server.get_versioned(key)
        except ObjectNotFound:
            existing = None
        new = edit(existing)
        if new is None:
            return
        with contextlib.suppress(PreconditionFailed):
            if existing is None:
                server.put_if_absent(key, new)
            else:
                server.put_if_match(key, new, version)
            return
