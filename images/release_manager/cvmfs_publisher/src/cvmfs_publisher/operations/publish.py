# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server publish`` and ``ingest``: make a new revision."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..catalog import CatalogTree, WritableCatalogTree
from ..changes.change_set import ChangeSet, Content, UnionChanges
from ..changes.limits import Limits
from ..changes.options import Balance
from ..changes.owner_map import Owners
from ..changes.report import Tell
from ..content import Chunking, Compression, ContentHash, ContentPipeline
from ..errors import ConcurrentPublish, ConfigurationError, HookFailed, RepositoryError, UsageError
from ..paths import ROOT, display, is_below, parse
from ..progress import Progress
from ..repository import History, Lease, Manifest, Repository, ServerConfig, Tag
from ..repository.history import check_description
from ..repository.server_keys import without_effect
from ..storage import LocalStore, ObjectStore
from .apply import ApplyOptions, ChangeReport, ContentDone, apply_changes
from .automatic_gc import automatic, collect_if_due
from .checked_out import Checkout, find_checkout, forget_checkout
from .dates import point_in_time
from .environment import Environment
from .hooks import Hook, call_hook
from .known import KnownObjects
from .properties import choose_requirement, has_grafts, requirement_of, set_properties, with_settings
from .revision import commit_catalogs, commit_history, hash_algorithm
from .snapshots import are_outdated, require_directory_name, settle, update_snapshots
from .statistics import PublishStatistics, failure_recorded, print_list, record
from .transaction import (
    Session,
    close_session,
    current_session,
    discard_session,
    find_session,
    kept_alive,
    open_transaction,
    root_of,
    union_of,
)
from .union import Union

_LONGEST_INTERVAL = 86400.0  # seconds


