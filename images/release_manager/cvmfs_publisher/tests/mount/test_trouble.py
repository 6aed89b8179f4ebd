# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects that are missing, damaged or slow, servers that die, mounts that are in use: the rest goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from faults import Fault, FaultyStore

from cvmfs_publisher.catalog import MARKER
from cvmfs_publisher.content import Compression
from cvmfs_publisher.errors import MountError, StorageError
from cvmfs_publisher.mount import ObjectCache, RevisionView, is_mounted, start, unmount, wait_for_end

from .mounts import LIMIT, NAME, Mount, Repository, let_pass, mounted_revision, noise


def assert_unreadable(path: Path) -> None:
    with pytest.raises(OSError, match="Input/output error") as raised:
        path.read_bytes()
    assert raised.value.errno == errno.EIO


def assert_bounded(mount: Mount, limit: int) -> None:
    # While files are counted, others take their place: what is fetched ahead can be counted beside what it replaces
    deadline = time.monotonic() + 10
    while (used := mount.cached) > limit:
        assert time.monotonic() < deadline, f"the cache takes {used} bytes"
        time.sleep(0.05)


@pytest.mark.parametrize("size", [1_000, 9_000_000], ids=["small", "large"])
@pytest.mark.parametrize("trouble", ["missing", "damaged", "other size"])
def test_an_object_that_is_not_what_it_should_be(
    repository: Repository, tmp_path: Path, trouble: str, size: int
) -> None:
    name = repository.file(b"bad", noise(size), **({"size": size - 1} if trouble == "other size" else {}))
    repository.file(b"good", b"good")
    root = repository.commit()
    if trouble == "missing":
        repository.remove(name)
    elif trouble == "damaged":
        repository.damage(name)
    mount = Mount(tmp_path, repository.store, root)
    with mount.mounted() as mnt:
        for _ in range(3):
            assert_unreadable(mnt / "bad")
        assert (mnt / "good").read_bytes() == b"good"
        lines = mount.messages.splitlines()
        assert len(lines) == 1, "the same trouble is told once"
        assert " /bad: " in lines[0]
        assert name.key() in lines[0]
        if trouble != "other size":
            repository.store.put(name.key(), Compression.ZLIB.compress(noise(size)))
            assert (mnt / "bad").read_bytes() == noise(size), "read again once it was repaired"
    assert not list(mount.cache.rglob("*.*")), "nothing half-finished stays"


def test_one_bad_chunk(repository: Repository, tmp_path: Path) -> None:
    content = noise(1_000_000)
    pieces = repository.chunked(b"file", content, 100_000, compression=Compression.ZLIB)
    root = repository.commit()
    repository.remove(pieces[5])
    mount = Mount(tmp_path, repository.store, root)
    with mount.mounted() as mnt, (mnt / "file").open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        assert os.pread(file.fileno(), 1000, 400_000) == content[400_000:401_000]
        assert os.pread(file.fileno(), 1000, 700_000) == content[700_000:701_000]
        with pytest.raises(OSError, match="Input/output"):
            os.pread(file.fileno(), 1000, 550_000)
        assert f"/file: Object {pieces[5].key()} is missing" in mount.messages


def test_external_files_are_refused(repository: Repository, tmp_path: Path) -> None:
    repository.file(b"elsewhere", b"x", is_external=True)
    mount = Mount(tmp_path, repository.store, repository.commit())
    with mount.mounted() as mnt:
        assert (mnt / "elsewhere").stat().st_size == 1
        assert_unreadable(mnt / "elsewhere")
        assert "/elsewhere: The file is external" in mount.messages


@pytest.mark.parametrize("trouble", ["missing", "damaged", "no reference", "another's"])
def test_a_bad_nested_catalog(repository: Repository, tmp_path: Path, trouble: str) -> None:
    for path in (b"bad", b"good"):
        repository.directory(path)
        repository.file(path + b"/" + MARKER)
        repository.file(path + b"/file", path)
    root = repository.commit()
    with ObjectCache(repository.store, tmp_path / "look", LIMIT) as cache, RevisionView(NAME, root, 1, cache) as view:
        branch = view._branches[0]
        assert branch.nested is not None
        nested = {path: reference.hash for path, reference in branch.nested.items()}
    match trouble:
        case "missing":
            repository.remove(nested[b"bad"])
        case "damaged":
            repository.damage(nested[b"bad"])
        case "no reference":
            root = repository.edit_catalog(root, ("DELETE FROM nested_catalogs WHERE path = '/bad'", ()))
        case "another's":
            other = nested[b"good"].hex
            root = repository.edit_catalog(root, ("UPDATE nested_catalogs SET sha1 = ? WHERE path = '/bad'", (other,)))
    mount = Mount(tmp_path, repository.store, root)
    with mount.mounted() as mnt:
        assert sorted(os.listdir(mnt)) == ["bad", "good"]
        assert (mnt / "bad").is_dir()
        with pytest.raises(OSError, match="Input/output"):
            os.listdir(mnt / "bad")
        with pytest.raises(OSError, match="Input/output"):
            (mnt / "bad" / "file").stat()
        assert (mnt / "good" / "file").read_bytes() == b"good"
        assert "/bad" in mount.messages


