# SPDX-License-Identifier: GPL-3.0-or-later
"""Proves, before anything depends on it, that a store does what publishing needs."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import AccessDenied, ObjectNotFound, PreconditionFailed, StorageError

if TYPE_CHECKING:
    from .http import HttpStore
    from .s3 import ConditionForm
    from .store import ObjectStore


@dataclass(frozen=True, slots=True)
class PreflightReport:
    """What a store was seen to do.

    :param store: where it is
    :param condition_form: how it takes the ETag of ``If-Match``; None where there are no ETags
    :param anonymous_read: whether clients can read without credentials; None when that was not tried
    """

    store: str
    condition_form: ConditionForm | None
    anonymous_read: bool | None


def preflight(store: ObjectStore, public: HttpStore | None = None) -> PreflightReport:
    """Try everything that publishing needs, on objects of its own, which are removed again.

    :param store: where the repository is, or is to be
    :param public: the same place as clients reach it
    :raises StorageError: naming what does not work
    """
    form = getattr(store, "condition_form", None)
    key = f".cvmfs_probe-{secrets.token_hex(8)}"
    missing = f"{key}-missing"
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(store.delete, key)
        _expect(not store.exists(missing), store, "says that objects exist which do not")
        _expect(_raises(ObjectNotFound, store.get, missing), store, "does not say which objects are missing")
        first = store.put_if_absent(key, b"1")
        refused = _raises(PreconditionFailed, store.put_if_absent, key, b"2")
        _expect(refused, store, "does not honour If-None-Match on PUT")
        second = store.put_if_match(key, b"3", first)
        refused = _raises(PreconditionFailed, store.put_if_match, key, b"4", first)
        _expect(refused, store, "does not honour If-Match on PUT")
        _expect(store.get_versioned(key) == (b"3", second), store, "does not return what was written last")
        listed = {item.key for item in store.list(key)}
        _expect(listed <= {key}, store, "lists objects that were not asked for")
        readable = None if public is None else _anonymous(public, key, missing)
    return PreflightReport(store.describe(), form, readable)


def _anonymous(public: HttpStore, key: str, missing: str) -> bool:
    try:
        data = public.get(key)
    except (AccessDenied, ObjectNotFound) as error:
        raise StorageError(
            f"Clients cannot read the repository: {error.message}",
            remedy="Give the bucket a policy that lets everybody do s3:GetObject and s3:ListBucket",
        ) from error
    _expect(data == b"3", public, "serves an old state of objects")
    try:
        public.get(missing)
    except ObjectNotFound:
        return True
    except AccessDenied as error:
        raise StorageError(
            f"{public.describe()} answers 403 instead of 404 for missing objects, which clients take for a failure",
            remedy="Let the bucket's policy allow everybody s3:ListBucket, too",
        ) from error
    raise StorageError(f"{public.describe()} serves objects that do not exist", remedy="Check its URL")


def _raises(error: type[StorageError], function: object, *arguments: object) -> bool:
    assert callable(function)
    try:
        function(*arguments)
    except error:
        return True
    return False


def _expect(fact: bool, store: ObjectStore, otherwise: str) -> None:
    if not fact:
        raise StorageError(
            f"{store.describe()} {otherwise}",
            remedy="It cannot hold a repository that is published concurrently",
        )
