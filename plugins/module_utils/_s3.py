# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An S3 bucket as publishing needs it, through boto3. Private to the collection."""

from __future__ import annotations

import contextlib
import functools
import json
import uuid

from ansible.module_utils.basic import missing_required_lib

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._http import status_of

try:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
except ImportError:
    HAS_BOTO3 = False
else:
    HAS_BOTO3 = True

# Documented in doc_fragments/s3.py.
ARGUMENT_SPEC = {
    "endpoint": {"type": "str", "required": True},
    "access_key": {"type": "str", "required": True, "no_log": False},
    "secret_key": {"type": "str", "required": True, "no_log": True},
    "region": {"type": "str", "default": "us-east-1"},
    "dns_buckets": {"type": "bool", "default": False},
    "ca_path": {"type": "path"},
    "validate_certs": {"type": "bool", "default": True},
}

_PROBE_PREFIX = ".cvmfs-preflight-"
_CONDITIONAL = (
    "Concurrent publishers would lose updates there. Use a service with conditional writes, such as Ceph RGW."
)
_REMEDIES = {
    "InvalidAccessKeyId": "The service does not know this access key: correct it, or create the user.",
    "SignatureDoesNotMatch": "Correct the secret key, and the region if the service cares for it.",
    "AccessDenied": "Give this user the right to it, or use the bucket owner's keys.",
    "NoSuchBucket": "Correct the bucket's name, or create the bucket.",
    "BucketAlreadyExists": "It belongs to somebody else: choose another name.",
    "TooManyBuckets": "Raise the user's limit of buckets, or remove some.",
    "QuotaExceeded": "Raise the quota of the user or the bucket.",
    "InvalidBucketName": "3 to 63 lower case letters, digits, hyphens and dots make a name.",
    "InvalidLocationConstraint": "The service has no such placement target.",
}


def s3_errors(what):
    """Turn boto3's exceptions into sentences that name endpoint and bucket.

    `what` is a format string over the bucket.
    """

    def decorate(method):
        @functools.wraps(method)
        def wrapper(self, *args, **kwargs):
            doing = f"Cannot {what.format(self)} at {self.endpoint}"
            try:
                return method(self, *args, **kwargs)
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code", "")
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                remedy = _REMEDIES.get(code) or _REMEDIES.get(
                    {403: "AccessDenied", 404: "NoSuchBucket"}.get(status, "")
                )
                raise PublishingError(f"{doing}: {code or status}", remedy=remedy) from error
            except BotoCoreError as error:
                raise PublishingError(
                    f"{doing}: {error}", remedy="Is the service up, and the endpoint right?"
                ) from error

        return wrapper

    return decorate