_HIGHEST = 2**63 - 1
"""Revision that a tag database can name."""
_HIGHEST_GIVEN = 2**62
"""Revision that can be given, so that more than enough are left for those that follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOptions:
    """How to publish.

    :param tag: name of the new revision; by default an automatic one, if the repository has automatic tags
    :param revision: number of the new revision; by default the next one
    :param compression: name of an algorithm, instead of the repository's
    :param external: whether new content is external; by default what the repository's configuration says
    :param direct_io: let clients bypass their page cache for new content
    :param authz_file: has the new membership requirement
    :param checksum: compare files by content even where their attributes are as published
    :param transaction_id: publish no other transaction than this
    """

    tag: str | None = None
    tag_description: str = ""
    revision: int | None = None
    compression: str | None = None
    external: bool | None = None
    direct_io: bool = False
    authz_file: Path | None = None
    checksum: bool = False
    transaction_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedPaths:
    """The first paths of each kind, sorted.

    :param truncated: whether there are more
    """

    added: list[bytes]
    modified: list[bytes]
    removed: list[bytes]
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishResult:
    """What a publish did; of a dry run, what it would do.

    :param revision: the newest revision now
    :param changed: whether there is, or would be, a new revision
    :param branch: where it went; None for the main line
    :param files: regular files whose content was read
    :param bytes: of their content
    :param new_objects: objects that were uploaded, without catalogs and the like
    :param uploaded_bytes: of these objects
    """

    repository: str
    revision: int
    root_hash: ContentHash
    previous_revision: int
    changed: bool
    dry_run: bool
    tag: str | None
    branch: str | None
    added: int
    modified: int
    removed: int
    paths: ChangedPaths
    files: int
    bytes: int
    new_objects: int
    uploaded_bytes: int
    seconds: float
    warnings: list[str]


def publish(
    environment: Environment,
    name: str,
    changes: ChangeSet,
    options: PublishOptions,
    *,
    tell: Tell | None = None,
    opened: Repository | None = None,
) -> PublishResult:
    """Publish the open transaction, with the given changes, and close it.

    When there is nothing to change, to tag or to renumber, the transaction is closed without a new revision. When it
    fails, nothing is published, and the transaction stays open.

    :param tell: told of each path that changes, meanwhile
    :param opened: as for `Environment.open`
    :raises NotInTransaction, LeaseHeld: when there is no transaction, or its lease is lost
    :raises ConcurrentPublish: when somebody has published although the lease was ours
    :raises HookFailed: when a hook fails; after the last one the revision is published all the same
    :raises PublisherError: when something else is wrong with sources, storage, keys or configuration
    """
    started = time.monotonic()
    settings = environment.supported_settings(name)
    session = current_session(environment, settings, options.transaction_id)
    _refuse_outside(session, changes)
    with (
        _with_union(environment, settings, session, changes) as changes,
        environment.open(name, settings, opened=opened) as repository,
    ):
        base = repository.manifest
        key = environment.signer(settings)
        repository.require_signer(key)
        checkout = find_checkout(environment, settings)
        if (checkout.root_hash.hex if checkout else "") != session.checkout:
            raise RepositoryError(
                f"Something else was checked out since the transaction of {name} was opened",
                remedy=f"Begin anew: cvmfs_server abort -f {name}",
            )
        if base.root_hash.hex != session.root_hash:
            raise ConcurrentPublish(
                f"{name} is at revision {base.revision}; the transaction began with revision {session.revision}",
                remedy=f"Begin anew: cvmfs_server abort -f {name}",
            )
        manifest = _next_manifest(base, settings, options)
        history = repository.history()
        tag = _choose_tag(history, settings, options, checkout)
        oldest_auto_tag = _oldest_auto_tag(settings)
        _require_tagged(name, history, checkout)
        garbage = automatic(settings)
        call_hook(environment, name, Hook.PUBLISH_BEFORE)
        lease = Lease.resume(repository.store, name, session.token)
        lease.renew()  # before the long part: nobody can take it in the meantime, expired as it may be
        warnings = _doubts(settings, options)
        timestamp = int(time.time())
        with (
            kept_alive(lease) as keeper,
            environment.scratch(settings) as scratch,
            failure_recorded(environment, settings, repository.store, PublishStatistics(), started=timestamp),
            WritableCatalogTree(repository.store, root_of(session), scratch) as tree,
        ):
            known = KnownObjects(
                repository.store,
                root_of(session),
                changes,
                scratch,
                are_stored=not has_grafts(tree),
                trusted=not options.checksum,
            )
            with (
                show_progress(f"Publishing {name}") as progress,
                _pipeline(
                    repository,
                    settings,
                    options,
                    known=known,
                    progress=progress,
                    scratch=scratch,
                ) as pipeline,
            ):
                keeper.on_loss(pipeline.call_off)
                apply_options = _apply_options(
                    environment, settings, options, repository.store, scratch, progress, session, tell
                )
                apply_options = replace(apply_options, note_published=known.note)
                report = apply_changes(tree, pipeline, changes, apply_options)
            current_requirement = requirement_of(tree)
            requirement = choose_requirement(current_requirement, settings, options.authz_file)
            changed = (
                _is_change(report, base, manifest, options)
                or requirement != current_requirement
                or are_outdated(tree, history, settings)
            )
            if changed:
                sizes: list[int] = []
                set_properties(tree, manifest.ttl, requirement, grafted=report.grafts > 0)
                if checkout is not None:
                    manifest, tagged = _commit_to_branch(
                        repository, tree, history, settings, options, checkout, timestamp, scratch, sizes
                    )
                else:
                    manifest, tagged = _commit(
                        repository,
                        tree,
                        manifest,
                        history,
                        settings,
                        options,
                        tag,
                        timestamp,
                        scratch,
                        oldest_auto_tag=oldest_auto_tag,
                        previous=base.root_hash if session.clone else None,
                        sizes=sizes,
                    )
                warnings += repository.commit(manifest, key, lease=lease, tagged=tagged)
                statistics = _statistics(manifest, report, sizes)
                warnings += record(environment, settings, repository.store, statistics, started=timestamp)
                if settings.flag("CVMFS_PRINT_STATISTICS", default=False):
                    print(print_list(statistics), file=sys.stderr)
        warnings += close_session(environment, settings, session, lease)
        forget_checkout(environment, settings)
        if changed:
            warnings += collect_if_due(environment, name, garbage)
        result = _result(repository, base, report, changed, tag if changed else None, checkout, started, warnings)
    call_hook(environment, name, Hook.PUBLISH_AFTER)
    return result


def preview(
    environment: Environment, name: str, changes: ChangeSet, options: PublishOptions, *, tell: Tell | None = None
) -> PublishResult:
    """Say what a publish would do. Needs no transaction and no keys, and writes nothing.

    If there is an interactive transaction open here, what was changed in it is part of it.

    :param tell: as for `publish`
    :raises PublisherError: when a publish would fail for what can be seen beforehand
    """
    started = time.monotonic()
    settings = environment.supported_settings(name)
    changes, checksum = _look_at_union(environment, settings, changes), options.checksum
    checksum |= any(isinstance(change, UnionChanges) for change in changes.changes)
    with environment.open(name, settings) as repository, environment.scratch(settings) as scratch:
        base, history = repository.manifest, repository.history()
        checkout = find_checkout(environment, settings)
        manifest = _next_manifest(base, settings, options)
        tag = _choose_tag(history, settings, options, checkout)
        _oldest_auto_tag(settings)
        with contextlib.ExitStack() as stack:
            session = _template_session(environment, settings, base)
            root_hash = checkout.root_hash if checkout else base.root_hash
            root_hash = root_of(session) if session else root_hash
            tree = stack.enter_context(WritableCatalogTree(repository.store, root_hash, scratch))
            # All content is said to be known, so that none is stored. Most often, none is even read.
            pipeline = _pipeline(repository, settings, options, known=lambda _: True, progress=None, scratch=scratch)
            if checksum:
                stack.enter_context(pipeline)
            apply_options = _apply_options(
                environment, settings, options, repository.store, scratch, None, session, tell
            )
            report = apply_changes(tree, pipeline if checksum else None, changes, apply_options)
            requirement = requirement_of(tree)
            changed = (
                _is_change(report, base, manifest, options)
                or requirement != choose_requirement(requirement, settings, options.authz_file)
                or are_outdated(tree, history, settings)
            )
        return _result(
            repository,
            base,
            report,
            changed,
            tag if changed else None,
            checkout,
            started,
            _doubts(settings, options),
            dry_run=True,
        )


def ingest(
    environment: Environment,
    name: str,
    changes: ChangeSet,
    options: PublishOptions,
    *,
    dry_run: bool = False,
    tell: Tell | None = None,
) -> PublishResult:
    """Publish changes in a transaction of their own; it is aborted when publishing fails.

    :param tell: as for `publish`
    :raises InTransaction: when this release manager has a transaction open already
    :raises PublisherError: as `publish`
    """
    if dry_run:
        return preview(environment, name, changes, options, tell=tell)
    call_hook(environment, name, Hook.TRANSACTION_BEFORE)
    session: Session | None = None
    options = replace(options, transaction_id=str(uuid.uuid4()))
    with environment.open(name, environment.supported_settings(name)) as repository:
        try:
            session = open_transaction(
                environment, name, hooks=False, opened=repository, transaction_id=options.transaction_id
            )
            call_hook(environment, name, Hook.TRANSACTION_AFTER)
            return publish(environment, name, changes, options, tell=tell, opened=repository)
        except BaseException as error:
            # It may have been interrupted before it could tell that it is open
            session = session or _find(environment, name, options.transaction_id)
            if session is not None:
                _abandon(environment, session, error)
            raise


def _find(environment: Environment, name: str, transaction_id: str | None) -> Session | None:
    """Return the open transaction of this release manager if it is that one."""
    found = find_session(environment, environment.settings(name))
    return found if found is not None and found.id == transaction_id else None


def _abandon(environment: Environment, session: Session, error: BaseException) -> None:
    """End the transaction of an ingest that has failed, with the hooks of an abort unless it has ended already."""
    is_open = _find(environment, session.repository, session.id) is not None
    hooks = isinstance(error, Exception) and is_open
    if hooks:
        _call_in_failure(environment, session.repository, Hook.ABORT_BEFORE)
    discard_session(environment, session, error)
    if hooks:
        _call_in_failure(environment, session.repository, Hook.ABORT_AFTER)


def _call_in_failure(environment: Environment, name: str, hook: Hook) -> None:
    try:
        call_hook(environment, name, hook)
    except HookFailed as error:
        # What counts is why there is an abort, and that it is carried out
        print(f"Warning: {error.message}", file=sys.stderr)


def _template_session(environment: Environment, settings: ServerConfig, base: Manifest) -> Session | None:
    """Return the open transaction if it has something in it that it will publish besides other changes.

    That is a copy of a directory, or what was changed in place.
    """
    session = find_session(environment, settings)
    if session is None or not (session.clone or session.mount_point):
        return None
    return session if session.root_hash == base.root_hash.hex else None


@contextlib.contextmanager
def _with_union(
    environment: Environment, settings: ServerConfig, session: Session, changes: ChangeSet
) -> Iterator[ChangeSet]:
    """Add what was changed in an interactive transaction in front of other changes, and keep it as it is meanwhile."""
    union = union_of(environment, settings, session)
    if union is None:
        yield changes
        return
    union.require_mounted(session.union_kind)
    with union.frozen():
        yield _add_union(environment, settings, session, union, changes)


def _look_at_union(environment: Environment, settings: ServerConfig, changes: ChangeSet) -> ChangeSet:
    session = find_session(environment, settings)
    union = union_of(environment, settings, session) if session is not None else None
    if session is None or union is None:
        return changes
    union.require_mounted(session.union_kind)
    union.flush()
    return _add_union(environment, settings, session, union, changes)


def _add_union(
    environment: Environment, settings: ServerConfig, session: Session, union: Union, changes: ChangeSet
) -> ChangeSet:
    kind = session.union_kind
    if kind is None:
        return changes
    change = UnionChanges(
        directory=str(union.scratch),
        kind=kind,
        label=str(union.target),
        base=root_of(session),
        path=parse(session.path),
        claimed=environment.owner(settings) if session.claimed else None,
    )
    return ChangeSet((change, *changes.changes))


def _statistics(manifest: Manifest, report: ChangeReport, sizes: list[int]) -> PublishStatistics:
    added, modified, removed = (paths.tally for paths in (report.added, report.modified, report.removed))
    return PublishStatistics(
        revision=manifest.revision,
        files_added=added.files,
        files_removed=removed.files,
        files_changed=modified.files,
        chunks_added=report.new_objects,
        chunks_duplicated=report.known_objects,
        catalogs_added=len(sizes),
        directories_added=added.directories,
        directories_removed=removed.directories,
        directories_changed=modified.directories,
        symlinks_added=added.symlinks,
        symlinks_removed=removed.symlinks,
        symlinks_changed=modified.symlinks,
        sz_bytes_added=added.bytes,
        sz_bytes_removed=removed.bytes,
        sz_bytes_uploaded=report.uploaded_bytes,
        sz_catalog_bytes_uploaded=sum(sizes),
    )


def _refuse_outside(session: Session, changes: ChangeSet) -> None:
    leased = parse(session.path)
    for change in changes.changes:
        if isinstance(change, UnionChanges):
            continue
        path = change.base_dir if isinstance(change, Content) else change.path
        if leased != ROOT and not is_below(path, leased):
            raise UsageError(
                f"/{display(path)} is outside /{session.path}, which the transaction was opened for",
                remedy=f"Open the transaction for the whole repository: cvmfs_server transaction {session.repository}",
            )


def _require_tagged(name: str, history: History, checkout: Checkout | None) -> None:
    """Refuse to publish on top of a revision that garbage collection may have taken: only tags are safe from it."""
    if checkout is not None and all(tag.root_hash != checkout.root_hash for tag in history.tags()):
        raise RepositoryError(
            f"{checkout.tag}, which was checked out, is no tag of {name} any more",
            remedy=f"Check out another one: cvmfs_server checkout {name}",
        )


def _next_manifest(base: Manifest, settings: ServerConfig, options: PublishOptions) -> Manifest:
    """Return the manifest of the next revision, as far as it does not depend on the changes."""
    revision = base.revision + 1 if options.revision is None else options.revision
    highest = _HIGHEST if options.revision is None else _HIGHEST_GIVEN
    if revision > highest:
        raise UsageError(f"There is no revision {revision}: {highest} is the highest", remedy="Give a smaller number")
    if revision <= base.revision:
        raise UsageError(
            f"Revision {revision} is not newer than the current revision {base.revision}",
            remedy="Give a larger number, or none",
        )
    if revision > base.revision + 1 and settings.get("CVMFS_SIGNING_SERVICE"):
        raise UsageError(
            f"The signing service signs revision {base.revision + 1} next, and not {revision}",
            remedy="Give no number, or publish where the repository key is",
        )
    return replace(with_settings(base, settings), revision=revision)


def _is_change(report: ChangeReport, base: Manifest, manifest: Manifest, options: PublishOptions) -> bool:
    """Say whether there is a reason for a new revision; `manifest` is the next one without its content."""
    wanted = options.tag is not None or options.revision is not None
    return report.changed or wanted or replace(manifest, revision=base.revision) != base


def _choose_tag(
    history: History, settings: ServerConfig, options: PublishOptions, checkout: Checkout | None
) -> str | None:
    """Return the new revision's tag, having refused one that cannot be given."""
    check_description(options.tag_description)
    if options.tag is not None:
        history.require_new(options.tag)
        require_directory_name(options.tag, settings)
        return options.tag
    if checkout is not None:
        raise UsageError(
            f"A new revision of the branch {checkout.branch} needs a tag, as nothing else leads to it",
            remedy="Add -a with a new name",
        )
    if settings.flag("CVMFS_AUTO_TAG", default=True):
        return history.new_auto_tag_name(int(time.time()))
    return None


