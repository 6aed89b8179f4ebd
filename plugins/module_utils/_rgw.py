# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Users and quotas of the Ceph Object Gateway, by ``radosgw-admin`` or by its admin API. Private to the collection."""

from __future__ import annotations

import abc
import http.client
import json
import urllib.error
import urllib.parse

from ansible.module_utils.basic import missing_required_lib
from ansible.module_utils.urls import open_url

from ansible_collections.cvmfs.publishing.plugins.module_utils import _command
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import CommandError, PublishingError

try:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
except ImportError:
    HAS_BOTOCORE = False
else:
    HAS_BOTOCORE = True

# Documented in doc_fragments/rgw.py.
ARGUMENT_SPEC = {
    "command": {"type": "list", "elements": "str", "default": ["radosgw-admin"]},
    "endpoint": {"type": "str"},
    "admin_access_key": {"type": "str", "no_log": False},
    "admin_secret_key": {"type": "str", "no_log": True},
    "region": {"type": "str", "default": "us-east-1"},
    "ca_path": {"type": "path"},
    "validate_certs": {"type": "bool", "default": True},
}
REQUIRED_TOGETHER = [("endpoint", "admin_access_key", "admin_secret_key")]

NO_BUCKETS = -1
"As `max_buckets`: the user cannot create any."

# What `radosgw-admin` exits with for what does not exist; other failures, such as no connection, have other codes.
_NO_SUCH_USER = 22  # EINVAL
_NO_SUCH_BUCKET = "(2002)"
# Neither way tells anything about a bucket without an index but that it is there.
_NO_INDEX = "indexless buckets"
WITHOUT_INDEX = {"index_type": "Indexless", "owner": None, "placement_rule": None}
_TIMEOUT = 60
_REMEDIES = {
    "AccessDenied": "Its user needs capabilities: radosgw-admin caps add --uid=UID --caps='users=*;buckets=*'.",
    "InvalidAccessKeyId": "The gateway does not know the admin's access key.",
    "SignatureDoesNotMatch": "Correct the admin's secret key.",
    "BucketAlreadyExists": "The user has buckets: remove them, or give them to somebody else.",
    "MethodNotAllowed": "Is it a Ceph Object Gateway, with rgw_enable_apis=s3, admin?",
}


def gateway(params):
    """Return what administers the gateway, after a module's parameters. PublishingError."""
    if params["endpoint"] is None:
        return RadosgwAdmin(params["command"])
    names = ("endpoint", "admin_access_key", "admin_secret_key", "region", "ca_path", "validate_certs")
    return AdminApi(**{name: params[name] for name in names})


class Gateway(abc.ABC):
    """What can be done. Documents are those of the gateway; sizes are in bytes, and 0 is without limit."""

    @abc.abstractmethod
    def user(self, uid):
        """Return a user with keys and quotas, or None."""

    @abc.abstractmethod
    def create_user(self, uid, **properties):
        """Create a user, with a key that the gateway generates. Properties are `display_name` and `max_buckets`."""

    @abc.abstractmethod
    def change_user(self, uid, **properties):
        """Change properties of a user."""

    @abc.abstractmethod
    def remove_user(self, uid):
        """Remove a user, who must have no buckets."""

    @abc.abstractmethod
    def create_key(self, uid):
        """Give a user one more key, which the gateway generates."""

    @abc.abstractmethod
    def remove_key(self, uid, access_key):
        """Take a key from a user."""

    @abc.abstractmethod
    def set_user_quota(self, uid, size):
        """Limit what a user may store in all buckets together."""

    @abc.abstractmethod
    def bucket(self, name):
        """Return a bucket with its statistics and its quota, WITHOUT_INDEX if it has no index, or None."""

    @abc.abstractmethod
    def set_bucket_quota(self, name, owner, size):
        """Limit what may be stored in a bucket."""


