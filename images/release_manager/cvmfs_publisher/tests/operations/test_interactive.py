# SPDX-License-Identifier: GPL-3.0-or-later
"""Interactive transactions: what was done in place is what is published."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import secrets
import shutil
import stat
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, note, reject, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from cvmfs_publisher.errors import NotInTransaction
from cvmfs_publisher.mount import system, unmount
from cvmfs_publisher.mount.overlay import UnionKind
from cvmfs_publisher.operations import transaction
from cvmfs_publisher.operations.interactive import worktree_changes
from operations.conftest import from_template
from operations.managers import NAME, PROGRAM, ReleaseManager
from operations.reading import Tree, on_disk, published
from operations.trees import LARGE
from operations.unions import Checkout, enter_mount_namespace, move, needs_mounting, xattrs_of

pytestmark = needs_mounting

_RUNS = int(os.environ.get("CVMFS_TEST_RUNS", "8"))
"""Of the machine that does file operations by chance."""


@pytest.fixture(scope="module", autouse=True)
def mount_namespace() -> None:
    enter_mount_namespace()


@pytest.fixture
def checkout(local: ReleaseManager) -> Iterator[Checkout]:
    """A repository to be edited in place, without an open transaction."""
    found = Checkout(local)
    yield found
    found.close()


# Any file operations

_names = st.sampled_from([b"a", b"b", b"c", b"\xff\n'", b".wh.a"])
_fuse_names = st.sampled_from([b"a", b"b", b"c", b"\xff\n'"])
_modes = st.sampled_from([0o644, 0o755, 0o600, 0o4755, 0o2711, 0o1777, 0o444, 0o000])
_owners = st.sampled_from([0, 1, 65534, 123456])
_contents = st.one_of(st.sampled_from([b"", b"same", LARGE]), st.binary(max_size=20))
_times = st.sampled_from([0, 999_999_999, 1_700_000_000 * 10**9 + 1])
_NOBODY = 2**32 - 1
_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 6, _NOBODY), (2, 4, 5), (4, 4, _NOBODY), (16, 6, _NOBODY), (32, 0, _NOBODY))
)
"""As setfacl -m u::rw,u:5:r,g::r,m::rw,o::- makes it (linux/posix_acl_xattr.h)."""


def _without(tree: Tree) -> Tree:
    """Leave out what is different in two directories that the same was done in, one after the other."""
    return {path: dataclasses.replace(seen, mtime_ns=0, names=frozenset()) for path, seen in tree.items()}


def _without_doubts(tree: Tree) -> Tree:
    """Leave out what fuse-overlayfs does not show as it is: hard links, and times a few milliseconds after a change."""
    return {path: dataclasses.replace(seen, names=frozenset(), mtime_ns=0) for path, seen in tree.items()}


def _linked(tree: Tree, model: Tree) -> Tree:
    """Return a tree with the hard links of the model, too: the kernel's overlay shows some as separate files.

    It has no other way to know files that it has copied up than by their handles, which FUSE does not have.
    """
    linked = dict(tree)
    for path, seen in tree.items():
        names, before = seen.names | model[path].names, None
        while names != before:
            before = names
            for name in names:
                other = os.path.join(os.path.dirname(path), name)
                names = names | tree[other].names | model[other].names
        linked[path] = dataclasses.replace(seen, names=names)
    return linked


class Editing(RuleBasedStateMachine):
    """Does the same in an open transaction and in a directory, and compares both with what is published."""

    template: Path
    base: Path
    kind: UnionKind

    def __init__(self) -> None:
        super().__init__()
        place = self.base / secrets.token_hex(6)
        self.checkout = Checkout(from_template(self.template, place), self.kind)
        self.roots = [os.fsencode(self.checkout.root), os.fsencode(place / "model")]
        if self.kind is UnionKind.FUSE_OVERLAY:
            # It fails now and then where other file systems do not, so that only what it shows is to be compared
            del self.roots[1]
        self.model = self.roots[-1]

    def teardown(self) -> None:
        self.checkout.close()
        self.checkout.manager.check()
        shutil.rmtree(self.checkout.manager.base.parent)

    @initialize()
    def begin(self) -> None:
        self.checkout.open()
        self._adopt()

    def _adopt(self) -> None:
        """Make the model what the transaction begins with; links to what is published are not links any more."""
        if len(self.roots) == 1:
            return
        shutil.rmtree(self.model, ignore_errors=True)
        subprocess.run(["cp", "-a", "--no-preserve=links", self.roots[0], self.model], check=True)

    def _look(self, root: bytes) -> Tree:
        try:
            return on_disk(Path(os.fsdecode(root)))
        except OSError as error:
            if self.kind is UnionKind.FUSE_OVERLAY and error.errno == errno.EIO:
                reject()  # version 1.10 cannot open some of what it has made itself
            raise

    def _paths(self, data: st.DataObject, *, directory: bool | None = None, root: bool = False) -> bytes:
        """Draw a path that exists."""
        found = sorted(self._look(self.model))
        if directory is not None:
            found = [p for p in found if os.path.isdir(self.model + b"/" + p) is directory or not p]
        return data.draw(st.sampled_from([p for p in found if root or p] or [b"none"]))

    def _new(self, data: st.DataObject) -> bytes:
        """Draw a path in a directory that exists."""
        names = _fuse_names if self.kind is UnionKind.FUSE_OVERLAY else _names
        return os.path.join(self._paths(data, directory=True, root=True), data.draw(names))

    def _do(self, what: Callable[..., object], *paths: bytes) -> None:
        """Do something with paths in the transaction and in the model; it must end in the same way."""
        note(f"{what} {paths}")
        ends = []
        for root in self.roots:
            try:
                what(*(os.path.join(root, path) for path in paths))
                ends.append(0)
            except OSError as error:
                ends.append(error.errno)
        assert len(set(ends)) == 1, ends

    @rule(data=st.data(), content=_contents)
    def write(self, data: st.DataObject, content: bytes) -> None:
        def do(path: bytes) -> None:
            with open(path, "wb") as file:
                file.write(content)

        path = (data.draw(st.booleans()) and self._paths(data, directory=False)) or self._new(data)
        if not any(stat.S_ISFIFO(seen.mode) for seen in [on_disk(self.checkout.root).get(path)] if seen):
            self._do(do, path)

    @rule(data=st.data(), size=st.sampled_from([0, 1, 100, len(LARGE) // 2]))
    def truncate(self, data: st.DataObject, size: int) -> None:
        self._do(lambda path: os.truncate(path, size), self._paths(data, directory=False))

    @rule(data=st.data())
    def patch(self, data: st.DataObject) -> None:
        def do(path: bytes) -> None:
            status = os.stat(path)
            with open(path, "r+b") as file:
                file.write(b"X")
            os.utime(path, ns=(0, status.st_mtime_ns))  # a change that only the content shows

        path = self._paths(data, directory=False)
        if os.path.isfile(os.path.join(self.model, path)):
            self._do(do, path)

    @rule(data=st.data())
    def mkdir(self, data: st.DataObject) -> None:
        self._do(os.mkdir, self._new(data))

    @rule(data=st.data())
    def make_catalog(self, data: st.DataObject) -> None:
        directory = self._paths(data, directory=True, root=False)
        location = os.path.join(self.model, directory)
        if os.path.isdir(location) and not os.path.islink(location):
            self._do(lambda path: open(path, "wb").close(), os.path.join(directory, b".cvmfscatalog"))

    @rule(data=st.data(), to=st.sampled_from([b"a", b"none/such", b"\xff"]))
    def symlink(self, data: st.DataObject, to: bytes) -> None:
        self._do(lambda path: os.symlink(to, path), self._new(data))

    @rule(data=st.data())
    def mkfifo(self, data: st.DataObject) -> None:
        self._do(os.mkfifo, self._new(data))

    @rule(data=st.data())
    def link(self, data: st.DataObject) -> None:
        old = self._paths(data, directory=False)
        if not old.endswith(b".cvmfscatalog"):
            self._do(lambda old, new: os.link(old, new, follow_symlinks=False), old, self._new(data))

    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        old, new = self._paths(data), (data.draw(st.booleans()) and self._paths(data)) or self._new(data)
        if not (old + new).endswith(b".cvmfscatalog") and not old.endswith(b".cvmfscatalog"):
            self._do(move, old, new)

    @rule(data=st.data())
    def unlink(self, data: st.DataObject) -> None:
        self._do(os.unlink, self._paths(data))

    @rule(data=st.data())
    def rmdir(self, data: st.DataObject) -> None:
        self._do(os.rmdir, self._paths(data))

    @rule(data=st.data(), again=st.sampled_from(["nothing", "directory", "file"]))
    def remove_tree(self, data: st.DataObject, again: str) -> None:
        def do(path: bytes) -> None:
            shutil.rmtree(path)
            if again == "directory":
                os.mkdir(path)
            elif again == "file":
                open(path, "wb").close()

        path = self._paths(data, directory=True)
        if path and not os.path.islink(os.path.join(self.model, path)):
            self._do(do, path)

    @rule(data=st.data(), mode=_modes)
    def chmod(self, data: st.DataObject, mode: int) -> None:
        self._do(lambda path: os.chmod(path, mode), self._paths(data, root=True))

    @rule(data=st.data(), uid=_owners, gid=_owners)
    def chown(self, data: st.DataObject, uid: int, gid: int) -> None:
        self._do(lambda path: os.chown(path, uid, gid, follow_symlinks=False), self._paths(data, root=True))

    @rule(data=st.data(), time=_times)
    def utime(self, data: st.DataObject, time: int) -> None:
        self._do(lambda path: os.utime(path, ns=(time, time), follow_symlinks=False), self._paths(data, root=True))

    @rule(data=st.data(), name=st.sampled_from(["user.a", "user.\udcff", "trusted.b"]), value=st.binary(max_size=9))
    def setxattr(self, data: st.DataObject, name: str, value: bytes) -> None:
        self._do(lambda path: os.setxattr(path, name, value, follow_symlinks=False), self._paths(data, root=True))

    @rule(data=st.data(), name=st.sampled_from(["user.a", "system.posix_acl_access"]))
    def removexattr(self, data: st.DataObject, name: str) -> None:
        def do(path: bytes) -> None:
            if os.fsencode(name) in xattrs_of(path):  # not all file systems mind if it is not there
                os.removexattr(path, name, follow_symlinks=False)

        self._do(do, self._paths(data, root=True))

    @rule(data=st.data())
    def set_acl(self, data: st.DataObject) -> None:
        self._do(lambda path: os.setxattr(path, "system.posix_acl_access", _ACL), self._paths(data))

    @rule()
    def abort(self) -> None:
        before = self.checkout.manager.manifest()
        self.checkout.manager.server("abort", "-f").succeeded()
        assert self.checkout.manager.manifest() == before
        self.begin()

    @rule()
    def publish(self) -> None:
        seen, xattrs = self._look(self.roots[0]), self.checkout.xattrs
        model = self._look(self.model)
        assert _without(seen) == _without(model)
        self.checkout.manager.server("publish").succeeded()
        found = published(self.checkout.manager).tree
        if self.kind is UnionKind.FUSE_OVERLAY:
            found, seen = (_without_doubts(tree) for tree in (found, seen))
        else:
            seen = _linked(seen, model)
        assert found == seen
        assert self.checkout.published_xattrs() == xattrs
        self.begin()


@pytest.mark.parametrize("kind", [UnionKind.OVERLAY, UnionKind.FUSE_OVERLAY], ids=lambda kind: kind.name)
def test_what_is_published_is_what_was_seen(template: Path, tmp_path: Path, kind: UnionKind) -> None:
    machine = type("Machine", (Editing,), {"template": template, "base": tmp_path, "kind": kind})
    profile = settings(
        max_examples=_RUNS,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(
            Phase.explicit,
            Phase.generate,
        ),  # making an example smaller takes longer than understanding a large one
        print_blob=True,
    )
    run_state_machine_as_test(machine, settings=profile)


# What else can be


def test_only_what_changed_is_published(checkout: Checkout) -> None:
    checkout.open()
    (checkout.root / "a").mkdir()
    (checkout.root / "a/file").write_text("one")
    assert worktree_changes(checkout.manager.environment, NAME).paths.added == [b"a", b"a/file"]
    shown = checkout.manager.server("diff", "-w").succeeded().stdout
    lines = [f"[{kind}] /cvmfs/{NAME}{path}" for kind, path in (("add", "/a"), ("add", "/a/file"), ("mod", ""))]
    assert sorted(shown.splitlines()) == lines
    first = checkout.manager.server("publish", "--json").succeeded().document
    assert first["paths"]["added"] == ["a", "a/file"]
    checkout.open()
    os.utime(checkout.root / "a/file", ns=(5, 5))
    second = checkout.manager.server("publish", "--json").succeeded().document
    assert second["paths"] == {"added": [], "modified": ["a/file"], "removed": [], "truncated": False}
    assert second["new_objects"] == 0
    checkout.open()
    (checkout.root / "a/file").open("r+").close()  # copied up, and as it was
    third = checkout.manager.server("publish", "--json").succeeded().document
    assert not third["changed"]
    assert checkout.leftovers == []


def test_a_file_open_for_writing_keeps_a_publish_back(checkout: Checkout) -> None:
    checkout.open()
    with open(checkout.root / "file", "w") as file:
        message = checkout.manager.server("publish").stderr
        assert f"with {checkout.root}/file" in message
        assert f"process {os.getpid()}" in message
        file.write("still writable")
    checkout.manager.server("publish").succeeded()
    assert published(checkout.manager).tree[b"file"].content == b"still writable"


def test_who_reads_is_not_disturbed(checkout: Checkout) -> None:
    checkout.open()
    (checkout.root / "file").write_text("content")
    with open(checkout.root / "file") as file:
        outcome = checkout.manager.server("publish").succeeded()
        assert "is still in use" in outcome.stderr
        assert file.read() == "content"
    assert not os.path.ismount(checkout.root)


def test_an_abort_does_not_pull_the_ground_away(checkout: Checkout) -> None:
    checkout.open()
    with subprocess.Popen(["sleep", "100"], cwd=checkout.root) as process:
        outcome = checkout.manager.server("abort", stdin=b"y\n")
        assert outcome.code == 1
        assert f"sleep (process {process.pid})" in outcome.stderr
        assert os.path.ismount(checkout.root)
        checkout.manager.server("abort", "-f").succeeded()
        assert not os.path.ismount(checkout.root)
        process.kill()


def test_an_abort_of_many_files(checkout: Checkout) -> None:
    before = checkout.manager.state().published
    checkout.open()
    for directory in range(30):
        (checkout.root / f"{directory}").mkdir()
        for file in range(100):
            (checkout.root / f"{directory}" / f"{file}").touch()
    checkout.manager.server("abort", "-f").succeeded()
    assert checkout.leftovers == []
    assert checkout.manager.state().published == before


@pytest.mark.parametrize("algorithm", ["rmd160", "shake128"])
def test_changes_are_found_whatever_the_algorithm(checkout: Checkout, algorithm: str) -> None:
    checkout.manager.configure(CVMFS_HASH_ALGORITHM=algorithm)
    checkout.open()
    (checkout.root / "file").write_text("one")
    checkout.manager.server("publish").succeeded()
    checkout.open()
    (checkout.root / "file").write_text("two")
    assert checkout.manager.server("diff", "-w").succeeded().stdout == f"[mod] /cvmfs/{NAME}/file\n"
    assert worktree_changes(checkout.manager.environment, NAME).paths.modified == [b"file"]


def test_a_publish_that_fails_can_be_repeated(checkout: Checkout) -> None:
    checkout.open()
    os.mknod(checkout.root / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    outcome = checkout.manager.server("publish")
    assert f"/device in {checkout.root} is a character device" in outcome.stderr
    (checkout.root / "device").unlink()
    (checkout.root / "file").write_text("content")
    checkout.manager.server("publish").succeeded()
    assert b"file" in published(checkout.manager).tree


def test_mounts_that_were_lost_come_back(checkout: Checkout) -> None:
    checkout.open()
    (checkout.root / "file").write_text("content")
    (checkout.root / "new_repository").unlink()
    system.unmount(checkout.root)
    for command in ("publish", "publish --dry-run"):
        says = checkout.manager.server(*command.split()).stderr
        assert f"is not mounted at {checkout.root}" in says
        assert f"cvmfs_server mount {NAME}" in says
    checkout.manager.server("mount").succeeded()
    checkout.manager.run("mount", "-a").succeeded()
    assert os.listdir(checkout.root) == ["file"]
    (checkout.root / "more").write_text("more")
    checkout.manager.server("publish").succeeded()
    assert published(checkout.manager).tree.keys() == {b"", b"file", b"more"}


@pytest.mark.parametrize("again", [False, True], ids=["opened", "mounted again"])
def test_the_lease_is_renewed_while_it_is_mounted(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Also where no container's entry point does that."""
    monkeypatch.setattr(transaction, "_RENEW_EVERY", 0.1)
    checkout.open()
    if again:
        system.unmount(checkout.root)
        unmount(next(checkout.manager.spool.glob("interactive-*")) / "rdonly")
        checkout.manager.server("mount").succeeded()
    checkout.manager.expire_lease(10)
    deadline = time.monotonic() + 30
    while checkout.manager.lease().expires < time.time():  # type: ignore[union-attr]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    checkout.manager.server("publish").succeeded()
    assert checkout.manager.lease().is_released  # type: ignore[union-attr]