def test_a_bad_root_catalog_is_told_to_who_mounts(repository: Repository, tmp_path: Path) -> None:
    root = repository.commit()
    repository.damage(root)
    mount = Mount(tmp_path, repository.store, root)
    with pytest.raises(MountError, match=r"does not match its name\. Restore it"):
        mount.start()
    assert not is_mounted(mount.path)
    assert root.key() in mount.messages


def test_a_slow_object_keeps_nobody_else_waiting(repository: Repository, tmp_path: Path) -> None:
    slow = repository.file(b"slow", b"slow")
    repository.file(b"fast", b"fast")
    root = repository.commit()
    store = FaultyStore(repository.store, [Fault(keys=slow.key(), delay=3.0)])
    with mounted_revision(tmp_path, store, root) as mnt:
        readers = [threading.Thread(target=(mnt / "slow").read_bytes) for _ in range(20)]
        for reader in readers:
            reader.start()
        time.sleep(0.3)
        begin = time.monotonic()
        assert (mnt / "fast").read_bytes() == b"fast"
        assert os.listdir(mnt)
        assert time.monotonic() - begin < 2
        for reader in readers:
            reader.join()


def test_who_waits_can_be_interrupted(repository: Repository, tmp_path: Path) -> None:
    slow = repository.file(b"slow", b"slow")
    root = repository.commit()
    store = FaultyStore(repository.store, [Fault(keys=slow.key(), delay=5.0)])
    with mounted_revision(tmp_path, store, root) as mnt:
        reader = subprocess.Popen(["cat", mnt / "slow"])
        time.sleep(0.5)
        begin = time.monotonic()
        reader.terminate()
        reader.wait()
        assert time.monotonic() - begin < 2


def test_storage_that_fails_once(repository: Repository, tmp_path: Path) -> None:
    name = repository.file(b"file", b"text")
    root = repository.commit()
    error = StorageError("The storage is ill", remedy="Wait")
    # The kernel tries twice
    store = FaultyStore(repository.store, [Fault(keys=name.key(), error=error, times=2)])
    mount = Mount(tmp_path, store, root)
    with mount.mounted() as mnt:
        assert_unreadable(mnt / "file")
        assert "/file: The storage is ill. Wait." in mount.messages
        assert (mnt / "file").read_bytes() == b"text"


# The cache


def test_the_cache_is_bounded_and_used_again(repository: Repository, tmp_path: Path) -> None:
    contents = {f"{number:03}": noise(50_000, number) for number in range(60)}
    for name, content in contents.items():
        repository.file(name.encode(), content, compression=Compression.NONE)
    repository.file(b"huge", noise(3_000_000), compression=Compression.NONE)
    repository.file(b"last", b"last")
    root = repository.commit()
    limit = 1_000_000
    mount = Mount(tmp_path, repository.store, root, limit)
    with mount.mounted() as mnt:
        for name, content in contents.items():
            assert (mnt / name).read_bytes() == content
            assert_bounded(mount, limit)
        assert (mnt / "huge").read_bytes() == noise(3_000_000), "larger than the whole cache"
        assert (mnt / "last").read_bytes() == b"last"
        assert_bounded(mount, limit)
    # The next mount has what is left: it needs no storage for that
    counting = FaultyStore(repository.store)
    with ObjectCache(counting, mount.cache, limit) as cache, RevisionView(NAME, root, 1, cache) as view:
        found = view.lookup(1, b"last", wait=False)
        assert found is not None
        assert view.read(found.node, 0, 50_000, wait=False) == b"last"
        assert cache.used <= limit
    assert counting.operations == []


def test_a_file_cut_short_by_a_crash_is_fetched_again(repository: Repository, tmp_path: Path) -> None:
    repository.file(b"file", noise(10_000), compression=Compression.NONE)
    root = repository.commit()
    mount = Mount(tmp_path, repository.store, root)
    with mount.mounted() as mnt:
        (mnt / "file").read_bytes()
    for file in mount.cache.rglob("*"):
        if file.is_file() and file.stat().st_size == 10_000:
            os.truncate(file, 5_000)
    with mount.mounted() as mnt:
        assert (mnt / "file").read_bytes() == noise(10_000)