class RadosgwAdmin(Gateway):
    """The command of the cluster's administrators. `command` is how to call it.

    Keys are never given, for the command would take them as arguments, which everybody on the host can see.
    """

    def __init__(self, command):
        self._command = command

    def user(self, uid):
        completed = self._run("user", "info", f"--uid={uid}")
        if completed.rc == _NO_SUCH_USER and "no user info" in completed.stderr:
            return None
        return self._document(completed, f"user {uid}")

    def create_user(self, uid, **properties):
        self._do("user", "create", *_options(properties), f"--uid={uid}")

    def change_user(self, uid, **properties):
        self._do("user", "modify", *_options(properties), f"--uid={uid}")

    def remove_user(self, uid):
        self._do("user", "rm", f"--uid={uid}")

    def create_key(self, uid):
        self._do("key", "create", "--key-type=s3", "--gen-access-key", "--gen-secret", f"--uid={uid}")

    def remove_key(self, uid, access_key):
        self._do("key", "rm", "--key-type=s3", f"--access-key={access_key}", f"--uid={uid}")

    def set_user_quota(self, uid, size):
        self._do("quota", "set", "--quota-scope=user", f"--max-size={size if size else -1}", f"--uid={uid}")
        self._do("quota", "enable" if size else "disable", "--quota-scope=user", f"--uid={uid}")

    def bucket(self, name):
        completed = self._run("bucket", "stats", f"--bucket={name}")
        if completed.rc != 0 and _NO_SUCH_BUCKET in completed.stderr:
            return None
        if completed.rc != 0 and _NO_INDEX in completed.stdout + completed.stderr:
            return WITHOUT_INDEX
        return self._document(completed, f"bucket {name}")

    def set_bucket_quota(self, name, owner, size):
        self._do("quota", "set", "--quota-scope=bucket", f"--max-size={size if size else -1}", f"--bucket={name}")
        self._do("quota", "enable" if size else "disable", "--quota-scope=bucket", f"--bucket={name}")

    def _do(self, *arguments):
        what = " ".join(arguments[:2])
        self._run(*arguments).check(f"Cannot do radosgw-admin {what} for {arguments[-1].partition('=')[2]}")

    def _run(self, *arguments):
        return _command.run([*self._command, *arguments])

    @staticmethod
    def _document(completed, what):
        if completed.rc != 0:
            raise CommandError(
                f"radosgw-admin cannot look for {what}: {completed.complaint}",
                completed,
                remedy="Does its command reach the Ceph cluster, with a keyring that may administer the gateway?",
            )
        return _parsed(completed.stdout, "radosgw-admin")


class AdminApi(Gateway):
    """The gateway's own API for administrators, over HTTP: ``/admin``, with requests that are signed as S3's are."""

    def __init__(self, *, endpoint, admin_access_key, admin_secret_key, region, ca_path, validate_certs):
        if not HAS_BOTOCORE:
            raise PublishingError(missing_required_lib("botocore"))
        self._endpoint = endpoint.rstrip("/")
        self._signer = S3SigV4Auth(Credentials(admin_access_key, admin_secret_key), "s3", region)
        self._tls = {"ca_path": ca_path, "validate_certs": validate_certs}

    def user(self, uid):
        return self._look("user", uid=uid)

    def create_user(self, uid, **properties):
        self._request("PUT", "user", uid=uid, **properties)

    def change_user(self, uid, **properties):
        self._request("POST", "user", uid=uid, **properties)

    def remove_user(self, uid):
        self._request("DELETE", "user", uid=uid)

    def create_key(self, uid):
        self._request("PUT", "user", "key", uid=uid, key_type="s3", generate_key="True")

    def remove_key(self, uid, access_key):
        self._request("DELETE", "user", "key", uid=uid, key_type="s3", access_key=access_key)

    def set_user_quota(self, uid, size):
        self._request("PUT", "user", "quota", uid=uid, quota_type="user", **_quota_parameters(size))

    def bucket(self, name):
        return self._look("bucket", WITHOUT_INDEX, bucket=name, stats="true")

    def set_bucket_quota(self, name, owner, size):
        self._request("PUT", "bucket", "quota", uid=owner, bucket=name, **_quota_parameters(size))

    def _look(self, resource, empty=None, **parameters):
        try:
            answer = self._request("GET", resource, **parameters)
        except _NoSuchThing:
            return None
        return _parsed(answer, self._endpoint) if answer or empty is None else empty

    def _request(self, method, resource, part=None, **parameters):
        doing = f"Cannot {method} {resource}{' ' + part if part else ''} by the admin API of {self._endpoint}"
        query = {"format": "json", **{name.replace("_", "-"): value for name, value in parameters.items()}}
        # Blanks have to be %20: the signature is one of that form.
        words = ([part] if part else []) + [urllib.parse.urlencode(query, quote_via=urllib.parse.quote)]
        url = f"{self._endpoint}/admin/{resource}?{'&'.join(words)}"
        request = AWSRequest(method=method, url=url, data=b"")
        self._signer.add_auth(request)
        try:
            headers = dict(request.headers.items())
            with open_url(url, method=method, headers=headers, timeout=_TIMEOUT, **self._tls) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            code = _code(error)
            if error.code == 404 and code in ("NoSuchUser", "NoSuchBucket"):
                raise _NoSuchThing(f"{doing}: {code}") from None
            raise PublishingError(f"{doing}: {code or error.code}", remedy=_REMEDIES.get(code)) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise PublishingError(f"{doing}: {error}", remedy="Is the gateway up, and the endpoint right?") from error


class _NoSuchThing(PublishingError):
    """The gateway does not know the user, or the bucket."""


def quota_of(document, name):
    """The size of a quota in a document of the gateway; 0 without one."""
    quota = (document or {}).get(name, {})
    return quota["max_size"] if quota.get("enabled") and quota["max_size"] > 0 else 0


def _options(properties):
    return [f"--{name.replace('_', '-')}={value}" for name, value in properties.items()]


def _quota_parameters(size):
    return {"max_size": size if size else -1, "max_objects": -1, "enabled": "true" if size else "false"}


def _parsed(text, source):
    try:
        return json.loads(text)
    except ValueError as error:
        raise PublishingError(f"{source} sent no JSON document: {error}") from None


def _code(error):
    """The reason in an answer, if there is one."""
    try:
        return json.loads(error.read())["Code"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
