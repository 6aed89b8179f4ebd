# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens of pipelines: who they are, and what is no good."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import pathlib
import syslog
import time
from typing import Any

import pytest
from ansible_collections.cvmfs.publishing.plugins.module_utils import _host_command, _oidc
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._permissions import Person
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hosts import configure

FQRN = "sw.example.org"
ISSUER, OTHER, AUDIENCE = "https://gitlab.example.org", "https://other.example.org", "https://cvmfs.example.org"
NAMES = {
    "team-atlas": {"project_path": "atlas/software", "ref_protected": True},
    "team-cms": {"project_path": ["cms/software", "cms/conditions"]},
    "%builders": {"groups": "build"},
    "one-number": {"project_id": 7},
}
KEYS = {name: rsa.generate_private_key(65537, 2048) for name in ("first", "second", "others")}
POINT, OTHER_POINT = (ec.generate_private_key(ec.SECP256R1()) for _turn in range(2))
LONGER = ec.generate_private_key(ec.SECP384R1())
SHORT = rsa.generate_private_key(65537, 1024)  # noqa: S505 (to be refused)
CLAIMS = {"iss": ISSUER, "aud": AUDIENCE, "sub": "project_path:atlas/software:ref_type:branch:ref:main"}
CLAIMS |= {"project_path": "atlas/software", "ref_protected": "true", "jti": "7"}


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def json_part(value: object) -> str:
    return encode(json.dumps(value).encode())


def number(value: int) -> str:
    return encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def jwk(name: str, key: rsa.RSAPrivateKey, **more: Any) -> dict[str, Any]:
    numbers = key.public_key().public_numbers()
    return {"kty": "RSA", "kid": name, "n": number(numbers.n), "e": number(numbers.e), **more}


def point_jwk(name: str, key: ec.EllipticCurvePrivateKey, **more: Any) -> dict[str, Any]:
    numbers = key.public_key().public_numbers()
    size = (numbers.curve.key_size + 7) // 8
    x, y = (encode(value.to_bytes(size, "big")) for value in (numbers.x, numbers.y))
    curve = {"secp256r1": "P-256", "secp384r1": "P-384"}[numbers.curve.name]
    return {"kty": "EC", "crv": curve, "kid": name, "x": x, "y": y, **more}


def claims(**changes: Any) -> dict[str, Any]:
    """Good ones, but for what is changed; None takes one out."""
    now = int(time.time())
    everything = {**CLAIMS, "nbf": now - 5, "exp": now + 300, **changes}
    return {name: value for name, value in everything.items() if value is not None}


def token(said: object = None, key: Any = None, header: dict[str, Any] | None = None) -> str:
    signed = f"{json_part({'alg': 'RS256', 'kid': 'first', **(header or {})})}.{json_part(said or claims())}"
    signature = (key or KEYS["first"]).sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{signed}.{encode(signature)}"


def point_token(key: ec.EllipticCurvePrivateKey = POINT, said: object = None, **header: Any) -> str:
    """The same, signed by ES256."""
    signed = f"{json_part({'alg': 'ES256', 'kid': 'point', **header})}.{json_part(said or claims())}"
    numbers = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    size = (key.curve.key_size + 7) // 8
    return f"{signed}.{encode(b''.join(value.to_bytes(size, 'big') for value in numbers))}"


