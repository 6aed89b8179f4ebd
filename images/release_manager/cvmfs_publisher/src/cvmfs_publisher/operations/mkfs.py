# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server mkfs``: create a repository."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from dataclasses import dataclass, replace
from pathlib import Path

from ..catalog import DirectoryEntry, WritableCatalogTree
from ..changes.change_set import Owner
from ..changes.entry import DIRECTORY_SIZE
from ..content import ContentHash, HashAlgorithm, HashSuffix, put_object
from ..errors import ConfigurationError, UsageError
from ..paths import ROOT
from ..repository import History, Manifest, MasterKey, Repository, RepositoryKey, ServerConfig, Tag, Whitelist, metainfo
from ..repository.manifest import DEFAULT_TTL
from ..repository.repository import require_absent, require_may_sign
from ..repository.server_keys import require_supported
from ..repository.settings import check_repository_name
from ..repository.signing import load_public_keys, write_key_file
from ..repository.whitelist import verify as verify_whitelist
from ..storage import ObjectStore
from ..storage.preflight import preflight
from .dates import point_in_time
from .environment import SPOOL, Environment
from .properties import choose_requirement, set_properties
from .server_info import announce

_LAYOUT_REVISION = "143"  # what CernVM-FS 2.12 to 2.14 write and accept as CVMFS_CREATOR_VERSION
_FIRST_FILE = b"new_repository"
_PARENT_OF_LOCAL_STORAGE = Path("/srv/cvmfs")


@dataclass(frozen=True, slots=True, kw_only=True)
class MkfsOptions:
    """What a new repository is to be like; None leaves a choice to the default, or to a ``server.conf`` that is there.

    :param stratum0_url: where clients find the repository; with `s3_config` without the repository's name
    :param upstream_storage: as ``CVMFS_UPSTREAM_STORAGE``
    :param s3_config: file with the bucket and its credentials
    :param keychain: directory with the keys to use
    :param auto_tag_timespan: as date(1) takes it
    :param external: publish files as external by default
    :param requirement: what members have to prove: the repository is confidential
    :param proxy: through which CernVM-FS's own tools read
    :param whitelist: signed where the master key is, which is not needed here then
    """

    stratum0_url: str | None = None
    upstream_storage: str | None = None
    s3_config: Path | None = None
    owner: str | None = None
    keychain: Path | None = None
    hash_algorithm: str | None = None
    compression: str | None = None
    auto_tag: bool = True
    auto_tag_timespan: str | None = None
    garbage_collectable: bool = False
    volatile: bool = False
    union_fs: str | None = None
    external: bool = False
    requirement: str | None = None
    proxy: str | None = None
    whitelist: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MkfsResult:
    """What was created.

    :param storage: where, for people
    :param generated_keys: whether the keys are new
    :param warnings: what is not as it should be, though the repository is there
    """

    repository: str
    storage: str
    stratum0_url: str
    revision: int
    root_hash: ContentHash
    generated_keys: bool
    keys_dir: Path
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class _Keys:
    """The keys of a new repository.

    :param master: signs the whitelist; or a whitelist that it has signed elsewhere
    :param public_pem: its public half
    """

    master: MasterKey | bytes
    public_pem: bytes
    repository: RepositoryKey

    @classmethod
    def of_master(cls, master: MasterKey, repository: RepositoryKey) -> _Keys:
        """Return the keys where the master key is here."""
        return cls(master, master.public_pem(), repository)

    def whitelist(self, name: str, algorithm: HashAlgorithm) -> bytes:
        """Return the document for ``.cvmfswhitelist``."""
        if isinstance(self.master, bytes):
            return self.master
        return Whitelist.create(name, [self.repository.certificate], algorithm=algorithm).signed(self.master)