def _pipeline(
    repository: Repository,
    settings: ServerConfig,
    options: PublishOptions,
    *,
    known: Callable[[ContentHash], bool],
    progress: Progress | None,
    scratch: Path,
) -> ContentPipeline[ContentDone]:
    return ContentPipeline(
        repository.store,
        hash_algorithm=hash_algorithm(repository.manifest, settings),
        compression=_compression(settings, options),
        chunking=_chunking(settings),
        bulk=settings.flag("CVMFS_GENERATE_LEGACY_BULK_CHUNKS", default=False),
        known=known,
        workers=settings.number("CVMFS_MAXIMAL_CONCURRENT_WRITES", 0) or None,
        uploads=settings.number("CVMFS_NUM_UPLOAD_TASKS", 0) if isinstance(repository.store, LocalStore) else None,
        progress=progress,
        scratch=scratch,
    )


def _compression(settings: ServerConfig, options: PublishOptions) -> Compression:
    return settings.compression if options.compression is None else Compression.from_setting(options.compression)


def _is_external(settings: ServerConfig, options: PublishOptions) -> bool:
    return settings.flag("CVMFS_EXTERNAL_DATA", default=False) if options.external is None else options.external


def _doubts(settings: ServerConfig, options: PublishOptions) -> list[str]:
    """Return warnings about settings that hardly are meant together, or have no effect."""
    warnings = without_effect(settings)
    if _is_external(settings, options) and _compression(settings, options) is not Compression.NONE:
        warnings.append(
            "External files are published as if their server had them compressed by zlib; "
            "for files as they are, use -Z none"
        )
    return warnings


