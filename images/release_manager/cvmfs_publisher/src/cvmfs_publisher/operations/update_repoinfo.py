# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server update-repoinfo``: what a repository says about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..content import HashSuffix, put_object
from ..repository import Manifest, metainfo
from .environment import Environment
from .transaction import open_exclusively


def repository_meta(environment: Environment, name: str) -> bytes:
    """Return the JSON object that describes a repository; CernVM-FS's form to be filled in when there is none."""
    with environment.open(name) as repository:
        return repository.meta_info() or metainfo.dump(metainfo.REPOSITORY_META)


def update_repoinfo(environment: Environment, name: str, meta: bytes) -> tuple[Manifest, Sequence[str]]:
    """Let a repository be described by a JSON object. The revision stays.

    :returns: the manifest, and warnings
    :raises UsageError: when it is none
    :raises InTransaction, LeaseHeld: while a transaction is open
    """
    metainfo.check_meta(meta)
    settings = environment.supported_settings(name)
    key = environment.signer(settings)
    with open_exclusively(environment, settings) as (repository, lease):
        repository.require_signer(key)
        algorithm = repository.manifest.root_hash.algorithm
        content_hash, _ = put_object(repository.store, meta, HashSuffix.METAINFO, algorithm)
        warnings = repository.commit(replace(repository.manifest, meta_info=content_hash), key, lease=lease)
        return repository.manifest, warnings