@pytest.fixture
def config(tmp_path: pathlib.Path) -> pathlib.Path:
    """A host that trusts two issuers, one by keys that were fetched and the other by keys that are given."""
    first = {"issuer": ISSUER, "audience": AUDIENCE, "names": NAMES}
    keys = [jwk(name, KEYS[name], use="sig", alg="RS256") for name in ("first", "second")]
    keys += [jwk("short", SHORT), jwk("encrypting", KEYS["first"], use="enc"), jwk("pss", KEYS["first"], alg="PS256")]
    keys += [{"kty": "EC", "kid": "ec", "crv": "P-256", "x": "AA", "y": "AA"}, {"kty": "oct", "kid": "oct", "k": "AA"}]
    keys += [point_jwk("point", POINT, use="sig", alg="ES256"), point_jwk("p384", LONGER)]
    keys += [point_jwk("off", POINT, y=encode(bytes(32)))]
    keys += [{"kty": "RSA", "kid": "damaged", "n": "?", "e": "AQAB"}, {"kty": "RSA", "n": "AA", "e": "AQAB"}]
    jwks = {"keys": [jwk("others", KEYS["others"])]}
    second = {"issuer": OTHER, "audience": "cvmfs", "names": {"%others": {"sub": "me"}}, "jwks": jwks}
    (tmp_path / "oidc.json").write_text(json.dumps([first, second]))
    (tmp_path / "oidc-keys.json").write_text(json.dumps({ISSUER: {"keys": keys}}))
    return tmp_path


def accept(config: pathlib.Path, text: str) -> Person:
    return _oidc.person_of(text, config_dir=str(config))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, {"team-atlas"}),
        ({"ref_protected": True}, {"team-atlas"}),
        ({"aud": ["https://elsewhere.example.org", AUDIENCE]}, {"team-atlas"}),
        ({"groups": ["test", "build"]}, {"team-atlas", "%builders"}),
        ({"project_path": "cms/conditions"}, {"team-cms"}),
        ({"project_path": "x", "project_id": "7"}, {"one-number"}),
        ({"nbf": None}, {"team-atlas"}),
        ({"nbf": int(time.time()) + 30, "exp": time.time() - 30}, {"team-atlas"}),  # clocks differ a little
    ],
)
def test_who_it_is(config: pathlib.Path, changes: dict[str, Any], names: set[str]) -> None:
    person = accept(config, token(claims(**changes)))
    assert person.names == names
    assert person.account == f'"{CLAIMS["sub"]}" ({", ".join(sorted(names))})'
    assert person.token == {"iss": ISSUER, "jti": "7"}


