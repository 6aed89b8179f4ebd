# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: (c) 2026, the cvmfs.publishing authors
"""Is an issuer of OIDC tokens: writes its keys and the tokens of pipelines into the directory of its argument."""

import base64
import json
import pathlib
import sys
import time

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

KEY, STRANGE_KEY = (rsa.generate_private_key(65537, 2048) for _turn in range(2))
CLAIMS = {
    "iss": "https://gitlab.example.org",
    "aud": "https://cvmfs.example.org",
    "sub": "project_path:atlas/software:ref_type:branch:ref:main",
    "exp": int(time.time()) + 7200,
    "project_path": "atlas/software",
    "ref_protected": "true",
}


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int) -> str:
    return encoded(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def token(key: rsa.RSAPrivateKey = KEY, **changes: object) -> str:
    parts = ({"alg": "RS256", "kid": "first"}, {**CLAIMS, **changes})
    signed = ".".join(encoded(json.dumps(part).encode()) for part in parts)
    return f"{signed}.{encoded(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


place = pathlib.Path(sys.argv[1])
numbers = KEY.public_key().public_numbers()
keys = [{"kty": "RSA", "use": "sig", "kid": "first", "n": number(numbers.n), "e": number(numbers.e)}]
(place / "jwks.json").write_text(json.dumps({"keys": keys}))
tokens = {
    "good": token(jti="job 7"),
    "audience": token(aud="https://elsewhere.example.org"),
    "expired": token(exp=1700000000),
    "key": token(STRANGE_KEY),
    "issuer": token(STRANGE_KEY, iss="https://elsewhere.example.org"),
    "project": token(project_path="cms/software"),
}
(place / "tokens.json").write_text(json.dumps(tokens))
