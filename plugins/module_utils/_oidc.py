# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OIDC ID tokens, by which pipelines publish that have no account of their own. Private to the collection.

A token is a JSON Web Token (RFC 7519) in compact form. Which issuers are believed, by which keys, and what their claims
make of somebody, the role has written beside the configuration of the repositories. A token has no say in that: of its
header, only the name of a key counts, and what else it offers (``jwk``, ``jku``, ``x5u``) is never looked at.
"""

from __future__ import annotations

import base64
import json
import os
import re
import time

from ansible_collections.cvmfs.publishing.plugins.module_utils import _ecdsa, _rsa
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError, action
from ansible_collections.cvmfs.publishing.plugins.module_utils._issuers import trusted
from ansible_collections.cvmfs.publishing.plugins.module_utils._permissions import Person
from ansible_collections.cvmfs.publishing.plugins.module_utils._reader import timestamp

_KEY_TYPES = {"ES256": "EC", "RS256": "RSA"}  # by algorithm, of RFC 7518; each key is for one alone
_LEEWAY = 60  # seconds by which clocks may differ
_MAX_LENGTH = 16 * 1024  # bytes
_MIN_KEY = 2048  # bits of RSA's, RFC 7518 section 3.3
_ROLE = "cvmfs.publishing.release_manager"


@action("read the token from standard input")
def read_token(descriptor):
    """Return the first line of a file, and leave what comes after it to who reads on. PublishingError."""
    line = bytearray()
    while len(line) <= _MAX_LENGTH:
        byte = os.read(descriptor, 1)  # a buffer would swallow the beginning of the archive
        if byte in (b"", b"\n"):
            break
        line += byte
    if not line.strip() or len(line) > _MAX_LENGTH:
        raise PublishingError(
            "It does not begin with a line that has one",
            remedy="Send the token, a newline, and then the archive.",
        )
    return line.strip().decode("ascii", "replace")


@action("accept the OIDC token")
def person_of(token, *, config_dir):
    """Return the person that a token stands for, by names as permissions have them. PublishingError."""
    issuers = trusted(config_dir)
    header, values, signature, signed = _parse(token)
    issuer = issuers.get(values.get("iss")) if isinstance(values.get("iss"), str) else None
    if issuer is None:
        raise PublishingError(
            f"Its issuer is {json.dumps(values.get('iss'))}, and this host trusts {_listed(issuers)}",
            remedy=f"Issuers belong into release_manager_oidc of role {_ROLE}.",
        )
    _verify(header, signature, signed, issuer)
    _check_audience(values, issuer["audience"])
    _check_times(values, time.time())
    names = _names(values, issuer["names"])
    if not names:
        raise PublishingError(
            f"It is good, but nobody's in release_manager_oidc. It says: {_describe(values, issuer['names'])}",
            remedy="Ask who keeps the inventory: the names of the issuer say which claims are whose.",
        )
    # What the issuer has written goes into messages and logs as JSON: in it, lines end where they are to end.
    account = f"{json.dumps(values.get('sub'))} ({', '.join(names)})"
    return Person(account, frozenset(names), {name: values[name] for name in ("iss", "jti") if name in values})


def _parse(token):
    """Return header, claims, signature, and the text that is signed."""
    parts = token.split(".")
    try:
        if len(parts) != 3:
            raise ValueError("it has to have three parts with dots between")
        header, values = (json.loads(_decode(part)) for part in parts[:2])
        if not isinstance(header, dict) or not isinstance(values, dict):
            raise ValueError("a part of it is no JSON object")
        return header, values, _decode(parts[2]), ".".join(parts[:2]).encode("ascii")
    except (ValueError, RecursionError) as error:  # as those of base64, UTF-8 and JSON are
        raise PublishingError(
            f"It is no signed token: {error or type(error).__name__}",
            remedy="The first line of standard input has to be the ID token, as the issuer gave it.",
        ) from None


def _decode(part):
    if not re.fullmatch("[A-Za-z0-9_-]+", part):
        raise ValueError("it is not in base64url")
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _verify(header, signature, signed, issuer):
    """Raise PublishingError unless a key of the issuer's has signed it, in the one way that is right for this key."""
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in _KEY_TYPES or "crit" in header:
        demand = " with critical extensions" if "crit" in header else ""
        taken = " or ".join(_KEY_TYPES)
        raise PublishingError(
            f"It is signed by {json.dumps(algorithm)}{demand}; this host takes {taken} and nothing else",
            remedy="Have the issuer sign so.",
        )
    keys = {key["kid"]: key for key in issuer["keys"] if _is_for(key, algorithm)}
    wanted = header.get("kid")
    if not isinstance(wanted, str) or wanted not in keys:
        raise PublishingError(
            f"Its key is {json.dumps(wanted)}; of {issuer['issuer']}, this host knows {_listed(keys)}",
            remedy=f"If it has new keys, have them fetched: run role {_ROLE}, or cvmfs-release-manager oidc-keys.",
        )
    try:
        key = _public_key(keys[wanted])
    except (KeyError, TypeError, ValueError):
        raise PublishingError(
            f"Key {json.dumps(wanted)} of {issuer['issuer']} is damaged, on another curve than P-256, or has less than "
            f"{_MIN_KEY} bits",
            remedy="Have the issuer use another one.",
        ) from None
    if not key.verify_sha256(signature, signed):
        raise PublishingError(
            f"It was not signed by key {json.dumps(wanted)} of {issuer['issuer']}, or was changed since",
            remedy="Send it as the issuer gave it.",
        )