def test_each_issuer_has_its_own_keys_and_names(config: pathlib.Path) -> None:
    theirs = {"iss": OTHER, "aud": "cvmfs", "sub": "me"}
    assert accept(config, token(claims(**theirs), KEYS["others"], {"kid": "others"})).names == {"%others"}
    with pytest.raises(PublishingError, match=r'Its key is "others"; of https://gitlab.example.org, this host knows'):
        accept(config, token(claims(), KEYS["others"], {"kid": "others"}))
    with pytest.raises(PublishingError, match='It was not signed by key "first" of https://gitlab'):
        accept(config, token(claims(), KEYS["others"]))
    assert accept(config, token(claims(), KEYS["second"], {"kid": "second"})).names == {"team-atlas"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"exp": 1700000000}, r"It expired at 2023-11-14T22:13:20\+00:00, and it is 20"),
        ({"exp": int(time.time()) - 61}, "It expired at"),
        ({"exp": None}, "Its exp is null and its nbf .*, which have to be times"),
        ({"exp": "9999999999"}, 'Its exp is "9999999999"'),
        ({"exp": True}, "Its exp is true"),
        ({"exp": float("inf")}, "Its exp is Infinity"),
        ({"nbf": int(time.time()) + 3600}, "It counts from .* on, and it is 20.* clock of this host"),
        ({"aud": "https://elsewhere.example.org"}, f'Its audience is "https://elsew.*", and has to be "{AUDIENCE}"'),
        ({"aud": None}, "Its audience is null"),
        ({"aud": [[AUDIENCE]]}, "Its audience is"),
        ({"aud": f"{AUDIENCE}/x"}, "Its audience is"),
        ({"iss": "https://evil.example.org"}, 'Its issuer is "https://evil.*", and this host trusts https://gitlab'),
        ({"iss": f"{ISSUER}/"}, "Its issuer is"),
        ({"iss": [ISSUER]}, "Its issuer is"),
        ({"iss": None}, "Its issuer is null"),
        ({"project_path": "atlas/software2"}, 'nobody\'s .* project_path "atlas/software2", ref_protected "true"'),
        ({"project_path": None}, "project_path absent"),
        ({"ref_protected": "false"}, 'nobody\'s in release_manager_oidc.*ref_protected "false"'),
        ({"ref_protected": None}, "nobody's in release_manager_oidc.*ref_protected absent"),
        ({"ref_protected": {"true": "true"}}, "nobody's in release_manager_oidc"),
    ],
)
def test_claims_that_are_refused(config: pathlib.Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PublishingError, match=f"^Cannot accept the OIDC token: .*{says}"):
        accept(config, token(claims(**changes)))


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"alg": "none"}, 'It is signed by "none"; this host takes ES256 or RS256 and nothing else'),
        ({"alg": "None"}, "this host takes ES256 or RS256"),
        ({"alg": "PS256"}, "this host takes ES256 or RS256"),
        ({"alg": "ES384", "kid": "p384"}, 'It is signed by "ES384"'),
        ({"alg": "ES256"}, 'Its key is "first"; .* knows ec, off, p384, point'),
        ({"alg": "ES256", "kid": "ec"}, 'Key "ec" of .* is damaged'),
        ({"alg": "ES256", "kid": "off"}, 'Key "off" of .* is damaged'),
        ({"alg": "ES256", "kid": "p384"}, 'Key "p384" of .* on another curve than P-256'),
        ({"alg": "ES256", "kid": "point"}, 'It was not signed by key "point"'),
        ({"kid": "point"}, 'Its key is "point"'),
        ({"alg": ["RS256"]}, "this host takes ES256 or RS256"),
        ({"crit": ["b64"], "b64": False}, "with critical extensions"),
        ({"kid": "third"}, 'Its key is "third"; .* knows damaged, first, second, short.*run role cvmfs.publishing'),
        ({"kid": "ec"}, 'Its key is "ec"'),
        ({"kid": "oct"}, 'Its key is "oct"'),
        ({"kid": "encrypting"}, 'Its key is "encrypting"'),
        ({"kid": "pss"}, 'Its key is "pss"'),
        ({"kid": None}, "Its key is null"),
        ({"kid": ["first"]}, "Its key is"),
        ({"kid": "second"}, 'It was not signed by key "second"'),
        ({"kid": "damaged"}, 'Key "damaged" of .* is damaged, .*, or has less than 2048 bits'),
        ({"kid": "mine", "jwk": jwk("mine", KEYS["first"]), "jku": "https://evil.example.org"}, 'Its key is "mine"'),
    ],
)
def test_headers_that_are_refused(config: pathlib.Path, header: dict[str, Any], says: str) -> None:
    with pytest.raises(PublishingError, match=f"^Cannot accept the OIDC token: .*{says}"):
        accept(config, token(header=header))


def test_elliptic_curves(config: pathlib.Path) -> None:
    assert accept(config, point_token()).names == {"team-atlas"}
    for bad in (point_token(OTHER_POINT), point_token(LONGER)):
        with pytest.raises(PublishingError, match='It was not signed by key "point"'):
            accept(config, bad)
    header, _payload, signature = point_token().split(".")
    with pytest.raises(PublishingError, match='It was not signed by key "point"'):
        accept(config, f"{header}.{json_part(claims(project_path='cms/software'))}.{signature}")
    with pytest.raises(PublishingError, match="It expired"):
        accept(config, point_token(said=claims(exp=1700000000)))


def test_short_keys_are_refused(config: pathlib.Path) -> None:
    with pytest.raises(PublishingError, match="less than 2048 bits"):
        accept(config, token(key=SHORT, header={"kid": "short"}))


