# SPDX-License-Identifier: GPL-3.0-or-later
"""``import``: a host that has nothing but keys becomes the release manager of a repository that is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cvmfs_publisher.operations import mkfs as mkfs_module
from cvmfs_publisher.operations.mkfs import MkfsOptions, mkfs
from cvmfs_publisher.repository import Certificate, MasterKey, Reflog, RepositoryKey, ServerConfig, Whitelist
from cvmfs_publisher.repository.manifest import MANIFEST_KEY
from cvmfs_publisher.repository.reflog import REFLOG_KEY
from cvmfs_publisher.repository.repository import MASTER_REPLICA_KEY
from cvmfs_publisher.repository.whitelist import WHITELIST_KEY
from operations.managers import NAME, ReleaseManager, make, mirror, refusal
from operations.reading import published

KEYS = ("pub", "key", "crt")


class Host:
    """A host without any configuration, and a directory with keys of the repository."""

    def __init__(self, manager: ReleaseManager, base: Path, *kinds: str) -> None:
        self.original = manager
        self.keychain = make(base / "keychain", README="keys")
        for kind in kinds:
            shutil.copy(manager.keys / f"{NAME}.{kind}", self.keychain)
        self.manager = ReleaseManager(base / "host", dict(manager.settings))
        self.manager.server_conf.unlink()
        self.manager.server_conf.parent.rmdir()

    @property
    def arguments(self) -> list[str | Path]:
        return ["-u", self.original.settings["CVMFS_UPSTREAM_STORAGE"], "-k", self.keychain]

    def import_(self, *more: str | Path) -> dict[str, object]:
        """Import, and return the document about it."""
        return self.manager.server("import", "--json", *self.arguments, *more).succeeded().document

    def refuses(self, *more: str | Path, says: Sequence[str], code: int = 1) -> None:
        """Assert that nothing is imported, for one reason, and nothing is changed anywhere."""
        before = self.original.state(), self.manager.files()
        outcome = self.manager.server("import", *self.arguments, *more)
        refusal(outcome, "import", says, code)
        assert (self.original.state(), self.manager.files()) == before

    def settings(self) -> ServerConfig:
        return self.manager.environment.settings(NAME)


@pytest.fixture(autouse=True)
def _spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what import chooses by itself away from this machine's own directories."""
    monkeypatch.setattr(mkfs_module, "SPOOL", tmp_path / "var-spool")


@pytest.fixture
def host(manager: ReleaseManager, tmp_path: Path) -> Host:
    return Host(manager, tmp_path / "import", *KEYS)


@pytest.fixture
def local_host(local: ReleaseManager, tmp_path: Path) -> Host:
    return Host(local, tmp_path / "import", *KEYS)


@pytest.fixture
def with_master_key(local: ReleaseManager, tmp_path: Path) -> Host:
    return Host(local, tmp_path / "import", *KEYS, "masterkey")


def test_goes_on_without_a_master_key(host: Host, source: Path) -> None:
    old, new = host.original, host.manager
    old.ingest(mirror(source))
    document = host.import_()
    assert document["changed"]
    assert document["revision"] == 2
    assert sorted(path.name for path in new.keys.iterdir()) == [f"{NAME}.{kind}" for kind in ("crt", "key", "pub")]
    assert (new.keys / f"{NAME}.key").stat().st_mode & 0o777 == 0o400
    (source / "more").write_text("more")
    new.ingest(mirror(source))
    old.ingest(mirror(source, "elsewhere"))
    assert published(old).revision == 4
    new.check()


def test_the_second_time_changes_nothing(host: Host) -> None:
    assert host.import_()["changed"]
    before = host.original.state(), host.manager.files()
    assert not host.import_()["changed"]
    assert not host.manager.server("import", "--json").succeeded().document["changed"]
    assert (host.original.state(), host.manager.files()) == before


