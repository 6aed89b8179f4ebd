# SPDX-License-Identifier: GPL-3.0-or-later
"""Interactive transactions: what was done in place is what is published."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from cvmfs_publisher.mount.overlay import UnionKind
from operations.conftest import from_template
from operations.managers import ReleaseManager
from operations.reading import Tree, on_disk, published
from operations.trees import LARGE
from operations.unions import Checkout, enter_mount_namespace, move, needs_mounting

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
    """Leave out what fuse-overlayfs does not show as it is: times of directories, and hard links."""
    return {
        path: dataclasses.replace(seen, names=frozenset(), mtime_ns=0 if stat.S_ISDIR(seen.mode) else seen.mtime_ns)
        for path, seen in tree.items()
    }


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

    def _paths(self, data: st.DataObject, *, directory: bool | None = None, root: bool = False) -> bytes:
        """Draw a path that exists."""
        found = sorted(on_disk(Path(os.fsdecode(self.model))))
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
        self._do(lambda path: os.removexattr(path, name, follow_symlinks=False), self._paths(data, root=True))

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
        seen, xattrs = on_disk(self.checkout.root), self.checkout.xattrs
        model = on_disk(Path(os.fsdecode(self.model)))
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
