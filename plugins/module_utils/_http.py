# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Anonymous HTTP reads over a connection that is kept alive. Private to the collection.

A repository has tens of thousands of small objects. A connection, a redirect handler and an ``Authorization`` look-up
for each of them, which is what ``open_url`` costs, would take minutes where this takes seconds.
"""

from __future__ import annotations

import http.client
import random
import ssl
import time
import urllib.parse

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError

_TRIES = 5
_UNREACHABLE = "Is the server up, and the URL right?"
_FIRST_DELAY = 0.2  # seconds; doubles with each try


class HttpError(PublishingError):
    """The server did not give what was asked for. `status` is None where there was no answer."""

    def __init__(self, message, *, status=None, remedy=None):
        super().__init__(message, remedy=remedy)
        self.status = status


class ObjectMissing(HttpError):
    """The server says that there is no such object."""


class HttpReader:
    """Objects below a URL. Not thread-safe: a connection each. `retries` counts requests that were repeated."""

    def __init__(self, url, *, timeout=30, ca_path=None, validate_certs=True):
        parts = _split(url)
        self.url = url.rstrip("/")
        self.retries = 0
        self._path = parts.path
        self._connection = _connection(parts, timeout, ca_path, validate_certs)

    def get(self, key):
        """Return the object `key`. ObjectMissing, HttpError."""
        for attempt in range(1, _TRIES + 1):
            try:
                return self._get(key)
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                problem = HttpError(
                    f"{self.url}/{key} cannot be read: {error or type(error).__name__}",
                    remedy=_UNREACHABLE,
                )
            except HttpError as error:
                problem = error
                if error.status < 500:
                    raise
            if attempt < _TRIES:
                self.retries += 1
                time.sleep(_FIRST_DELAY * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311 (spreads retries, no secret)
        raise problem

    def _get(self, key):
        self._connection.request("GET", f"{self._path}/{urllib.parse.quote(key)}")
        response = self._connection.getresponse()
        data = response.read()
        if response.status == 200:
            return data
        url = f"{self.url}/{key}"
        if response.status == 404:
            raise ObjectMissing(f"{url} does not exist", status=404)
        remedy = "Is the bucket anonymously readable?" if response.status in (401, 403) else None
        raise HttpError(f"{url} answers {response.status} {response.reason}", status=response.status, remedy=remedy)

    def close(self):
        """Close the connection."""
        self._connection.close()


def status_of(method, url, *, body=None, timeout=30, ca_path=None, validate_certs=True):
    """Return the status with which a server answers one anonymous request. HttpError if it does not answer."""
    return answer_to(method, url, body=body, timeout=timeout, ca_path=ca_path, validate_certs=validate_certs)[0]


def answer_to(method, url, *, body=None, timeout=30, ca_path=None, validate_certs=True):
    """Return status and headers with which a server answers one anonymous request.

    HttpError if it does not answer.
    """
    parts = _split(url)
    connection = _connection(parts, timeout, ca_path, validate_certs)
    try:
        connection.request(method, urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, "")), body=body)
        response = connection.getresponse()
        return response.status, response.headers
    except (OSError, http.client.HTTPException) as error:
        raise HttpError(f"{url} does not answer: {error or type(error).__name__}", remedy=_UNREACHABLE) from None
    finally:
        connection.close()


def connect(url, *, timeout=30, ca_path=None, validate_certs=True):
    """Return a connection to the server of a URL, which opens with the first request. HttpError."""
    return _connection(_split(url), timeout, ca_path, validate_certs)


def _split(url):
    parts = urllib.parse.urlsplit(url.rstrip("/"))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise HttpError(f"{url} is no URL", remedy="It begins with http:// or https://.")
    return parts


def _connection(parts, timeout, ca_path, validate_certs):
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    context = ssl.create_default_context(cafile=ca_path)
    if not validate_certs:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=context)