def mkfs(environment: Environment, name: str, options: MkfsOptions) -> MkfsResult:
    """Create a repository with one revision, which has the file ``new_repository``.

    Keys in the key directory, or in the given keychain, are used; only if there are none at all, new ones are made.
    A ``server.conf`` that is there is used as well, and options must not contradict it.

    :raises RepositoryExists: when there is a repository in the storage; it is not touched
    :raises ConfigurationError: when options, configuration and keys do not fit together
    :raises StorageError: when the storage does not take it
    """
    check_repository_name(name)
    settings, new = _settings(environment, name, options)
    owner = environment.owner(settings)
    # What is wrong is refused before anything is made
    algorithm, _ = settings.hash_algorithm, settings.compression
    if timespan := settings.get("CVMFS_AUTO_TAG_TIMESPAN"):
        point_in_time(timespan, "CVMFS_AUTO_TAG_TIMESPAN")
    with contextlib.closing(environment.store(settings)) as store:
        require_absent(store, name)
        existing_keys = _load_keys(environment, name, options)
        preflight(store)
        keys = existing_keys or _Keys.of_master(MasterKey.generate(), RepositoryKey.generate(name))
        _write_keys(environment.keys_dir, name, keys, keep=_is_same(options.keychain, environment.keys_dir))
        warnings = _doubts(settings)
        with environment.scratch(settings) as scratch:
            manifest = _first_revision(store, settings, owner, scratch, volatile=options.volatile)
        repository = Repository.create(manifest, store, keys.repository, keys.whitelist(name, algorithm))
        if new is not None:
            write_configuration(environment, name, new)
        warnings += announce(environment, settings)
        return MkfsResult(
            repository=name,
            storage=store.describe(),
            stratum0_url=settings.get("CVMFS_STRATUM0", ""),
            revision=repository.manifest.revision,
            root_hash=repository.manifest.root_hash,
            generated_keys=existing_keys is None,
            keys_dir=environment.keys_dir,
            warnings=warnings,
        )


def _doubts(settings: ServerConfig) -> list[str]:
    """Return warnings about settings that hardly are meant like that."""
    warnings = []
    if not settings.get("CVMFS_USER"):
        warnings.append("CVMFS_USER is not set: the content belongs to root")
    has_auto_tags, has_timespan = settings.flag("CVMFS_AUTO_TAG", default=True), settings.get("CVMFS_AUTO_TAG_TIMESPAN")
    if has_timespan and not has_auto_tags:
        warnings.append("CVMFS_AUTO_TAG_TIMESPAN is set, but CVMFS_AUTO_TAG is false")
    if has_auto_tags and not has_timespan and settings.flag("CVMFS_GARBAGE_COLLECTION", default=False):
        warnings.append("Garbage collection spares all revisions that are tagged automatically; set a time span (-G)")
    return warnings


def _settings(environment: Environment, name: str, options: MkfsOptions) -> tuple[ServerConfig, ServerConfig | None]:
    """Return the repository's configuration, and what of it has to be written if there is none yet."""
    chosen = _chosen(name, options)
    if not (environment.repository_dir(name) / "server.conf").exists():
        if "CVMFS_UPSTREAM_STORAGE" not in chosen:
            chosen |= {"CVMFS_UPSTREAM_STORAGE": local_storage(name)}
        if "CVMFS_STRATUM0" not in chosen:
            if options.s3_config is not None:
                raise UsageError("There is no URL for the clients", remedy="Add -w with the bucket's URL")
            chosen |= {"CVMFS_STRATUM0": f"http://localhost/cvmfs/{name}"}
        automatic = {"CVMFS_AUTO_GC": "true"} if options.garbage_collectable else {}  # as upstream's
        new = ServerConfig(default_settings(environment, name) | automatic | chosen, "the command line")
        for_all = environment.defaults()
        require_supported(for_all)
        return ServerConfig({**for_all, **new}, new.origin), new
    existing = environment.supported_settings(name)
    for key, value in chosen.items():
        if key in existing and existing[key] != value:
            raise ConfigurationError(
                f"{existing.origin} has {key}={existing[key]}, the command line asks for {value}",
                remedy="Leave the option out, or change the file",
            )
    return ServerConfig({**chosen, **existing}, existing.origin), None


def _chosen(name: str, options: MkfsOptions) -> dict[str, str]:
    """Return the settings that the options ask for."""
    upstream, url = options.upstream_storage, options.stratum0_url
    if options.s3_config is not None:
        if upstream is not None:
            raise UsageError("-s and -u exclude each other", remedy="Use -s for S3 storage")
        upstream = f"S3,{SPOOL / name / 'tmp'},{name}@{options.s3_config.absolute()}"
        url = f"{url.rstrip('/')}/{name}" if url is not None else None
    settings = {
        "CVMFS_STRATUM0": url,
        "CVMFS_UPSTREAM_STORAGE": upstream,
        "CVMFS_USER": options.owner,
        "CVMFS_HASH_ALGORITHM": options.hash_algorithm,
        "CVMFS_COMPRESSION_ALGORITHM": options.compression,
        "CVMFS_AUTO_TAG": None if options.auto_tag else "false",
        "CVMFS_AUTO_TAG_TIMESPAN": options.auto_tag_timespan,
        "CVMFS_GARBAGE_COLLECTION": "true" if options.garbage_collectable else None,
        "CVMFS_UNION_FS_TYPE": options.union_fs,
        "CVMFS_EXTERNAL_DATA": "true" if options.external else None,
        "CVMFS_VOMS_AUTHZ": options.requirement,
        "CVMFS_SERVER_PROXY": options.proxy,
        # Web servers that ask for membership let clients see what they need to learn about that
        "CVMFS_CATALOG_ALT_PATHS": "true" if options.requirement else None,
    }
    return require_text({key: value for key, value in settings.items() if value is not None})


