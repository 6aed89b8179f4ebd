# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys, manifest and whitelist; OpenSSL's command line is the judge of signatures."""

from __future__ import annotations

import datetime
import os
import re
import stat
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cvmfs_publisher.content import ContentHash, HashAlgorithm, HashSuffix
from cvmfs_publisher.errors import (
    ConfigurationError,
    CorruptObject,
    PublisherError,
    SignatureError,
    WhitelistExpired,
)
from cvmfs_publisher.repository import Certificate, Manifest, MasterKey, RepositoryKey, Whitelist
from cvmfs_publisher.repository import manifest as manifest_module
from cvmfs_publisher.repository import whitelist as whitelist_module
from cvmfs_publisher.repository.letter import Letter
from cvmfs_publisher.repository.signing import load_public_keys, write_key_file

from .conftest import NAME, Keys

HASH = ContentHash(bytes(range(20)))


def openssl(*arguments: str | Path, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=True).stdout


def manifest() -> Manifest:
    return Manifest(
        repository=NAME,
        root_hash=HASH.with_suffix(HashSuffix.CATALOG),
        catalog_size=4096,
        revision=12,
        timestamp=1_700_000_000,
        certificate=HASH.with_suffix(HashSuffix.CERTIFICATE),
        history=HASH.with_suffix(HashSuffix.HISTORY),
        meta_info=HASH.with_suffix(HashSuffix.METAINFO),
        reflog_hash=HASH,
        garbage_collectable=True,
    )


def test_the_manifest_is_written_as_by_cernvmfs() -> None:
    digits = bytes(range(20)).hex()
    assert manifest().text().decode() == (
        f"C{digits}\nB4096\nRd41d8cd98f00b204e9800998ecf8427e\nD240\nS12\nGyes\nAno\nN{NAME}\nX{digits}\nH{digits}\n"
        f"T1700000000\nM{digits}\nY{digits}\n"
    )


@pytest.mark.parametrize("algorithm", [HashAlgorithm.SHA1, HashAlgorithm.SHAKE128])
def test_a_manifest_survives(keys: Keys, algorithm: HashAlgorithm) -> None:
    written = replace(manifest(), root_hash=ContentHash(bytes(20), algorithm, HashSuffix.CATALOG))
    signed = written.signed(keys.repository)
    assert Manifest.parse(signed) == written
    manifest_module.verify(signed, keys.repository.certificate)


def test_openssl_verifies_the_manifest(keys: Keys, tmp_path: Path) -> None:
    signed = manifest().signed(keys.repository)
    text, _, rest = signed.partition(b"--\n")
    digest, _, signature = rest.partition(b"\n")
    assert openssl("dgst", "-sha1", "-r", stdin=text).split()[0] == digest
    (tmp_path / "crt").write_bytes(keys.repository.certificate.pem)
    (tmp_path / "pub").write_bytes(openssl("x509", "-in", tmp_path / "crt", "-pubkey", "-noout"))
    (tmp_path / "sig").write_bytes(signature)
    openssl("dgst", "-sha1", "-verify", tmp_path / "pub", "-signature", tmp_path / "sig", stdin=digest)


def test_openssl_verifies_the_whitelist(keys: Keys, tmp_path: Path) -> None:
    signed = keys.whitelist()
    text, _, rest = signed.partition(b"--\n")
    digest, _, signature = rest.partition(b"\n")
    assert openssl("dgst", "-sha1", "-r", stdin=text).split()[0] == digest
    (tmp_path / "pub").write_bytes(keys.master.public_pem())
    (tmp_path / "sig").write_bytes(signature)
    recovered = openssl("pkeyutl", "-verifyrecover", "-pubin", "-inkey", tmp_path / "pub", "-in", tmp_path / "sig")
    assert recovered == digest
    (tmp_path / "crt").write_bytes(keys.repository.certificate.pem)
    fingerprint = openssl("x509", "-in", tmp_path / "crt", "-noout", "-fingerprint", "-sha1").decode()
    assert fingerprint.strip().rpartition("=")[2] in text.decode().split("\n")


def test_signatures_are_those_of_cvmfs_server(keys: Keys, tmp_path: Path) -> None:
    """`cvmfs_server` signs whitelists with this command."""
    (tmp_path / "key").write_bytes(keys.master.private_pem())
    (tmp_path / "in").write_bytes(b"x" * 40)
    expected = openssl("pkeyutl", "-inkey", tmp_path / "key", "-sign", "-in", tmp_path / "in")
    assert keys.master.sign(b"x" * 40) == expected


