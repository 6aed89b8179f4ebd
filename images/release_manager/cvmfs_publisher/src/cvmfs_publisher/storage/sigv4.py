# SPDX-License-Identifier: GPL-3.0-or-later
"""AWS Signature Version 4 for S3, in request headers, or in the query where a request has to expire.

Source: Amazon S3 API Reference, "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)",
and "Using Query Parameters".
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


def uri_encode(text: str, safe: str = "") -> str:
    """Percent-encode everything but unreserved characters and `safe`, as signatures need it."""
    return quote(text, safe="-._~" + safe)


class Signer:
    """Signs requests with one pair of keys. Never prints them.

    :param region: the region that signatures are made for
    :param session_token: of temporary keys
    """

    def __init__(self, access_key: str, secret_key: str, region: str, session_token: str = "") -> None:
        self._session_token = session_token
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region
        self._day_key = ("", b"")

    def sign(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        payload_sha256: str,
        now: datetime,
    ) -> dict[str, str]:
        """Return `headers` and what has to be sent with them: date, payload hash and authorization.

        Without keys there is nothing to sign with, and requests are anonymous.

        :param path: percent-encoded
        :param query: percent-encoded, sorted by name, without the question mark
        :param headers: names in lower case; all are signed; ``host`` must be there
        :param payload_sha256: in hexadecimal
        :param now: in UTC
        """
        if not self._access_key:
            return {**headers}
        time = now.strftime("%Y%m%dT%H%M%SZ")
        token = {"x-amz-security-token": self._session_token} if self._session_token else {}
        signed = {**headers, **token, "x-amz-content-sha256": payload_sha256, "x-amz-date": time}
        names = sorted(signed)
        name_list = ";".join(names)
        lines = "".join(f"{name}:{signed[name]}\n" for name in names)
        request = f"{method}\n{path}\n{query}\n{lines}\n{name_list}\n{payload_sha256}"
        day = time[:8]
        scope = f"{day}/{self._region}/s3/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}"
        signature = hmac.digest(self._key(day), text.encode(), "sha256").hex()
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._access_key}/{scope},SignedHeaders={name_list},Signature={signature}"
        )
        return signed

    def presign(self, method: str, path: str, query: Mapping[str, str], host: str, now: datetime, seconds: int) -> str:
        """Return the query of a request that the server refuses from `now` + `seconds` on, by its own clock.

        :param path: percent-encoded
        :param query: the request's own parameters, as they are
        :param now: in UTC
        :param seconds: at least 1
        """
        time = now.strftime("%Y%m%dT%H%M%SZ")
        scope = f"{time[:8]}/{self._region}/s3/aws4_request"
        parameters = {
            **query,
            **({"X-Amz-Security-Token": self._session_token} if self._session_token else {}),
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{self._access_key}/{scope}",
            "X-Amz-Date": time,
            "X-Amz-Expires": str(seconds),
            "X-Amz-SignedHeaders": "host",
        }
        if self._session_token:
            parameters["X-Amz-Security-Token"] = self._session_token
        encoded = "&".join(f"{uri_encode(name)}={uri_encode(value)}" for name, value in sorted(parameters.items()))
        request = f"{method}\n{path}\n{encoded}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
        text = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._key(time[:8]), text.encode(), "sha256").hex()
        return f"{encoded}&X-Amz-Signature={signature}"

    def _key(self, day: str) -> bytes:
        cached_day, key = self._day_key
        if cached_day != day:
            key = b"AWS4" + self._secret_key.encode()
            for part in (day, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._day_key = (day, key)
        return key
