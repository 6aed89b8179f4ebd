# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository's configuration: ``server.conf`` and ``client.conf`` as ``cvmfs_server`` writes them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..assignments import is_on, parse_assignments
from ..content import Compression, HashAlgorithm
from ..errors import ConfigurationError, UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}", re.ASCII)


def is_valid_repository_name(name: str) -> bool:
    """Say whether CernVM-FS allows a name: at most 60 letters, digits, ``_``, ``.`` and ``-``, the first no sign."""
    return _NAME.fullmatch(name) is not None


def check_repository_name(name: str) -> str:
    """Return `name` if CernVM-FS allows it.

    :raises UsageError: otherwise
    """
    if not is_valid_repository_name(name):
        raise UsageError(
            f"{name!r} is not a repository name",
            remedy="Use at most 60 letters, digits, '_', '.' and '-', beginning with a letter or digit",
        )
    return name


class ServerConfig(Mapping[str, str]):
    """Settings by their ``CVMFS_…`` names, in the order of their files. Unknown ones are kept.

    :param values: the settings
    :param origin: where they are from, for messages
    """

    def __init__(self, values: Mapping[str, str], origin: str = "the configuration") -> None:
        self._values = dict(values)
        self.origin = origin

    @classmethod
    def load(cls, *files: Path) -> ServerConfig:
        """Read configuration files; a later one overrides the earlier.

        :raises ConfigurationError: when a file cannot be read, or has a line that is no assignment
        """
        values: dict[str, str] = {}
        for file in files:
            try:
                text = file.read_text("utf-8", "surrogateescape")
            except FileNotFoundError:
                raise ConfigurationError(
                    f"There is no {file}", remedy="Create the repository, or provide its configuration"
                ) from None
            except OSError as error:
                raise ConfigurationError(
                    f"Cannot read {file}: {error.strerror}", remedy="Let the publisher's user read it"
                ) from None
            values |= parse_assignments(text, str(file))
        return cls(values, " and ".join(map(str, files)))

    def __getitem__(self, key: str) -> str:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def require(self, key: str) -> str:
        """Return a setting.

        :raises ConfigurationError: when it is missing or empty
        """
        value = self._values.get(key)
        if not value:
            raise ConfigurationError(f"{key} is not set in {self.origin}", remedy="Set it")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return a setting that is true or false.

        :raises ConfigurationError: when it is neither
        """
        text = self._values.get(key, "")
        value = is_on(text) if text else default
        if value is None:
            raise ConfigurationError(
                f"{key}={text} in {self.origin} is neither true nor false", remedy="Write true or false"
            )
        return value

    def number(self, key: str, default: int) -> int:
        """Return a setting that is a number.

        :raises ConfigurationError: when it is none
        """
        text = self._values.get(key, "")
        if not text:
            return default
        if not text.isascii() or not text.isdigit():
            raise ConfigurationError(f"{key}={text} in {self.origin} is no number", remedy="Write digits only")
        return int(text)

    @property
    def repository(self) -> str:
        """Fully qualified name."""
        return check_repository_name(self.require("CVMFS_REPOSITORY_NAME"))

    @property
    def hash_algorithm(self) -> HashAlgorithm:
        return HashAlgorithm.from_setting(self._values.get("CVMFS_HASH_ALGORITHM") or "sha1")

    @property
    def compression(self) -> Compression:
        return Compression.from_setting(self._values.get("CVMFS_COMPRESSION_ALGORITHM") or "default")

    def render(self) -> str:
        """Return the text of a configuration file."""
        return "".join(f"{key}={shlex.quote(value)}\n" for key, value in self._values.items())
