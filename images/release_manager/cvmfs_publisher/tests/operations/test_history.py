# SPDX-License-Identifier: GPL-3.0-or-later
"""Tags, rollbacks, branches and instant snapshots, in any order: what there is afterwards is what a model says."""

from __future__ import annotations

import datetime
import os
import stat
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from faults import Fault
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from cvmfs_publisher.catalog import Catalog, CatalogTree, WritableCatalogTree
from cvmfs_publisher.changes.change_set import ChangeSet
from cvmfs_publisher.content import ContentHash, fetch_object
from cvmfs_publisher.errors import PublisherError, RepositoryError, SourceError
from cvmfs_publisher.operations import tags
from cvmfs_publisher.operations.checkout import checkout
from cvmfs_publisher.operations.diff import Kind, diff
from cvmfs_publisher.operations.publish import PublishOptions, publish
from cvmfs_publisher.operations.rollback import rollback
from cvmfs_publisher.operations.snapshots import are_outdated
from cvmfs_publisher.operations.transaction import open_transaction
from cvmfs_publisher.repository import Tag
from cvmfs_publisher.repository.lease import LEASE_KEY
from cvmfs_publisher.repository.reflog import REFLOG_KEY, ReferenceType, Reflog
from operations.conftest import from_template
from operations.managers import NAME, ReleaseManager, make, merge, mirror
from operations.reading import published, served
from operations.stores import FaultyEnvironment, MeanwhileEnvironment
from operations.trees import Node, trees, write

WRITES = ("put", "put_if_absent", "put_if_match")
MAGIC = ("trunk", "trunk-previous")


def release(manager: ReleaseManager, text: str, **options: str) -> None:
    """Publish a revision that has the text in one file."""
    with tempfile.TemporaryDirectory() as directory:
        manager.ingest(merge(make(Path(directory), text=text), "sw"), **options)


def release_on_branch(manager: ReleaseManager, text: str, tag: str, branch: str, start: str | None) -> None:
    checkout(manager.environment, NAME, branch=branch, tag=start)
    with tempfile.TemporaryDirectory() as directory:
        open_transaction(manager.environment, NAME)
        changes = ChangeSet((merge(make(Path(directory), text=text), "sw"),))
        publish(manager.environment, NAME, changes, PublishOptions(tag=tag))


def text_of(manager: ReleaseManager, root_hash: ContentHash) -> str:
    """Return the text that a revision has."""
    with manager.store() as store, CatalogTree(store, root_hash, manager.tmp) as tree:
        entry = tree.entry(b"sw/text")
        if entry is None:  # the first revision
            return ""
        assert entry.hash is not None
        return fetch_object(store, entry.hash).decode()


def snapshots(manager: ReleaseManager) -> dict[str, ContentHash] | None:
    """Return what the newest revision shows in ``/.cvmfs/snapshots``; None when there is nothing of the kind."""
    with manager.store() as store, CatalogTree(store, manager.manifest().root_hash, manager.tmp) as tree:
        hidden = tree.entry(b".cvmfs")
        if hidden is None:
            return None
        assert hidden.is_hidden
        assert hidden.is_nested_mountpoint
        catalog = tree.catalog(b".cvmfs")
        root = catalog.entry(b".cvmfs")
        assert root is not None
        assert root.is_hidden
        shown = {bind.path.rpartition(b"/")[2].decode(): bind.hash for bind in catalog.bind_mountpoints()}
        listed = list(tree.listing(b".cvmfs/snapshots"))
        assert [entry.name.decode() for entry in listed] == sorted(shown)
        assert all(entry.is_bind_mountpoint and entry.is_directory for entry in listed)
        return shown


def own(manager: ReleaseManager) -> dict[str, Tag]:
    """Return the tags that somebody made."""
    return {tag.name: tag for tag in tags.list_tags(manager.environment, NAME) if tag.name not in MAGIC}


@dataclass(frozen=True)
class Known:
    """What the model knows of a tag."""

    text: str
    branch: str
    revision: int