def test_what_the_repository_says_is_kept(tmp_path: Path, new_repository: Callable[..., ReleaseManager]) -> None:
    made = new_repository(
        MkfsOptions(hash_algorithm="shake128", compression="none", auto_tag=False, garbage_collectable=True),
        CVMFS_REPOSITORY_TTL="1234",
        CVMFS_USER="nobody",
    )
    made.ingest(mirror(make(tmp_path / "source", a="a" * 100)))
    host = Host(made, tmp_path / "import", *KEYS)
    host.import_("-w", "http://127.0.0.1:9/somewhere", "-f", "fuse-overlayfs", "-x", "http://proxy:3128")
    settings = host.settings()
    expected = {
        "CVMFS_HASH_ALGORITHM": "shake128",
        "CVMFS_COMPRESSION_ALGORITHM": "none",
        "CVMFS_AUTO_TAG": "false",
        "CVMFS_GARBAGE_COLLECTION": "true",
        "CVMFS_REPOSITORY_TTL": "1234",
        "CVMFS_USER": "nobody",
        "CVMFS_STRATUM0": "http://127.0.0.1:9/somewhere",
        "CVMFS_UNION_FS_TYPE": "fuse-overlayfs",
        "CVMFS_SERVER_PROXY": "http://proxy:3128",
        "CVMFS_HTTP_PROXY": "http://proxy:3128",
    }
    assert {key: settings.get(key) for key in expected} == expected


def test_what_upstream_has_for_defaults(local_host: Host) -> None:
    local_host.import_("-p")
    settings = local_host.settings()
    expected = {
        "CVMFS_HASH_ALGORITHM": "sha1",
        "CVMFS_COMPRESSION_ALGORITHM": "default",
        "CVMFS_AUTO_TAG": "true",
        "CVMFS_GARBAGE_COLLECTION": "false",
        "CVMFS_USER": "root",
        "CVMFS_STRATUM0": f"http://localhost/cvmfs/{NAME}",
    }
    assert {key: settings.get(key) for key in expected} == expected


def test_a_bucket_has_a_url(s3: ReleaseManager, tmp_path: Path) -> None:
    host = Host(s3, tmp_path / "import", *KEYS)
    assert host.import_()["stratum0_url"] == s3.settings["CVMFS_STRATUM0"]


def test_a_url_that_shows_something_else_is_told(local_host: Host) -> None:
    outcome = local_host.manager.server("import", *local_host.arguments, "-w", "http://127.0.0.1:9/x").succeeded()
    assert "Warning: Clients cannot read the repository: " in outcome.stderr


def test_an_expired_whitelist_is_signed_again(with_master_key: Host) -> None:
    expire(with_master_key.original)
    with_master_key.refuses(says=["expired", "with the master key and -r"])
    with_master_key.import_("-r")
    with_master_key.original.check()
    assert with_master_key.original.server("info", "--json").document["whitelist_valid_days"] == 29


def test_a_lost_whitelist_is_signed_again(with_master_key: Host) -> None:
    with with_master_key.original.store() as store:
        store.delete(WHITELIST_KEY)
    with_master_key.refuses(says=[f"{NAME} has no whitelist"])
    with_master_key.import_("-r")
    with_master_key.original.check()


def test_a_new_key_takes_the_place_of_a_lost_one(local: ReleaseManager, tmp_path: Path) -> None:
    host = Host(local, tmp_path / "import", "pub", "masterkey")
    host.refuses(says=["There is no repository key "])
    host.refuses("-t", says=["-t makes a certificate that has to be listed", "Add -r"])
    host.import_("-t", "-r")
    assert published(local).revision == 1
    whitelist = read_whitelist(local)
    new = Certificate.load(host.manager.keys / f"{NAME}.crt")
    assert whitelist.fingerprints == (new.fingerprint(),)
    local.refuses("ingest", "-d", "new_repository", says=["is not in the whitelist"])
    host.manager.server("ingest", "-d", "new_repository").succeeded()
    host.manager.check()


