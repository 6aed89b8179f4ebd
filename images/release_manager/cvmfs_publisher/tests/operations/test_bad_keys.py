# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys, certificates, whitelists and manifests that are wrong or missing: one clear error, and nothing happens."""

from __future__ import annotations

import datetime
import functools
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from cvmfs_publisher.errors import SignatureError
from cvmfs_publisher.operations.mkfs import MkfsOptions, mkfs
from cvmfs_publisher.operations.resign import resign_whitelist, upload_whitelist
from cvmfs_publisher.repository import Certificate, Manifest, MasterKey, RepositoryKey, Whitelist
from cvmfs_publisher.repository import whitelist as whitelist_module
from cvmfs_publisher.repository.manifest import MANIFEST_KEY
from cvmfs_publisher.repository.whitelist import WHITELIST_KEY
from operations.managers import NAME, ReleaseManager, refusal
from operations.reading import published
from operations.stores import MeanwhileEnvironment

Damage = Callable[[ReleaseManager], None]


def replace(manager: ReleaseManager, suffix: str, content: bytes) -> None:
    file = manager.keys / f"{NAME}.{suffix}"
    file.unlink()
    file.write_bytes(content)


def missing(suffix: str) -> Damage:
    return lambda manager: (manager.keys / f"{NAME}.{suffix}").unlink()


def garbage(suffix: str) -> Damage:
    return lambda manager: replace(manager, suffix, b"-----BEGIN NONSENSE-----\n")


def another_key_and_certificate(manager: ReleaseManager) -> None:
    key = RepositoryKey.generate(NAME)
    replace(manager, "key", key.private_pem())
    replace(manager, "crt", key.certificate.pem)


def another_key(manager: ReleaseManager) -> None:
    replace(manager, "key", RepositoryKey.generate(NAME).private_pem())