def _chunking(settings: ServerConfig) -> Chunking | None:
    if not settings.flag("CVMFS_USE_FILE_CHUNKING", default=True):
        return None
    default = Chunking()
    return Chunking(
        settings.number("CVMFS_MIN_CHUNK_SIZE", default.minimum),
        settings.number("CVMFS_AVG_CHUNK_SIZE", default.average),
        settings.number("CVMFS_MAX_CHUNK_SIZE", default.maximum),
    )


def _apply_options(
    environment: Environment,
    settings: ServerConfig,
    options: PublishOptions,
    store: ObjectStore,
    scratch: Path,
    progress: Progress | None,
    session: Session | None,
    tell: Tell | None,
) -> ApplyOptions:
    owners = Owners.load(settings.get("CVMFS_UID_MAP", ""), settings.get("CVMFS_GID_MAP", ""))
    return ApplyOptions(
        store=store,
        owner=owners(environment.owner(settings)),
        owners=owners,
        balance=_balance(settings),
        limits=_limits(settings),
        cloned=(os.fsencode(session.cloned), session.cloned_entries) if session and session.clone else None,
        timestamp=int(time.time()),
        scratch_dir=scratch,
        checksum=options.checksum,
        mtime_ns=settings.flag("CVMFS_ENABLE_MTIME_NS", default=True),
        compression=_compression(settings, options),
        external=_is_external(settings, options),
        direct_io=options.direct_io,
        include_xattrs=settings.flag("CVMFS_INCLUDE_XATTRS", default=False),
        ignore_special_files=settings.flag("CVMFS_IGNORE_SPECIAL_FILES", default=False),
        standard_input=sys.stdin.buffer if sys.stdin is not None else None,  # it may have been closed
        progress=progress,
        tell=tell,
    )