def test_a_public_key_is_made_of_the_master_key(local: ReleaseManager, tmp_path: Path) -> None:
    host = Host(local, tmp_path / "import", "key", "crt", "masterkey")
    host.import_()
    assert (host.manager.keys / f"{NAME}.pub").read_bytes() == (local.keys / f"{NAME}.pub").read_bytes()


def test_a_stranger_s_manifest_is_not_signed(local: ReleaseManager, tmp_path: Path) -> None:
    """Whoever can write to the storage does not get a signature by having the whitelist expire."""
    host = Host(local, tmp_path / "import", "pub", "masterkey")
    thief = RepositoryKey.generate(NAME)
    put(local, WHITELIST_KEY, Whitelist.create(NAME, [thief.certificate]).signed(MasterKey.generate()))
    host.refuses("-t", "-r", says=["is signed with certificate ", f"as {NAME}.crt"])


def test_a_lost_reflog_is_rebuilt(local_host: Host, source: Path) -> None:
    """A repository from before there were reflogs has neither it nor its hash in the manifest."""
    original = local_host.original
    original.ingest(mirror(source), tag="v2")
    roots = {original.manifest().root_hash}
    original.ingest(mirror(source, "again"), tag="v3")
    roots.add(original.manifest().root_hash)
    key = RepositoryKey.load(original.keys / f"{NAME}.key", original.keys / f"{NAME}.crt")
    with original.store() as store:
        store.put(MANIFEST_KEY, replace(original.manifest(), reflog_hash=None).signed(key))
        store.delete(REFLOG_KEY)
    local_host.import_()
    with original.store() as store:
        reflog = Reflog.parse(store.get(REFLOG_KEY))
    assert all(map(reflog.contains, roots))
    assert original.manifest().reflog_hash is not None
    assert original.manifest().revision == 3
    original.check()
    assert not local_host.import_()["changed"]


def test_a_reflog_is_not_rebuilt_during_a_transaction(local_host: Host) -> None:
    original = local_host.original
    original.server("transaction").succeeded()
    with original.store() as store:
        store.delete(REFLOG_KEY)
    outcome = local_host.manager.server("import", *local_host.arguments).succeeded()
    assert "Warning: .cvmfsreflog is missing, and was not rebuilt: " in outcome.stderr
    original.server("abort", "-f").succeeded()


def test_replication(local_host: Host) -> None:
    with local_host.original.store() as store:
        store.delete(MASTER_REPLICA_KEY)
    local_host.import_("-m")
    with local_host.original.store() as store:
        assert store.exists(MASTER_REPLICA_KEY)


def test_the_owner_is_chosen(local_host: Host) -> None:
    local_host.import_("-o", "nobody")
    assert local_host.settings()["CVMFS_USER"] == "nobody"


def test_the_storage_can_be_given_to_the_owner(local_host: Host) -> None:
    storage = Path(local_host.original.settings["CVMFS_UPSTREAM_STORAGE"].split(",")[2])
    local_host.import_("-g", "-o", "nobody")
    owners = {path.owner() for path in (storage, *storage.rglob("*")) if path.name != "lease.json"}
    assert owners == {"nobody"}


def test_only_local_storage_has_an_owner(s3: ReleaseManager, tmp_path: Path) -> None:
    Host(s3, tmp_path / "import", *KEYS).refuses("-g", says=["-g is about storage in a local directory"])


def expire(manager: ReleaseManager) -> None:
    key = MasterKey.load(manager.keys / f"{NAME}.masterkey")
    certificate = Certificate.load(manager.keys / f"{NAME}.crt")
    put(manager, WHITELIST_KEY, Whitelist.create(NAME, [certificate], days=-1).signed(key))


def read_whitelist(manager: ReleaseManager) -> Whitelist:
    with manager.store() as store:
        return Whitelist.parse(store.get(WHITELIST_KEY))


def put(manager: ReleaseManager, key: str, data: bytes) -> None:
    with manager.store() as store:
        store.put(key, data)


def another_key(host: Host) -> None:
    key = RepositoryKey.generate(NAME)
    (host.keychain / f"{NAME}.key").unlink()
    (host.keychain / f"{NAME}.crt").unlink()
    (host.keychain / f"{NAME}.key").write_bytes(key.private_pem())
    (host.keychain / f"{NAME}.crt").write_bytes(key.certificate.pem)


def another_public_key(host: Host) -> None:
    (host.keychain / f"{NAME}.pub").unlink()
    (host.keychain / f"{NAME}.pub").write_bytes(MasterKey.generate().public_pem())


def no_repository(host: Host) -> None:
    with host.original.store() as store:
        store.delete(MANIFEST_KEY)


def a_key_is_here(host: Host) -> None:
    (host.manager.keys / f"{NAME}.key").write_bytes(RepositoryKey.generate(NAME).private_pem())


def a_configuration_is_here(host: Host) -> None:
    host.manager.configure(CVMFS_UPSTREAM_STORAGE="local,/nowhere/txn,/nowhere")


def a_client_conf_is_here(host: Host) -> None:
    (host.manager.keys / "other.pub").write_bytes(MasterKey.generate().public_pem())
    host.manager.configure()
    conf = host.manager.server_conf.with_name("client.conf")
    conf.write_text(f"CVMFS_PUBLIC_KEY={host.manager.keys}/other.pub\n")


REFUSED: list[tuple[Callable[[Host], None], list[str]]] = [
    (another_key, ["is not in the whitelist", "with the master key and -r"]),
    (another_public_key, ["is not signed by a trusted master key"]),
    (no_repository, [f"There is no repository {NAME}"]),
    (a_key_is_here, [f"{NAME}.key exists already, and is another", "Move it away"]),
    (a_configuration_is_here, ["is configured here already", "CVMFS_UPSTREAM_STORAGE=local,/nowhere/txn,/nowhere"]),
    (a_client_conf_is_here, ["other.pub, which is another master key's", "Correct client.conf"]),
]


@pytest.mark.parametrize(("damage", "says"), REFUSED, ids=[case[0].__name__ for case in REFUSED])
def test_refused(local_host: Host, damage: Callable[[Host], None], says: list[str]) -> None:
    damage(local_host)
    local_host.refuses(says=says)


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_is_missing(local_host: Host, kind: str) -> None:
    (local_host.keychain / f"{NAME}.{kind}").unlink()
    local_host.refuses(says=[f"{NAME}.{kind}"])


def test_keys_of_two_repositories_are_told_apart(with_master_key: Host) -> None:
    (with_master_key.keychain / f"{NAME}.masterkey").unlink()
    (with_master_key.keychain / f"{NAME}.masterkey").write_bytes(MasterKey.generate().private_pem())
    with_master_key.refuses(says=[f"{NAME}.pub is not the public half of ", f"{NAME}.masterkey"])


@pytest.fixture
def new_repository(tmp_path: Path) -> Callable[..., ReleaseManager]:
    """Makes repositories on local storage with other options than usual."""

    def make_one(options: MkfsOptions, **settings: str) -> ReleaseManager:
        storage = tmp_path / "made" / "storage"
        upstream = f"local,{storage}/data/txn,{storage}"
        chosen = {"CVMFS_STRATUM0": "http://127.0.0.1/nowhere", "CVMFS_UPSTREAM_STORAGE": upstream, **settings}
        for key in ("hash_algorithm", "compression"):
            if value := getattr(options, key):
                chosen[f"CVMFS_{key.upper()}" + ("_ALGORITHM" if key == "compression" else "")] = value
        chosen["CVMFS_AUTO_TAG"] = "true" if options.auto_tag else "false"
        chosen["CVMFS_GARBAGE_COLLECTION"] = "true" if options.garbage_collectable else "false"
        manager = ReleaseManager(tmp_path / "made" / "manager", chosen)
        mkfs(manager.environment, NAME, MkfsOptions())
        return manager

    return make_one
