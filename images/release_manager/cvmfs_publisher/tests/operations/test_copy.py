# SPDX-License-Identifier: GPL-3.0-or-later
"""``copy``: a repository moves between storages while it is in use, and nothing that is published is ever lost."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from faults import Fault

from cvmfs_publisher.errors import ConcurrentPublish, CorruptObject, NotInTransaction, StorageError
from cvmfs_publisher.operations import copy_ as copy_module
from cvmfs_publisher.operations.copy_ import CopyOptions, copy
from cvmfs_publisher.repository import Certificate, Manifest, MasterKey, RepositoryKey, Whitelist
from cvmfs_publisher.repository.lease import CLOCK_MARGIN, LEASE_KEY
from cvmfs_publisher.repository.manifest import MANIFEST_KEY
from cvmfs_publisher.repository.reflog import REFLOG_KEY
from cvmfs_publisher.repository.whitelist import WHITELIST_KEY
from cvmfs_publisher.storage import LocalStore, ObjectInfo
from operations.managers import NAME, Outcome, ReleaseManager, local_settings, make, mirror, refusal
from operations.reading import published
from operations.stores import FaultyEnvironment, MeanwhileEnvironment


@dataclass
class Move:
    """A repository's old place, with a release manager there, its new one, and who copies."""

    old: ReleaseManager
    new: ReleaseManager
    is_import: bool

    @property
    def copier(self) -> ReleaseManager:
        return self.new if self.is_import else self.old

    @property
    def options(self) -> dict[str, str]:
        side, manager = ("source", self.old) if self.is_import else ("destination", self.new)
        return {side: manager.settings["CVMFS_UPSTREAM_STORAGE"]}

    def copy(self, *arguments: str) -> Outcome:
        """Copy, and return what came of it."""
        ((side, storage),) = self.options.items()
        return self.copier.server("copy", "--from" if side == "source" else "--to", storage, "--json", *arguments)

    def copied(self, *arguments: str) -> dict[str, object]:
        """Copy, see that the new place has what the old one has, and return the document."""
        document = self.copy(*arguments).succeeded().document
        assert objects(self.new) == objects(self.old)
        assert published(self.new) == published(self.old)
        return document

    def refuses(self, *says: str) -> None:
        """Assert that nothing is copied, for one reason."""
        before = self.new.state(), objects(self.new)
        refusal(self.copy(), "copy", says)
        assert (self.new.state(), objects(self.new)) == before


def objects(manager: ReleaseManager) -> dict[str, bytes]:
    """Return everything in a release manager's storage but the lease."""
    with manager.store() as store:
        return {info.key: store.get(info.key) for info in store.list("") if info.key != LEASE_KEY}


@pytest.fixture
def to_bucket(local: ReleaseManager, s3_new: ReleaseManager) -> Move:
    return Move(local, s3_new, is_import=True)


@pytest.fixture
def to_directory(s3: ReleaseManager, tmp_path: Path) -> Move:
    new = s3.another("new")
    new.configure(**local_settings(tmp_path / "new-storage"))
    return Move(s3, new, is_import=False)


@pytest.fixture
def between_directories(local: ReleaseManager, tmp_path: Path) -> Move:
    new = local.another("new")
    new.configure(**local_settings(tmp_path / "new-storage"))
    return Move(local, new, is_import=True)


@pytest.fixture(params=["to_bucket", "to_directory"])
def move(request: pytest.FixtureRequest) -> Move:
    found: Move = request.getfixturevalue(request.param)
    return found


def test_everything_is_copied_once(move: Move, source: Path) -> None:
    move.old.ingest(mirror(source), tag="v1")
    (source / "large").write_bytes(os.urandom(300_000))
    move.old.ingest(mirror(source))
    first = move.copied()
    assert (first["changed"], first["revision"], first["present"]) == (True, 3, 0)
    assert first["objects"] == len([key for key in objects(move.old) if key.startswith("data/")])
    again = move.copied()
    assert (again["changed"], again["objects"], again["present"]) == (False, 0, first["objects"])
    move.new.check()
    (source / "more").write_text("more")
    move.old.ingest(mirror(source))
    more = move.copied()
    assert 0 < more["objects"] < 6  # type: ignore[operator]
    assert more["present"] == first["objects"]
    # Whoever has the keys goes on there
    (source / "more").write_text("even more")
    assert move.new.ingest(mirror(source)).revision == 5
    assert move.new.server("rollback", "-f", "-t", "v1").succeeded()
    move.new.check()


