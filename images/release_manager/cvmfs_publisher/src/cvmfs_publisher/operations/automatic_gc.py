# SPDX-License-Identifier: GPL-3.0-or-later
"""Garbage collection after a publish, with ``CVMFS_AUTO_GC``. It is not loaded without, as that takes time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..repository import ServerConfig
from ..repository.status import last_time
from .dates import point_in_time
from .environment import Environment

if TYPE_CHECKING:
    from .gc import GcOptions


def automatic(settings: ServerConfig) -> GcOptions | None:
    """Return what a publish that is due to collect garbage collects; None when it shall not.

    :raises ConfigurationError: when ``CVMFS_AUTO_GC_TIMESPAN`` or ``CVMFS_AUTO_GC_LAPSE`` are no times
    """
    if not settings.flag("CVMFS_AUTO_GC", default=False):
        return None
    from .gc import GcOptions

    _deadline(settings)
    span = settings.get("CVMFS_AUTO_GC_TIMESPAN") or "3 days ago"
    return GcOptions(newer_than=point_in_time(span, "CVMFS_AUTO_GC_TIMESPAN"))


def collect_if_due(environment: Environment, name: str, options: GcOptions | None) -> list[str]:
    """Collect garbage after a publish, if the last collection is long enough ago.

    :param options: from `automatic`
    :returns: warnings: the revision is published, whatever comes of this
    """
    if options is None:
        return []
    from .gc import LAST_GC, collect

    try:
        settings = environment.settings(name)
        with environment.open(name, settings) as repository:
            last = last_time(repository.store, LAST_GC)
            if not repository.manifest.garbage_collectable or (last is not None and last >= _deadline(settings)):
                return []
        return collect(environment, name, options).warnings
    except Exception as error:  # of any kind: the publish did not fail
        return [f"The automatic garbage collection failed: {error}"]


def _deadline(settings: ServerConfig) -> int:
    return point_in_time(settings.get("CVMFS_AUTO_GC_LAPSE") or "1 day ago", "CVMFS_AUTO_GC_LAPSE")