def test_each_object_is_fetched_once(repository: Repository, tmp_path: Path) -> None:
    content = noise(2_000_000)
    pieces = repository.chunked(b"file", content, 100_000, compression=Compression.ZLIB)
    store = FaultyStore(repository.store, [Fault(times=1000, keys="data/*P", delay=0.01)])
    root = repository.commit()
    with ObjectCache(store, tmp_path / "cache", LIMIT) as cache, RevisionView(NAME, root, 1, cache) as view:
        found = view.lookup(1, b"file", wait=True)
        assert found is not None
        node = found.node

        def read() -> None:
            got = [view.read(node, offset, 64_000, wait=True) for offset in range(0, 2_000_000, 64_000)]
            assert b"".join(got) == content

        threads = [threading.Thread(target=read) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    asked = sorted(key for _, key in store.operations if key.endswith("P"))
    assert asked == sorted(piece.key() for piece in pieces)


def test_files_read_one_after_the_other_are_fetched_ahead(repository: Repository, tmp_path: Path) -> None:
    names = [repository.file(b"%02d" % number, noise(2_000, number)) for number in range(50)]
    root = repository.commit()
    store = FaultyStore(repository.store)

    def fetched() -> set[int]:
        keys = {key for _, key in store.operations}
        return {number for number, name in enumerate(names) if name.key() in keys}

    with ObjectCache(store, tmp_path / "cache", LIMIT) as cache, RevisionView(NAME, root, 1, cache) as view:
        nodes = [listed.attributes.node for listed in view.listing(1, 0, 100, wait=True) if listed.name[:1] != b"."]
        for number in (40, 20):
            assert view.read(nodes[number], 0, 2_000, wait=True) == noise(2_000, number)
        time.sleep(0.2)
        assert fetched() == {20, 40}, "no order is to be seen yet"
        for number in range(21, 50):
            assert view.read(nodes[number], 0, 2_000, wait=True) == noise(2_000, number)
            if number == 21:
                time.sleep(1)
                assert fetched() > set(range(20, 36))
    assert fetched() == set(range(20, 50))
    assert len(store.operations) == 1 + 30, "each once"


def test_a_huge_file_takes_little_memory(repository: Repository, tmp_path: Path) -> None:
    size = 200 << 20
    # All zeros: what has to be small is not what the storage sends, but what it becomes
    repository.file(b"zeros", bytes(size))
    stored = noise(64 << 20)
    repository.file(b"noise", stored, compression=Compression.NONE)
    root = repository.commit()
    mount = Mount(tmp_path, repository.store, root)
    with mount.mounted() as mnt:
        before = _peak(mount.pid)
        subprocess.run(["cmp", "-n", str(size), mnt / "zeros", "/dev/zero"], check=True)
        with (mnt / "noise").open("rb") as file:
            file.seek(60 << 20)
            assert file.read(1000) == stored[60 << 20 : (60 << 20) + 1000]
        # The mapped file that is being hashed counts as memory, too, though it can be dropped at any time
        assert _peak(mount.pid) - before < 64 << 20


def _peak(pid: int) -> int:
    """Return the most anonymous memory that a process has now, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) << 10


def test_many_catalogs_few_of_them_open(repository: Repository, tmp_path: Path) -> None:
    for number in range(100):
        path = b"%03d" % number
        repository.directory(path)
        repository.file(path + b"/" + MARKER)
        repository.file(path + b"/file", path)
    root = repository.commit()
    with mounted_revision(tmp_path, repository.store, root) as mnt:
        inodes = {path: path.stat().st_ino for path in sorted(mnt.glob("*/file"))}
        assert len(set(inodes.values())) == 100
        assert int(os.getxattr(mnt, "user.nclg")) <= 32
        for path, inode in inodes.items():
            assert path.read_text() == path.parent.name
            assert path.stat().st_ino == inode


# Mounting and unmounting


def test_unmounting_what_is_in_use(repository: Repository, tmp_path: Path) -> None:
    repository.file(b"file", b"text")
    mount = Mount(tmp_path, repository.store, repository.commit())
    mount.start()
    with (mount.path / "file").open("rb") as file:
        with pytest.raises(MountError, match=r"in use\. Leave the directory"):
            unmount(mount.path)
        assert file.read() == b"text"
        unmount(mount.path, lazy=True)
        assert not is_mounted(mount.path)
        file.seek(0)
        assert file.read() == b"text"
    wait_for_end(mount.pid)
    unmount(mount.path)  # nothing is mounted: nothing to do


def test_a_server_that_was_killed(repository: Repository, tmp_path: Path) -> None:
    repository.file(b"file", b"text")
    mount = Mount(tmp_path, repository.store, repository.commit())
    mount.start()
    os.kill(mount.pid, signal.SIGKILL)
    wait_for_end(mount.pid)
    with pytest.raises(OSError, match="not connected") as raised:
        (mount.path / "file").stat()
    assert raised.value.errno == errno.ENOTCONN
    assert is_mounted(mount.path)
    unmount(mount.path)
    assert not is_mounted(mount.path)
    with mount.mounted() as mnt:
        assert (mnt / "file").read_bytes() == b"text"


def test_a_server_that_is_asked_to_end(repository: Repository, tmp_path: Path) -> None:
    repository.file(b"file", b"text")
    mount = Mount(tmp_path, repository.store, repository.commit())
    mount.start()
    descriptor = os.open(mount.path / "file", os.O_RDONLY)  # in use
    os.kill(mount.pid, signal.SIGTERM)
    wait_for_end(mount.pid)
    assert not is_mounted(mount.path)
    with pytest.raises(OSError, match="not connected"):
        os.close(descriptor)
    assert mount.messages == ""


def test_the_server_outlives_who_started_it_and_shares_nothing_with_it(repository: Repository, tmp_path: Path) -> None:
    mount = Mount(tmp_path, repository.store, repository.commit())
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        mount.start()
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    try:
        assert os.read(reading, 1) == b"", "the server holds none of the files that were open"
        assert os.listdir(mount.path) == []
        pid = int(os.getxattr(mount.path, "user.pid"))
        assert os.getsid(pid) != os.getsid(0)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
    finally:
        os.close(reading)
        unmount(mount.path)
    wait_for_end(pid)


def test_wrong_mount_points(repository: Repository, tmp_path: Path) -> None:
    mount = Mount(tmp_path, repository.store, repository.commit())
    for place, message in ((tmp_path / "none", "is not a directory"), (tmp_path / "cache/00/x", "is not a directory")):
        with pytest.raises(MountError, match=message):
            start(mount.open_view, place, mount.log)
    with pytest.raises(MountError, match="Cannot write"):
        start(mount.open_view, mount.path, tmp_path / "none" / "log")


def test_two_servers_cannot_have_one_cache(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cvmfs_publisher.mount.cache._PATIENCE", 0.2)
    with (
        ObjectCache(repository.store, tmp_path / "cache", LIMIT),
        pytest.raises(MountError, match=r"belongs to a file system that is still mounted\. Unmount"),
    ):
        ObjectCache(repository.store, tmp_path / "cache", LIMIT)


def test_a_full_disk_is_no_reason_to_fail(repository: Repository, tmp_path: Path) -> None:
    for number in range(20):
        repository.file(b"%d" % number, noise(500_000, number), compression=Compression.NONE)
    root = repository.commit()
    mount = Mount(tmp_path, repository.store, root)
    mount.cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", mount.cache], check=True)
    try:
        with mount.mounted() as mnt:
            for number in range(20):
                assert (mnt / str(number)).read_bytes() == noise(500_000, number)
    finally:
        subprocess.run(["umount", "-l", mount.cache], check=True)


IN_NAMESPACE = """
import os, sys
from pathlib import Path
from mount.mounts import Mount
from cvmfs_publisher.content import ContentHash
from cvmfs_publisher.storage import LocalStore

base = Path(sys.argv[1])
with Mount(base, LocalStore(base / "storage"), ContentHash.parse(sys.argv[2])).mounted() as mnt:
    assert (mnt / "file").read_bytes() == b"text"
    print((mnt / "file").stat().st_uid, (mnt / "file").stat().st_gid, (mnt / "mine").stat().st_uid)
    print(os.getxattr(mnt / "file", "user.x").decode())
"""


def test_in_a_user_namespace(repository: Repository, tmp_path: Path) -> None:
    """Ids that are not mapped become the overflow ids."""
    repository.file(b"file", b"text", uid=12345, gid=12346, xattrs={b"user.x": b"value"})
    repository.file(b"mine", b"text")
    root = repository.commit()
    done = subprocess.run(
        ["unshare", "-Urm", sys.executable, "-c", IN_NAMESPACE, tmp_path, root.hex],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["65534 65534 0", "value"]


@pytest.mark.skipif(
    shutil.which("fusermount3") is None or os.stat("/dev/fuse").st_mode & 0o006 != 0o006,
    reason="fusermount3 is not installed, or /dev/fuse is for root alone",
)
def test_without_privileges_by_the_helper(repository: Repository, tmp_path: Path) -> None:
    repository.file(b"file", b"text", uid=12345)
    mount = Mount(tmp_path, repository.store, repository.commit())
    let_pass(tmp_path)
    subprocess.run(["chown", "-R", "65534:65534", tmp_path], check=True)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            with mount.mounted() as mnt:
                seen = (mnt / "file").read_bytes(), (mnt / "file").stat().st_uid
            os._exit(0 if seen == (b"text", 12345) and not is_mounted(mnt) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, mount.messages
