# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of S3 storage, from CernVM-FS's ``s3.conf``.

Source of the names: CernVM-FS documentation, "S3 Compatible Storage Systems".
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..assignments import is_on, parse_assignments
from ..errors import ConfigurationError
from .retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

_Default = TypeVar("_Default", int, None)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_ACLS = (
    "private",
    "public-read",
    "public-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
    "",
)


@dataclass(frozen=True, slots=True)
class S3Config:
    """Where a bucket is, and how to talk to it.

    :param host: name or address of the endpoint, without the bucket's name
    :param port: None is the scheme's own
    :param access_key: with `secret_key`, signs requests; both empty: requests are anonymous
    :param session_token: goes with temporary keys
    :param prefix: what all keys of the repository start with, without the slash; may be empty
    :param region: what signatures are made for; Ceph takes any
    :param dns_buckets: the bucket is part of the host name, not of the path
    :param proxy: URL of an HTTP proxy
    :param timeout: seconds without progress after which an attempt is given up
    :param parallel: number of simultaneous connections
    :param acl: the ``x-amz-acl`` of objects; empty sends none
    :param peek: look whether a content-addressed object is there before writing it
    :param ca_bundle: file of additional certificate authorities
    :param ca_path: directory of additional certificate authorities
    """

    host: str
    bucket: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    prefix: str = ""
    port: int | None = None
    https: bool = False
    region: str = "us-east-1"
    dns_buckets: bool = True
    proxy: str | None = None
    timeout: float = 60
    parallel: int = 16
    acl: str = "public-read"
    peek: bool = False
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    ca_bundle: str | None = None
    ca_path: str | None = None

    @property
    def endpoint(self) -> str:
        """The URL of the endpoint, for messages."""
        port = f":{self.port}" if self.port is not None else ""
        return f"{'https' if self.https else 'http'}://{self.host}{port}"

    @classmethod
    def from_file(cls, path: str | Path, prefix: str = "", environment: Mapping[str, str] | None = None) -> S3Config:
        """Read an ``s3.conf``.

        :param prefix: the repository's place in the bucket; also what ``@fqrn@`` in values stands for
        :param environment: as for `parse`
        :raises ConfigurationError: naming file and setting
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigurationError(
                f"Cannot read the S3 settings in {path}: {reason}",
                remedy="Check the path in CVMFS_UPSTREAM_STORAGE, and that the secret with s3.conf is there",
            ) from None
        return cls.parse(text, prefix, source=str(path), environment=environment)

    @classmethod
    def parse(
        cls,
        text: str,
        prefix: str = "",
        *,
        source: str = "s3.conf",
        environment: Mapping[str, str] | None = None,
    ) -> S3Config:
        """Return the settings in `text`, which are lines ``NAME=value`` as a shell reads them.

        Every documented ``CVMFS_S3_*`` setting is honoured, or refused by name. ``X509_CERT_BUNDLE`` and
        ``X509_CERT_DIR`` are taken from the file or from the environment, as CernVM-FS does.

        - ``CVMFS_S3_MAX_RETRIES``: attempts are repeated at least that often, and for five minutes in any case;
          0 never repeats any.
        - ``CVMFS_S3_BACKOFF_INIT``, ``CVMFS_S3_BACKOFF_MAX``: milliseconds that the first, and any, wait between
          two attempts takes at most; 100 and 10000 by default.
        - ``CVMFS_S3_PEEK_BEFORE_PUT`` is off by default: what the current revision has is known without asking.
        - ``CVMFS_S3_BATCH_DELETE``, ``CVMFS_S3_BATCH_DELETE_SIZE`` (2.14): without effect, as many objects are deleted
          at once as the endpoint takes.
        - ``CVMFS_S3_ACCESS_KEY``, ``CVMFS_S3_SECRET_KEY``: both set to nothing for requests without signatures.
        - Switches are true or false; ``no`` for ``CVMFS_S3_DNS_BUCKETS`` is no, other than for CernVM-FS.
        - ``CVMFS_S3_SESSION_TOKEN``, which CernVM-FS does not know: the token that comes with temporary keys.
        - ``CVMFS_S3_FLAVOR``: ``awsv4``, whether or not there is a region; ``awsv2`` and ``azure`` are refused.

        :raises ConfigurationError: naming `source` and the setting; never a value of a key
        """
        name = prefix.rpartition("/")[2]
        assignments = {key: value.replace("@fqrn@", name) for key, value in parse_assignments(text, source).items()}
        values = _Values(assignments, source)
        environment = os.environ if environment is None else environment
        port = values.number("CVMFS_S3_PORT", None, 1, 65535)
        initial = values.number("CVMFS_S3_BACKOFF_INIT", 100, 1, 3_600_000)
        maximum = values.number("CVMFS_S3_BACKOFF_MAX", 10_000, 1, 3_600_000)
        flavor = values.take("CVMFS_S3_FLAVOR") or "awsv4"
        if flavor != "awsv4":
            raise values.bad("CVMFS_S3_FLAVOR", flavor, "is not supported", "Use awsv4, which Ceph accepts, too")
        acl = values.take("CVMFS_S3_X_AMZ_ACL", "public-read")
        if acl not in _ACLS:
            raise values.bad("CVMFS_S3_X_AMZ_ACL", acl, "is no canned ACL", f"Use one of {', '.join(_ACLS)}")
        host = values.required("CVMFS_S3_HOST")
        if not _HOST.fullmatch(host):
            raise values.bad(
                "CVMFS_S3_HOST",
                host,
                "is not a host name",
                "Leave out http://, and set CVMFS_S3_PORT and _USE_HTTPS",
            )
        bucket = values.required("CVMFS_S3_BUCKET")
        if not _BUCKET.fullmatch(bucket):
            raise values.bad("CVMFS_S3_BUCKET", bucket, "cannot be a bucket's name", "Use letters, digits, . and -")
        proxy = values.take("CVMFS_S3_PROXY") or None
        if proxy is not None and not re.fullmatch(r"http://[^/@]+/?", proxy):
            raise values.bad("CVMFS_S3_PROXY", proxy, "is not an HTTP proxy", "Write it as http://host:port")
        access_key, secret_key = values.present("CVMFS_S3_ACCESS_KEY"), values.present("CVMFS_S3_SECRET_KEY")
        session_token = values.take("CVMFS_S3_SESSION_TOKEN")
        if bool(access_key) != bool(secret_key) or (session_token and not access_key):
            raise ConfigurationError(
                f"{source} sets some of CVMFS_S3_ACCESS_KEY, CVMFS_S3_SECRET_KEY and CVMFS_S3_SESSION_TOKEN to nothing",
                remedy="Set both keys, or none of the three",
            )
        retries = values.number("CVMFS_S3_MAX_RETRIES", None, 0, 1_000_000)
        config = cls(
            host=host,
            bucket=bucket,
            access_key=access_key,
            secret_key=secret_key,
            session_token=session_token,
            prefix=prefix.strip("/"),
            port=port,
            https=values.switch("CVMFS_S3_USE_HTTPS", default=False),
            region=values.take("CVMFS_S3_REGION") or "us-east-1",
            dns_buckets=values.switch("CVMFS_S3_DNS_BUCKETS", default=True),
            proxy=proxy,
            timeout=values.number("CVMFS_S3_TIMEOUT", 60, 1, 86_400),
            parallel=values.number("CVMFS_S3_MAX_NUMBER_OF_PARALLEL_CONNECTIONS", 16, 1, 1024),
            acl=acl,
            peek=values.switch("CVMFS_S3_PEEK_BEFORE_PUT", default=False),
            retry=RetryPolicy.from_settings(retries, initial / 1000, maximum / 1000),
            ca_bundle=values.take("X509_CERT_BUNDLE") or environment.get("X509_CERT_BUNDLE") or None,
            ca_path=values.take("X509_CERT_DIR") or environment.get("X509_CERT_DIR") or None,
        )
        for name in ("CVMFS_S3_BATCH_DELETE", "CVMFS_S3_BATCH_DELETE_SIZE"):
            values.take(name)
        values.refuse_rest()
        return config


class _Values:
    """The settings of a file, taken out one by one, so that what nobody knows is left over."""

    def __init__(self, values: dict[str, str], source: str) -> None:
        self._values = values
        self._source = source

    def take(self, name: str, default: str = "") -> str:
        return self._values.pop(name, default)

    def required(self, name: str) -> str:
        value = self.take(name)
        if not value:
            raise ConfigurationError(f"{self._source} does not set {name}", remedy="Add it")
        return value

    def present(self, name: str) -> str:
        """Return a value that may be empty, but has to be there."""
        value = self._values.pop(name, None)
        if value is None:
            raise ConfigurationError(f"{self._source} does not set {name}", remedy="Add it")
        return value

    def number(self, name: str, default: _Default, lowest: int, highest: int) -> int | _Default:
        text = self._values.pop(name, None)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and lowest <= int(text) <= highest):
            raise self.bad(name, text, "is not such a number", f"Use {lowest} to {highest}")
        return int(text)

    def switch(self, name: str, *, default: bool) -> bool:
        text = self.take(name)
        value = is_on(text) if text else default
        if value is None:
            raise self.bad(name, text, "is neither true nor false", "Write true or false")
        return value

    def bad(self, name: str, value: str, reason: str, remedy: str) -> ConfigurationError:
        shown = re.sub(r"(//)?[^/]*@", r"\1…@", value)  # URLs may have a password in them
        return ConfigurationError(f"{name}={shown} in {self._source} {reason}", remedy=remedy)

    def refuse_rest(self) -> None:
        unknown = sorted(name for name in self._values if name.startswith("CVMFS_S3_"))
        if unknown:
            raise ConfigurationError(
                f"{self._source} sets {', '.join(unknown)}, which this publisher does not know",
                remedy="Remove it, or correct its name",
            )
