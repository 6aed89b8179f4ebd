# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server resign``: new signatures for what is there. No transaction is needed, and none is in the way.

A roll-over of the repository key takes three of them, between which clients can read the repository at any time: a
whitelist that lists the new certificate besides the old; the manifest signed with the new key, by `resign_manifest` or
by the next publish; a whitelist with the new certificate alone. From then on clients accept nothing from the old key.

A stolen key is dropped at once, whatever the current revision is signed with: see `only` and `force`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..content import fetch_object
from ..errors import ConfigurationError, CorruptObject, ObjectNotFound, SignatureError
from ..repository import Certificate, Manifest, MasterKey, Whitelist
from ..repository import whitelist as whitelist_module
from ..repository.manifest import MANIFEST_KEY
from ..repository.repository import read_whitelist
from ..repository.whitelist import DEFAULT_DAYS, WHITELIST_KEY
from ..storage import ObjectStore
from .environment import Environment
from .transaction import open_exclusively


def resign_whitelist(
    environment: Environment,
    name: str,
    *,
    days: int = DEFAULT_DAYS,
    also: Sequence[Certificate] = (),
    only: bool = False,
) -> Whitelist:
    """Sign the whitelist with the master key, for the certificate that is here.

    An expired whitelist, a lost or unreadable one, and one for another certificate are replaced all the same. If the
    current revision is signed with another certificate that the whitelist listed, that stays in it.

    :param days: life time
    :param also: certificates to list besides
    :param only: drop the certificate of the current revision, too; clients refuse it until it is signed again
    :raises ConfigurationError: when a key is not here
    :raises SignatureError: when the whitelist in the storage is signed by another master key
    """
    settings = environment.settings(name)
    key = environment.master_key(name)
    certificates = [Certificate.load(environment.keys_dir / f"{name}.crt"), *also]
    with contextlib.closing(environment.store(settings)) as store:
        if store.exists(WHITELIST_KEY):
            old = None
            try:
                old = read_whitelist(store, name, [key.public_key])
            except SignatureError as error:
                raise SignatureError(
                    f"The whitelist of {name} in {store.describe()} was not signed by the master key that is here",
                    remedy="Use the repository's own master key; clients trust no other",
                ) from error
            except CorruptObject:
                pass  # what nobody can read, nobody relies on
            current = _current_certificate(store)
            if not only and old and current and old.lists(current):
                certificates.append(current)
        whitelist = Whitelist.create(name, _distinct(certificates), days=days, algorithm=settings.hash_algorithm)
        store.put(WHITELIST_KEY, whitelist.signed(key))
    return whitelist


def resign_whitelist_file(key: MasterKey, file: Path, name: str, *, days: int = DEFAULT_DAYS) -> Whitelist:
    """Sign a whitelist that lies in a file, for the certificates that it lists; no configuration is needed.

    :raises ConfigurationError: when it cannot be read or written
    :raises SignatureError: when it was signed by another master key, or for another repository
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"Cannot read the whitelist {file}: {error.strerror}", remedy="Give -w the path of a whitelist"
        ) from error
    old = whitelist_module.verify(data, [key.public_key], name)
    fresh = Whitelist.create(name, [], days=days)
    whitelist = replace(fresh, fingerprints=old.fingerprints, options=old.options)
    try:
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as stream:
            try:
                stream.write(whitelist.signed(key))
                shutil.copystat(file, stream.name)
                status = file.stat()
                os.chown(stream.name, status.st_uid, status.st_gid)
                os.replace(stream.name, file)
            except BaseException:
                os.unlink(stream.name)
                raise
    except OSError as error:
        raise ConfigurationError(
            f"Cannot write the whitelist {file}: {error.strerror}", remedy="Let the user write there"
        ) from error
    return whitelist


def resign_manifest(environment: Environment, name: str, *, force: bool = False) -> Manifest:
    """Sign the newest revision's manifest with the repository key, for instance in a key roll-over.

    :param force: even if the whitelist does not list the certificate that it is signed with now: what it says is taken
        for granted
    :raises LeaseHeld, InTransaction: while a transaction is open
    :raises SignatureError: when the whitelist does not list the key's certificate
    """
    settings = environment.settings(name)
    key = environment.signer(settings)
    with open_exclusively(environment, settings, unlisted=force) as (repository, lease):
        repository.commit(repository.manifest, key, lease=lease)
        return repository.manifest


def _distinct(certificates: Sequence[Certificate]) -> list[Certificate]:
    return list({certificate.fingerprint(): certificate for certificate in certificates}.values())


def _current_certificate(store: ObjectStore) -> Certificate | None:
    try:
        content_hash = Manifest.parse(store.get(MANIFEST_KEY)).certificate
        return Certificate(fetch_object(store, content_hash)) if content_hash is not None else None
    except ObjectNotFound:
        return None
