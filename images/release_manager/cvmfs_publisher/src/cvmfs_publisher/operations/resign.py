# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server resign``: new signatures for what is there. No transaction is needed, and none is in the way.

A roll-over of the repository key takes three of them, between which clients can read the repository at any time: a
whitelist that lists the new certificate besides the old; the manifest signed with the new key, by `resign_manifest` or
by the next publish; a whitelist with the new certificate alone. From then on clients accept nothing from the old key.

A stolen key is dropped at once, whatever the current revision is signed with: see `only` and `force`.

What was dropped does not come back because somebody else signs at the same time, or from what was there before. What is
signed here follows from the whitelist that it replaces. What was signed elsewhere takes the place of the one that it
was made from, and of no other, or, where that is not known, of one that lists the same certificates.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..content import fetch_object
from ..errors import (
    ConfigurationError,
    CorruptObject,
    ObjectNotFound,
    PreconditionFailed,
    SignatureError,
    StorageError,
)
from ..repository import Certificate, Manifest, MasterKey, Whitelist
from ..repository import whitelist as whitelist_module
from ..repository.manifest import MANIFEST_KEY
from ..repository.signing import load_public_keys
from ..repository.whitelist import DEFAULT_DAYS, WHITELIST_KEY, normal, printed
from ..storage import ObjectStore, Version
from .environment import Environment
from .transaction import open_exclusively

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