def require_text(settings: dict[str, str]) -> dict[str, str]:
    """Return settings from the command line, whose bytes may have been anything.

    :raises UsageError: when they cannot be written into catalogs and configuration files
    """
    for key, value in settings.items():
        if not value.isprintable():
            raise UsageError(f"{key}={value!a} is not printable UTF-8 text", remedy="Correct the option")
    return settings


def default_settings(environment: Environment, name: str) -> dict[str, str]:
    """Return what a new ``server.conf`` has where nothing else is asked for."""
    return {
        "CVMFS_CREATOR_VERSION": _LAYOUT_REVISION,
        "CVMFS_REPOSITORY_NAME": name,
        "CVMFS_REPOSITORY_TYPE": "stratum0",
        "CVMFS_USER": "root",
        "CVMFS_UNION_DIR": f"/cvmfs/{name}",
        "CVMFS_SPOOL_DIR": str(SPOOL / name),
        "CVMFS_PUBLIC_KEY": str(environment.keys_dir / f"{name}.pub"),
        "CVMFS_USE_FILE_CHUNKING": "true",
        "CVMFS_MIN_CHUNK_SIZE": "4194304",
        "CVMFS_AVG_CHUNK_SIZE": "8388608",
        "CVMFS_MAX_CHUNK_SIZE": "16777216",
        "CVMFS_UNION_FS_TYPE": "overlayfs",
        "CVMFS_HASH_ALGORITHM": "sha1",
        "CVMFS_COMPRESSION_ALGORITHM": "default",
        "CVMFS_EXTERNAL_DATA": "false",
        "CVMFS_AUTO_TAG": "true",
        "CVMFS_AUTO_TAG_TIMESPAN": "",
        "CVMFS_GARBAGE_COLLECTION": "false",
        "CVMFS_AUTOCATALOGS": "false",
        "CVMFS_IGNORE_XDIR_HARDLINKS": "true",
    }


def local_storage(name: str) -> str:
    """Return ``CVMFS_UPSTREAM_STORAGE`` of a repository for which none is named."""
    directory = _PARENT_OF_LOCAL_STORAGE / name
    return f"local,{directory}/data/txn,{directory}"


def _load_keys(environment: Environment, name: str, options: MkfsOptions) -> _Keys | None:
    """Return the keys that are there, or None if there are none at all.

    A master key alone, which repositories may share, gets a new repository key. A whitelist is verified, and takes the
    master key's place.
    """
    keychain = options.keychain
    directory = keychain if keychain is not None else environment.keys_dir
    master_file, key_file, certificate_file, public_file = (
        directory / f"{name}.{suffix}" for suffix in ("masterkey", "key", "crt", "pub")
    )
    if options.whitelist is not None:
        key = RepositoryKey.load(key_file, certificate_file)
        whitelist = verify_whitelist(options.whitelist, load_public_keys([public_file]), name)
        require_may_sign(whitelist, key)
        return _Keys(options.whitelist, public_file.read_bytes(), key)
    there = any(file.exists() for file in (master_file, key_file, certificate_file, public_file))
    if keychain is None and not there:
        return None
    master = MasterKey.load(master_file)
    if not key_file.exists() and not certificate_file.exists():
        return _Keys.of_master(master, RepositoryKey.generate(name))
    return _Keys.of_master(master, RepositoryKey.load(key_file, certificate_file))


def _is_same(keychain: Path | None, keys_dir: Path) -> bool:
    return keychain is None or keychain.resolve() == keys_dir.resolve()


