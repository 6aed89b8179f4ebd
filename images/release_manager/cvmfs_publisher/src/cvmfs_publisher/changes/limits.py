# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes of catalogs and files beyond which CernVM-FS does not work well."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SourceError
from ..paths import ROOT, display

_MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The settings ``CVMFS_…_LIMIT`` of CernVM-FS, with its defaults; 0 is no limit.

    :param root_kcatalog: thousands of entries in the root catalog
    :param nested_kcatalog: thousands of entries in any other catalog
    :param file_mbyte: size of a file in megabytes; what is beyond a whole number of them does not count
    :param enforced: what exceeds a limit is not published; else there is a warning
    """

    root_kcatalog: int = 200
    nested_kcatalog: int = 500
    file_mbyte: int = 1024
    enforced: bool = False

    def check_file(self, path: bytes, size: int) -> str | None:
        """Return a warning if a file is too large.

        :param size: in bytes
        :raises SourceError: instead, when limits are enforced
        """
        if not self.file_mbyte or size // _MEGABYTE <= self.file_mbyte:
            return None
        return self._exceeded(
            f"/{display(path)} has {size // _MEGABYTE} megabytes; CVMFS_FILE_MBYTE_LIMIT is {self.file_mbyte}",
            "Split or leave out the file, or raise the limit",
        )

    def check_catalog(self, path: bytes, entries: int) -> str | None:
        """Return a warning if the catalog of the directory `path` is too large.

        :raises SourceError: instead, when limits are enforced
        """
        kind, limit = ("ROOT", self.root_kcatalog) if path == ROOT else ("NESTED", self.nested_kcatalog)
        if not limit or entries <= limit * 1000:
            return None
        return self._exceeded(
            f"The catalog of /{display(path)} has {entries} entries; CVMFS_{kind}_KCATALOG_LIMIT is {limit} thousand",
            "Divide it by nested catalogs, by hand, .cvmfsdirtab or CVMFS_AUTOCATALOGS=true, or raise the limit",
        )

    def _exceeded(self, message: str, remedy: str) -> str:
        error = SourceError(message, remedy=remedy)
        if self.enforced:
            raise error
        return str(error)