class Model:
    """What a repository's history should be."""

    def __init__(self, manager: ReleaseManager) -> None:
        self.manager = manager
        self.tags: dict[str, Known] = {}
        self.trunk = self.previous = ""
        self.is_virtual = self.shows = False
        self.number = 0
        self.publish(self.new_name())

    def new_name(self) -> str:
        self.number += 1
        return f"tag-{self.number}"

    def note(self, name: str, text: str, branch: str = "") -> None:
        self.tags[name] = Known(text, branch, own(self.manager)[name].revision)

    def publish(self, tag: str | None) -> None:
        text = self.new_name()
        release(self.manager, text, **({"tag": tag} if tag else {}))
        self.previous, self.trunk = self.trunk, text
        self.shows = self.is_virtual
        if tag is not None:
            self.note(tag, text)

    def branch(self, start: str) -> None:
        text, tag = self.new_name(), self.new_name()
        known = self.tags[start]
        if known.branch:
            heads = [tag for tag, other in self.tags.items() if other.branch == known.branch]
            start = max(heads, key=lambda name: self.tags[name].revision)
            release_on_branch(self.manager, text, tag, known.branch, None)
            self.edited()
            self.note(tag, text, known.branch)
        else:
            release_on_branch(self.manager, text, tag, f"from-{start}-{tag}", start)
            self.edited()
            self.note(tag, text, f"from-{start}-{tag}")

    def copy(self, start: str) -> None:
        tag = self.new_name()
        found = own(self.manager)[start]
        tags.add(self.manager.environment, NAME, tag, root_hash=found.root_hash.hex)
        self.edited()
        self.note(tag, self.tags[start].text)

    def move(self, name: str, target: str) -> None:
        found = own(self.manager)
        if found[name].root_hash == found[target].root_hash:
            with pytest.raises(RepositoryError, match="already points to"):
                tags.add(self.manager.environment, NAME, name, root_hash=found[target].root_hash.hex)
            return
        tags.add(self.manager.environment, NAME, name, root_hash=found[target].root_hash.hex)
        self.edited()
        self.note(name, self.tags[target].text, self.tags[name].branch)

    def remove(self, name: str) -> None:
        if len(self.tags) > 1:
            tags.remove(self.manager.environment, NAME, [name])
            del self.tags[name]
            self.edited()

    def rollback(self, name: str | None) -> None:
        current = self.manager.manifest().revision
        found = {tag.name: tag for tag in tags.list_tags(self.manager.environment, NAME)}
        target = found.get(name or "trunk-previous")
        if target is None or target.branch or target.revision == current:
            with pytest.raises(RepositoryError):
                rollback(self.manager.environment, NAME, name)
            return
        rollback(self.manager.environment, NAME, name)
        text = self.tags[name].text if name else self.previous
        self.tags = {
            tag: known
            for tag, known in self.tags.items()
            if known.branch or known.revision <= target.revision or tag == name
        }
        if name:
            self.note(name, text)
        self.trunk, self.previous = text, ""
        self.shows = self.is_virtual

    def turn_virtual(self) -> None:
        self.is_virtual = not self.is_virtual
        self.manager.configure(CVMFS_VIRTUAL_DIR=str(self.is_virtual).lower())

    def edited(self) -> None:
        """Take into account that other tags make a new revision, if there are snapshots."""
        if self.is_virtual:
            self.shows = True
            self.previous = self.trunk

    def compare(self) -> None:
        found = {tag.name: tag for tag in tags.list_tags(self.manager.environment, NAME)}
        manifest = self.manager.manifest()
        trunk = found.pop("trunk")
        assert (trunk.root_hash, trunk.revision) == (manifest.root_hash, manifest.revision)
        assert text_of(self.manager, manifest.root_hash) == self.trunk
        previous = found.pop("trunk-previous", None)
        assert (text_of(self.manager, previous.root_hash) if previous else "") == self.previous
        described = {name: Known(text_of(self.manager, tag.root_hash), tag.branch, tag.revision)
                     for name, tag in found.items()}  # fmt: skip
        assert described == self.tags
        if self.is_virtual == self.shows:  # else it takes a publish to show or hide them
            expected = {name: tag.root_hash for name, tag in found.items()} if self.shows else None
            assert snapshots(self.manager) == expected
        with self.manager.store() as store:
            reflog = Reflog.parse(store.get(REFLOG_KEY))
        assert all(reflog.contains(tag.root_hash) for tag in found.values())
        self.manager.check()


