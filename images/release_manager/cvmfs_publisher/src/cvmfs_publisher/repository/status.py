# SPDX-License-Identifier: GPL-3.0-or-later
"""The status file, ``.cvmfs_status.json``: when what was done last; for monitoring, and for what is done now and then.

Its times are as date(1) prints them, e.g. ``Mon Nov 23 15:58:09 UTC 2026`` (CernVM-FS's ``update_repo_status``).
"""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..errors import ObjectNotFound

if TYPE_CHECKING:
    from ..storage import ObjectStore

STATUS_KEY = ".cvmfs_status.json"
_FORMAT = "%a %b %d %H:%M:%S UTC %Y"


def last_time(store: ObjectStore, what: str) -> float | None:
    """Return when something was done last, in seconds since 1970; None when that is not known.

    :param what: its field, e.g. ``last_gc``
    """
    with contextlib.suppress(ValueError):
        return datetime.strptime(str(_read(store).get(what, "")), _FORMAT).replace(tzinfo=UTC).timestamp()
    return None


def last_outcome(store: ObjectStore, what: str) -> str:
    """Return the value of another field, e.g. ``check_status``; empty when there is none."""
    return str(_read(store).get(what, ""))


def note_time(store: ObjectStore, what: str, **others: str) -> None:
    """Note that something was done now.

    :param others: fields that go with it
    :raises StorageError: when the store does not take it
    """
    now = datetime.fromtimestamp(store.now(), UTC)
    store.put(STATUS_KEY, json.dumps({**_read(store), **others, what: now.strftime(_FORMAT)}, indent=1).encode())


def _read(store: ObjectStore) -> dict[str, object]:
    try:
        document = json.loads(store.get(STATUS_KEY))
    except (ObjectNotFound, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
