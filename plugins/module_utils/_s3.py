# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An S3 bucket as publishing needs it, through boto3. Private to the collection."""

from __future__ import annotations

import functools
import json
import uuid

from ansible.module_utils.basic import missing_required_lib

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError

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

PROBE_PREFIX = ".cvmfs-preflight-"
"What the keys of probe objects begin with."

# What a release manager does with its repository.
_PUBLISHER_ACTIONS = [
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:ListBucket",
    "s3:ListBucketMultipartUploads",
    "s3:ListMultipartUploadParts",
    "s3:AbortMultipartUpload",
]
# What the repositories of a bucket have in common: cvmfs_server update-info
_SHARED_KEYS = ["info/v1/*"]
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
        self.tls = {"ca_path": ca_path, "validate_certs": validate_certs}
        try:
            self.client = boto3.client(
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
            self.client.head_bucket(Bucket=self.name)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status == 404:
                return False
            if status == 403:
                # The answer to a HEAD has no reason in it; that to this has.
                self.client.get_bucket_location(Bucket=self.name)
            raise
        return True

    @s3_errors("create bucket {0.name}")
    def create(self, *, placement):
        """Create the bucket, in a placement target if one is given."""
        options = {"CreateBucketConfiguration": {"LocationConstraint": placement}} if placement else {}
        self.client.create_bucket(Bucket=self.name, **options)

    @s3_errors("remove bucket {0.name}")
    def remove(self):
        """Remove the bucket, which must be empty."""
        self.client.delete_bucket(Bucket=self.name)

    @s3_errors("list bucket {0.name}")
    def is_empty(self):
        """Whether there is no object in it."""
        return not self.client.list_objects_v2(Bucket=self.name, MaxKeys=1).get("Contents")

    @s3_errors("look whether bucket {0.name} has an index")
    def is_indexed(self):
        """Whether the bucket lists what is in it. RGW has buckets without an index: they always look empty."""
        key = PROBE_PREFIX + uuid.uuid4().hex
        self.client.put_object(Bucket=self.name, Key=key, Body=b"")
        try:
            return bool(self.client.list_objects_v2(Bucket=self.name, Prefix=key).get("Contents"))
        finally:
            self.client.delete_object(Bucket=self.name, Key=key)

    @s3_errors("remove the objects of bucket {0.name}")
    def empty(self):
        """Remove all objects, and return how many there were."""
        removed = 0
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name):
            objects = [{"Key": item["Key"]} for item in page.get("Contents", [])]
            if objects:
                self.client.delete_objects(Bucket=self.name, Delete={"Objects": objects, "Quiet": True})
                removed += len(objects)
        return removed

    @s3_errors("read the policy of bucket {0.name}")
    def policy(self):
        """Return the bucket policy, or None if there is none."""
        try:
            return json.loads(self.client.get_bucket_policy(Bucket=self.name)["Policy"])
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchBucketPolicy":
                return None
            raise

    @s3_errors("change the policy of bucket {0.name}")
    def set_policy(self, policy):
        """Set the bucket policy, or remove it with None."""
        if policy is None:
            self.client.delete_bucket_policy(Bucket=self.name)
        else:
            self.client.put_bucket_policy(Bucket=self.name, Policy=json.dumps(policy))

    def wanted_policy(self, *, public_read, publishers):
        """Return the policy by which everybody may read, and publishers may write their own repositories.

        `publishers` are users by the name of a repository. Only who may list is told 404 for what does not exist, and
        clients want 404, not 403. None if nobody but the owner may do anything.
        """
        arn = f"arn:aws:s3:::{self.name}"
        statements = []
        if public_read:
            statements += [
                _allow("read", ["*"], ["s3:GetObject"], [f"{arn}/*"]),
                _allow("list", ["*"], ["s3:ListBucket"], [arn]),
            ]
        for number, (repository, user) in enumerate(sorted(publishers.items())):
            own = [f"{arn}/{repository}/*", *(f"{arn}/{key}" for key in _SHARED_KEYS)]
            # RGW looks for the right to remove many objects at once at the bucket first, and then at each object.
            statements.append(_allow(f"publish{number}", [_principal(user)], _PUBLISHER_ACTIONS, [arn, *own]))
        return {"Version": "2012-10-17", "Statement": statements} if statements else None

    @s3_errors("read the CORS rules of bucket {0.name}")
    def cors_origins(self):
        """Return whose web pages may read the bucket in a browser; None if there are rules that are not ours."""
        try:
            rules = self.client.get_bucket_cors(Bucket=self.name)["CORSRules"]
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchCORSConfiguration", "NotImplemented"):
                return []
            raise
        origins = sorted({origin for rule in rules for origin in rule["AllowedOrigins"]})
        return origins if _sorted(rules) == _sorted(_cors_rules(origins)) else None

    @s3_errors("change the CORS rules of bucket {0.name}")
    def set_cors_origins(self, origins):
        """Let web pages of these origins, and of no others, read the bucket in a browser."""
        if origins:
            self.client.put_bucket_cors(Bucket=self.name, CORSConfiguration={"CORSRules": _cors_rules(origins)})
        else:
            self.client.delete_bucket_cors(Bucket=self.name)

    @property
    def url(self):
        """Where the bucket is for people without credentials."""
        if not self._dns_buckets:
            return f"{self.endpoint}/{self.name}"
        scheme, _separator, host = self.endpoint.partition("://")
        return f"{scheme}://{self.name}.{host}"


def _allow(sid, principals, actions, resources):
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": {"AWS": principals},
        "Action": actions,
        "Resource": resources,
    }


def _principal(user):
    """The name of a user of RGW, ``uid`` or ``tenant$uid``, as policies want it. Other services have ARNs anyway."""
    if user.startswith("arn:"):
        return user
    tenant, _separator, uid = user.rpartition("$")
    return f"arn:aws:iam::{tenant}:user/{uid}"


def _cors_rules(origins):
    return [
        {
            "AllowedMethods": ["GET", "HEAD"],
            "AllowedOrigins": sorted(origins),
            "AllowedHeaders": ["*"],
            "ExposeHeaders": ["ETag"],
            "MaxAgeSeconds": 3600,
        }
    ]


def _sorted(rules):
    """Rules without the freedom of order that services make use of when they give them back."""
    return [
        {name: sorted(value) if isinstance(value, list) else value for name, value in rule.items()} for rule in rules
    ]


def _config(addressing_style):
    options = {
        "s3": {"addressing_style": addressing_style},
        "signature_version": "s3v4",
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