def _write_keys(directory: Path, name: str, keys: _Keys, *, keep: bool) -> None:
    """Write the keys into the key directory.

    :param keep: what is there was read from there, and stays as it is; else it must be the same
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot make {directory}: {error.strerror}", remedy="Provide a writable directory for new keys"
        ) from error
    files = [
        ("pub", keys.public_pem, False),
        ("key", keys.repository.private_pem(), True),
        ("crt", keys.repository.certificate.pem, False),
    ]
    if isinstance(keys.master, MasterKey):
        files.append(("masterkey", keys.master.private_pem(), True))
    for suffix, pem, secret in files:
        file = directory / f"{name}.{suffix}"
        if not (keep and file.exists()):
            write_key_file(file, pem, secret=secret)


def _first_revision(
    store: ObjectStore, settings: ServerConfig, owner: Owner, scratch: Path, *, volatile: bool
) -> Manifest:
    """Upload the first revision's objects, and return an unsigned manifest."""
    algorithm = settings.hash_algorithm
    ttl = settings.number("CVMFS_REPOSITORY_TTL", 0) or DEFAULT_TTL
    now = int(time.time())
    text = f"New CernVM-FS repository for {settings.repository}\n".encode()
    with WritableCatalogTree(store, None, scratch) as tree:
        root = DirectoryEntry(
            name=b"", mode=stat.S_IFDIR | 0o755, uid=owner.uid, gid=owner.gid, size=DIRECTORY_SIZE, mtime=now
        )
        tree.add(ROOT, root)
        if volatile:
            tree.set_root_property("volatile", "1")
        set_properties(tree, ttl, choose_requirement(None, settings, None))
        compression = settings.compression
        content_hash, _ = put_object(store, text, algorithm=algorithm, compression=compression)
        first_file = replace(
            root, mode=stat.S_IFREG | 0o644, size=len(text), hash=content_hash, compression=compression
        )
        tree.add(_FIRST_FILE, first_file)
        committed = tree.commit(lambda data: put_object(store, data, HashSuffix.CATALOG, algorithm), 1, now)
    history = History(settings.repository)
    if settings.flag("CVMFS_AUTO_TAG", default=True):
        history.add(
            Tag(
                name=history.new_auto_tag_name(now),
                root_hash=committed.root_hash,
                size=committed.root_size,
                revision=1,
                timestamp=now,
            )
        )
    history.set_trunk(committed.root_hash, committed.root_size, 1, now)
    return Manifest(
        repository=settings.repository,
        root_hash=committed.root_hash,
        catalog_size=committed.root_size,
        revision=1,
        ttl=ttl,
        history=put_object(store, history.serialise(), HashSuffix.HISTORY, algorithm)[0],
        meta_info=put_object(store, metainfo.dump(metainfo.REPOSITORY_META), HashSuffix.METAINFO, algorithm)[0],
        garbage_collectable=settings.flag("CVMFS_GARBAGE_COLLECTION", default=False),
        has_alt_catalog_path=settings.flag("CVMFS_CATALOG_ALT_PATHS", default=False),
    )


def write_configuration(environment: Environment, name: str, settings: ServerConfig) -> None:
    """Write ``server.conf`` and ``client.conf``.

    :raises ConfigurationError: when they cannot be written
    """
    directory = environment.repository_dir(name)
    client = ServerConfig(
        {
            "CVMFS_SERVER_URL": settings["CVMFS_STRATUM0"],
            "CVMFS_PUBLIC_KEY": settings["CVMFS_PUBLIC_KEY"],
            "CVMFS_HTTP_PROXY": settings.get("CVMFS_SERVER_PROXY") or "DIRECT",
        }
    )
    configured = settings.get("X509_CERT_BUNDLE") or environment.defaults().get("X509_CERT_BUNDLE")
    authorities = configured or os.environ.get("X509_CERT_BUNDLE")
    if authorities:
        client = ServerConfig({**client, "X509_CERT_BUNDLE": authorities})
    server = ServerConfig({key: value for key, value in settings.items() if key != "CVMFS_PUBLIC_KEY"})
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "server.conf").write_text(f"# Created by cvmfs_server.\n{server.render()}")
        (directory / "client.conf").write_text(f"# Created by cvmfs_server.\n{client.render()}")
    except OSError as error:
        raise ConfigurationError(
            f"The repository is there, but its configuration cannot be written to {directory}: {error.strerror}",
            remedy=f"Let the user write there, then run cvmfs_server import {name}",
        ) from error