def _balance(settings: ServerConfig) -> Balance | None:
    if not settings.flag("CVMFS_AUTOCATALOGS", default=False):
        return None
    default = Balance()
    balance = Balance(
        settings.number("CVMFS_AUTOCATALOGS_MAX_WEIGHT", default.max_weight),
        settings.number("CVMFS_AUTOCATALOGS_MIN_WEIGHT", default.min_weight),
    )
    if balance.min_weight > balance.max_weight:
        raise ConfigurationError(
            f"CVMFS_AUTOCATALOGS_MIN_WEIGHT={balance.min_weight} in {settings.origin} is more than "
            f"CVMFS_AUTOCATALOGS_MAX_WEIGHT={balance.max_weight}",
            remedy="Lower the one, or raise the other",
        )
    return balance


def _limits(settings: ServerConfig) -> Limits:
    default = Limits()
    return Limits(
        root_kcatalog=settings.number("CVMFS_ROOT_KCATALOG_LIMIT", default.root_kcatalog),
        nested_kcatalog=settings.number("CVMFS_NESTED_KCATALOG_LIMIT", default.nested_kcatalog),
        file_mbyte=settings.number("CVMFS_FILE_MBYTE_LIMIT", default.file_mbyte),
        enforced=settings.flag("CVMFS_ENFORCE_LIMITS", default=False),
    )