def encrypted_key(manager: ReleaseManager) -> None:
    file = manager.keys / f"{NAME}.key"
    key = serialization.load_pem_private_key(file.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    replace(manager, "key", pem)


def public_key_in_place_of_the_key(manager: ReleaseManager) -> None:
    replace(manager, "key", (manager.keys / f"{NAME}.pub").read_bytes())


def another_public_key(manager: ReleaseManager) -> None:
    replace(manager, "pub", MasterKey.generate().public_pem())


def put_whitelist(manager: ReleaseManager, key: MasterKey, *, days: int = 30, name: str = NAME) -> None:
    certificate = Certificate.load(manager.keys / f"{NAME}.crt")
    with manager.store() as store:
        store.put(WHITELIST_KEY, Whitelist.create(name, [certificate], days=days).signed(key))


def master_key(manager: ReleaseManager) -> MasterKey:
    return MasterKey.load(manager.keys / f"{NAME}.masterkey")


def no_whitelist(manager: ReleaseManager) -> None:
    with manager.store() as store:
        store.delete(WHITELIST_KEY)


def damaged(key: str, old: bytes, new: bytes) -> Damage:
    def damage(manager: ReleaseManager) -> None:
        with manager.store() as store:
            content = store.get(key)
            assert old in content
            store.put(key, content.replace(old, new))

    return damage


def manifest_of_another_key(manager: ReleaseManager) -> None:
    with manager.store() as store:
        manifest = Manifest.parse(store.get(MANIFEST_KEY))
        store.put(MANIFEST_KEY, manifest.signed(RepositoryKey.generate(NAME)))


PUBLISHING: list[tuple[str, Damage, list[str]]] = [
    ("no key", missing("key"), ["There is no repository key ", f"{NAME}.key", "Provide the file"]),
    ("no certificate", missing("crt"), [f"{NAME}.crt", "Provide the file"]),
    ("garbage for a key", garbage("key"), [f"{NAME}.key"]),
    ("garbage for a certificate", garbage("crt"), [f"{NAME}.crt", "Put the repository's PEM certificate there"]),
    ("encrypted key", encrypted_key, [f"{NAME}.key", "Remove that with 'openssl rsa'"]),
    ("public key for a key", public_key_in_place_of_the_key, [f"{NAME}.key"]),
    ("key of another certificate", another_key, [f"{NAME}.key", f"{NAME}.crt", "that were made together"]),
    ("key that is not listed", another_key_and_certificate, ["is not in the whitelist", "cvmfs_server resign"]),
]

READING: list[tuple[str, Damage, list[str]]] = [
    ("no public key", missing("pub"), [f"{NAME}.pub"]),
    ("garbage for a public key", garbage("pub"), [f"{NAME}.pub", "Put the public half of the master key there"]),
    ("another master's public key", another_public_key, ["whitelist", NAME]),
    ("whitelist by another master", lambda m: put_whitelist(m, MasterKey.generate()), ["whitelist", NAME]),
    ("another repository's whitelist", lambda m: put_whitelist(m, master_key(m), name="x.org"), ["x.org", "Resign it"]),
    ("no whitelist", no_whitelist, [f"{NAME} has no whitelist", "cvmfs_server resign"]),
    ("forged whitelist", damaged(WHITELIST_KEY, b"\nE2", b"\nE3"), ["whitelist"]),
    ("empty whitelist", lambda m: _put(m, WHITELIST_KEY, b""), ["whitelist"]),
    ("forged manifest", damaged(MANIFEST_KEY, b"\nS1\n", b"\nS9\n"), ["manifest", NAME]),
    ("manifest by another key", manifest_of_another_key, ["manifest", NAME]),
    ("manifest of another repository", damaged(MANIFEST_KEY, b"\nNtest.", b"\nNbest."), ["best.example.org, not"]),
    ("empty manifest", lambda m: _put(m, MANIFEST_KEY, b""), ["manifest"]),
    ("garbage for a manifest", lambda m: _put(m, MANIFEST_KEY, b"\xff\n--\n\xfe"), ["manifest"]),
]  # fmt: skip


def _put(manager: ReleaseManager, key: str, content: bytes) -> None:
    with manager.store() as store:
        store.put(key, content)


@pytest.mark.parametrize(("damage", "says"), [case[1:] for case in PUBLISHING], ids=[case[0] for case in PUBLISHING])
def test_publishing(local: ReleaseManager, damage: Damage, says: list[str]) -> None:
    """Publishing is refused; looking needs no keys of the repository's, and neither does a dry run."""
    damage(local)
    local.refuses("ingest", "-d", "new_repository", says=says)
    local.refuses("tag", "-a", "mine", says=says)
    local.server("ingest", "--dry-run", "-d", "new_repository").succeeded()
    local.server("transaction").succeeded()
    local.refuses("publish", "-a", "empty", says=says)
    local.server("abort", "-f").succeeded()


@pytest.mark.parametrize(("damage", "says"), [case[1:] for case in READING], ids=[case[0] for case in READING])
def test_reading(local: ReleaseManager, damage: Damage, says: list[str]) -> None:
    """Whoever does not trust what is there does nothing with it."""
    damage(local)
    for command in (["ingest", "-d", "new_repository"], ["info"], ["transaction"]):
        local.refuses(*command, says=says)


def test_unreadable_key(local: ReleaseManager) -> None:
    (local.keys / f"{NAME}.key").chmod(0)
    says = ["Cannot read the repository key ", "Permission denied", "Let the publisher's user read it"]
    local.refuses("ingest", "-d", "new_repository", says=says, confined=True)


def test_expired_whitelist(manager: ReleaseManager) -> None:
    """It expires in the middle of a transaction, is signed again, and the transaction goes on."""
    manager.server("transaction").succeeded()
    put_whitelist(manager, master_key(manager), days=-1)
    manager.refuses("publish", "-a", "late", says=[f"whitelist of {NAME}", "expired", "cvmfs_server resign"])
    manager.another("other").refuses("transaction", code=22, says=["cvmfs_server resign"])
    manager.server("resign").succeeded()
    assert manager.server("publish", "--json", "-a", "late").succeeded().document["revision"] == 2
    put_whitelist(manager, master_key(manager), days=-1)
    manager.refuses("ingest", "-d", "new_repository", says=["expired", "cvmfs_server resign"])
    manager.refuses("tag", "-a", "mine", says=["expired", "cvmfs_server resign"])


def test_resigning(local: ReleaseManager) -> None:
    file = local.keys / f"{NAME}.masterkey"
    own = file.read_bytes()
    file.unlink()
    local.refuses("resign", says=[f"There is no master key {file}", "Provide the file"])
    file.write_bytes(MasterKey.generate().private_pem())
    local.refuses("resign", says=["was not signed by the master key that is here", "the repository's own master key"])
    file.write_bytes(own)
    another_key_and_certificate(local)
    local.refuses("ingest", "-d", "new_repository", says=["cvmfs_server resign"])


@pytest.mark.parametrize("damage", [b"", b"garbage", b"20260101000000\nEnever\nNit\nAA:BB\n--\n"])
def test_resigning_replaces_a_whitelist_that_is_none(local: ReleaseManager, damage: bytes) -> None:
    _put(local, WHITELIST_KEY, damage)
    local.server("resign").succeeded()
    local.check()


def test_key_roll_over(manager: ReleaseManager) -> None:
    """At each step clients can read the repository."""
    old = manager.another("old")
    another_key_and_certificate(manager)
    assert "it lists two certificates" in manager.server("resign").succeeded().stderr
    assert published(manager).revision == 1
    old.server("ingest", "-a", "v2", "-d", "a").succeeded()
    assert published(manager).revision == 2
    manager.server("resign", "-p").succeeded()
    assert published(manager).revision == 2
    outcome = manager.server("resign").succeeded()
    assert outcome.stderr == ""
    assert published(manager).revision == 2
    old.refuses("ingest", "-d", "new_repository", says=["is not in the whitelist"])
    manager.server("ingest", "-d", "new_repository").succeeded()
    manager.check()


@pytest.mark.parametrize("suffix", ["key", "crt", "pub", "masterkey"])
def test_mkfs_with_some_of_the_keys(local: ReleaseManager, suffix: str) -> None:
    """It makes no others in their place."""
    storage = local.base / "fresh"
    local.configure(CVMFS_UPSTREAM_STORAGE=f"local,{storage}/data/txn,{storage}")
    (local.keys / f"{NAME}.{suffix}").unlink()
    before = local.files()
    outcome = local.server("mkfs")
    if suffix == "pub":  # the other half of the master key, which mkfs does not need
        outcome.succeeded()
        return
    assert outcome.code == 1
    assert f"{NAME}.{suffix}" in outcome.stderr
    assert local.files() == before
    assert not storage.exists()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_mkfs_with_a_shared_master_key(local: ReleaseManager, tmp_path: Path, elsewhere: bool) -> None:
    """It signs for any number of repositories, each with a key of its own."""
    storage = local.base / "fresh"
    other = local.another("other")
    other.configure(CVMFS_UPSTREAM_STORAGE=f"local,{storage}/data/txn,{storage}")
    for kind in ("key", "crt", "pub"):
        (other.keys / f"{NAME}.{kind}").unlink()
    arguments: list[str | Path] = []
    if elsewhere:
        keychain = tmp_path / "keychain"
        keychain.mkdir()
        (other.keys / f"{NAME}.masterkey").rename(keychain / f"{NAME}.masterkey")
        arguments = ["-k", keychain]
    outcome = other.server("mkfs", *arguments).succeeded()
    assert "Back up" not in outcome.stdout
    assert (other.keys / f"{NAME}.pub").read_bytes() == (local.keys / f"{NAME}.pub").read_bytes()
    assert (other.keys / f"{NAME}.crt").read_bytes() != (local.keys / f"{NAME}.crt").read_bytes()
    other.check()


def new_storage(manager: ReleaseManager) -> ReleaseManager:
    """Return a release manager for the same repository in another place, without the master key."""
    other = manager.another("other")
    storage = manager.base / "fresh"
    other.configure(CVMFS_UPSTREAM_STORAGE=f"local,{storage}/data/txn,{storage}")
    (other.keys / f"{NAME}.masterkey").unlink()
    return other


@pytest.mark.parametrize("elsewhere", [False, True])
def test_mkfs_without_the_master_key(local: ReleaseManager, tmp_path: Path, elsewhere: bool) -> None:
    """A whitelist that it has signed somewhere else takes its place."""
    other = new_storage(local)
    arguments: list[str | Path] = []
    if elsewhere:
        shutil.copytree(other.keys, tmp_path / "keychain")
        for file in other.keys.iterdir():
            file.unlink()
        arguments = ["-k", tmp_path / "keychain"]
    with local.store() as store:
        signed = store.get(WHITELIST_KEY)
    other.server("mkfs", "--whitelist", "-", *arguments, stdin=signed).succeeded()
    with other.store() as store:
        assert store.get(WHITELIST_KEY) == signed
    assert {file.name for file in other.keys.iterdir()} == {f"{NAME}.{suffix}" for suffix in ("key", "crt", "pub")}
    other.check()
    other.server("ingest", "-d", "new_repository").succeeded()


def whitelist_for(key: MasterKey, *certificates: Certificate, days: int = 30, name: str = NAME) -> bytes:
    return Whitelist.create(name, certificates, days=days).signed(key)


@pytest.mark.parametrize(
    ("make_whitelist", "says"),
    [
        (lambda key, own: whitelist_for(key, own)[:40], "The whitelist is malformed"),
        (lambda _key, own: whitelist_for(MasterKey.generate(), own), "is not signed by a trusted master key"),
        (lambda key, own: whitelist_for(key, own, name="other.example.org"), "is for other.example.org, not for"),
        (lambda key, own: whitelist_for(key, own, days=-1), f"The whitelist of {NAME} expired at"),
        (lambda key, _own: whitelist_for(key, RepositoryKey.generate(NAME).certificate), "ertificate"),
    ],
)
def test_whitelists_that_clients_would_refuse(
    local: ReleaseManager, tmp_path: Path, make_whitelist: Callable[[MasterKey, Certificate], bytes], says: str
) -> None:
    """Neither is a repository made with such a one, nor does it take the place of a good one."""
    file = tmp_path / "whitelist"
    file.write_bytes(make_whitelist(master_key(local), Certificate.load(local.keys / f"{NAME}.crt")))
    local.refuses("resign", "--signed", file, says=[says])
    other = new_storage(local)
    other.refuses("mkfs", "--whitelist", file, says=[says])
    with other.store() as store:
        assert not store.exists(MANIFEST_KEY)


def test_a_whitelist_that_was_signed_elsewhere(local: ReleaseManager) -> None:
    """It is put in place without the master key, in a transaction, too; an earlier one is not, as it may list more."""
    own = Certificate.load(local.keys / f"{NAME}.crt")
    key = master_key(local)
    with local.store() as store:
        earlier = store.get(WHITELIST_KEY)
    now = datetime.datetime.now(datetime.UTC)
    later = Whitelist.create(NAME, [own], days=7, now=now + datetime.timedelta(minutes=1)).signed(key)
    (local.keys / f"{NAME}.masterkey").unlink()
    local.server("transaction").succeeded()
    outcome = local.server("resign", "--json", "--signed", "-", stdin=later).succeeded()
    assert outcome.document["fingerprints"] == [own.fingerprint()]
    local.server("resign", "--signed", "-", stdin=later).succeeded()
    file = local.base / "earlier"
    file.write_bytes(earlier)
    local.refuses("resign", "--signed", file, says=["The whitelist was signed at", "before the one in"])
    with local.store() as store:
        assert store.get(WHITELIST_KEY) == later
        store.put(WHITELIST_KEY, b"damage")
    local.server("resign", "--signed", file).succeeded()
    local.refuses("resign", "--signed", local.base / "nowhere", says=["Cannot read the whitelist"])


def test_messages_have_no_secrets(local: ReleaseManager) -> None:
    another_key(local)
    outcome = local.server("ingest", "-d", "new_repository")
    secret = (local.keys / f"{NAME}.key").read_text().splitlines()[1]
    assert secret not in outcome.stderr


def test_second_mkfs(manager: ReleaseManager) -> None:
    """A repository that is there is not touched, whatever keys and configuration come."""
    says = ["There is a repository in ", " already", f"{NAME} needs a place of its own"]
    manager.refuses("mkfs", says=says)
    other = manager.another("other")
    for file in other.keys.iterdir():
        file.unlink()
    other.refuses("mkfs", says=says)
    with pytest.raises(Exception, match="already"):
        mkfs(manager.environment, NAME, MkfsOptions())


def certificate_file(manager: ReleaseManager, key: RepositoryKey) -> Path:
    file = manager.base / "another.crt"
    file.write_bytes(key.certificate.pem)
    return file


def fingerprints(manager: ReleaseManager) -> tuple[str, ...]:
    with manager.store() as store:
        return Whitelist.parse(store.get(WHITELIST_KEY)).fingerprints


def test_a_certificate_is_listed_before_its_key_is_used(manager: ReleaseManager) -> None:
    """Two release managers can have a key each; the next whitelist is for the one that is here alone."""
    here = Certificate.load(manager.keys / f"{NAME}.crt").fingerprint()
    key = RepositoryKey.generate(NAME)
    outcome = manager.server("resign", "--json", "--also", certificate_file(manager, key)).succeeded()
    assert outcome.stderr == ""
    assert outcome.document["fingerprints"] == [here, key.certificate.fingerprint()]
    other = manager.another("other")
    replace(other, "key", key.private_pem())
    replace(other, "crt", key.certificate.pem)
    other.server("ingest", "-a", "v2", "-d", "a").succeeded()
    manager.server("ingest", "-a", "v3", "-d", "b").succeeded()
    assert published(manager).revision == 3
    manager.server("resign").succeeded()
    assert fingerprints(manager) == (here,)
    other.refuses("ingest", "-a", "v4", "-d", "c", says=["is not in the whitelist"])


def test_a_stolen_key_is_dropped_at_once(manager: ReleaseManager) -> None:
    """Even though the thief signed the current revision, with which the release manager starts over by its own word."""
    thief = manager.another("thief")
    thief.server("ingest", "-a", "theft", "-d", "new_repository").succeeded()
    another_key_and_certificate(manager)
    manager.server("transaction").succeeded()
    manager.server("resign", "--only").succeeded()
    assert fingerprints(manager) == (Certificate.load(manager.keys / f"{NAME}.crt").fingerprint(),)
    thief.refuses("info", says=["which is not in the whitelist"])
    manager.server("abort", "-f").succeeded()
    manager.refuses("resign", "-p", says=["which is not in the whitelist"])
    manager.server("resign", "-p", "-f").succeeded()
    assert published(manager).revision == 2
    thief.refuses("ingest", "-a", "again", "-d", "a", says=["is not in the whitelist"])
    manager.check()


def test_a_stolen_key_that_is_dropped_while_others_sign(manager: ReleaseManager) -> None:
    """Who has read the whitelist that lists it does not bring it back."""
    key, stolen = master_key(manager), Certificate.load(manager.keys / f"{NAME}.crt")
    another_key_and_certificate(manager)
    own = Certificate.load(manager.keys / f"{NAME}.crt")
    now = datetime.datetime.now(datetime.UTC)
    earlier = Whitelist.create(NAME, [own, stolen], now=now).signed(key)
    later = Whitelist.create(NAME, [own], now=now + datetime.timedelta(seconds=1)).signed(key)
    with manager.store() as store:
        before = store.get(WHITELIST_KEY)

        def drop() -> None:
            store.put(WHITELIST_KEY, later)

        names = [own.fingerprint(), stolen.fingerprint()]
        with pytest.raises(SignatureError, match="before the one in"):
            upload_whitelist(MeanwhileEnvironment(manager, WHITELIST_KEY, drop), NAME, earlier, changes=names)
        assert store.get(WHITELIST_KEY) == later
        store.put(WHITELIST_KEY, before)
        resign_whitelist(MeanwhileEnvironment(manager, WHITELIST_KEY, drop), NAME)
    assert fingerprints(manager) == (own.fingerprint(),)


def test_a_whitelist_that_was_signed_later_from_an_older_list(manager: ReleaseManager) -> None:
    """It neither brings back what was dropped meanwhile, nor loses what was added, unless that is asked for by name."""
    key, own = master_key(manager), Certificate.load(manager.keys / f"{NAME}.crt")
    other, third = (RepositoryKey.generate(NAME).certificate for _ in range(2))
    now = datetime.datetime.now(datetime.UTC)

    def signed(seconds: int, *certificates: Certificate) -> bytes:
        return Whitelist.create(NAME, certificates, now=now + datetime.timedelta(seconds=seconds)).signed(key)

    def digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest().upper()

    old, there, later = signed(1, own, other), signed(2, own, third), signed(3, own, other)
    upload = functools.partial(manager.server, "resign", "--signed", "-")
    with manager.store() as store:
        store.put(WHITELIST_KEY, there)
        problem = f"The whitelist lists {other.fingerprint()}, which the one that is there does not"
        refusal(upload(stdin=later), "resign", [problem, "Sign again", "--changes FINGERPRINT"])
        named = upload("--changes", other.fingerprint().lower().replace(":", ""), stdin=later)
        refusal(named, "resign", [f"does not list {third.fingerprint()}, which the one that is there does"])
        refusal(
            upload("--replaces", digest(old), stdin=later), "resign", ["is not the one that this one was made from"]
        )
        refusal(upload("--replaces", "none", stdin=later), "resign", ["is not the one that this one was made from"])
        assert store.get(WHITELIST_KEY) == there
        upload("--replaces", digest(there), stdin=later).succeeded()
        assert store.get(WHITELIST_KEY) == later
        upload("--replaces", digest(there), stdin=later).succeeded()  # as when the answer was lost
        upload(
            "--changes", other.fingerprint(), "--changes", third.fingerprint(), stdin=signed(4, own, third)
        ).succeeded()
        upload(stdin=signed(5, own, third)).succeeded()
        store.delete(WHITELIST_KEY)
        upload("--replaces", "none", stdin=signed(6, own)).succeeded()
    assert fingerprints(manager) == (own.fingerprint(),)


def test_a_host_that_still_has_the_key_that_was_replaced(manager: ReleaseManager) -> None:
    """It does not have it trusted again by signing whitelists, as a timer does; unless that is asked for by name."""
    late = manager.another("late")
    old = late.keys / f"{NAME}.crt"
    another_key_and_certificate(manager)
    own = Certificate.load(manager.keys / f"{NAME}.crt")
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)
    with manager.store() as store:
        store.put(WHITELIST_KEY, Whitelist.create(NAME, [own], now=now).signed(master_key(manager)))
    fingerprint = Certificate.load(old).fingerprint()
    late.refuses("resign", "-f", says=[f"was signed without {fingerprint}, the certificate that is here", "add --also"])
    manager.server("resign").succeeded()
    late.server("resign", "-f", "--also", old).succeeded()
    assert fingerprints(manager) == (fingerprint,)