def _is_for(key, algorithm):
    """Whether a member of a JWK set has a name, and is for signatures by this algorithm."""
    is_named = isinstance(key, dict) and isinstance(key.get("kid"), str) and key.get("kty") == _KEY_TYPES[algorithm]
    return is_named and key.get("use", "sig") == "sig" and key.get("alg", algorithm) == algorithm


def _public_key(jwk):
    """Return what verifies. ValueError, KeyError or TypeError if it is no key, or none that is good enough."""
    names = ("x", "y") if jwk["kty"] == "EC" else ("n", "e")
    first, second = (int.from_bytes(_decode(jwk[name]), "big") for name in names)
    if jwk["kty"] == "EC":
        if jwk["crv"] != "P-256":
            raise ValueError("another curve")
        return _ecdsa.PublicKey(first, second)
    if first.bit_length() < _MIN_KEY or second < 3:
        raise ValueError("too short")
    return _rsa.PublicKey(first, second)


def _check_audience(values, wanted):
    """Raise PublishingError unless the token was made for this service: one for another must be of no use here."""
    audience = values.get("aud")
    if wanted not in (audience if isinstance(audience, list) else [audience]):
        raise PublishingError(
            f"Its audience is {json.dumps(audience)}, and has to be {json.dumps(wanted)}",
            remedy="Have the pipeline ask the issuer for a token with that aud.",
        )


def _check_times(values, now):
    expires, begins = values.get("exp"), values.get("nbf", 0)
    if not _is_time(expires) or not _is_time(begins):
        raise PublishingError(
            f"Its exp is {json.dumps(expires)} and its nbf {json.dumps(begins)}, which have to be times",
            remedy="Have the issuer give tokens that expire.",
        )
    clocks = "See to the clock of this host."
    if now >= expires + _LEEWAY:
        raise PublishingError(
            f"It expired at {_time(expires)}, and it is {_time(now)}",
            remedy=f"Have the pipeline ask for it right before it publishes. {clocks}",
        )
    if now < begins - _LEEWAY:
        raise PublishingError(f"It counts from {_time(begins)} on, and it is {_time(now)}", remedy=clocks)


def _is_time(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1 << 36


def _time(seconds):
    return timestamp(int(seconds))


def _names(values, wanted):
    """Return those names of permissions in `wanted` whose claims the token has, all of them."""
    return sorted(name for name, claims in wanted.items() if claims and _has(values, claims))


def _has(values, claims):
    return all(_texts(values.get(name)) & _texts(value) for name, value in claims.items())


def _describe(values, wanted):
    """Return what the token says of the claims that matter, for people."""
    names = sorted({name for claims in wanted.values() for name in claims})
    return ", ".join(f"{name} {json.dumps(values[name]) if name in values else 'absent'}" for name in names)


def _texts(value):
    """Return a claim's value, or the values of one that is a list, as texts: issuers disagree on true and "true"."""
    values = value if isinstance(value, list) else [value]
    return {json.dumps(item) if isinstance(item, (bool, int)) else item for item in values if _is_scalar(item)}


def _is_scalar(value):
    return isinstance(value, (bool, int, str))


def _listed(names):
    return ", ".join(sorted(names)) or "none"
