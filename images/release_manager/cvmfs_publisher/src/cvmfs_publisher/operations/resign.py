# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server resign``: new signatures for what is there. No transaction is needed, and none is in the way."""

from __future__ import annotations

import contextlib
import datetime

from ..errors import SignatureError
from ..repository import Certificate, Manifest, Whitelist
from ..repository.repository import read_whitelist
from ..repository.whitelist import DEFAULT_DAYS, WHITELIST_KEY
from .environment import Environment
from .transaction import exclusive


def resign_whitelist(environment: Environment, name: str, *, days: int = DEFAULT_DAYS) -> datetime.datetime:
    """Sign the whitelist with the master key, for the certificate that is here.

    An expired whitelist, a lost one, and one for another certificate are replaced all the same.

    :param days: life time
    :returns: when it expires, UTC
    :raises ConfigurationError: when a key is not here
    :raises SignatureError: when the whitelist in the storage is signed by another master key
    """
    settings = environment.settings(name)
    key = environment.master_key(name)
    certificate = Certificate.load(environment.keys_dir / f"{name}.crt")
    with contextlib.closing(environment.store(settings)) as store:
        if store.exists(WHITELIST_KEY):
            try:
                read_whitelist(store, name, [key.public_key])
            except SignatureError as error:
                raise SignatureError(
                    f"The whitelist of {name} in {store.describe()} was not signed by the master key that is here",
                    remedy="Use the repository's own master key; clients trust no other",
                ) from error
        whitelist = Whitelist.create(name, [certificate], days=days, algorithm=settings.hash_algorithm)
        store.put(WHITELIST_KEY, whitelist.signed(key))
    return whitelist.expires


def resign_manifest(environment: Environment, name: str) -> Manifest:
    """Sign the newest revision's manifest with the repository key that is here, for instance after a key roll-over.

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