class Bucket:
    """One bucket, with its owner's credentials, and without any."""

    def __init__(self, *, name, endpoint, access_key, secret_key, region, dns_buckets, ca_path, validate_certs):
        if not HAS_BOTO3:
            raise PublishingError(missing_required_lib("boto3"))
        self.name = name
        self.endpoint = endpoint.rstrip("/")
        self._dns_buckets = dns_buckets
        self._tls = {"ca_path": ca_path, "validate_certs": validate_certs}
        try:
            self._client = boto3.client(
                "s3",
                endpoint_url=self.endpoint,
                aws_access_key_id=access_key,
                aws_secret_access_key=secret_key,
                region_name=region,
                verify=ca_path or validate_certs,
                config=_config("virtual" if dns_buckets else "path"),
            )
        except ValueError as error:
            raise PublishingError(
                f"The endpoint {endpoint} is no URL: {error}", remedy="It begins with http:// or https://."
            ) from None

    @s3_errors("look at bucket {0.name}")
    def exists(self):
        """Whether the bucket is there, and ours to see."""
        try:
            self._client.head_bucket(Bucket=self.name)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status == 404:
                return False
            if status == 403:
                # The answer to a HEAD has no reason in it; that to this has.
                self._client.get_bucket_location(Bucket=self.name)
            raise
        return True

    @s3_errors("create bucket {0.name}")
    def create(self, *, placement):
        """Create the bucket, in a placement target if one is given."""
        options = {"CreateBucketConfiguration": {"LocationConstraint": placement}} if placement else {}
        self._client.create_bucket(Bucket=self.name, **options)

    @s3_errors("remove bucket {0.name}")
    def remove(self):
        """Remove the bucket, which must be empty."""
        self._client.delete_bucket(Bucket=self.name)

    @s3_errors("list bucket {0.name}")
    def is_empty(self):
        """Whether there is no object in it."""
        return not self._client.list_objects_v2(Bucket=self.name, MaxKeys=1).get("Contents")

    @s3_errors("remove the objects of bucket {0.name}")
    def empty(self):
        """Remove all objects, and return how many there were."""
        removed = 0
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name):
            objects = [{"Key": item["Key"]} for item in page.get("Contents", [])]
            if objects:
                self._client.delete_objects(Bucket=self.name, Delete={"Objects": objects, "Quiet": True})
                removed += len(objects)
        return removed

    @s3_errors("read the policy of bucket {0.name}")
    def policy(self):
        """Return the bucket policy, or None if there is none."""
        try:
            return json.loads(self._client.get_bucket_policy(Bucket=self.name)["Policy"])
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchBucketPolicy":
                return None
            raise

    @s3_errors("change the policy of bucket {0.name}")
    def set_policy(self, policy):
        """Set the bucket policy, or remove it with None."""
        if policy is None:
            self._client.delete_bucket_policy(Bucket=self.name)
        else:
            self._client.put_bucket_policy(Bucket=self.name, Policy=json.dumps(policy))

    @property
    def public_policy(self):
        """Everybody may read, and list.

        Only who may list is told 404 for what does not exist, and clients want 404, not 403.
        """
        arn = f"arn:aws:s3:::{self.name}"
        return {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "read",
                    "Effect": "Allow",
                    "Principal": {"AWS": ["*"]},
                    "Action": ["s3:GetObject"],
                    "Resource": [f"{arn}/*"],
                },
                {
                    "Sid": "list",
                    "Effect": "Allow",
                    "Principal": {"AWS": ["*"]},
                    "Action": ["s3:ListBucket"],
                    "Resource": [arn],
                },
            ],
        }

    @property
    def url(self):
        """Where the bucket is for people without credentials."""
        if not self._dns_buckets:
            return f"{self.endpoint}/{self.name}"
        scheme, _separator, host = self.endpoint.partition("://")
        return f"{scheme}://{self.name}.{host}"

    @s3_errors("probe bucket {0.name}")
    def preflight(self, *, public_read):
        """Prove by trying, with objects that are removed again, what publishing relies on. PublishingError where it
        fails.

        Returns the form in which the endpoint wants the ETag of ``If-Match``: ``quoted``, as clients send it, or
        ``unquoted``.
        """
        key = _PROBE_PREFIX + uuid.uuid4().hex
        try:
            etag = self._put(key, b"1", {"If-None-Match": "*"})
            self._expect_refused(key, {"If-None-Match": "*"}, "If-None-Match: *", "overwrites an object that exists")
            form = self._etag_form(key, etag)
            self._check_anonymous(key, public_read)
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

    def _check_anonymous(self, key, public_read):
        facts = {
            "GET of an object": (self.anonymous("GET", key), 200 if public_read else 403),
            "GET of an object that does not exist": (
                self.anonymous("GET", key + "-missing"),
                404 if public_read else 403,
            ),
            "PUT": (self.anonymous("PUT", key), 403),
        }
        for what, (status, expected) in facts.items():
            if status != expected and not (expected == 403 and status == 401):
                raise PublishingError(
                    f"An anonymous {what} in bucket {self.name} at {self.endpoint} answers {status}, not {expected}",
                    remedy="Does the service enforce bucket policies, and does another policy interfere?",
                )

    def anonymous(self, method, key):
        """Return the status that somebody without credentials gets. HttpError."""
        return status_of(method, f"{self.url}/{key}", body=b"4" if method == "PUT" else None, **self._tls)


def _is_refusal(error):
    return error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412)


def _config(addressing_style):
    options = {
        "s3": {"addressing_style": addressing_style},
        "connect_timeout": 10,
        "read_timeout": 60,
        "retries": {"max_attempts": 5, "mode": "standard"},
    }
    try:
        # Trailing checksums, the default of newer releases, are more than some services understand.
        return Config(
            request_checksum_calculation="when_required", response_checksum_validation="when_required", **options
        )
    except TypeError:
        return Config(**options)
