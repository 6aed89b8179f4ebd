# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Issuers of OIDC tokens that this host trusts, and their keys. Private to the collection.

The role writes both: the issuers, which nothing else changes, and beside them the keys that it has fetched, which the
host may fetch anew. So what is fetched has no say in who is trusted, and for what.
"""

from __future__ import annotations

import http.client
import json
import os
import tempfile
import urllib.error
import urllib.request

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError, action

_MAX_LENGTH = 1 << 20  # bytes of an answer
_TIMEOUT = 30  # seconds
_ROLE = "cvmfs.publishing.release_manager"


def trusted(config_dir):
    """Return the issuers that the role has written down, with their keys, by their URLs. PublishingError."""
    fetched = _read(_keys_path(config_dir), dict)
    return {
        entry["issuer"]: {**entry, "keys": (entry.get("jwks") or fetched.get(entry["issuer"], {})).get("keys", [])}
        for entry in _issuers(config_dir)
    }


def fetch_keys(config_dir):
    """Fetch the keys of issuers anew, but for those that the inventory has. Those that are not to be had stay.

    Return the errors of the others. PublishingError.
    """
    issuers = [entry for entry in _issuers(config_dir) if not entry.get("jwks")]
    fetched, errors = fetch({entry["issuer"]: entry.get("jwks_url") for entry in issuers})
    current = _read(_keys_path(config_dir), dict)
    if any(current.get(issuer) != keys for issuer, keys in fetched.items()):
        keep_keys(config_dir, {**current, **fetched})
    return list(errors.values())


def fetch(issuers):
    """Fetch the keys of `issuers`, URLs with those of their keys, or None if an issuer itself says where these are.

    Return JWK sets, and the errors of issuers whose keys are not to be had, each by the issuer's URL.
    """
    fetched, errors = {}, {}
    for issuer, url in issuers.items():
        try:
            fetched[issuer] = _fetch(issuer=issuer, url=url)
        except PublishingError as error:
            errors[issuer] = error
    return fetched, errors


def kept_keys(config_dir):
    """Return the JWK sets that were fetched before, by issuer. None if there is no file, or it is damaged."""
    try:
        return _read(_keys_path(config_dir), dict)
    except PublishingError:
        return None


def key_names(keys):
    """Return what the keys of a JWK set are called, as one line; nothing if it is no set with keys."""
    found = keys.get("keys") if isinstance(keys, dict) else None
    return ", ".join(str(key.get("kid")) for key in found) if _is_set(found) else ""


def _keys_path(config_dir):
    return os.path.join(config_dir, "oidc-keys.json")


def _issuers(config_dir):
    return _read(os.path.join(config_dir, "oidc.json"), list)


def _read(path, kind):
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
        if not isinstance(found, kind) or (kind is list and not all("issuer" in entry for entry in found)):
            raise ValueError("it is something else")
        return found
    except FileNotFoundError:
        raise PublishingError(
            "This host trusts no issuer of tokens", remedy=f"Set release_manager_oidc, and run role {_ROLE}."
        ) from None
    except (TypeError, ValueError) as error:
        raise PublishingError(f"{path} is damaged: {error}", remedy=f"Run role {_ROLE} again.") from None


@action("fetch the keys of {issuer}")
def _fetch(*, issuer, url):
    """Return the JWK set of an issuer, which is at `url` or where the issuer says."""
    if not url:
        configuration = _get(f"{issuer[:-1] if issuer.endswith('/') else issuer}/.well-known/openid-configuration")
        if configuration.get("issuer") != issuer:
            raise PublishingError(
                f"What is there is the configuration of {json.dumps(configuration.get('issuer'))}",
                remedy="Give its keys in release_manager_oidc, by jwks_url or jwks.",
            )
        url = configuration.get("jwks_uri")
    found = _get(url)
    keys = found.get("keys")
    if not _is_set(keys):
        raise PublishingError(f"{url} has none", remedy="Give jwks_url or jwks in release_manager_oidc.")
    return found


def _is_set(keys):
    return isinstance(keys, list) and keys and all(isinstance(key, dict) for key in keys)


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """Follows no redirect to where anybody may answer."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """Return the next request. URLError."""
        _need_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _need_https(url):
    if not isinstance(url, str) or not url.startswith("https://"):
        raise urllib.error.URLError(f"{url} does not begin with https://")


def _get(url):
    """Return what is at a URL, a JSON object. Proxies and authorities are those of the environment and the system."""
    try:
        _need_https(url)
        opener = urllib.request.build_opener(_OnlyHttps)
        opener.addheaders = [("User-Agent", "cvmfs-release-manager")]  # urllib's own name is often refused
        with opener.open(url, timeout=_TIMEOUT) as response:
            found = json.loads(response.read(_MAX_LENGTH))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
        return found
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise PublishingError(
            f"{url} cannot be read: {reason}",
            remedy="Let the host reach it, or give jwks_url or jwks in release_manager_oidc.",
        ) from None


def keep_keys(config_dir, fetched):
    """Put JWK sets, by issuer, in the place of those before, at once or not at all. PublishingError."""
    _write(path=_keys_path(config_dir), text=json.dumps(fetched, indent=4, sort_keys=True) + "\n")


@action("write {path}")
def _write(*, path, text):
    descriptor, new = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".oidc-keys.")
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(descriptor)
            os.fchmod(descriptor, 0o644)
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise
