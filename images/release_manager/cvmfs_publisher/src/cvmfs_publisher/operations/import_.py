# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server import``: a release manager for a repository that is there already.

Everything local is made from the repository and the given keys. What the repository says about itself is kept, while
CernVM-FS's own import sets it back to defaults: hash algorithm, garbage collection, compression, life time of the
manifest, automatic tags, authorization.

No master key is needed while the whitelist is valid, and nothing is written to the storage then but a lost reflog, and
the list of the server's repositories.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..catalog import CatalogTree, DirectoryEntry
from ..content import Compression
from ..errors import ConfigurationError, PublisherError, SignatureError, UsageError, WhitelistExpired
from ..paths import ROOT
from ..repository import Certificate, MasterKey, Repository, RepositoryKey, ServerConfig, Whitelist
from ..repository.manifest import DEFAULT_TTL, MANIFEST_KEY
from ..repository.reflog import REFLOG_KEY
from ..repository.repository import MASTER_REPLICA, MASTER_REPLICA_KEY, read_manifest, read_whitelist
from ..repository.settings import check_repository_name
from ..repository.signing import load_public_keys, write_key_file
from ..storage import ObjectStore, S3Store
from .environment import Environment
from .mkfs import default_settings, local_storage, require_text, write_configuration
from .reflogs import repair_reflog
from .resign import resign_manifest, resign_whitelist
from .server_info import announce

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

_SAMPLE = 2000  # entries of the newest revision that are asked how content is stored


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What the repository does not say about itself; None leaves it to the default.

    :param stratum0_url: where clients find the repository, with its name
    :param upstream_storage: as ``CVMFS_UPSTREAM_STORAGE``
    :param owner: user that owns new content
    :param keychain: directory with the keys; the key directory itself by default
    :param proxy: through which the release manager reads
    :param replicable: allow replication
    :param chown_storage: give local storage to the owner
    :param recreate_whitelist: sign it again, for which the master key must be in the keychain
    :param recreate_key: make a new repository key, and sign the current revision with it
    """

    stratum0_url: str | None = None
    upstream_storage: str | None = None
    owner: str | None = None
    keychain: Path | None = None
    union_fs: str | None = None
    proxy: str | None = None
    replicable: bool = False
    chown_storage: bool = False
    recreate_whitelist: bool = False
    recreate_key: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """What was imported.

    :param storage: where, for people
    :param settings: what ``server.conf`` has, by key
    :param changed: whether anything was written, here or there
    :param warnings: what is not as it should be, though the repository is imported
    """

    repository: str
    storage: str
    stratum0_url: str
    revision: int
    settings: dict[str, str]
    changed: bool
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class _Keys:
    """The keys in the keychain.

    :param public: of the master key
    :param master: needed for signing a whitelist only
    :param certificate: the one in the keychain, even if a new one is to take its place
    :param files: PEM by suffix, to be written
    """

    public: rsa.RSAPublicKey
    master: MasterKey | None
    certificate: Certificate | None
    repository: RepositoryKey
    files: dict[str, bytes]


def import_repository(environment: Environment, name: str, options: ImportOptions) -> ImportResult:
    """Make configuration and keys for an existing repository. A second time with the same options changes nothing.

    :raises RepositoryNotFound: when there is none in the storage
    :raises ConfigurationError: when keys or a configuration are here that differ, which are never overwritten
    :raises SignatureError, WhitelistExpired: when the repository is not of these keys, or clients would refuse it
    :raises StorageError: when the storage cannot be read, or not be written where that is needed
    """
    check_repository_name(name)
    if options.recreate_key and not options.recreate_whitelist:
        raise UsageError(
            "-t makes a certificate that has to be listed", remedy="Add -r, for which the master key is needed"
        )
    chosen = _chosen(environment, name, options)
    keys = _load_keys(options.keychain or environment.keys_dir, name, options)
    for_all = environment.defaults()
    with contextlib.closing(environment.store(ServerConfig({**for_all, **chosen}, "the command line"))) as store:
        repository = _open(store, name, keys, options)
        settings = _settings(environment, repository, chosen)
        if options.recreate_key and settings.get("CVMFS_SIGNING_SERVICE"):
            raise ConfigurationError(
                f"A service signs for {name}, and would not have the key that -t makes",
                remedy="Leave -t out, and give the service another key",
            )
        owner = environment.owner(settings)
        _require_unused(environment, name, settings, keys)
        if options.chown_storage:
            _chown(settings, owner.uid, owner.gid)
        before = _local_files(environment, name)
        _write_keys(environment.keys_dir, name, keys)
        if not (environment.repository_dir(name) / "server.conf").exists():
            write_configuration(environment, name, settings)
        warnings: list[str] = []
        changed = _local_files(environment, name) != before
        if options.recreate_whitelist:
            warnings += _sign(environment, name, keys, recreate_key=options.recreate_key)
            changed = True
        if options.replicable and not store.exists(MASTER_REPLICA_KEY):
            store.put(MASTER_REPLICA_KEY, MASTER_REPLICA)
            changed = True
        if not store.exists(REFLOG_KEY):
            changed = _restore_reflog(environment, name, warnings) or changed
        if options.stratum0_url is not None:
            warnings += _compare(environment, ServerConfig({**for_all, **settings}, settings.origin), store)
        warnings += announce(environment, settings)
        return ImportResult(
            repository=name,
            storage=store.describe(),
            stratum0_url=settings["CVMFS_STRATUM0"],
            revision=repository.manifest.revision,
            settings=dict(settings),
            changed=changed,
            warnings=warnings,
        )


def _chosen(environment: Environment, name: str, options: ImportOptions) -> dict[str, str]:
    """Return the settings that options ask for, on top of those in a ``server.conf`` that is there."""
    settings = {
        "CVMFS_STRATUM0": options.stratum0_url,
        "CVMFS_UPSTREAM_STORAGE": options.upstream_storage,
        "CVMFS_USER": options.owner,
        "CVMFS_UNION_FS_TYPE": options.union_fs,
        "CVMFS_SERVER_PROXY": options.proxy,
    }
    chosen = require_text({key: value for key, value in settings.items() if value is not None})
    if (environment.repository_dir(name) / "server.conf").exists():
        existing = environment.settings(name)
        for key, value in chosen.items():
            if existing.get(key) != value:
                raise ConfigurationError(
                    f"{name} is configured here already: {existing.origin} has {key}={existing.get(key, '')}, "
                    f"the command line asks for {value}",
                    remedy="Leave the option out, or remove that configuration if it is not needed any more",
                )
        return dict(existing)
    chosen.setdefault("CVMFS_UPSTREAM_STORAGE", local_storage(name))
    return chosen


def _load_keys(directory: Path, name: str, options: ImportOptions) -> _Keys:
    """Read the keychain, or make a new repository key; nothing is written.

    :raises ConfigurationError: when a key that is needed is missing, or keys do not fit to each other
    """
    names = ("masterkey", "pub", "key", "crt")
    master_file, public_file, key_file, certificate_file = (directory / f"{name}.{suffix}" for suffix in names)
    files = {}
    master = None
    if options.recreate_whitelist or master_file.exists():
        master = MasterKey.load(master_file)
        files["masterkey"] = master_file.read_bytes()
    if master is not None and not public_file.exists():
        public = master.public_key
        files["pub"] = master.public_pem()
    else:
        (public,) = load_public_keys([public_file])
        files["pub"] = public_file.read_bytes()
    if master is not None and master.public_key != public:
        raise ConfigurationError(
            f"{public_file} is not the public half of {master_file}", remedy="Restore both from the same backup"
        )
    if options.recreate_key:
        certificate = Certificate.load(certificate_file) if certificate_file.exists() else None
        repository = RepositoryKey.generate(name)
        files |= {"key": repository.private_pem(), "crt": repository.certificate.pem}
    else:
        repository = RepositoryKey.load(key_file, certificate_file)
        certificate = repository.certificate
        files |= {"key": key_file.read_bytes(), "crt": certificate_file.read_bytes()}
    return _Keys(public, master, certificate, repository, files)


def _open(store: ObjectStore, name: str, keys: _Keys, options: ImportOptions) -> Repository:
    """Return the repository, if it is to be trusted and these keys can publish to it.

    :raises SignatureError, WhitelistExpired: otherwise
    """
    if not options.recreate_whitelist:
        repository = Repository.open(name, store, [keys.public])
        try:
            repository.require_signer(keys.repository)
        except (SignatureError, WhitelistExpired) as error:
            error.remedy = (
                "Use the keys that belong to it, or have the whitelist signed again, with the master key and -r"
            )
            raise
        return repository
    manifest, version, certificate = read_manifest(store, name)
    whitelist: Whitelist | None = None
    with contextlib.suppress(PublisherError):
        whitelist = read_whitelist(store, name, [keys.public])
    given = keys.certificate is not None and keys.certificate.pem == certificate.pem
    if not given and not (whitelist is not None and whitelist.lists(certificate)):
        raise SignatureError(
            f"The manifest of {name} is signed with certificate {certificate.fingerprint()}, "
            "which neither the whitelist lists, nor is it the one that is given",
            remedy=f"Put the repository's own certificate into the keychain, as {name}.crt",
        )
    coming = Whitelist.create(name, [keys.repository.certificate])
    return Repository(name, store, manifest, version, certificate, coming, [keys.public])


def _settings(environment: Environment, repository: Repository, chosen: dict[str, str]) -> ServerConfig:
    """Return the configuration: what was asked for, what the repository says, and defaults for the rest."""
    name, store, manifest = repository.name, repository.store, repository.manifest
    if "CVMFS_REPOSITORY_NAME" in chosen:  # the server.conf that is there
        return ServerConfig(chosen, "server.conf")
    if "CVMFS_STRATUM0" not in chosen:
        url = store.url if isinstance(store, S3Store) else f"http://localhost/cvmfs/{name}"
        chosen = {**chosen, "CVMFS_STRATUM0": url}
    found = {
        "CVMFS_HASH_ALGORITHM": manifest.root_hash.algorithm.name.lower(),
        "CVMFS_GARBAGE_COLLECTION": "true" if manifest.garbage_collectable else "false",
        "CVMFS_AUTO_TAG": "true" if repository.history().has_auto_tags() else "false",
    }
    if manifest.ttl != DEFAULT_TTL:
        found["CVMFS_REPOSITORY_TTL"] = str(manifest.ttl)
    if manifest.has_alt_catalog_path:
        found["CVMFS_CATALOG_ALT_PATHS"] = "true"
    defaults = default_settings(environment, name)
    with (
        environment.scratch(ServerConfig(defaults | chosen)) as scratch,
        CatalogTree(store, manifest.root_hash, scratch) as tree,
    ):
        authorization = tree.catalog(ROOT).properties().get("voms_authz")
        if authorization:
            found["CVMFS_VOMS_AUTHZ"] = authorization
        found["CVMFS_USER"] = _user_name(tree.entry(ROOT))
        entries = [entry for _, entry in itertools.islice(tree.walk(), _SAMPLE)]
    found |= _content_settings(entries)
    return ServerConfig(defaults | found | chosen, "the repository")


def _content_settings(entries: Sequence[DirectoryEntry]) -> dict[str, str]:
    """Return how most of the content is stored."""
    files = [entry for entry in entries if stat.S_ISREG(entry.mode)]
    size = sum(entry.size for entry in files)
    found = {}
    if sum(entry.size for entry in files if entry.compression is Compression.NONE) > size / 2:
        found["CVMFS_COMPRESSION_ALGORITHM"] = "none"
    if sum(entry.size for entry in files if entry.is_external) > size / 2:
        found["CVMFS_EXTERNAL_DATA"] = "true"
    return found


def _user_name(root: DirectoryEntry | None) -> str:
    uid = root.uid if root is not None else 0
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _require_unused(environment: Environment, name: str, settings: ServerConfig, keys: _Keys) -> None:
    """Refuse, before anything is written, to overwrite a key; and see that the files name each other.

    :raises ConfigurationError: then
    """
    for suffix, pem in keys.files.items():
        file = environment.keys_dir / f"{name}.{suffix}"
        if file.exists() and file.read_bytes() != pem:
            raise ConfigurationError(
                f"{file} exists already, and is another", remedy="Move it away if it is of no use any more"
            )
    there = [file for file in environment.public_keys(settings) if file.exists()]
    if there and keys.public not in load_public_keys(there):
        raise ConfigurationError(
            f"CVMFS_PUBLIC_KEY of {name} names {settings['CVMFS_PUBLIC_KEY']}, which is another master key's",
            remedy="Correct client.conf, or remove it",
        )


def _write_keys(directory: Path, name: str, keys: _Keys) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot make {directory}: {error.strerror}", remedy="Provide a writable directory for the keys"
        ) from error
    for suffix, pem in keys.files.items():
        file = directory / f"{name}.{suffix}"
        if not file.exists():
            write_key_file(file, pem, secret=suffix in ("key", "masterkey"))


def _sign(environment: Environment, name: str, keys: _Keys, *, recreate_key: bool) -> Sequence[str]:
    """Sign a new whitelist, and with a new key the manifest as well; return warnings.

    At each step clients can read the repository.
    """
    also = [keys.certificate] if keys.certificate is not None else []
    resign_whitelist(environment, name, also=[keys.repository.certificate, *also])
    if not recreate_key:
        return ()
    _, warnings = resign_manifest(environment, name)
    resign_whitelist(environment, name)
    return warnings


def _restore_reflog(environment: Environment, name: str, warnings: list[str]) -> bool:
    """Rebuild a reflog that is missing, as in repositories from before CernVM-FS 2.2; return whether that was done."""
    try:
        return repair_reflog(environment, name, create=True) is not None
    except PublisherError as error:
        warnings.append(f"{REFLOG_KEY} is missing, and was not rebuilt: {error}")
        return False


def _compare(environment: Environment, settings: ServerConfig, store: ObjectStore) -> list[str]:
    """Warn if clients do not find what is in the storage."""
    try:
        with environment.public_store(settings) as public:
            if public.get(MANIFEST_KEY) == store.get(MANIFEST_KEY):
                return []
            return [f"What clients find at {public.describe()} is not what is in {store.describe()}"]
    except PublisherError as error:
        return [f"Clients cannot read the repository: {error}"]


def _chown(settings: ServerConfig, uid: int, gid: int) -> None:
    kind, _, directory = settings["CVMFS_UPSTREAM_STORAGE"].split(",", 2)
    if kind != "local":
        raise UsageError("-g is about storage in a local directory", remedy="Leave it out")
    try:
        os.chown(directory, uid, gid)
        for parent, names, files in os.walk(directory):
            for entry in (*names, *files):
                os.chown(os.path.join(parent, entry), uid, gid, follow_symlinks=False)
    except OSError as error:
        raise PublisherError(
            f"Cannot change the owner of {error.filename}: {error.strerror}", remedy="Run it as root"
        ) from error


def _local_files(environment: Environment, name: str) -> set[Path]:
    return {*environment.keys_dir.glob(f"{name}.*"), *environment.repository_dir(name).glob("*")}