def test_mounting_takes_an_interactive_transaction(checkout: Checkout) -> None:
    assert "has no transaction open" in checkout.manager.server("mount").stderr
    checkout.manager.server("transaction", "--mountless").succeeded()
    assert "is mountless" in checkout.manager.server("mount").stderr
    with pytest.raises(NotInTransaction, match="is mountless"):
        worktree_changes(checkout.manager.environment, NAME)


def test_only_its_directory_may_be_changed(checkout: Checkout) -> None:
    checkout.open()
    for name in ("in/side", "out"):
        (checkout.root / name).mkdir(parents=True)
    checkout.manager.server("publish").succeeded()
    argument = f"{NAME}/in/side"
    checkout.manager.run("transaction", argument).succeeded()
    (checkout.root / "in/side/file").touch()
    (checkout.root / "out/file").touch()
    (checkout.root / "in/wrong").touch()
    (checkout.root / "new_repository").unlink()
    message = checkout.manager.server("publish").stderr
    assert "was changed outside /in/side" in message
    assert "/in, /in/wrong, /new_repository, /out" in message
    checkout.manager.server("abort", "-f").succeeded()
    checkout.manager.run("transaction", argument).succeeded()
    (checkout.root / "in/side/file").touch()
    document = checkout.manager.server("publish", "--json").succeeded().document
    assert document["paths"]["added"] == ["in/side/file"]
    assert document["paths"]["modified"] == ["in/side"]