def test_a_public_key_is_no_secret_to_sign_with(config: pathlib.Path) -> None:
    """Who takes RS256 for HS256 is content with a signature that everybody can make."""
    public = KEYS["first"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signed = f"{json_part({'alg': 'HS256', 'kid': 'first'})}.{json_part(claims())}"
    forged = f"{signed}.{encode(hmac.new(pem, signed.encode(), hashlib.sha256).digest())}"
    with pytest.raises(PublishingError, match='It is signed by "HS256"'):
        accept(config, forged)


def test_what_was_changed_is_refused(config: pathlib.Path) -> None:
    header, _payload, signature = token().split(".")
    forged = json_part(claims(project_path="cms/software"))
    *most, last = base64.urlsafe_b64decode(signature + "==")
    flipped = encode(bytes([*most, last ^ 1]))
    other_header = json_part({"alg": "RS256", "kid": "first", "typ": "JWT"})
    for bad in (
        f"{header}.{forged}.{signature}",
        f"{header}.{_payload}.{flipped}",
        f"{header}.{_payload}.{encode(b'0' * 256)}",
        f"{header}.{_payload}.{encode(bytes(256))}",
        f"{header}.{_payload}.{signature[:-4]}",
        f"{other_header}.{_payload}.{signature}",
    ):
        with pytest.raises(PublishingError, match="was not signed by key"):
            accept(config, bad)


def test_signatures_of_another_hash_are_refused(config: pathlib.Path) -> None:
    signed = f"{json_part({'alg': 'RS256', 'kid': 'first'})}.{json_part(claims())}"
    for algorithm in (hashes.SHA1(), hashes.SHA512()):  # noqa: S303 (to be refused)
        signature = KEYS["first"].sign(signed.encode(), padding.PKCS1v15(), algorithm)
        with pytest.raises(PublishingError, match="was not signed by key"):
            accept(config, f"{signed}.{encode(signature)}")
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    with pytest.raises(PublishingError, match="was not signed by key"):
        accept(config, f"{signed}.{encode(KEYS['first'].sign(signed.encode(), pss, hashes.SHA256()))}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.b",
        "a.b.c.d.e",
        "..",
        f"{json_part([])}.{json_part({})}.AA",
        f"{json_part({})}.{json_part('x')}.AA",
        f"{json_part({})}.{encode(b'{')}.AA",
        f"{json_part({})}.{encode(b'[' * 9999)}.AA",
        f"{json_part({})}.{encode(bytes([255]))}.AA",
        f"{json_part({'alg': 'RS256'})}=.{json_part({})}.AA",
        "AB\ufffdC.AB.AA",
        "A.A.A",
    ],
)
def test_what_is_no_token_is_refused(config: pathlib.Path, text: str) -> None:
    with pytest.raises(PublishingError, match="It is no signed token"):
        accept(config, text)


def test_claims_that_are_not_asked_for_make_nobody(config: pathlib.Path) -> None:
    issuers = json.loads((config / "oidc.json").read_text())
    issuers[0]["names"] = {"everybody": {}, "null": {"environment": None}}
    (config / "oidc.json").write_text(json.dumps(issuers))
    with pytest.raises(PublishingError, match="nobody's"):
        accept(config, token())


def test_without_issuers_no_token_counts(tmp_path: pathlib.Path) -> None:
    with pytest.raises(PublishingError, match=r"This host trusts no issuer of tokens. Set release_manager_oidc"):
        accept(tmp_path, token())


@pytest.mark.parametrize("name", ["oidc.json", "oidc-keys.json"])
@pytest.mark.parametrize("damaged", ["", "{", "7", '"x"', '[{"names": {}}]', "[7]"])
def test_what_is_damaged_is_named(config: pathlib.Path, name: str, damaged: str) -> None:
    (config / name).write_text(damaged)
    with pytest.raises(PublishingError, match=rf"{name} is damaged.* Run role"):
        accept(config, token())


def test_an_issuer_without_keys_has_no_say(config: pathlib.Path) -> None:
    (config / "oidc-keys.json").write_text("{}")
    with pytest.raises(PublishingError, match=r'Its key is "first"; of .*, this host knows none'):
        accept(config, token())
    theirs = {"iss": OTHER, "aud": "cvmfs", "sub": "me"}
    assert accept(config, token(claims(**theirs), KEYS["others"], {"kid": "others"})).names == {"%others"}


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_archive_stays_for_who_reads_on(end: bytes) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a.b.c" + end + b"archive\n")
    os.close(writing)
    assert _oidc.read_token(reading) == "a.b.c"
    assert os.read(reading, 100) == b"archive\n"
    os.close(reading)


