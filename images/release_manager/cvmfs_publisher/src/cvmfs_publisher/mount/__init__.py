# SPDX-License-Identifier: GPL-3.0-or-later
"""A revision as a read-only file system, by FUSE."""

from .cache import ObjectCache
from .daemon import mounted, serve, start, wait_for_end
from .device import is_mounted, unmount
from .view import RevisionView

__all__ = [
    "ObjectCache",
    "RevisionView",
    "is_mounted",
    "mounted",
    "serve",
    "start",
    "unmount",
    "wait_for_end",
]