def test_other_changes_come_on_top(checkout: Checkout, source: Path, tmp_path: Path) -> None:
    changes = tmp_path / "changes.json"
    content = {"source": str(source), "base_dir": "a", "mode": "merge"}
    changes.write_text(json.dumps({"version": 1, "changes": [{"delete": "file"}, content]}))
    checkout.open()
    (checkout.root / "a").mkdir()
    (checkout.root / "a/README").write_text("mine")
    (checkout.root / "a/own").write_text("mine")
    (checkout.root / "file").touch()
    checkout.manager.server("publish", "--changes", changes).succeeded()
    tree = published(checkout.manager).tree
    assert tree[b"a/README"].content == b"read me\n"
    assert tree[b"a/own"].content == b"mine"
    assert b"file" not in tree


def test_a_template_can_be_edited(checkout: Checkout) -> None:
    checkout.open()
    (checkout.root / "a").mkdir()
    (checkout.root / "a/file").write_text("content")
    checkout.manager.server("publish").succeeded()
    checkout.open("-T", "/a=/b")
    assert (checkout.root / "b/file").read_text() == "content"
    (checkout.root / "b/file").write_text("other")
    checkout.manager.server("publish").succeeded()
    tree = published(checkout.manager).tree
    assert (tree[b"a/file"].content, tree[b"b/file"].content) == (b"content", b"other")