def _commit(
    repository: Repository,
    tree: WritableCatalogTree,
    manifest: Manifest,
    history: History,
    settings: ServerConfig,
    options: PublishOptions,
    tag: str | None,
    timestamp: int,
    scratch: Path,
    *,
    oldest_auto_tag: int,
    previous: ContentHash | None,
    sizes: list[int],
) -> tuple[Manifest, list[ContentHash]]:
    """Upload the catalogs and the history of a new revision of the main line.

    :param oldest_auto_tag: seconds since 1970 before which automatic tags are removed
    :param previous: root catalog of the revision before, if that is not what the tree was opened with
    :param sizes: as `commit_catalogs`
    :returns: the manifest, still to be signed, and the root catalogs that the history has and the manifest has not
    """
    history.remove_auto_tags(before=oldest_auto_tag)
    update_snapshots(repository.store, tree, history, settings, scratch)
    algorithm = hash_algorithm(repository.manifest, settings)
    manifest = commit_catalogs(repository, tree, manifest, algorithm, timestamp, previous=previous, sizes=sizes)
    tagged = []
    if tag is not None:
        history.add(
            Tag(
                name=tag,
                root_hash=manifest.root_hash,
                size=manifest.catalog_size,
                revision=manifest.revision,
                timestamp=timestamp,
                description=options.tag_description,
            )
        )
        tagged.append(manifest.root_hash)
        manifest = settle(
            repository, tree, manifest, history, settings, timestamp, scratch, revision=options.revision, sizes=sizes
        )
    return commit_history(repository, manifest, history, timestamp), tagged


