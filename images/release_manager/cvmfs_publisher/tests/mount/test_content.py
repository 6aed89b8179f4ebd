# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that a catalog can express is seen through a real mount."""

from __future__ import annotations

import errno
import os
import stat
import struct
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from operations.conftest import from_template
from operations.managers import NAME, merge
from operations.reading import on_disk
from operations.trees import Node, differences, trees, write

from cvmfs_publisher.catalog import MARKER
from cvmfs_publisher.content import Compression, ContentHash, HashAlgorithm
from cvmfs_publisher.errors import SourceError
from cvmfs_publisher.paths import md5path

from .mounts import MTIME, Mount, Repository, let_pass, mounted_revision, noise

SETTINGS = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=set(Phase) - {Phase.shrink},  # each attempt publishes and mounts
)


@SETTINGS
@given(tree=trees)
def test_any_tree_is_read_back(template: Path, tree: Node) -> None:
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        manager = from_template(template, base)
        source = base / "source"
        write(tree, os.fsencode(source))
        try:
            manager.ingest(merge(source, "sw"))
        except SourceError:
            assume(False)  # such as a marker of a nested catalog with hard links
        with (
            manager.environment.open(NAME) as repository,
            mounted_revision(base, repository.store, repository.manifest.root_hash) as mnt,
        ):
            expected, found = on_disk(source), on_disk(mnt / "sw")
            assert not list(differences(expected, found))
            for path in expected:
                seen = os.lstat(os.path.join(os.fsencode(mnt / "sw"), path))
                assert seen.st_size == os.lstat(os.path.join(os.fsencode(source), path)).st_size or stat.S_ISDIR(
                    seen.st_mode
                )
                if expected[path].names:
                    assert seen.st_nlink == len(expected[path].names)


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 200_000, 9_000_000])
def test_files(repository: Repository, tmp_path: Path, compression: Compression, size: int) -> None:
    repository.file(b"file", noise(size), compression=compression)
    with mounted_revision(tmp_path, repository.store, repository.commit()) as mnt:
        assert (mnt / "file").read_bytes() == noise(size)
        assert (mnt / "file").stat().st_size == size
        assert (mnt / "file").stat().st_blocks == -(-size // 512)


@pytest.mark.parametrize("compression", Compression)
def test_chunked_files_are_read_in_any_order(repository: Repository, tmp_path: Path, compression: Compression) -> None:
    content = noise(3_000_001)
    repository.chunked(b"file", content, 100_000, compression=compression)
    with mounted_revision(tmp_path, repository.store, repository.commit()) as mnt:
        with (mnt / "file").open("rb", buffering=0) as file:
            for offset in (2_999_990, 99_999, 100_000, 1_234_567, 0, 250_000):
                assert os.pread(file.fileno(), 250_001, offset) == content[offset : offset + 250_001]
        assert (mnt / "file").read_bytes() == content


def test_one_object_may_be_unpacked_in_two_ways(repository: Repository, tmp_path: Path) -> None:
    packed = bytes(Compression.ZLIB.compress(b"text"))
    name = repository.file(b"unpacked", b"text")
    assert repository.file(b"packed", packed, compression=Compression.NONE) == name
    with mounted_revision(tmp_path, repository.store, repository.commit()) as mnt:
        assert (mnt / "unpacked").read_bytes() == b"text"
        assert (mnt / "packed").read_bytes() == packed


def test_symbolic_links(repository: Repository, tmp_path: Path) -> None:
    targets = [b"t" * 4095, b"$(VARIABLE:-x)/y", b"\xff\n", b"/", b"."]
    for number, target in enumerate(targets):
        repository.symlink(b"%d" % number, target)
    with mounted_revision(tmp_path, repository.store, repository.commit()) as mnt:
        for _ in range(2):
            for number, target in enumerate(targets):
                path = bytes(mnt / str(number))
                assert os.readlink(path) == target
                assert os.lstat(path).st_size == len(target)


def test_special_files(repository: Repository, tmp_path: Path) -> None:
    repository.special(b"fifo", 0o010644)
    repository.special(b"socket", 0o140755)
    numbers = [(1, 3), (8, 255), (8, 256), (259, 70_000), (4095, 1_048_575)]
    for major, minor in numbers:
        repository.special(b"c%d,%d" % (major, minor), 0o020666, os.makedev(major, minor))
        repository.special(b"b%d,%d" % (major, minor), 0o060600, os.makedev(major, minor))
    with mounted_revision(tmp_path, repository.store, repository.commit()) as mnt:
        assert stat.S_ISFIFO((mnt / "fifo").stat().st_mode)
        assert stat.S_ISSOCK((mnt / "socket").stat().st_mode)
        for major, minor in numbers:
            for kind, mode in (("c", 0o020666), ("b", 0o060600)):
                seen = (mnt / f"{kind}{major},{minor}").stat()
                assert (seen.st_mode, seen.st_rdev, seen.st_size) == (mode, os.makedev(major, minor), 0)


def test_metadata(repository: Repository, tmp_path: Path) -> None:
    repository.file(b"file", b"x", mode=0o106751, uid=12345, gid=4_000_000_000, mtime=-1, mtime_ns=999_999_999)
    repository.file(b"seconds", b"x", mtime=2**33, mtime_ns=None)
    repository.directory(b"dir", mode=0o041777, uid=7, gid=8, mtime_ns=5)
    repository.directory(b"dir/sub")
    repository.file(b"n" * 255)
    with mounted_revision(tmp_path, repository.store, repository.commit()) as mnt:
        seen = (mnt / "file").stat()
        assert (seen.st_mode, seen.st_uid, seen.st_gid) == (0o106751, 12345, 4_000_000_000)
        assert seen.st_mtime_ns == seen.st_ctime_ns == -1_000_000_000 + 999_999_999
        assert (mnt / "seconds").stat().st_mtime_ns == 2**33 * 10**9
        seen = (mnt / "dir").stat()
        assert (seen.st_mode, seen.st_uid, seen.st_gid, seen.st_nlink) == (0o041777, 7, 8, 3)
        assert seen.st_mtime_ns == MTIME * 10**9 + 5
        assert (mnt / ("n" * 255)).stat().st_size == 0
        with pytest.raises(OSError, match="File name too long") as raised:
            (mnt / ("n" * 256)).stat()
        assert raised.value.errno == errno.ENAMETOOLONG
        room = os.statvfs(mnt)
        assert (room.f_namemax, room.f_bavail, room.f_files) == (255, 0, 6)
        assert room.f_flag & os.ST_RDONLY


def test_one_owner_for_all(repository: Repository, tmp_path: Path) -> None:
    repository.file(b"file", uid=1, gid=2)
    mount = Mount(tmp_path, repository.store, repository.commit(), owner=(77, 88))  # type: ignore[arg-type]
    with mount.mounted() as mnt:
        assert ((mnt / "file").stat().st_uid, (mnt / "file").stat().st_gid) == (77, 88)


def test_nothing_can_be_written(repository: Repository, tmp_path: Path) -> None:
    repository.file(b"file", b"x")
    with mounted_revision(tmp_path, repository.store, repository.commit()) as mnt:
        for action in (
            lambda: (mnt / "file").write_bytes(b"y"),
            lambda: (mnt / "new").touch(),
            lambda: (mnt / "file").unlink(),
            lambda: (mnt / "file").chmod(0o600),
            lambda: os.setxattr(mnt / "file", "user.x", b""),
        ):
            with pytest.raises(OSError, match="Read-only") as raised:
                action()
            assert raised.value.errno == errno.EROFS


@pytest.mark.parametrize("hard_links", [True, False])
def test_hard_links(repository: Repository, tmp_path: Path, hard_links: bool) -> None:
    repository.directory(b"sub")
    repository.file(b"sub/marker")
    for directory in (b"", b"sub/"):
        repository.file(directory + b"a", b"a")
        repository.tree.link(directory + b"a", directory + b"b")
        repository.tree.link(directory + b"a", directory + b"c")
        repository.file(directory + b"other", b"a")
    repository.tree.create_nested(b"sub")
    root = repository.commit()
    with mounted_revision(tmp_path, repository.store, root, hard_links=hard_links) as mnt:
        # By lookup in one directory, by listing in the other
        first = [(mnt / name).stat() for name in ("b", "a", "c")]
        second = [entry.stat() for entry in os.scandir(mnt / "sub") if entry.name in "abc"]
        for group in (first, second):
            assert len({seen.st_ino for seen in group}) == (1 if hard_links else 3)
            assert {seen.st_nlink for seen in group} == {3 if hard_links else 1}
        assert not {seen.st_ino for seen in first} & {seen.st_ino for seen in second}
        assert (mnt / "other").stat().st_ino not in {seen.st_ino for seen in first + second}
        assert (mnt / "c").read_bytes() == b"a"


def test_nested_catalogs_and_their_inodes(repository: Repository, tmp_path: Path) -> None:
    for path in (b"a", b"a/b", b"a/b/c", b"a/b/c/d", b"e"):
        repository.directory(path)
        repository.file(path + b"/file", path)
    for path in (b"a/b/c", b"a", b"e"):
        repository.file(path + b"/" + MARKER)
    root = repository.commit()
    inodes = {}
    for attempt in ("down", "direct"):
        base = tmp_path / attempt
        base.mkdir()
        with mounted_revision(base, repository.store, root) as mnt:
            if attempt == "direct":
                assert (mnt / "a/b/c/d/file").read_bytes() == b"a/b/c/d"
            found = {path: os.lstat(path).st_ino for path in [mnt, *mnt.rglob("*")]}
            inodes[attempt] = {path.relative_to(mnt): inode for path, inode in found.items()}
            assert len(set(found.values())) == len(found) == 14
            for entry in os.scandir(mnt / "a"):
                assert entry.inode() == entry.stat().st_ino
            assert os.stat(mnt / "a/b/c/..").st_ino == (mnt / "a/b").stat().st_ino
    assert inodes["down"] == inodes["direct"], "the same at each mount"


def test_large_directory(repository: Repository, tmp_path: Path) -> None:
    names = {b"%05d" % number + b"x" * (number % 200) for number in range(5_000)}
    for name in names:
        repository.file(name, b"")
    with mounted_revision(tmp_path, repository.store, repository.commit()) as mnt:
        for _ in range(2):
            listed = os.listdir(bytes(mnt))
            assert len(listed) == len(names)
            assert set(listed) == names


def test_deep_directories_are_found_again(repository: Repository, tmp_path: Path) -> None:
    path = b""
    for _ in range(1500):
        path = path + b"/d" if path else b"d"
        repository.directory(path)
    repository.file(path + b"/file", b"deep")
    with mounted_revision(tmp_path, repository.store, repository.commit()) as mnt:
        for _ in range(2):
            assert (mnt / os.fsdecode(path) / "file").read_bytes() == b"deep"
            # Kernel and server forget what they can
            Path("/proc/sys/vm/drop_caches").write_text("2")


def test_extended_attributes(repository: Repository, tmp_path: Path) -> None:
    stored = {b"user.a": b"1", b"user.empty": b"", b"security.x": bytes(range(255)), b"user.hash": b"mine"}
    repository.file(b"file", b"x", xattrs=stored)
    repository.directory(b"dir", xattrs={b"user.d": b"dir"})
    repository.symlink(b"link", b"file")
    with mounted_revision(tmp_path, repository.store, repository.commit()) as mnt:
        file = mnt / "file"
        assert sorted(os.listxattr(file)) == sorted(name.decode() for name in stored)
        for name, value in stored.items():
            assert os.getxattr(file, name) == value
        assert os.getxattr(mnt / "dir", "user.d") == b"dir"
        assert os.listxattr(mnt / "link", follow_symlinks=False) == []
        for name in ("user.none", "trusted.overlay.opaque", "user.overlay.opaque"):
            with pytest.raises(OSError, match="No data") as raised:
                os.getxattr(file, name)
            assert raised.value.errno == errno.ENODATA


def test_attributes_that_tell_about_the_repository(repository: Repository, tmp_path: Path) -> None:
    name = repository.file(b"file", b"x")
    pieces = repository.chunked(b"chunked", noise(250_000), 100_000, compression=Compression.NONE)
    repository.symlink(b"link", b"$(X)")
    root = repository.commit()
    mount = Mount(tmp_path, repository.store, root)
    with mount.mounted() as mnt:

        def attribute(path: str, attribute_name: str) -> str:
            return os.getxattr(mnt / path, attribute_name, follow_symlinks=False).decode()

        assert attribute("", "user.root_hash") == root.hex
        assert attribute("", "user.fqrn") == NAME
        assert attribute("file", "user.revision") == "1"
        assert attribute("", "user.pid") == str(mount.pid)
        assert attribute("", "user.nclg") == "1"
        assert attribute("file", "user.hash") == name.hex
        assert (attribute("file", "user.chunks"), attribute("chunked", "user.chunks")) == ("1", "3")
        assert attribute("file", "user.compression") == "zlib"
        assert attribute("chunked", "user.compression") == "none"
        assert attribute("chunked", "user.chunk_list").splitlines()[2] == f"{pieces[1]},100000,100000"
        assert attribute("file", "user.external_file") == "0"
        assert attribute("file", "user.direct_io") == "0"
        assert attribute("link", "xfsroot.rawlink") == "$(X)"
        for path, other in (("", "user.hash"), ("link", "user.chunks"), ("chunked", "user.hash"), ("", "user.rawlink")):
            with pytest.raises(OSError, match="No data"):
                attribute(path, other)
        assert os.listxattr(mnt / "file") == []


def test_without_any_attributes_the_kernel_does_not_ask(repository: Repository, tmp_path: Path) -> None:
    repository.file(b"file", b"x")
    with mounted_revision(tmp_path, repository.store, repository.commit(), magic_xattrs=False) as mnt:
        for _ in range(2):
            with pytest.raises(OSError, match="not supported") as raised:
                os.getxattr(mnt / "file", "user.hash")
            assert raised.value.errno == errno.EOPNOTSUPP


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return an access control list as the kernel takes it (linux/posix_acl_xattr.h)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFF_FFFF


def test_access_control_lists_count(repository: Repository, tmp_path: Path) -> None:
    access = acl((1, 6, NOBODY), (2, 4, 4321), (4, 0, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY))
    default = acl((1, 7, NOBODY), (4, 5, NOBODY), (32, 0, NOBODY))
    repository.file(b"file", b"x", mode=0o100640, xattrs={b"system.posix_acl_access": access})
    repository.directory(b"dir", xattrs={b"system.posix_acl_default": default})
    with mounted_revision(tmp_path, repository.store, repository.commit()) as mnt:
        assert os.getxattr(mnt / "file", "system.posix_acl_access") == access
        assert os.getxattr(mnt / "dir", "system.posix_acl_default") == default
        assert os.listxattr(mnt / "file") == ["system.posix_acl_access"]
        let_pass(tmp_path)
        for user, readable in ((4321, True), (4322, False)):
            command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "cat", mnt / "file"]
            assert (subprocess.run(command, capture_output=True, check=False).returncode == 0) == readable