def test_without_rights_it_is_mountless(checkout: Checkout) -> None:
    manager = checkout.manager
    command = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", PROGRAM, "transaction"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments, NAME], env=manager.process_environment, capture_output=True, text=True, check=False
        )

    refused = run("--interactive")
    assert refused.returncode == 1
    assert "CAP_SYS_ADMIN" in refused.stderr
    assert manager.lease() is None or manager.lease().is_released
    opened = run("--json")
    assert opened.returncode == 0
    assert json.loads(opened.stdout)["mount_point"] is None
    assert "This is a mountless transaction: mounting takes the capability CAP_SYS_ADMIN." in opened.stderr


# Marks that other mount options, or other programs, make


def _mount_with(checkout: Checkout, options: str) -> None:
    """Mount the union of the open transaction with other options."""
    (directory,) = checkout.manager.spool.glob("interactive-*")
    system.unmount(checkout.root)
    layers = f"lowerdir={directory}/rdonly,upperdir={directory}/scratch,workdir={directory}/work"
    system.mount("overlay", checkout.root, "overlay", 0, f"{layers},{options}".encode())


def _fill(checkout: Checkout) -> None:
    checkout.open()
    for name in ("a/b/c", "a/nested", "d"):
        (checkout.root / name).mkdir(parents=True)
    (checkout.root / "a/nested/.cvmfscatalog").touch()
    for name in ("a/file", "a/b/file", "a/b/c/file", "a/nested/file", "d/file"):
        (checkout.root / name).write_text(name)
    os.link(checkout.root / "a/b/file", checkout.root / "a/b/link")
    checkout.manager.server("publish").succeeded()


