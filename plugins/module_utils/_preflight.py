# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Proves by trying what publishing relies on, and measures how fast it is. Private to the collection.

All probes write objects of their own, and remove them again.
"""

from __future__ import annotations

import contextlib
import http.client
import queue
import re
import statistics
import threading
import time
import urllib.parse
import uuid

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._http import HttpError, connect, status_of
from ansible_collections.cvmfs.publishing.plugins.module_utils._s3 import PROBE_PREFIX, s3_errors

with contextlib.suppress(ImportError):  # Bucket says so
    from botocore.exceptions import BotoCoreError, ClientError

_CONDITIONAL = (
    "Concurrent publishers would lose updates there. Use a service with conditional writes, such as Ceph RGW."
)
_SIZE = 4096  # bytes of a probe object: most objects of a repository are as small
_ONE_SEGMENT = 512  # bytes of an object that goes into one TCP segment with its header: longer ones are not delayed
_PUTS = 256
_PUT_CONNECTIONS = 16
_PUT_SECONDS = 3  # a slow service need not take all of them
_GETS = 25
_NEW_CONNECTIONS = 5
# A delayed acknowledgement takes 40 ms, and only connections that are kept alive wait for it.
_DELAYED_ACK = 0.025

_NODELAY = (
    "A GET takes {kept:.0f} ms on a connection that is kept alive, and {new:.0f} ms on a new one. That is what Ceph RGW"
    " does without tcp_nodelay=1: clients whose caches are cold will read some 20 files a second. Add it to the"
    ' gateway\'s setting rgw_frontends, as in "beast port=80 tcp_nodelay=1", and restart the gateway.'
)


class Preflight:
    """Probes of one bucket, below a prefix of its keys, with some credentials, and without any."""

    def __init__(self, bucket, *, prefix="", public_read=True):
        self.name = bucket.name
        self.endpoint = bucket.endpoint
        self._bucket = bucket
        self._client = bucket.client
        self._public_read = public_read
        self._prefix = f"{prefix.strip('/')}/" if prefix else ""
        self._key = f"{self._prefix}{PROBE_PREFIX}{uuid.uuid4().hex}"

    @s3_errors("probe bucket {0.name}")
    def prove(self):
        """Prove conditional writes, and that the right people can read. PublishingError where one of them fails.

        Returns the form in which the endpoint wants the ETag of ``If-Match``: ``quoted``, as clients send it, or
        ``unquoted``.
        """
        key = self._key
        try:
            etag = self._put(key, b"1", {"If-None-Match": "*"})
            self._expect_refused(key, {"If-None-Match": "*"}, "If-None-Match: *", "overwrites an object that exists")
            form = self._etag_form(key, etag)
            self._check_anonymous(key)
            return form
        finally:
            with contextlib.suppress(ClientError, BotoCoreError):
                self._client.delete_object(Bucket=self.name, Key=key)

    def _etag_form(self, key, etag):
        for form, value in (("quoted", etag), ("unquoted", etag.strip('"'))):
            try:
                self._put(key, b"2", {"If-Match": value})
            except ClientError as error:
                if not _is_refusal(error):
                    raise
                continue
            # Accepted: but was the condition looked at? The ETag has changed, so the same condition must fail now.
            self._expect_refused(key, {"If-Match": value}, "If-Match", "overwrites an object that has changed")
            return form
        raise PublishingError(
            f"The endpoint {self.endpoint} refuses If-Match on PUT with the right ETag, quoted or not",
            remedy=_CONDITIONAL,
        )

    def _expect_refused(self, key, headers, condition, consequence):
        try:
            self._put(key, b"3", headers)
        except ClientError as error:
            if _is_refusal(error):
                return
            raise
        raise PublishingError(
            f"The endpoint {self.endpoint} ignores {condition} on PUT and {consequence} in bucket {self.name}",
            remedy=_CONDITIONAL,
        )

    def _put(self, key, body, headers):
        # Headers are added by an event because older boto3 releases have no parameters for them.
        def add_headers(request, **dummy):
            for name, value in headers.items():
                request.headers[name] = value

        events = self._client.meta.events
        events.register("before-sign.s3.PutObject", add_headers)
        try:
            return self._client.put_object(Bucket=self.name, Key=key, Body=body)["ETag"]
        finally:
            events.unregister("before-sign.s3.PutObject", add_headers)

    def _check_anonymous(self, key):
        facts = {
            "GET of an object": (self._anonymous("GET", key), 200 if self._public_read else 403),
            "GET of an object that does not exist": (
                self._anonymous("GET", key + "-missing"),
                404 if self._public_read else 403,
            ),
            "PUT": (self._anonymous("PUT", key), 403),
        }
        for what, (status, expected) in facts.items():
            if status != expected and not (expected == 403 and status == 401):
                raise PublishingError(
                    f"An anonymous {what} in bucket {self.name} at {self.endpoint} answers {status}, not {expected}",
                    remedy="Does the service enforce bucket policies, and does another policy interfere?",
                )

    def _anonymous(self, method, key):
        """Return the status that somebody without credentials gets. HttpError."""
        return status_of(method, self._url(key), body=b"4" if method == "PUT" else None, **self._bucket.tls)

    def _url(self, key):
        return f"{self._bucket.url}/{key}"

    def _presigned(self, operation, key):
        return self._client.generate_presigned_url(operation, Params={"Bucket": self.name, "Key": key})

    @s3_errors("probe what the credentials may do with bucket {0.name}")
    def is_confined(self):
        """Whether the credentials are good for nothing but writing below the prefix.

        They must not be able to create buckets, to change the bucket's policy, or to write beside the prefix.
        """
        other_bucket = f"cvmfs-preflight-{uuid.uuid4().hex}"
        other_key = f"{PROBE_PREFIX}{uuid.uuid4().hex}"
        # This is no JSON document, so it is refused in any case, to those who may change policies for what it is. (RGW
        # takes an empty document for an empty policy.)
        may_change_policy = self._may(self._client.put_bucket_policy, Bucket=self.name, Policy="{")
        may_create = self._may(self._client.create_bucket, Bucket=other_bucket)
        if may_create:
            self._client.delete_bucket(Bucket=other_bucket)
        may_write = bool(self._prefix) and self._may(self._client.put_object, Bucket=self.name, Key=other_key, Body=b"")
        if may_write:
            self._client.delete_object(Bucket=self.name, Key=other_key)
        return not (may_change_policy or may_create or may_write)

    @staticmethod
    def _may(call, **arguments):
        try:
            call(**arguments)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 403:
                return False
            if error.response["Error"]["Code"] in ("MalformedPolicy", "InvalidArgument", "InvalidPolicyDocument"):
                return True
            raise
        return True

    @s3_errors("measure bucket {0.name}")
    def put_rate(self):
        """Return how many small objects the service takes in a second, on many connections."""
        keys = [f"{self._key}-{number}" for number in range(_PUTS)]
        waiting = queue.SimpleQueue()
        for key in keys:
            waiting.put(self._presigned("put_object", key))
        done, problems = [], []

        def work():
            try:
                done.append(self._put_all(waiting, time.perf_counter() + _PUT_SECONDS))
            except PublishingError as error:
                problems.append(error)

        threads = [threading.Thread(target=work) for _number in range(_PUT_CONNECTIONS)]
        begin = time.perf_counter()
        try:
            for thread in threads:
                thread.start()
        finally:
            for thread in threads:
                thread.join()
            elapsed = time.perf_counter() - begin
            self._client.delete_objects(
                Bucket=self.name, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
        if problems:
            raise problems[0]
        return sum(done) / elapsed

    def _put_all(self, waiting, deadline):
        body = bytes(_SIZE)
        count = 0
        with contextlib.closing(connect(self._bucket.url, **self._bucket.tls)) as connection:
            while time.perf_counter() < deadline:
                try:
                    url = waiting.get_nowait()
                except queue.Empty:
                    break
                _request(connection, "PUT", url, body)
                count += 1
        return count

    @s3_errors("measure bucket {0.name}")
    def get_latencies(self):
        """Return how many seconds small GETs took, on a connection that is kept alive and on new ones."""
        url = self._url(self._key) if self._public_read else self._presigned("get_object", self._key)
        self._client.put_object(Bucket=self.name, Key=self._key, Body=bytes(_ONE_SEGMENT))
        try:
            new = []
            for _number in range(_NEW_CONNECTIONS):
                begin = time.perf_counter()
                with contextlib.closing(connect(url, **self._bucket.tls)) as connection:
                    _request(connection, "GET", url)
                    new.append(time.perf_counter() - begin)
            kept = []
            with contextlib.closing(connect(url, **self._bucket.tls)) as connection:
                _request(connection, "GET", url)
                for _number in range(_GETS):
                    begin = time.perf_counter()
                    _request(connection, "GET", url)
                    kept.append(time.perf_counter() - begin)
        finally:
            self._client.delete_object(Bucket=self.name, Key=self._key)
        return kept, new


def nodelay_advice(kept, new):
    """Return what to change, given all latencies on kept-alive and on new connections: a list, mostly empty.

    A busy machine makes some of them longer, but nothing makes one shorter than the delay of an acknowledgement.
    """
    delayed, possible = statistics.quantiles(kept, n=4)[0], min(new)
    if delayed - possible < _DELAYED_ACK:
        return []
    return [_NODELAY.format(kept=1000 * delayed, new=1000 * possible)]


def _request(connection, method, url, body=None):
    parts = urllib.parse.urlsplit(url)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    where = f"{parts.scheme}://{parts.netloc}{parts.path}"  # a query would have the signature
    try:
        connection.request(method, target, body=body)
        response = connection.getresponse()
        reason = re.search(rb"<Code>(\w+)</Code>", response.read())
    except (OSError, http.client.HTTPException) as error:
        raise HttpError(f"{method} {where} gets no answer: {error or type(error).__name__}") from None
    if response.status != 200:
        what = reason[1].decode() if reason else response.reason
        raise HttpError(f"{method} {where} answers {response.status} {what}", status=response.status)


def _is_refusal(error):
    return error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412)