def test_a_dry_run_predicts(move: Move, source: Path) -> None:
    move.old.ingest(mirror(source))
    before = move.new.state()
    predicted = move.copy("--dry-run").succeeded().document
    assert move.new.state() == before
    done = move.copied()
    assert {**done, "dry_run": True} == predicted
    assert not move.copy("--dry-run").succeeded().document["changed"]


def test_large_objects_do_not_stay_in_memory(
    between_directories: Move, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_module, "_LARGE", 1000)
    (source / "large").write_bytes(os.urandom(300_000))
    between_directories.old.ingest(mirror(source))
    between_directories.copied()
    assert list(between_directories.new.spool.iterdir()) == []


def test_a_copy_that_broke_off_goes_on(to_bucket: Move, source: Path) -> None:
    make(source, **{f"d{number % 5}__f{number}": os.urandom(500) for number in range(100)})
    to_bucket.old.ingest(mirror(source))
    broken = FaultyEnvironment(
        to_bucket.new, [Fault(nth=60, operations=("put",), keys="data/*", error=StorageError("The store is gone"))]
    )
    storage = broken.faulty
    environment = MixedEnvironment(to_bucket, broken)
    with pytest.raises(StorageError, match="The store is gone"):
        copy(environment, NAME, CopyOptions(**to_bucket.options))
    assert len(storage.operations) > 60
    assert MANIFEST_KEY not in objects(to_bucket.new)
    document = to_bucket.copied()
    assert document["present"] >= 59  # type: ignore[operator]
    to_bucket.new.check()


class MixedEnvironment(FaultyEnvironment):
    """Has faults in the new place only."""

    def __init__(self, move: Move, faulty: FaultyEnvironment) -> None:
        super().__init__(move.new)
        self._move = move
        self._faulty = faulty

    def store(self, settings):  # type: ignore[no-untyped-def]
        if settings["CVMFS_UPSTREAM_STORAGE"] == self._move.old.settings["CVMFS_UPSTREAM_STORAGE"]:
            return self._move.old.environment.store(settings)
        return self._faulty.store(settings)


def test_damage_is_not_copied(move: Move, source: Path) -> None:
    """Neither what is damaged nor a manifest that may refer to it; everything else is."""
    move.old.ingest(mirror(source))
    with move.old.store() as store:
        # A file's: of what has a suffix, some is read before anything is copied
        keys = sorted(info.key for info in store.list("data/") if info.size > 20 and not info.key[-1].isupper())
        whole = store.get(keys[0])
        store.put(keys[0], b"damaged")
    refusal(move.copy(), "copy", ["1 objects in", keys[0], "do not match their names", "Restore these"])
    assert not {keys[0], MANIFEST_KEY} & objects(move.new).keys()
    with move.old.store() as store:
        store.put(keys[0], whole)
    assert move.copied()["objects"] == 1
    move.new.check()


def test_objects_cut_short_are_copied_again(between_directories: Move, source: Path) -> None:
    between_directories.old.ingest(mirror(source))
    between_directories.copied()
    with between_directories.new.store() as store:
        key = next(info.key for info in store.list("data/") if info.size > 20)
        store.put(key, store.get(key)[:10])
    assert between_directories.copied()["objects"] == 1