def test_directories_that_were_renamed(checkout: Checkout) -> None:
    _fill(checkout)
    checkout.open()
    _mount_with(checkout, "redirect_dir=on,metacopy=on")
    root = checkout.root
    os.rename(root / "a", root / "x")
    os.rename(root / "x/b", root / "x/y")
    os.rename(root / "x/y/c", root / "top")
    (root / "x/y/new").write_text("new")
    (root / "x/file").unlink()
    (root / "a").mkdir()
    (root / "a/other").write_text("other")
    os.chmod(root / "top/file", 0o600)  # copies attributes up, and no content
    os.chmod(root / "d/file", 0o640)
    os.rename(root / "d/file", root / "d/moved")
    seen = on_disk(root)
    document = checkout.manager.server("publish", "--json").succeeded().document
    assert document["new_objects"] == len(["new", "other"])
    reading = published(checkout.manager)
    assert reading.tree == seen
    assert reading.catalogs == {b"", b"x/nested"}
    checkout.manager.check()


def test_white_outs_that_are_attributes(checkout: Checkout) -> None:
    _fill(checkout)
    checkout.open()
    (checkout.root / "a/b/here").touch()
    (directory,) = checkout.manager.spool.glob("interactive-*/scratch/a/b")
    (directory / "file").touch()
    os.setxattr(directory / "file", "trusted.overlay.whiteout", b"y")
    os.setxattr(directory, "trusted.overlay.opaque", b"x")
    document = checkout.manager.server("publish", "--json").succeeded().document
    assert document["paths"]["removed"] == ["a/b/file"]
    assert document["paths"]["added"] == ["a/b/here"]
    assert published(checkout.manager).tree[b"a/b/link"].content == b"a/b/file"


