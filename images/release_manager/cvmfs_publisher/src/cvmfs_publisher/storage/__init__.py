# SPDX-License-Identifier: GPL-3.0-or-later
"""Object stores that hold repositories: S3, a local directory, and HTTP for reading."""

from .cancellation import Cancellation
from .http import HttpStore
from .local import LocalStore
from .preflight import PreflightReport, preflight
from .s3 import S3Store
from .s3_config import S3Config
from .store import Bytes, ObjectInfo, ObjectStore, Permit, Traffic, Version
from .upstream import open_bucket, open_store

__all__ = [
    "Bytes",
    "Cancellation",
    "HttpStore",
    "LocalStore",
    "ObjectInfo",
    "ObjectStore",
    "Permit",
    "PreflightReport",
    "S3Config",
    "S3Store",
    "Traffic",
    "Version",
    "open_bucket",
    "open_store",
    "preflight",
]