_ATTEMPTS = 5
NONE = "none"
"""Stands for the SHA-256 of a whitelist that is not there."""


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
    :raises SignatureError: when the whitelist in the storage is signed by another master key; or was signed, without
        the certificate that is here, after that was made
    """
    settings = environment.settings(name)
    key = environment.master_key(name)
    own = Certificate.load(environment.keys_dir / f"{name}.crt")
    certificates = [own, *also]
    is_named = own.fingerprint() in [certificate.fingerprint() for certificate in also]

    def sign(old: Whitelist | None, _: bytes | None) -> bytes:
        if old is not None and own.made < old.created and not old.lists(own) and not is_named:
            # On a host that has not got the new key yet, say
            raise SignatureError(
                f"The whitelist of {name} was signed without {own.fingerprint()}, the certificate that is here, since "
                "that was made",
                remedy="Put the key that has replaced it here; or, to list it all the same, add --also and the path of "
                f"{name}.crt",
            )
        current = _current_certificate(store) if old is not None and not only else None
        listed = [*certificates, current] if current and old and old.lists(current) else certificates
        return Whitelist.create(name, _distinct(listed), days=days, algorithm=settings.hash_algorithm).signed(key)

    with contextlib.closing(environment.store(settings)) as store:
        return Whitelist.parse(_replace(store, name, [key.public_key], sign))


def upload_whitelist(
    environment: Environment, name: str, data: bytes, *, replaces: str | None = None, changes: Sequence[str] = ()
) -> Whitelist:
    """Put a whitelist into the storage that was signed where the master key is; that is not needed here.

    :param replaces: SHA-256 of the one that it was made from, `NONE` if there was none; no other is replaced
    :param changes: where that is not known, fingerprints that only one of both may list
    :raises ConfigurationError: when the certificate or the public master key is not here
    :raises SignatureError: when clients would not accept it, it is older than the one in the storage or does not follow
        from that, or it does not list the certificate that is here
    :raises WhitelistExpired: when it has expired
    """
    settings = environment.settings(name)
    keys = load_public_keys(environment.public_keys(settings))
    whitelist = whitelist_module.verify(data, keys, name)
    whitelist.require_valid()
    certificate = Certificate.load(environment.keys_dir / f"{name}.crt")
    if not whitelist.lists(certificate):
        raise SignatureError(
            f"The whitelist does not list {certificate.fingerprint()}, the certificate of {name} that is here",
            remedy="Sign one that does",
        )

    def compare(old: Whitelist | None, there: bytes | None) -> bytes:
        if there == data:
            return data
        # An earlier one may list a certificate that was dropped since, as its key was stolen
        if old is not None and whitelist.created < old.created:
            raise SignatureError(
                f"The whitelist was signed at {whitelist.created:%Y-%m-%d %H:%M:%S} UTC, before the one in "
                f"{store.describe()}, at {old.created:%Y-%m-%d %H:%M:%S}",
                remedy="Sign it again, where the clock is right",
            )
        if replaces is not None and replaces.lower() != _digest(there):
            raise SignatureError(
                f"The whitelist of {name} in {store.describe()} is not the one that this one was made from",
                remedy="Somebody else signs it, too. Sign again, from the one that is there now",
            )
        if replaces is None and old is not None:
            _require_same(old, whitelist, changes)
        return data

    with contextlib.closing(environment.store(settings)) as store:
        _replace(store, name, keys, compare)
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


def resign_manifest(environment: Environment, name: str, *, force: bool = False) -> tuple[Manifest, Sequence[str]]:
    """Sign the newest revision's manifest with the repository key, for instance in a key roll-over.

    :param force: even if the whitelist does not list the certificate that it is signed with now: what it says is taken
        for granted. A signing service does not do that, so it takes the key itself
    :returns: the manifest, and warnings
    :raises LeaseHeld, InTransaction: while a transaction is open
    :raises SignatureError: when the whitelist does not list the key's certificate
    """
    settings = environment.settings(name)
    key = environment.signer(settings, unlisted=force)
    with open_exclusively(environment, settings, unlisted=force) as (repository, lease):
        warnings = repository.commit(repository.manifest, key, lease=lease)
        return repository.manifest, warnings


def _digest(data: bytes | None) -> str:
    return hashlib.sha256(data).hexdigest() if data is not None else NONE


def _require_same(old: Whitelist, new: Whitelist, changes: Sequence[str]) -> None:
    """Refuse a whitelist that lists other certificates than the one that is there, but for those that may change.

    :raises SignatureError: then
    """
    before, after, named = (set(map(normal, each)) for each in (old.fingerprints, new.fingerprints, changes))
    for others, problem in (
        (after - before, "lists {}, which the one that is there does not"),
        (before - after, "does not list {}, which the one that is there does"),
    ):
        unnamed = sorted(others - named)
        if unnamed:
            raise SignatureError(
                f"The whitelist {problem.format(' and '.join(map(printed, unnamed)))}",
                remedy="Sign again, from the one that is there; or, if it is meant, name each: --changes FINGERPRINT",
            )


def _replace(
    store: ObjectStore,
    name: str,
    keys: Sequence[rsa.RSAPublicKey],
    choose: Callable[[Whitelist | None, bytes | None], bytes],
) -> bytes:
    """Replace the whitelist in the storage by what follows from it, and return that.

    Who else signs one meanwhile may have dropped a certificate whose key was stolen, so it is looked at again then.

    :param choose: gets the one that is there, and its bytes; there may be no whitelist in these
    """
    for _ in range(_ATTEMPTS):
        old, there, version = _whitelist_there(store, name, keys)
        data = choose(old, there)
        if data == there:
            return data
        try:
            if version is None:
                store.put_if_absent(WHITELIST_KEY, data)
            else:
                store.put_if_match(WHITELIST_KEY, data, version)
        except PreconditionFailed:
            continue
        return data
    raise StorageError(f"Others keep replacing the whitelist of {name}", remedy="Try again")


def _whitelist_there(
    store: ObjectStore, name: str, keys: Sequence[rsa.RSAPublicKey]
) -> tuple[Whitelist | None, bytes | None, Version | None]:
    """Return the whitelist in the storage, the object's bytes and version; there may be none.

    There is no whitelist either if it is unreadable: on such a one, nobody relies.
    """
    try:
        data, version = store.get_versioned(WHITELIST_KEY)
    except ObjectNotFound:
        return None, None, None
    try:
        return whitelist_module.verify(data, keys, name), data, version
    except SignatureError as error:
        raise SignatureError(
            f"The whitelist of {name} in {store.describe()} was not signed by the master key that is here",
            remedy="Use the repository's own master key; clients trust no other",
        ) from error
    except CorruptObject:
        return None, data, version


def _distinct(certificates: Sequence[Certificate]) -> list[Certificate]:
    return list({certificate.fingerprint(): certificate for certificate in certificates}.values())


def _current_certificate(store: ObjectStore) -> Certificate | None:
    try:
        content_hash = Manifest.parse(store.get(MANIFEST_KEY)).certificate
        return Certificate(fetch_object(store, content_hash)) if content_hash is not None else None
    except ObjectNotFound:
        return None