def test_hard_links_that_are_broken_up(checkout: Checkout) -> None:
    _fill(checkout)
    checkout.open()
    (checkout.root / "a/b/link").write_text("other")
    outcome = checkout.manager.server("publish").succeeded()
    assert "1 files with hard links were changed under some of their names only" in outcome.stderr
    tree = published(checkout.manager).tree
    assert (tree[b"a/b/file"].content, tree[b"a/b/link"].content) == (b"a/b/file", b"other")
    assert not tree[b"a/b/file"].names
    checkout.manager.check()


def test_rules_and_nested_catalogs_can_be_edited(checkout: Checkout) -> None:
    _fill(checkout)
    checkout.open()
    (checkout.root / "a/nested/.cvmfscatalog").unlink()
    (checkout.root / ".cvmfsdirtab").write_text("/d\n")
    checkout.manager.server("publish").succeeded()
    reading = published(checkout.manager)
    assert reading.catalogs == {b"", b"d"}
    checkout.open()
    (checkout.root / ".cvmfsdirtab").unlink()
    (checkout.root / "d/.cvmfscatalog").unlink()
    checkout.manager.server("publish").succeeded()
    assert published(checkout.manager).catalogs == {b""}


def test_a_user_namespace_will_do(local: ReleaseManager) -> None:
    """As in rootless podman: markers are attributes that a namespace's root may set."""
    root = local.base / "cvmfs"
    local.configure(CVMFS_UNION_FS_TYPE="overlayfs", CVMFS_UNION_DIR=str(root))
    script = """
        set -e
        "$0" transaction --json "$1"
        grep -q 'overlay.*userxattr' /proc/self/mountinfo
        cd "$2"; mkdir a a/b; echo content >a/b/file; rm new_repository; mv a c; rmdir "$(mktemp -d -p .)"; cd /
        "$0" publish "$1"
        "$0" transaction "$1"
        cd "$2"; rm -r c/b; mkdir c/b; echo other >c/b/other; cd /
        exec "$0" publish "$1"
    """
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script, PROGRAM, NAME, root],
        env=local.process_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tree = published(local).tree
    assert tree.keys() == {b"", b"c", b"c/b", b"c/b/other"}
    assert tree[b"c/b/other"].content == b"other\n"


