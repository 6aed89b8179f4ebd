# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server resign``: new signatures for what is there. No transaction is needed, and none is in the way.

A roll-over of the repository key takes three of them, between which clients can read the repository at any time: a
whitelist that lists the new certificate besides the old, the manifest signed with the new key, and a whitelist with the
new certificate alone.
"""

from __future__ import annotations

import contextlib

from ..content import fetch_object
from ..errors import CorruptObject, ObjectNotFound, SignatureError
from ..repository import Certificate, Manifest, Whitelist
from ..repository.manifest import MANIFEST_KEY
from ..repository.repository import read_whitelist
from ..repository.whitelist import DEFAULT_DAYS, WHITELIST_KEY
from ..storage import ObjectStore
from .environment import Environment
from .transaction import exclusive


def resign_whitelist(environment: Environment, name: str, *, days: int = DEFAULT_DAYS) -> Whitelist:
    """Sign the whitelist with the master key, for the certificate that is here.

    An expired whitelist, a lost or unreadable one, and one for another certificate are replaced all the same. If the
    current revision is signed with another certificate that the whitelist listed, that stays in it.

    :param days: life time
    :raises ConfigurationError: when a key is not here
    :raises SignatureError: when the whitelist in the storage is signed by another master key
    """
    settings = environment.settings(name)
    key = environment.master_key(name)
    certificates = [Certificate.load(environment.keys_dir / f"{name}.crt")]
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
            if old and current and old.lists(current) and current.pem != certificates[0].pem:
                certificates.append(current)
        whitelist = Whitelist.create(name, certificates, days=days, algorithm=settings.hash_algorithm)
        store.put(WHITELIST_KEY, whitelist.signed(key))
    return whitelist


def resign_manifest(environment: Environment, name: str) -> Manifest:
    """Sign the newest revision's manifest with the repository key that is here, for instance in a key roll-over.

    :raises LeaseHeld, InTransaction: while a transaction is open
    :raises SignatureError: when the whitelist does not list the certificate that is here
    """
    settings = environment.settings(name)
    key = environment.repository_key(name)
    with (
        contextlib.closing(environment.store(settings)) as store,
        exclusive(environment, settings, store) as lease,
        environment.open(name, settings) as repository,
    ):
        repository.commit(repository.manifest, key, lease=lease)
        return repository.manifest


def _current_certificate(store: ObjectStore) -> Certificate | None:
    try:
        content_hash = Manifest.parse(store.get(MANIFEST_KEY)).certificate
        return Certificate(fetch_object(store, content_hash)) if content_hash is not None else None
    except ObjectNotFound:
        return None