def _commit_to_branch(
    repository: Repository,
    tree: WritableCatalogTree,
    history: History,
    settings: ServerConfig,
    options: PublishOptions,
    checkout: Checkout,
    timestamp: int,
    scratch: Path,
    sizes: list[int],
) -> tuple[Manifest, list[ContentHash]]:
    """Upload the catalogs of a new revision of a branch, and the history that leads to it.

    The main line stays as it is, but for the new snapshot if it shows snapshots.

    :param tree: begun with what is checked out, or a copy made in it
    :param sizes: as `commit_catalogs`
    :returns: as `_commit`
    """
    base = repository.manifest
    with CatalogTree(repository.store, checkout.root_hash, scratch) as start:
        revision = options.revision or start.catalog(ROOT).revision + 1
    algorithm = hash_algorithm(base, settings)
    head = replace(base, revision=revision)
    head = commit_catalogs(repository, tree, head, algorithm, timestamp, previous=checkout.root_hash, sizes=sizes)
    history.add_branch(checkout.branch, checkout.previous_branch, revision)
    history.add(
        Tag(
            name=options.tag or "",
            root_hash=head.root_hash,
            size=head.catalog_size,
            revision=revision,
            timestamp=timestamp,
            description=options.tag_description,
            branch=checkout.branch,
        )
    )
    with WritableCatalogTree(repository.store, base.root_hash, scratch) as trunk:
        manifest = settle(repository, trunk, base, history, settings, timestamp, scratch, sizes=sizes)
    return commit_history(repository, manifest, history, timestamp), [head.root_hash]


def _oldest_auto_tag(settings: ServerConfig) -> int:
    """Return the seconds since 1970 before which automatic tags are removed.

    The setting has them in the words of date(1), e.g. ``4 weeks ago``; without it all tags stay.
    """
    text = settings.get("CVMFS_AUTO_TAG_TIMESPAN", "")
    if not text:
        return 0
    return point_in_time(text, "CVMFS_AUTO_TAG_TIMESPAN")


def show_progress(label: str, *, unit: str = "files") -> Progress:
    """Return the progress of a long step; ``CVMFS_PROGRESS_INTERVAL`` says how often a log gets a line.

    :raises ConfigurationError: when it says nothing of the kind
    """
    text = os.environ.get("CVMFS_PROGRESS_INTERVAL")
    if not text:
        return Progress(label, unit=unit)
    try:
        interval = float(text)
    except ValueError:
        interval = 0
    if not 0 < interval < _LONGEST_INTERVAL:  # nor is NaN
        raise ConfigurationError(
            f"CVMFS_PROGRESS_INTERVAL={text} is no time", remedy="Set it to the seconds between two lines"
        )
    return Progress(label, unit=unit, interval=interval)


def _result(
    repository: Repository,
    base: Manifest,
    report: ChangeReport,
    changed: bool,
    tag: str | None,
    checkout: Checkout | None,
    started: float,
    warnings: list[str],
    *,
    dry_run: bool = False,
) -> PublishResult:
    return PublishResult(
        repository=repository.name,
        revision=repository.manifest.revision,
        root_hash=repository.manifest.root_hash,
        previous_revision=base.revision,
        changed=changed,
        dry_run=dry_run,
        tag=tag,
        branch=checkout.branch if checkout is not None else None,
        added=report.added.count,
        modified=report.modified.count,
        removed=report.removed.count,
        paths=ChangedPaths(
            added=report.added.paths,
            modified=report.modified.paths,
            removed=report.removed.paths,
            truncated=any(paths.is_truncated for paths in (report.added, report.modified, report.removed)),
        ),
        files=report.files,
        bytes=report.bytes,
        new_objects=report.new_objects,
        uploaded_bytes=report.uploaded_bytes,
        seconds=round(time.monotonic() - started, 3),
        warnings=[*report.warnings, *warnings],
    )