# enter

_SCRIPT = """
set -e
cd "$2"
[ "$(id -u)" = "$3" ]
echo content >file
rm new_repository
cat file
"""


def _enter(manager: ReleaseManager, *arguments: str, confined: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*(["setpriv", "--bounding-set", "-sys_admin"] if confined else []), PROGRAM, "enter", *arguments],
        env=manager.process_environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("confined", [False, True])
@pytest.mark.parametrize("option", [[], ["-r"]])
def test_what_is_written_in_a_shell_is_dropped(checkout: Checkout, confined: bool, option: list[str]) -> None:
    before = checkout.manager.manifest()
    arguments = [*option, NAME, "--", "sh", "-c", _SCRIPT, "sh", "x", str(checkout.root), "0"]
    done = _enter(checkout.manager, *arguments, confined=confined)
    assert (done.returncode, done.stdout) == (0, "content\n"), done.stderr
    assert checkout.manager.manifest() == before
    assert not os.path.ismount(checkout.root)
    assert checkout.leftovers == []


def test_a_shell_tells_how_it_ended(checkout: Checkout) -> None:
    assert _enter(checkout.manager, NAME, "--", "sh", "-c", "exit 42").returncode == 42
    wrong = _enter(checkout.manager, NAME, "--", "no-such-program")
    assert wrong.returncode == 1
    assert "There is no program no-such-program" in wrong.stderr


@pytest.mark.parametrize("confined", [False, True])
@pytest.mark.parametrize("publishes", [True, False])
def test_a_shell_with_a_transaction(checkout: Checkout, publishes: bool, confined: bool) -> None:
    last = f"cd /; exec '{PROGRAM}' publish {NAME}" if publishes else ""
    arguments = ["-t", NAME, "--", "sh", "-c", f"{_SCRIPT}{last}", "sh", "x", str(checkout.root), "0"]
    done = _enter(checkout.manager, *arguments, confined=confined)
    assert done.returncode == 0, done.stderr
    tree = published(checkout.manager).tree
    assert tree.keys() == ({b"", b"file"} if publishes else {b"", b"new_repository"})
    lease = checkout.manager.lease()
    assert lease is None or lease.is_released
    assert checkout.leftovers == []
