# SPDX-License-Identifier: GPL-3.0-or-later
"""Object stores that hold repositories: S3, a local directory, and HTTP for reading."""

from .cancellation import Cancellation
from .local import LocalStore
from .store import Bytes, ObjectInfo, ObjectStore, Version

__all__ = ["Bytes", "Cancellation", "LocalStore", "ObjectInfo", "ObjectStore", "Version"]