actions = st.lists(
    st.tuples(
        st.sampled_from(
            ("publish", "publish", "untagged", "branch", "copy", "move", "remove", "back", "undo", "virtual")
        ),
        st.integers(0, 100),
        st.integers(0, 100),
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(actions=actions)
def test_any_history(template: Path, actions: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        manager = from_template(template, Path(directory))
        manager.configure(CVMFS_AUTO_TAG="false")
        tags.remove(manager.environment, NAME, own(manager))
        model = Model(manager)
        for action, first, second in actions:
            if not model.tags:
                model.publish(model.new_name())
            names = list(model.tags)
            name, other = names[first % len(names)], names[second % len(names)]
            {
                "publish": lambda: model.publish(model.new_name()),
                "untagged": lambda: model.publish(None),
                "branch": lambda name=name: model.branch(name),
                "copy": lambda name=name: model.copy(name),
                "move": lambda name=name, other=other: model.move(name, other),
                "remove": lambda name=name: model.remove(name),
                "back": lambda name=name: model.rollback(name),
                "undo": lambda: model.rollback(None),
                "virtual": model.turn_virtual,
            }[action]()
            model.compare()
        published(manager)  # a reader who knows nothing of all this


# Rollback


def test_rollback_follows_the_newest_revision(local: ReleaseManager) -> None:
    """Garbage collection goes from each root catalog to the one before it."""
    release(local, "one", tag="one")
    release(local, "two", tag="two")
    left = local.manifest()
    result = rollback(local.environment, NAME, "one")
    assert (result.revision, result.previous_revision) == (left.revision + 1, left.revision)
    assert [tag.name for tag in result.removed][:2] in (["two", "trunk"], ["trunk", "two"])
    with local.store() as store:
        file = local.tmp / "root"
        file.write_bytes(fetch_object(store, result.root_hash))
        with Catalog(file) as catalog:
            assert catalog.revision == result.revision
            assert catalog.previous_revision == left.root_hash
    assert tags.inspect(local.environment, NAME, "one").root_hash == result.root_hash


def test_rollback_rewrites_one_catalog(local: ReleaseManager, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(5):
        make(source, **{f"n{number}__.cvmfscatalog": "", f"n{number}__file": str(number)})
    local.ingest(mirror(source), tag="one")
    release(local, "two")
    environment = FaultyEnvironment(local)
    rollback(environment, NAME, "one")
    written = [key for operation, key in environment.faulty.operations if operation == "put" and key.endswith("C")]
    assert len(written) == 1


REFUSED_ROLLBACKS = [
    # tag, message
    ("unknown", "has no tag 'unknown'. List them: cvmfs_server tag -l"),
    ("two", "is revision 3; the current one is 3 already. Name an older tag"),
    ("trunk", "the current one is 3 already"),
    ("branched", "is on the branch fix, not on the main line"),
]


def test_refused_rollbacks(local: ReleaseManager) -> None:
    release(local, "one", tag="one")
    release(local, "two", tag="two")
    release_on_branch(local, "fix", "branched", "fix", "one")
    for tag, message in REFUSED_ROLLBACKS:
        local.refuses("rollback", "-t", tag, says=[message])
    open_transaction(local.environment, NAME)
    assert "has the transaction" in local.server("rollback", "-f", "-t", "one").stderr
    local.server("abort", "-f").succeeded()
    checkout(local.environment, NAME, branch="fix", tag=None)
    local.refuses("rollback", "-f", "-t", "one", says=["cannot be changed while branched is checked out"])
    local.refuses("tag", "-a", "new", says=["Tags cannot be changed while branched is checked out for the branch fix"])
    local.refuses("tag", "-f", "-r", "one", says=["Go back to the newest revision: cvmfs_server checkout"])
    local.server("checkout").succeeded()
    assert local.server("rollback", stdin=b"n\n").code == 1
    assert local.server("rollback", stdin=b"y\n").succeeded().stdout.startswith("Rolling back repository (leaving")
    local.refuses("rollback", "-f", says=["has no revision before the last that it could go back to without a tag's"])


def test_who_undoes_a_revision_undoes_no_other(local: ReleaseManager) -> None:
    """Not even one that is published after it was looked at, and before the lease is taken."""
    release(local, "one")
    release(local, "two")
    environment = MeanwhileEnvironment(local, LEASE_KEY, lambda: release(local.another("other"), "three"))
    with pytest.raises(RepositoryError, match=r"Revision 3 of .* cannot be undone: the newest one is 4"):
        rollback(environment, NAME, undo=3)
    local.refuses("rollback", "-f", "--undo", "3", says=["Revision 3 of", "the newest one is 4. Name a tag (-t)"])
    local.refuses("rollback", "-f", "--undo", "5", says=["Revision 5 of"])
    assert "not allowed with" in local.server("rollback", "-f", "--undo", "4", "-t", "one").stderr
    assert local.manifest().revision == 4
    local.server("rollback", "-f", "--undo", "4").succeeded()
    assert text_of(local, local.manifest().root_hash) == "two"


# Branches


def test_a_branch_leaves_the_main_line_alone(local: ReleaseManager) -> None:
    release(local, "one", tag="one")
    release(local, "two", tag="two")
    before = local.manifest()
    out = local.server("checkout", "-b", "fix", "-t", "one").succeeded().stdout
    one = tags.inspect(local.environment, NAME, "one")
    assert out == f"Checked out tag one ({one.root_hash.hex}) onto new branch fix\n"
    assert " [checked out tag 'one' on branch 'fix'])\n" in local.run("list").stdout
    local.server("transaction").succeeded()
    local.refuses("checkout", says=["has the transaction"])
    assert "needs a tag, as nothing else leads to it. Add -a" in local.server("publish").stderr
    assert "Reset to trunk on default branch" in local.server("publish", "-a", "fixed").succeeded().stdout
    assert "checked out" not in local.run("list").stdout
    after = local.manifest()
    assert (after.root_hash, after.revision) == (before.root_hash, before.revision)
    fixed = tags.inspect(local.environment, NAME, "fixed")
    assert (fixed.branch, fixed.revision) == ("fix", one.revision + 1)
    assert local.server("tag", "-b", "-x").stdout == f"[0] (default) @0\n[1]  fix @{fixed.revision}\n"
    assert local.server("tag", "-b").stdout == f"(default) @0\n├ fix @{fixed.revision}\n"
    assert (
        local.server("checkout", "-b", "fix").stdout == f"Checked out tag fixed ({fixed.root_hash.hex}) on branch fix\n"
    )
    local.check()


def test_what_can_be_done_while_something_is_checked_out(local: ReleaseManager, tmp_path: Path) -> None:
    local.configure(CVMFS_GARBAGE_COLLECTION="true")
    for name in ("one", "two"):
        release(local, name, tag=name)
    checkout(local.environment, NAME, branch="fix", tag="one")
    newest = local.manifest()
    description, owners = make(tmp_path, **{"meta.json": "{}"}) / "meta.json", make(tmp_path, map="* 5") / "map"
    for allowed in (["tag", "-l"], ["tag", "-i", "trunk"], ["diff"], ["info"], ["gc", "-f", "-r", "0"]):
        local.server(*allowed).succeeded()
    local.server("update-repoinfo", "-f", description).succeeded()
    for refused in (["eliminate-hardlinks", "-f"], ["fix-stats", "-f"], ["catalog-chown", "-u", owners, "-g", owners]):
        local.refuses(*refused, says=["The newest revision cannot be changed while one is checked out"])
    assert local.manifest().root_hash == newest.root_hash
    local.server("checkout").succeeded()
    local.check()


REFUSED_CHECKOUTS = [
    (["-t", "one"], "There is no branch for what is to be published. Add -b"),
    (["-b", "unknown"], "has no branch 'unknown'"),
    (["-b", "new branch", "-t", "one"], "'new branch' is not a branch name"),
    (["-b", "", "-t", "one"], "'' is not a branch name"),
    (["-b", "new", "-t", "unknown"], "has no tag 'unknown'"),
    (["-b", "fix", "-t", "one"], "already has a branch 'fix'"),
]


def test_refused_checkouts(local: ReleaseManager) -> None:
    release(local, "one", tag="one")
    release_on_branch(local, "fix", "fixed", "fix", "one")
    for arguments, message in REFUSED_CHECKOUTS:
        local.refuses("checkout", *arguments, says=[message])
    (local.spool / "checkout").write_text("nonsense")
    local.refuses("publish", "--dry-run", says=["checkout, which says what is checked out, cannot be used"])
    local.server("checkout").succeeded()


def test_a_branch_whose_publisher_died_is_in_the_reflog(local: ReleaseManager) -> None:
    """It had written the manifest, but not the reflog: the next publish restores what the manifest asks for."""
    release(local, "one", tag="one")
    checkout(local.environment, NAME, branch="fix", tag="one")
    open_transaction(local.environment, NAME)
    environment = FaultyEnvironment(local, [Fault(operations=WRITES, keys=REFLOG_KEY, error=PublisherError("died"))])
    with pytest.raises(PublisherError, match="died"):
        publish(environment, NAME, ChangeSet(()), PublishOptions(tag="fixed"))
    fixed = tags.inspect(local.environment, NAME, "fixed")
    with local.environment.open(NAME) as repository:
        assert repository.repair_reflog()
    with local.store() as store:
        reflog = Reflog.parse(store.get(REFLOG_KEY))
    assert fixed.root_hash in [found for found, _ in reflog.references(ReferenceType.CATALOG)]
    local.server("abort", "-f").succeeded()
    local.check()


# Instant snapshots


def test_layout_of_snapshots(local: ReleaseManager) -> None:
    local.server("tag", "-a", "a/b").succeeded()
    local.configure(CVMFS_VIRTUAL_DIR="true", CVMFS_AUTO_TAG="false")
    release(local, "one", tag="one")
    release(local, "two", tag="two")
    shown = snapshots(local)
    assert shown is not None
    assert {"one", "two"} < shown.keys()
    assert not shown.keys() & {"trunk", "trunk-previous", "a/b"}
    with local.store() as store, CatalogTree(store, local.manifest().root_hash, local.tmp) as tree:
        for path, mode in ((b".cvmfs", 0o40555), (b".cvmfs/snapshots", 0o40555), (b".cvmfs/.cvmfscatalog", 0o100444)):
            entry = tree.entry(path)
            assert entry is not None
            assert (entry.mode, entry.uid, entry.gid) == (mode, 0, 0)
        binds = {bind.path: bind for bind in tree.catalog(b".cvmfs").bind_mountpoints()}
        one = tags.inspect(local.environment, NAME, "one")
        assert binds[b".cvmfs/snapshots/one"].size == one.size
    before = local.manifest()
    local.configure(CVMFS_VIRTUAL_DIR="false")
    result = local.ingest()
    assert (result.changed, result.revision) == (True, before.revision + 1)
    assert snapshots(local) is None
    assert not local.ingest().changed
    local.check()


@pytest.mark.parametrize("tag", ["a/b", ".."])
def test_tags_that_can_have_no_snapshot(local: ReleaseManager, tag: str) -> None:
    """Upstream's own tools take them, and can publish nothing from then on."""
    local.configure(CVMFS_VIRTUAL_DIR="true")
    says = [f"The tag '{tag}' cannot have a directory in /.cvmfs/snapshots", "CVMFS_VIRTUAL_DIR=false"]
    local.refuses("tag", "-a", tag, says=says)
    for dry_run in ([], ["--dry-run"]):
        local.refuses("ingest", "-d", "new_repository", "-a", tag, *dry_run, says=says)
    local.configure(CVMFS_VIRTUAL_DIR="false")
    local.server("tag", "-a", tag).succeeded()


def test_snapshots_are_not_to_be_published(local: ReleaseManager, tmp_path: Path) -> None:
    local.configure(CVMFS_VIRTUAL_DIR="true")
    local.ingest(mirror(make(tmp_path / "source", file=""), ""), tag="one")
    shown = snapshots(local)
    local.ingest(mirror(make(tmp_path / "source", file="other"), ""))
    now = snapshots(local)
    assert shown is not None
    assert now is not None
    assert shown.items() <= now.items()
    for path in ("/.cvmfs", "/.cvmfs/snapshots/one"):
        local.refuses("ingest", "-d", path, says=["belongs to CernVM-FS itself"])


def test_something_else_in_the_place_of_snapshots(local: ReleaseManager) -> None:
    with (
        local.environment.open(NAME) as repository,
        WritableCatalogTree(repository.store, repository.manifest.root_hash, local.tmp) as tree,
    ):
        root = tree.entry(b"")
        assert root is not None
        tree.add(b".cvmfs", replace(root, name=b".cvmfs"))
        with pytest.raises(RepositoryError, match="but not as CernVM-FS makes it"):
            are_outdated(tree, repository.history(), local.environment.settings(NAME))


# Tags


REFUSED_TAGS = [
    (["-a", "one"], "already has a tag 'one'. To move it, add -h"),
    (["-a", "trunk"], "follows the newest revisions by itself"),
    (["-a", "two words"], "'two words' is not a tag name"),
    (["-a", ""], "'' is not a tag name"),
    (["-a", "new", "-h", "0" * 40], "has no root catalog " + "0" * 40),
    (["-a", "new", "-h", "nonsense"], "is not the hash of a root catalog"),
    (["-f", "-r", "one", "-r", "unknown"], "has no tag 'unknown'"),
    (["-f", "-r", "one unknown"], "has no tag 'unknown'"),
    (["-f", "-r", "trunk"], "follows the newest revisions by itself"),
    (["-i", "unknown"], "has no tag 'unknown'"),
]


def test_refused_tags(local: ReleaseManager, tmp_path: Path) -> None:
    local.ingest(mirror(make(tmp_path / "source", **{"sub__.cvmfscatalog": "", "sub__file": ""})), tag="one")
    for arguments, message in REFUSED_TAGS:
        local.refuses("tag", *arguments, says=[message])
    with local.store() as store, CatalogTree(store, local.manifest().root_hash, local.tmp) as tree:
        nested = tree.reference(b"sw/sub")
    assert nested is not None
    local.refuses("tag", "-a", "new", "-h", nested.hash.hex, says=["is the catalog of /sw/sub, not a root catalog"])


def test_many_tags_at_once(local: ReleaseManager) -> None:
    for name in ("one", "two", "three"):
        tags.add(local.environment, NAME, name)
    root = local.manifest().root_hash.hex
    lines = local.server("tag", "-f", "-r", "one two", "-r", "three").succeeded().stdout.splitlines()
    assert lines == [f"deleting '{name}' ({root})" for name in ("one", "two", "three")]


def test_tags_of_a_repository_that_is_not_configured_here(local: ReleaseManager, tmp_path: Path) -> None:
    """Its URL and its public key are enough."""
    release(local, "one", tag="one")
    stranger = ReleaseManager(tmp_path / "stranger", dict(local.settings), "other.example.org")
    (stranger.keys / f"{NAME}.pub").write_bytes((local.keys / f"{NAME}.pub").read_bytes())
    with served(tmp_path) as url:
        (tmp_path / NAME).symlink_to(tmp_path / "storage")
        for arguments in (["-l", "-x"], ["-i", "one"], ["-b"]):
            ours = local.server("tag", *arguments).succeeded().stdout
            assert stranger.run("tag", *arguments, f"{url}/{NAME}").succeeded().stdout == ours
        assert stranger.run("diff", "-m", f"{url}/{NAME}/").succeeded().stdout == local.server("diff", "-m").stdout
        assert stranger.run("tag", "-a", "new", f"{url}/{NAME}").code == 1
        told = stranger.run("info", "--json", f"{url}/{NAME}").succeeded().document
        assert told == local.server("info", "--json").document | {
            "stratum0_url": f"{url}/{NAME}",
            "public_key": str(stranger.keys / f"{NAME}.pub"),
        }
        (stranger.keys / f"{NAME}.pub").unlink()
        assert "There is no" in stranger.run("tag", f"{url}/{NAME}").stderr
        key = local.keys / f"{NAME}.pub"
        stranger.run("diff", "-k", key, f"{url}/{NAME}").succeeded()
        stranger.run("diff", "-k", local.keys, f"{url}/{NAME}").succeeded()
        assert "There is no" in stranger.run("info", f"{url}/{NAME}").stderr
        assert f"CVMFS_PUBLIC_KEY={key}\n" in stranger.run("info", "-k", local.keys, f"{url}/{NAME}").stdout
        assert local.server("info", "-k", key, "--json").succeeded().document["public_key"] == str(key)


def test_room_for_what_is_not_configured_here(
    local: ReleaseManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's place for temporary files is in memory in our containers."""
    with local.environment.scratch_for_reading(f"http://127.0.0.1/{NAME}") as directory:
        assert directory.parent == local.environment.spool_dir(local.environment.settings(NAME))
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr("cvmfs_publisher.operations.environment.SPOOL", spool)
    for variable, expected in (("", spool), (str(local.tmp), local.tmp)):
        monkeypatch.setattr(tempfile, "tempdir", None)
        if variable:
            monkeypatch.setenv("TMPDIR", variable)
        else:
            monkeypatch.delenv("TMPDIR", raising=False)
        with local.environment.scratch_for_reading("http://127.0.0.1/other.example.org/") as directory:
            assert directory.parent == expected
        assert not directory.exists()


# Differences


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(first=trees, second=trees)
def test_differences_of_any_trees(template: Path, first: Node, second: Node) -> None:
    """What is reported is what the two differ in, read one by one."""
    with tempfile.TemporaryDirectory() as directory:
        manager = from_template(template, Path(directory))
        for number, node in enumerate((first, second)):
            source = Path(directory) / f"source{number}"
            write(node, os.fsencode(source))
            try:
                manager.ingest(mirror(source, allow_empty=True), tag=f"tag-{number}", checksum=True)
            except SourceError:
                reject()  # not every tree can be published
        (old, gone), (new, _) = (entries_of(manager, f"tag-{number}") for number in (0, 1))
        with diff(manager.environment, NAME, old="tag-0", new="tag-1") as comparison:
            found = {difference.path: difference for difference in comparison.differences}
        kinds = {path: difference.kind for path, difference in found.items()}
        assert {path for path, kind in kinds.items() if kind is Kind.ADDED} == new.keys() - old.keys()
        unnamed = {path for path, kind in kinds.items() if kind is Kind.REMOVED} ^ (old.keys() - new.keys())
        # What was in a nested catalog that is gone is not named
        assert all(any(path.startswith(nested + b"/") for nested in gone - new.keys()) for path in unnamed)
        for path in old.keys() & new.keys():
            is_directory = stat.S_ISDIR(old[path][0]) and stat.S_ISDIR(new[path][0])
            assert (path in found) or old[path] == new[path] or is_directory, path
            if path in found:
                assert found[path].aspects
            elif is_directory:
                assert old[path][:2] == new[path][:2], path
        with diff(manager.environment, NAME, old="tag-1", new="tag-1") as comparison:
            assert list(comparison.differences) == []


def entries_of(manager: ReleaseManager, tag: str) -> tuple[dict[bytes, tuple[Any, ...]], set[bytes]]:
    """Return what a revision says of all paths, and where its nested catalogs are."""
    root_hash = tags.inspect(manager.environment, NAME, tag).root_hash
    with manager.store() as store, CatalogTree(store, root_hash, manager.tmp) as tree:
        found = {
            path: (entry.mode, entry.mtime, entry.mtime_ns, entry.symlink, entry.hash, entry.chunks)
            for path, entry in tree.walk()
            if path
        }
        return found, {path for path, _ in tree.catalogs() if path}


def test_a_difference_costs_what_is_different(local: ReleaseManager, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(20):
        make(source, **{f"n{number}__.cvmfscatalog": "", f"n{number}__file": str(number)})
    local.ingest(mirror(source), tag="one")
    make(source, n7__file="other")
    local.ingest(mirror(source), tag="two")
    environment = FaultyEnvironment(local)
    with diff(environment, NAME, old="one", new="two") as comparison:
        assert [difference.path for difference in comparison.differences] == [b"sw/n7/file"]
    fetched = [key for operation, key in environment.faulty.operations if operation == "get" and key.endswith("C")]
    assert len(fetched) == 4  # two roots, and the catalog that changed, twice


def test_differences_as_upstream_prints_them(local: ReleaseManager, tmp_path: Path) -> None:
    source = make(tmp_path / "source", file="x", d__foo="f", d__nested__file="", e__file="")
    (source / "link").symlink_to("file")
    (source / "d/nested/.cvmfscatalog").touch()
    local.ingest(mirror(source, ""))
    assert local.server("diff", "-m", "-s", "trunk").succeeded().stdout == "S F 0\nS S 0\nS D 0\nS N 0\n"
    make(source, file="xy", **{"e__.cvmfscatalog": "", "new__file": "", "new__.cvmfscatalog": ""})
    for name in ("link", "d/foo", "d/nested/.cvmfscatalog"):
        (source / name).unlink()
    (source / "d/foo").symlink_to("bar")
    (source / "other").symlink_to("file")
    local.ingest(mirror(source, ""))
    forward = local.server("diff", "-i", "-m").succeeded().stdout.splitlines()
    assert forward[:4] == ["S F 1", "S S 1", "S D 1", "S N 1"]
    assert sorted(forward[4:]) == sorted(
        [
            *("M[SC] F /file", "M[SMLC] FS /d/foo", "M[N] D /d/nested", "R F /d/nested/.cvmfscatalog -0"),
            *("M[N] D /e", "A F /e/.cvmfscatalog +0", "A D /new", "A F /new/file +0", "A F /new/.cvmfscatalog +0"),
            *("R S /link -4", "A S /other +4"),
        ]
    )
    back = local.server("diff", "-i", "-m", "-s", "trunk", "-d", "trunk-previous").succeeded().stdout.splitlines()
    assert back[:4] == ["S F -1", "S S -1", "S D -1", "S N -1"]
    assert {"R D /new", "A S /link +4", "M[SMLC] SF /d/foo"} < set(back)
    assert not [line for line in back if "/new/" in line]  # what was in a nested catalog that is gone


def test_ways_to_name_a_revision(local: ReleaseManager) -> None:
    release(local, "one", tag="one")
    time.sleep(1.1)
    release(local, "two", tag="two")
    one = tags.inspect(local.environment, NAME, "one")
    moment = datetime.datetime.fromtimestamp(one.timestamp, datetime.UTC)
    expected = local.server("diff", "-m", "-s", "one", "-d", "two").succeeded().stdout
    assert "M[" in expected
    for text in (
        f"@{one.root_hash.hex}",
        f"@{one.revision}",
        f"@{moment:%Y-%m-%dT%H:%M:%SZ}",
        f"@{moment:%Y-%m-%dT%H:%M:%S}",
        "trunk-previous",
    ):
        assert local.server("diff", "-m", "-s", text).succeeded().stdout == expected
    header = local.server("diff", "-h", "-s", "one").succeeded().stdout.splitlines()[0]
    assert header.startswith(f"DELTA: one/r2 ({moment.day} {moment:%b %Y %H:%M:%S}) --> trunk/r3 (")
    for text, says in (
        ("nothing", "has no tag 'nothing'"),
        ("@77", "has no tag of revision @77"),
        ("@1999-01-01", "has no tag of revision @1999-01-01"),
        ("@soon", "'@soon' is no revision. Name a tag, or write @ before"),
        ("@" + "0" * 40, "has no root catalog of"),
        ("@" + "0" * 40 + "-md5", "is not the hash of a root catalog"),
    ):
        local.refuses("diff", "-s", text, says=[says])
    local.refuses("diff", "--worktree", says=["has no transaction open here"])
    open_transaction(local.environment, NAME)
    for option in (["-m"], ["-h"], ["-i"], ["-s", "trunk"], ["-d", "trunk"], ["-k", "/etc"]):
        local.refuses("diff", "-w", *option, says=["-w compares with what the transaction began with"])
    outcome = local.server("diff", "-w")
    assert (outcome.code, outcome.stdout) == (1, "")