@pytest.mark.parametrize("data", [b"", b"\narchive", b"x" * 20000])
def test_a_token_has_to_be_there(tmp_path: pathlib.Path, data: bytes) -> None:
    (tmp_path / "stream").write_bytes(data)
    with (tmp_path / "stream").open("rb") as stream, pytest.raises(PublishingError, match="Send the token, a newline"):
        _oidc.read_token(stream.fileno())


class Ingested(Exception):
    """The command has come as far as a container."""


@pytest.fixture
def ingest(config: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The command, called by sudo for an account that no permissions name."""
    permissions = {"sw/atlas": ["team-atlas"], "/": ["nobody-else"]}
    logged: list[str] = []

    def ingest(*_arguments: Any) -> None:
        raise Ingested

    monkeypatch.setenv("SUDO_USER", "nobody")
    monkeypatch.setattr(syslog, "syslog", lambda _priority, text: logged.append(text))
    monkeypatch.setattr(_host_command.ReleaseManager, "container", ingest)

    def call(path: str, text: str, *options: str, **changes: Any) -> tuple[str, list[str]]:
        configure(config, FQRN, **{"permissions": permissions, **changes})
        reading, writing = os.pipe()
        os.write(writing, f"{text}\narchive".encode())
        os.close(writing)
        monkeypatch.setattr(_host_command, "read_token", lambda _zero: _oidc.read_token(reading))
        logged.clear()
        try:
            code = _host_command.main(["ingest", *options, f"{FQRN}/{path}"], config_dir=str(config))
            assert code == 1
            return capsys.readouterr().err, list(logged)
        except Ingested:
            return "", list(logged)
        finally:
            os.close(reading)

    return call


def test_a_token_is_for_where_its_team_may_publish(ingest: Any) -> None:
    said, logged = ingest("sw/atlas/1.0", token(), "--token")
    assert not said
    (line,) = logged
    assert line == (
        f'"{CLAIMS["sub"]}" (team-atlas) publishes at {FQRN}/sw/atlas/1.0, '
        f'by the token {{"iss": "{ISSUER}", "jti": "7"}}'
    )
    said, logged = ingest("sw/cms/1.0", token(), "--token")
    assert f'{CLAIMS["sub"]}" (team-atlas) may not publish at {FQRN}/sw/cms/1.0, but below {FQRN}/sw/atlas' in said
    assert not logged
    said, _logged = ingest("sw/atlas/../cms", token(), "--token")
    assert "is no path of a repository" in said


def test_the_log_has_one_line_whatever_a_subject_is(ingest: Any) -> None:
    _said, logged = ingest("sw/atlas", token(claims(sub="x\nroot publishes")), "--token")
    assert "\n" not in logged[0]


def test_who_comes_by_a_token_is_nobody_else(ingest: Any) -> None:
    """Neither what sudo says of the account, nor a token that is not asked for, adds to the other."""
    theirs = {"sw/theirs": ["nobody"], "sw/atlas": ["team-atlas"]}
    assert ingest("sw/theirs", token(), permissions=theirs) == ("", [])
    said, _logged = ingest("sw/theirs", token(), "--token", permissions=theirs)
    assert "may not publish" in said
    said, _logged = ingest("sw/atlas", token(), permissions=theirs)
    assert "nobody may not publish" in said


def test_without_permissions_a_token_is_good_for_nothing(ingest: Any) -> None:
    said, _logged = ingest("sw/atlas", token(), "--token", permissions=None)
    assert f"{FQRN} has no permissions, so there is nothing that a token is good for" in said


def test_tokens_are_for_ingest_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["shell", "--token", FQRN], ["status", "--token"], ["server", "--token", FQRN, "tag"]):
        with pytest.raises(SystemExit):
            _host_command.main(command)
        assert "--token" in capsys.readouterr().err