def test_a_bucket_without_an_index(between_directories: Move, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for each object that may be there already; nothing can be copied from it."""
    between_directories.old.ingest(mirror(source))
    first = between_directories.copied()
    unlisted = between_directories.new.settings["CVMFS_UPSTREAM_STORAGE"].rpartition(",")[2]
    everything = LocalStore.list

    def list_(store: LocalStore, prefix: str) -> Iterator[ObjectInfo]:
        return iter(()) if store.describe().endswith(unlisted) else everything(store, prefix)

    monkeypatch.setattr(LocalStore, "list", list_)
    again = between_directories.copy().succeeded().document
    assert (again["objects"], again["present"]) == (0, first["objects"])
    back = Move(between_directories.new, between_directories.old, is_import=True)
    refusal(back.copy(), "copy", ["lists no objects", "bucket without an index"])


def test_what_was_published_meanwhile_is_copied_too(between_directories: Move, source: Path) -> None:
    old, new = between_directories.old, between_directories.new

    def publish() -> None:
        (source / "more").write_text("more")
        old.ingest(mirror(source))

    old.ingest(mirror(source))
    result = copy(MeanwhileEnvironment(new, "data/", publish), NAME, CopyOptions(**between_directories.options))
    assert result.revision == 3
    assert objects(new) == objects(old)


class MeanwhileAtSource(MixedEnvironment):
    """Something happens once, just after the source was asked for something.

    :param method: what it was asked
    :param key: for which object, or objects
    :param nth: how often
    """

    def __init__(self, move: Move, method: str, key: str, happens: Callable[[], object], *, nth: int = 1) -> None:
        super().__init__(move, FaultyEnvironment(move.new))
        self._method = method
        self._key = key
        self._happens = happens
        self._left = nth

    def store(self, settings):  # type: ignore[no-untyped-def]
        store = super().store(settings)
        if settings["CVMFS_UPSTREAM_STORAGE"] == self._move.old.settings["CVMFS_UPSTREAM_STORAGE"]:
            setattr(store, self._method, functools.partial(self._ask, getattr(store, self._method)))
        return store

    def _ask(self, method: Callable[[str], object], key: str) -> object:
        answer = method(key)
        self._left -= key == self._key
        if key == self._key and not self._left:
            self._happens()
        return answer


def test_the_reflog_is_not_ahead_of_what_was_copied(between_directories: Move, source: Path) -> None:
    old, new = between_directories.old, between_directories.new

    def publish() -> None:
        (source / "more").write_text("more")
        old.ingest(mirror(source))

    old.ingest(mirror(source))
    before = objects(old)
    # It is read three times: to see that it is there, and before and after the objects
    environment = MeanwhileAtSource(between_directories, "get", MANIFEST_KEY, publish, nth=3)
    result = copy(environment, NAME, CopyOptions(**between_directories.options))
    assert result.revision == 2
    assert objects(new) == before
    assert between_directories.copied()["revision"] == 3


def test_who_publishes_after_the_lease_was_broken_loses_nothing(between_directories: Move, source: Path) -> None:
    old, new = between_directories.old, between_directories.new
    old.ingest(mirror(source))
    between_directories.copied()
    (source / "more").write_text("more")
    old.ingest(mirror(source))
    other = new.another("other")
    theirs: dict[str, bytes] = {}

    def publish() -> None:
        other.server("abort", "-f").succeeded()
        other.expire_lease(CLOCK_MARGIN + 1)
        (source / "theirs").write_text("theirs")
        other.ingest(mirror(source))
        theirs.update(objects(new))

    with pytest.raises(NotInTransaction):
        copy(MeanwhileEnvironment(new, "data/", publish), NAME, CopyOptions(**between_directories.options))
    assert {key: objects(new)[key] for key in theirs} == theirs
    other.check()


@pytest.mark.parametrize("dry_run", [False, True])
def test_counts_are_right_after_several_passes(between_directories: Move, source: Path, *, dry_run: bool) -> None:
    old = between_directories.old
    old.ingest(mirror(source))

    def publish() -> None:
        (source / "more").write_text("more")
        old.ingest(mirror(source))

    environment = MeanwhileAtSource(between_directories, "list", "data/00/", publish)
    result = copy(environment, NAME, CopyOptions(**between_directories.options, dry_run=dry_run))
    total = len([key for key in objects(old) if key.startswith("data/")])
    assert (result.objects, result.present, result.revision) == (total, 0, 3)


def test_a_source_that_is_never_at_rest(
    between_directories: Move, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish() -> None:
        (source / "more").write_text("more")
        between_directories.old.ingest(mirror(source))

    monkeypatch.setattr(copy_module, "_MOST_PASSES", 1)
    environment = MeanwhileEnvironment(between_directories.new, "data/", publish)
    with pytest.raises(ConcurrentPublish, match="published to"):
        copy(environment, NAME, CopyOptions(**between_directories.options))
    assert MANIFEST_KEY not in objects(between_directories.new)


def test_nothing_that_was_published_there_is_lost(move: Move, source: Path) -> None:
    move.old.ingest(mirror(source))
    move.copied()
    (source / "there").write_text("there")
    move.new.ingest(mirror(source))
    (source / "there").write_text("here")
    move.old.ingest(mirror(source))
    move.refuses("in revision 3", "which is no revision that", "add --overwrite")
    assert move.copy("--overwrite").succeeded().document["changed"]
    assert published(move.new) == published(move.old)


def test_a_newer_revision_stays_whatever_the_reflog_says(between_directories: Move, source: Path) -> None:
    """The manifest of a revision may have come too late for a backup that has its reflog."""
    between_directories.old.ingest(mirror(source))
    between_directories.copied()
    (source / "there").write_text("there")
    between_directories.new.ingest(mirror(source))
    with between_directories.old.store() as store:
        store.put(REFLOG_KEY, objects(between_directories.new)[REFLOG_KEY])
    between_directories.refuses("in revision 3", "newer than revision 2", "add --overwrite")


def test_the_place_of_another_repository_is_left_alone(between_directories: Move, source: Path) -> None:
    between_directories.old.ingest(mirror(source))
    between_directories.copied()
    other = replace(between_directories.new.manifest(), repository="other.example.org")
    with between_directories.new.store() as store:
        store.put(MANIFEST_KEY, other.signed(between_directories.old.environment.repository_key(NAME)))
    before = between_directories.new.state()
    refusal(between_directories.copy("--overwrite"), "copy", ["has the repository other.example.org"])
    assert between_directories.new.state() == before


def test_going_back(move: Move, source: Path) -> None:
    """What went on in the new place can be copied back, where the old state still is."""
    move.old.ingest(mirror(source))
    move.copied()
    (source / "more").write_text("more")
    move.new.ingest(mirror(source))
    back = Move(move.new, move.old, not move.is_import)
    assert back.copied()["revision"] == 3


def test_a_transaction_that_is_open_here_is_no_hindrance_to_a_copy_elsewhere(
    between_directories: Move, source: Path
) -> None:
    move = Move(between_directories.old, between_directories.new, is_import=False)
    move.old.ingest(mirror(source))
    move.old.server("transaction").succeeded()
    move.copied()


def test_a_publish_that_is_going_on_there_is_left_alone(move: Move, source: Path) -> None:
    move.old.ingest(mirror(source))
    move.copied()
    other = move.new.another("other")
    other.server("transaction").succeeded()
    move.refuses("has a transaction open")


def test_a_whitelist_that_was_signed_later_stays(to_bucket: Move, source: Path) -> None:
    to_bucket.old.ingest(mirror(source))
    to_bucket.copied()
    to_bucket.new.server("resign", "-f", "-d", "90").succeeded()
    newer = objects(to_bucket.new)[WHITELIST_KEY]
    assert not to_bucket.copy().succeeded().document["changed"]
    assert objects(to_bucket.new)[WHITELIST_KEY] == newer
    to_bucket.old.server("resign", "-f", "-d", "120").succeeded()
    assert to_bucket.copied()["changed"]


def replace_key(manager: ReleaseManager) -> None:
    """Have another repository key, made later."""
    time.sleep(1)  # the resolution of certificates' times
    key = RepositoryKey.generate(NAME)
    for suffix, pem in (("key", key.private_pem()), ("crt", key.certificate.pem)):
        (manager.keys / f"{NAME}.{suffix}").unlink()
        (manager.keys / f"{NAME}.{suffix}").write_bytes(pem)


def roll_over(manager: ReleaseManager) -> None:
    """Replace the repository key, of which nothing is left in whitelist and manifest."""
    replace_key(manager)
    for arguments in ([], ["-p"], []):
        manager.server("resign", *arguments).succeeded()


def signed(manager: ReleaseManager) -> tuple[bytes, bytes]:
    return objects(manager)[WHITELIST_KEY], objects(manager)[MANIFEST_KEY]


def test_a_key_that_was_replaced_there_stays_replaced(move: Move, source: Path) -> None:
    """As in a backup that is copied back."""
    move.old.ingest(mirror(source))
    move.copied()
    roll_over(move.new)
    there = signed(move.new)
    with move.new.store() as store:
        lost = next(info.key for info in store.list("data/") if not info.key[-1].isupper())
        store.delete(lost)
    assert move.copy().succeeded().document["objects"] == 1
    assert not move.copy("--dry-run").succeeded().document["changed"]
    assert signed(move.new) == there
    move.new.check()
    # What the key that was replaced has signed since does not come there, unless it is asked for
    (source / "more").write_text("more")
    move.old.ingest(mirror(source))
    own = Certificate.load(move.old.keys / f"{NAME}.crt").fingerprint()
    move.refuses(f"do not trust {own}, with which revision 3 in", "the key was replaced since", "resign -p -f")
    outcome = move.copy("--overwrite").succeeded()
    assert "Clients refuse revision 3 in" in outcome.stderr
    assert objects(move.new)[WHITELIST_KEY] == there[0]
    move.new.refuses("info", says=["which is not in the whitelist"])
    move.new.server("resign", "-p", "-f").succeeded()
    assert published(move.new).revision == 3


def test_a_key_that_was_taken_back_there_is_not_trusted_again(between_directories: Move, source: Path) -> None:
    """Even if clients refuse what is there, and the old whitelist is signed once more where it comes from."""
    between_directories.old.ingest(mirror(source))
    between_directories.copied()
    replace_key(between_directories.new)
    between_directories.new.server("resign", "--only").succeeded()
    between_directories.refuses("the key was replaced since")
    time.sleep(1)
    between_directories.old.server("resign").succeeded()
    between_directories.refuses("the key was replaced since")


def test_a_key_that_was_replaced_in_the_source_is_replaced_there(move: Move, source: Path) -> None:
    move.old.ingest(mirror(source))
    move.copied()
    roll_over(move.old)
    assert move.copied()["changed"]
    replace_key(move.old)
    move.old.server("resign", "--only").succeeded()
    move.old.server("resign", "-p", "-f").succeeded()
    assert move.copied()["changed"]


def test_a_manifest_that_was_signed_later_stays(between_directories: Move, source: Path) -> None:
    between_directories.old.ingest(mirror(source))
    between_directories.copied()
    time.sleep(1)
    between_directories.new.server("resign", "-p").succeeded()
    there = signed(between_directories.new)
    assert not between_directories.copy().succeeded().document["changed"]
    assert signed(between_directories.new) == there
    between_directories.new.check()


@pytest.mark.parametrize("whitelist", ["older", "missing"])
def test_a_tag_that_was_made_there_stays(between_directories: Move, source: Path, whitelist: str) -> None:
    """It is in no revision, only in the manifest; whatever becomes of the whitelist."""
    old, new = between_directories.old, between_directories.new
    old.ingest(mirror(source))
    between_directories.copied()
    time.sleep(1)
    new.server("tag", "-a", "good").succeeded()
    manifest = signed(new)[1]
    if whitelist == "older":
        old.server("resign", "-f", "-d", "120").succeeded()
    else:
        with new.store() as store:
            store.delete(WHITELIST_KEY)
    assert between_directories.copy().succeeded().document["changed"]
    assert signed(new) == (signed(old)[0], manifest)
    assert "good" in new.server("tag", "-l").succeeded().stdout
    new.check()


@pytest.mark.parametrize("has_changed", [False, True], ids=["as it was copied", "of a new key"])
def test_a_manifest_whose_tags_were_lost_is_replaced(move: Move, source: Path, *, has_changed: bool) -> None:
    """What is restored is whole, though it is what was signed before."""
    old, new = move.old, move.new
    old.ingest(mirror(source), tag="first")
    move.copied()
    if has_changed:
        roll_over(new)
    time.sleep(1)
    new.server("tag", "-a", "good").succeeded()
    with new.store() as store:
        history = Manifest.parse(store.get(MANIFEST_KEY)).history
        assert history is not None
        store.delete(history.key())
    if has_changed:
        move.refuses("the key was replaced since", f"but {history.key()} of what the new key has signed is lost")
    overwrite = ["--overwrite"] if has_changed else []
    says = f"was signed later, but {history.key()}, which it names, is lost"
    there = new.state(), objects(new)
    assert says in move.copy("--dry-run", *overwrite).succeeded().stderr
    assert (new.state(), objects(new)) == there
    outcome = move.copy(*overwrite).succeeded()
    assert says in outcome.stderr
    assert outcome.document["changed"]
    assert signed(new)[1] == signed(old)[1]
    if has_changed:
        new.server("resign", "-p", "-f").succeeded()
    tags = new.server("tag", "-l").succeeded().stdout
    assert "first" in tags
    assert "good" not in tags
    new.check()
    again = move.copy().succeeded()
    assert not again.document["changed"]
    assert again.document["warnings"] == []


def test_a_whitelist_that_is_signed_there_meanwhile_stays(between_directories: Move, source: Path) -> None:
    old, new = between_directories.old, between_directories.new
    old.ingest(mirror(source))
    between_directories.copied()
    old.server("resign", "-f", "-d", "90").succeeded()

    def sign() -> None:
        new.server("resign", "-f", "-d", "120").succeeded()

    with pytest.raises(ConcurrentPublish, match=f"has replaced {WHITELIST_KEY} in"):
        copy(MeanwhileEnvironment(new, WHITELIST_KEY, sign), NAME, CopyOptions(**between_directories.options))
    whitelist = Whitelist.parse(signed(new)[0])
    assert whitelist.remaining().days > 100


def test_the_whitelist_of_another_master_key_is_not_replaced(between_directories: Move, source: Path) -> None:
    between_directories.old.ingest(mirror(source))
    between_directories.copied()
    with between_directories.new.store() as store:
        whitelist = Whitelist.parse(store.get(WHITELIST_KEY))
        store.put(WHITELIST_KEY, whitelist.signed(MasterKey.generate()))
    between_directories.refuses("has another whitelist", "is not signed by a trusted master key", "add --overwrite")
    assert between_directories.copy("--overwrite").succeeded().document["changed"]
    between_directories.new.check()


def test_there_must_be_a_repository_of_that_key(between_directories: Move, tmp_path: Path) -> None:
    refusal(
        between_directories.new.server("copy", "--from", f"local,{tmp_path}/none/txn,{tmp_path}/none"),
        "copy",
        [f"There is no repository {NAME} in directory {tmp_path}/none"],
    )
    (between_directories.new.keys / f"{NAME}.pub").write_bytes(MasterKey.generate().public_pem())
    between_directories.refuses("is not signed by a trusted master key")


def test_damaged_large_objects_are_refused(
    between_directories: Move, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_module, "_LARGE", 10)
    between_directories.old.ingest(mirror(source))
    with between_directories.old.store() as store:
        key = next(info.key for info in store.list("data/") if info.size > 20)
        store.put(key, b"damaged, but large")
    with pytest.raises(CorruptObject, match=key):
        copy(between_directories.new.environment, NAME, CopyOptions(**between_directories.options))


def test_large_objects_that_cannot_be_written(
    between_directories: Move, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's own error is the one to be seen, though parts of the object are still in its hands."""
    monkeypatch.setattr(copy_module, "_LARGE", 10)
    between_directories.old.ingest(mirror(source))

    def put(_store: LocalStore, key: str, data: memoryview, **_options: object) -> None:
        part = memoryview(data)[:4]
        raise StorageError(f"{key} was not written behind {bytes(part)!r}")

    monkeypatch.setattr(LocalStore, "put", put)
    with pytest.raises(StorageError, match="was not written"):
        copy(between_directories.new.environment, NAME, CopyOptions(**between_directories.options))
    assert list(between_directories.new.spool.iterdir()) == []
