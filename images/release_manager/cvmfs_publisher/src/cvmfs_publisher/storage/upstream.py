# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens the storage that ``CVMFS_UPSTREAM_STORAGE`` names.

Source of the form: CernVM-FS documentation, "Format of CVMFS_UPSTREAM_STORAGE".
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from .local import LocalStore
from .s3 import S3Store
from .s3_config import S3Config

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .store import ObjectStore


def open_store(
    upstream: str,
    notify: Callable[[str], None] | None = None,
    *,
    authorities: Mapping[str, str] | None = None,
) -> ObjectStore:
    """Return the store.

    :param upstream: ``S3,<temporary directory>,<prefix>@<s3.conf>`` or ``local,<temporary directory>,<directory>``
    :param notify: gets a line of text when requests have to be repeated, now and then
    :param authorities: ``X509_CERT_BUNDLE`` and ``X509_CERT_DIR`` where ``s3.conf`` has none; by default those of the
        process's environment
    :raises ConfigurationError: when it is of another form, or when its ``s3.conf`` is not in order
    """
    match upstream.split(","):
        case ["local", temporary, directory] if temporary and directory:
            return LocalStore(directory, temporary)
        case ["S3" | "s3", _, location] if location.count("@") == 1:
            prefix, path = location.split("@")
            return open_bucket(path, prefix, notify, authorities=authorities)
        case ["gw", *_]:
            raise ConfigurationError(
                f"CVMFS_UPSTREAM_STORAGE={upstream} is a repository gateway, which this publisher cannot use",
                remedy="Publish to the S3 or local storage behind it, while the gateway is stopped",
            )
    raise ConfigurationError(
        f"CVMFS_UPSTREAM_STORAGE={upstream} is not of a known form",
        remedy="Write it as S3,<temporary directory>,<repository>@<s3.conf> or local,<temporary directory>,<directory>",
    )


def open_bucket(
    path: str,
    prefix: str,
    notify: Callable[[str], None] | None = None,
    *,
    authorities: Mapping[str, str] | None = None,
) -> S3Store:
    """Return what a bucket has below a prefix.

    :param path: the ``s3.conf``, which is read again when its credentials are refused
    :param notify: as for `open_store`, and so is the rest
    :raises ConfigurationError: when the ``s3.conf`` is not in order
    """
    reread = functools.partial(S3Config.from_file, path, prefix, authorities)
    return S3Store(reread(), notify, reread)