def test_generated_keys_are_what_openssl_expects(keys: Keys, tmp_path: Path) -> None:
    for name, pem in (("master", keys.master.private_pem()), ("key", keys.repository.private_pem())):
        (tmp_path / name).write_bytes(pem)
        assert "2048 bit" in openssl("rsa", "-in", tmp_path / name, "-noout", "-text").decode()
    (tmp_path / "crt").write_bytes(keys.repository.certificate.pem)
    text = openssl("x509", "-in", tmp_path / "crt", "-noout", "-subject", "-issuer").decode()
    assert len(re.findall(f"CN ?= ?{NAME} CernVM-FS Release Managers", text)) == 2
    openssl("verify", "-check_ss_sig", "-CAfile", tmp_path / "crt", tmp_path / "crt")


def test_long_names_are_cut_in_the_certificate() -> None:
    certificate = RepositoryKey.generate("a" * 60).certificate
    assert b"a" * 30 + b"[...]" in openssl("x509", "-noout", "-subject", stdin=certificate.pem)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"S12", b"S13"),
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[:-1],
        lambda data: data.partition(b"--\n")[0],
        lambda data: data.replace(b"--\n", b"--\nx", 1),
        lambda _: b"",
    ],
)
def test_changed_manifests_are_refused(keys: Keys, change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(SignatureError):
        manifest_module.verify(change(manifest().signed(keys.repository)), keys.repository.certificate)


@pytest.mark.parametrize(
    "text", [b"", b"S1\nD1\n", b"Cxyz\n", b"C" + b"0" * 40 + b"\nRd41d8cd98f00b204e9800998ecf8427e\n"]
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(CorruptObject):
        Manifest.parse(text)


def test_another_certificate_does_not_verify(keys: Keys, other_keys: Keys) -> None:
    with pytest.raises(SignatureError, match="not signed by the key of its certificate"):
        manifest_module.verify(manifest().signed(keys.repository), other_keys.repository.certificate)


# Whitelist


def test_a_whitelist_survives(keys: Keys) -> None:
    data = keys.whitelist()
    whitelist = whitelist_module.verify(data, [keys.master.public_key], NAME)
    assert whitelist.expires - whitelist.created == datetime.timedelta(days=30)
    assert whitelist.fingerprints == (keys.repository.certificate.fingerprint(),)
    assert whitelist.lists(keys.repository.certificate)
    whitelist.require_valid()
    assert Letter.parse(data, "it").text == whitelist.text()


def test_one_of_several_master_keys_is_enough(keys: Keys, other_keys: Keys) -> None:
    both = [other_keys.master.public_key, keys.master.public_key]
    assert whitelist_module.verify(keys.whitelist(), both, NAME).repository == NAME
    with pytest.raises(SignatureError, match="trusted master key"):
        whitelist_module.verify(keys.whitelist(), both[:1], NAME)
    with pytest.raises(SignatureError, match="not for other"):
        whitelist_module.verify(keys.whitelist(), both, "other.example.org")


def test_comments_options_and_other_algorithms_in_whitelists(keys: Keys, other_keys: Keys) -> None:
    mine = keys.repository.certificate.fingerprint(HashAlgorithm.SHAKE128)
    assert mine.endswith("-SHAKE128")
    text = f"20200101000000\nE20990101000000\nN{NAME}\nWcachain\n# a comment\n{mine} # mine\n--\n".encode()
    whitelist = Whitelist.parse(text)
    assert whitelist.options == ("Wcachain",)
    assert whitelist.lists(keys.repository.certificate)
    assert not whitelist.lists(other_keys.repository.certificate)


def test_expiry_is_counted_in_hours_as_clients_do() -> None:
    expires = datetime.datetime(2030, 5, 1, 12, 30, tzinfo=datetime.UTC)
    whitelist = Whitelist(repository=NAME, created=expires, expires=expires, fingerprints=())
    whitelist.require_valid(expires.replace(hour=11, minute=59, second=59))
    with pytest.raises(WhitelistExpired, match=r"cvmfs_server resign test\.example\.org"):
        whitelist.require_valid(expires.replace(hour=12, minute=0, second=0))


@pytest.mark.parametrize("text", [b"", b"x\ny\nz\nw\n", f"2020\nE2020\nN{NAME}\nAB\n--\n".encode()])
def test_what_is_no_whitelist_is_refused(text: bytes) -> None:
    with pytest.raises(CorruptObject):
        Whitelist.parse(text)


def test_pkcs7_whitelists_are_refused_by_name(keys: Keys) -> None:
    text = f"20200101000000\nE20990101000000\nN{NAME}\nVpkcs7\nAB:CD\n--\n".encode()
    with pytest.raises(SignatureError, match="PKCS#7"):
        whitelist_module.verify(text, [keys.master.public_key], NAME)


# Files


@pytest.fixture
def files(tmp_path: Path, keys: Keys) -> Path:
    write_key_file(tmp_path / "masterkey", keys.master.private_pem(), secret=True)
    write_key_file(tmp_path / "key", keys.repository.private_pem(), secret=True)
    write_key_file(tmp_path / "crt", keys.repository.certificate.pem, secret=False)
    write_key_file(tmp_path / "pub", keys.master.public_pem(), secret=False)
    return tmp_path


def test_key_files(files: Path, keys: Keys) -> None:
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in files.iterdir()}
    assert modes == {"masterkey": 0o400, "key": 0o400, "crt": 0o444, "pub": 0o444}
    assert MasterKey.load(files / "masterkey").public_pem() == keys.master.public_pem()
    loaded = RepositoryKey.load(files / "key", files / "crt")
    assert loaded.certificate.fingerprint() == keys.repository.certificate.fingerprint()
    (public,) = load_public_keys([files / "pub"])
    assert public == keys.master.public_key


def test_keys_are_never_overwritten(files: Path) -> None:
    before = (files / "key").read_bytes()
    with pytest.raises(ConfigurationError, match="exists already"):
        write_key_file(files / "key", b"other", secret=True)
    write_key_file(files / "key", before, secret=True)
    assert (files / "key").read_bytes() == before
    assert len(list(files.iterdir())) == 4
    with pytest.raises(PublisherError, match="No such file"):
        write_key_file(files / "missing" / "key", b"x", secret=True)


def test_keys_do_not_show_themselves(keys: Keys) -> None:
    secret = keys.master.private_pem().decode().split("\n")[1]
    assert secret not in repr(keys.master) + str(keys.master) + repr(keys.repository) + repr(vars(keys.master))


def test_legacy_pem_is_read(files: Path) -> None:
    """OpenSSL before version 3 wrote keys in this form."""
    old = openssl("rsa", "-in", files / "masterkey", "-traditional")
    assert b"BEGIN RSA PRIVATE KEY" in old
    (files / "old").write_bytes(old)
    assert MasterKey.load(files / "old").public_pem() == MasterKey.load(files / "masterkey").public_pem()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "There is no master key .*bad"),
        (lambda files: (files / "crt").read_bytes(), "no private key in PEM form but a certificate"),
        (lambda files: (files / "pub").read_bytes(), "no private key in PEM form but a public key"),
        (lambda _: b"hello", "no private key in PEM form but something else"),
        (
            lambda files: openssl("rsa", "-aes128", "-passout", "pass:x", "-in", files / "key"),
            "protected by a passphrase",
        ),
        (lambda _: openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout"), "no RSA key"),
    ],
)
def test_wrong_key_files_are_named(files: Path, make: Callable[[Path], bytes | None], message: str) -> None:
    content = make(files)
    if content is not None:
        (files / "bad").write_bytes(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        MasterKey.load(files / "bad")
    assert str(files / "bad") in str(caught.value)


def test_keys_that_do_not_belong_together(files: Path, other_keys: Keys) -> None:
    (files / "other").write_bytes(other_keys.repository.private_pem())
    with pytest.raises(ConfigurationError, match=r"The key in .*other does not belong to the certificate in .*crt"):
        RepositoryKey.load(files / "other", files / "crt")
    with pytest.raises(ConfigurationError, match="holds no certificate"):
        RepositoryKey.load(files / "key", files / "pub")
    with pytest.raises(ConfigurationError, match="holds no public key"):
        load_public_keys([files / "crt"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_keys_are_named(files: Path) -> None:
    (files / "key").chmod(0)
    with pytest.raises(ConfigurationError, match="Permission denied"):
        RepositoryKey.load(files / "key", files / "crt")


def test_certificates_that_are_none() -> None:
    with pytest.raises(SignatureError):
        Certificate(b"nothing")