def test_a_whitelist_in_a_file(local: ReleaseManager, tmp_path: Path) -> None:
    """It needs the master key alone; everything else about it stays."""
    other = RepositoryKey.generate(NAME).certificate
    local.server("resign", "--also", certificate_file(local, RepositoryKey.generate(NAME)))
    whitelist = Whitelist.create(NAME, [Certificate.load(local.keys / f"{NAME}.crt"), other], days=-7)
    file = tmp_path / "whitelist"
    file.write_bytes(whitelist.signed(master_key(local)))
    file.chmod(0o640)
    local.server_conf.unlink()
    outcome = local.server("resign", "--json", "-w", file, "-d", "7").succeeded()
    signed = whitelist_module.verify(file.read_bytes(), [master_key(local).public_key], NAME)
    assert signed.fingerprints == whitelist.fingerprints
    assert outcome.document["fingerprints"] == list(whitelist.fingerprints)
    assert signed.remaining().days == 6
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir() if "whitelist" in path.name] == ["whitelist"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, ["Cannot read the whitelist", "No such file"]),
        (b"garbage", ["whitelist is malformed"]),
        (Whitelist.create("x.org", [RepositoryKey.generate("x.org").certificate]), ["is for x.org"]),
    ],
)
def test_files_that_are_no_whitelists(
    local: ReleaseManager, tmp_path: Path, content: bytes | Whitelist | None, says: list[str]
) -> None:
    file = tmp_path / "whitelist"
    if isinstance(content, Whitelist):
        content = content.signed(master_key(local))
    if content is not None:
        file.write_bytes(content)
    local.refuses("resign", "-w", file, says=says)
    file.write_bytes(Whitelist.create(NAME, [RepositoryKey.generate(NAME).certificate]).signed(MasterKey.generate()))
    local.refuses("resign", "-w", file, says=["is not signed by a trusted master key"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-p", "-d", "7"], "-p signs no whitelist, which -d is about"),
        (["-p", "-w", "x"], "-p signs no whitelist, which -w is about"),
        (["-p", "--only"], "-p signs no whitelist, which --only is about"),
        (["-w", "x", "--only"], "-w keeps the certificates of its file"),
        (["-w", "x", "--also", "y"], "-w keeps the certificates of its file"),
        (["--also", "/nowhere.crt"], "There is no certificate /nowhere.crt"),
        (["-w", "x", "another.example.org"], "-w is about one repository"),
        (["-p", "--signed", "x"], "-p signs no whitelist, which --signed is about"),
        (["-d", "7", "--signed", "x"], "--signed signs no whitelist, which -d is about"),
        (["--signed", "x", "another.example.org"], "--signed is about one repository"),
        (["--replaces", "none"], "--replaces is about a whitelist that was signed elsewhere"),
        (["--changes", "A"], "--changes is about a whitelist that was signed elsewhere"),
        (["--signed", "x", "--replaces", "none", "--changes", "A"], "--replaces allows any change"),
    ],
)
def test_contradictions_of_resign(local: ReleaseManager, arguments: list[str], says: str) -> None:
    local.refuses("resign", *arguments, says=[says])
