# SPDX-License-Identifier: GPL-3.0-or-later
"""What is particular to local storage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cvmfs_publisher.errors import AccessDenied, ConfigurationError, PreconditionFailed, QuotaExceeded
from cvmfs_publisher.storage import LocalStore, Permit, local, open_store


def test_has_upstreams_layout(tmp_path: Path) -> None:
    store = open_store(f"local,{tmp_path}/srv/data/txn,{tmp_path}/srv")
    store.put(".cvmfspublished", b"manifest")
    store.put("data/ab/cdC", b"catalog")
    assert (tmp_path / "srv/.cvmfspublished").read_bytes() == b"manifest"
    assert (tmp_path / "srv/data/ab/cdC").read_bytes() == b"catalog"
    assert not list((tmp_path / "srv/data/txn").iterdir())
    directories = {path.name for path in (tmp_path / "srv/data").iterdir()}
    assert directories == {"txn", *(f"{number:02x}" for number in range(256))}, "upstream's import needs all of them"
    assert {item.key for item in store.list("")} == {".cvmfspublished", "data/ab/cdC"}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0, 0o666), (0o020, 0o646)])
def test_web_servers_can_read_objects(tmp_path: Path, umask: int, mode: int) -> None:
    """Unless the umask of who publishes says otherwise."""
    old = os.umask(umask)
    try:
        store = LocalStore(tmp_path / "srv")
        store.put("data/ab/cd", b"")
    finally:
        os.umask(old)
    assert (tmp_path / "srv/data/ab/cd").stat().st_mode & 0o777 == mode


def test_refuses_a_temporary_directory_elsewhere(tmp_path: Path) -> None:
    if not Path("/dev/shm").is_dir() or os.stat("/dev/shm").st_dev == tmp_path.stat().st_dev:  # noqa: S108
        pytest.skip("needs a second file system")
    with pytest.raises(ConfigurationError, match="same file system"):
        LocalStore(tmp_path / "srv", "/dev/shm")  # noqa: S108


def test_reports_a_full_disk(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    script = f"""
import sys
from cvmfs_publisher.errors import QuotaExceeded
from cvmfs_publisher.storage import LocalStore
store = LocalStore({str(tmp_path)!r})
store.put("data/ab/small", b"x")
try:
    store.put("data/ab/large", bytes(1 << 20))
except QuotaExceeded as error:
    print(error)
assert [item.key for item in store.list("")] == ["data/ab/small"]
assert not any(store._temporary.iterdir())
"""
    mount = f"mount -t tmpfs -o size=64k none {tmp_path}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", f'{mount}; exec "$@"', "sh", sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "data/ab/large: No space left on device. Free space" in done.stdout
    assert issubclass(QuotaExceeded, Exception)


def test_reports_denied_access(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming somebody else needs root")
    store = LocalStore(tmp_path / "srv")
    tmp_path.chmod(0o755)
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setuid(65534)
            store.put("data/ab/cd", b"x")
        except AccessDenied:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_orders_processes(tmp_path: Path) -> None:
    """Several processes count up a number by conditional writes; no step is lost."""
    store = LocalStore(tmp_path / "srv")
    store.put("counter", b"0")
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            done = 0
            mine = LocalStore(tmp_path / "srv")
            while done < 25:
                data, version = mine.get_versioned("counter")
                try:
                    mine.put_if_match("counter", b"%d" % (int(data) + 1), version)
                    done += 1
                except PreconditionFailed:
                    pass
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.get("counter") == b"100"


def test_objects_are_on_disk_before_what_refers_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(local, "_syncfs", lambda _: seen.append((tmp_path / ".cvmfspublished").exists()))
    store = LocalStore(tmp_path)
    version = store.put_if_absent(".cvmfspublished", b"1")
    assert seen == []
    store.put("data/ab/cd", b"x")
    version = store.put_if_match(".cvmfspublished", b"2", version)
    store.put_if_match(".cvmfspublished", b"3", version)
    assert seen == [True]
    LocalStore(tmp_path / "other").put_if_absent(".cvmfspublished", b"1")
    monkeypatch.undo()
    store.put("data/ab/cd", b"y")
    store.put_if_absent(".lease", b"")  # the real one


def test_leftovers_of_killed_publishers_go(tmp_path: Path) -> None:
    temporary = tmp_path / "data" / "txn"
    temporary.mkdir(parents=True)
    names = {"old": "tmp0123456789abcdef", "young": "tmpfedcba9876543210", "others": "upstreams.tmp"}
    for name in names.values():
        (temporary / name).write_bytes(b"x")
    for name in ("old", "others"):
        os.utime(temporary / names[name], (0, 0))
    LocalStore(tmp_path).put("data/ab/cd", b"x")
    assert {path.name for path in temporary.iterdir()} == {names["young"], names["others"]}


def test_deletes_only_while_the_lease_is_as_it_was(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("data/ab/cd", b"x")
    version = store.put_if_absent("lease", b"1")
    permit = Permit("lease", version, 0)
    store.put("lease", b"2")
    with pytest.raises(PreconditionFailed, match="was replaced"):
        store.delete_many(["data/ab/cd"], permit)
    store.delete("lease")
    with pytest.raises(PreconditionFailed, match="is gone"):
        store.delete_many(["data/ab/cd"], permit)
    assert store.exists("data/ab/cd")
    store.put("lease", b"1")
    assert store.delete_many(["data/ab/cd", "data/no/such", "data/ab/cd/e"], permit)
    assert not store.exists("data/ab/cd")