def test_hidden_entries_are_found_but_not_listed(repository: Repository, tmp_path: Path) -> None:
    repository.directory(b"hidden", is_hidden=True)
    repository.file(b"hidden/file", b"x")
    repository.file(b"shown")
    with mounted_revision(tmp_path, repository.store, repository.commit()) as mnt:
        assert os.listdir(mnt) == ["shown"]
        assert (mnt / "hidden" / "file").read_bytes() == b"x"


def test_bind_mountpoints_show_another_revision(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    repository.directory(b"a")
    repository.directory(b"a/nested")
    repository.file(b"a/nested/" + MARKER)
    repository.file(b"a/nested/file", b"old")
    repository.tree.link(b"a/nested/file", b"a/nested/link")
    old = repository.commit()
    (tmp_path / "new").mkdir()
    newer = Repository(tmp_path / "new")
    newer.store = repository.store
    newer.tree = type(newer.tree)(newer.store, old, tmp_path / "new" / "scratch")
    newer.tree.remove(b"a/nested/file")
    newer.file(b"a/nested/file", b"new")
    newer.directory(b"snapshot")
    new = newer.commit()
    first, second = md5path(b"snapshot")
    new = repository.edit_catalog(
        new,
        ("INSERT INTO bind_mountpoints VALUES ('/snapshot', ?, 0)", (old.hex,)),
        ("UPDATE catalog SET flags = flags | 16384 WHERE md5path_1 = ? AND md5path_2 = ?", (first, second)),
    )
    with mounted_revision(tmp_path, repository.store, new) as mnt:
        assert (mnt / "a/nested/file").read_bytes() == b"new"
        assert (mnt / "snapshot/a/nested/file").read_bytes() == b"old"
        found = [os.lstat(path).st_ino for path in mnt.rglob("*")]
        assert len(found) == 11
        assert len(set(found)) == 10, "only the hard links are the same file"
        assert (mnt / "snapshot/a/nested/..").samefile(mnt / "snapshot/a")
        assert (mnt / "snapshot/..").samefile(mnt)


def test_other_hash_algorithms(repository: Repository, tmp_path: Path) -> None:
    stored = Compression.ZLIB.compress(b"text")
    name = ContentHash.of(stored, HashAlgorithm.SHAKE128)
    repository.store.put(name.key(), stored)
    repository.file(b"file", b"text", hash=name)
    with mounted_revision(tmp_path, repository.store, repository.commit()) as mnt:
        assert (mnt / "file").read_bytes() == b"text"
        assert os.getxattr(mnt / "file", "user.hash").decode() == name.hex


def test_many_readers_at_once(repository: Repository, tmp_path: Path) -> None:
    contents = {b"%03d" % number: noise(50_000 + number, number) for number in range(60)}
    for name, content in contents.items():
        repository.file(name, content)
    large = noise(2_000_000)
    repository.chunked(b"large", large, 100_000, compression=Compression.ZLIB)
    with mounted_revision(tmp_path, repository.store, repository.commit()) as mnt, ThreadPoolExecutor(16) as pool:

        def read(name: bytes) -> bytes:
            return (mnt / os.fsdecode(name)).read_bytes()

        wanted = [*contents, b"large"] * 4
        assert list(pool.map(read, wanted)) == [contents.get(name, large) for name in wanted]
