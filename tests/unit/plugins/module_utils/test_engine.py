# SPDX-License-Identifier: GPL-3.0-or-later
"""Which commands the engines are given, and what is concluded from what they say."""

from __future__ import annotations

import os
import pathlib
import pwd
import stat
from typing import Any

import pytest
from ansible_collections.cvmfs.publishing.plugins.module_utils import _command, _engine
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from cases import Case, Commands, load


def container(fields: dict[str, Any]) -> _engine.Container:
    mounts = tuple(_engine.Mount(*mount) for mount in fields.get("mounts", ()))
    return _engine.Container(**{"name": "rm", "image": "localhost/rm:native", **fields, "mounts": mounts})


@pytest.mark.parametrize("case", load(__file__))
def test_command(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: case.get("uid", 0))
    monkeypatch.setattr(os, "getegid", lambda: case.get("uid", 0))
    disks = tuple(case.get("disks", ["/"]))
    memory = ("/run", "/dev/shm")  # noqa: S108
    kinds = {point: "ext4" if point in disks else "tmpfs" for point in memory}
    monkeypatch.setattr(
        _engine, "file_system_type", lambda path: next(kind for point, kind in kinds.items() if path.startswith(point))
    )
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setattr(_engine.Engine, "_digest", lambda _self, _container: "digest")
    commands = Commands(case["commands"])
    monkeypatch.setattr(_command, "user_id", {"service": 1000}.__getitem__)
    engine = _engine.ENGINES[case["engine"]](
        commands, attach=lambda argv, **options: commands(argv, **options).rc, user=case.get("user")
    )
    arguments = dict(case.get("arguments", {}))
    if "container" in arguments:
        arguments["container"] = container(arguments["container"])
    method = getattr(engine, case["method"])
    if "error" in case:
        with pytest.raises(PublishingError) as caught:
            method(**arguments)
        assert str(caught.value) == case["error"]
    else:
        result = method(**arguments)
        if case["method"] == "compare":
            result = [[item.name, item.current, item.desired] for item in result]
        if "result" in case:
            assert result == case["result"]
    commands.finish()


@pytest.mark.parametrize(
    "fields",
    [
        {"memory": "1g"},
        {"environment": {"https_proxy": "http://proxy.example.org:3128"}},
        {"log_options": {"max-size": "10m"}},
        {"labels": {"site": "demo"}},
        {"mounts": [["/build", "/source/build"]]},
        {"command": ("cvmfs-signer", "sw.example.org")},
        {"is_kept": True},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_every_option_counts_in_the_digest(fields: dict[str, Any]) -> None:
    engine = _engine.Podman(Commands([]))
    assert engine._digest(container(fields)) == engine._digest(container(fields))
    assert engine._digest(container(fields)) != engine._digest(container({}))


class TestServiceUser:
    """The engine of another user."""

    def test_root_uses_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        seen: list[dict[str, Any]] = []
        monkeypatch.setattr(_command, "run", lambda _argv, **options: seen.append(options))
        _engine.engine("podman", "nobody").exec(name="rm", command=["true"])
        assert seen == [{"stdin": None, "stderr_path": None, "user": "nobody"}]

    def test_users_use_their_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: pwd.getpwnam("nobody").pw_uid)
        seen: list[dict[str, Any]] = []
        monkeypatch.setattr(_command, "run", lambda _argv, **options: seen.append(options))
        _engine.engine("podman", "nobody").exec(name="rm", command=["true"])
        assert seen == [{"stdin": None, "stderr_path": None}]

    def test_strangers_do_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        with pytest.raises(PublishingError, match="only nobody and root can use them"):
            _engine.engine("podman", "nobody")

    def test_there_is_no_such_user(self) -> None:
        with pytest.raises(PublishingError, match="This host has no user no-such-user"):
            _engine.engine("podman", "no-such-user")

    def test_command_gets_the_users_identity_and_nothing_of_the_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if os.geteuid():
            pytest.skip("only root runs commands for others")
        monkeypatch.setenv("OF_ROOT", "1")
        account = pwd.getpwnam("nobody")
        done = _command.run(["sh", "-c", "id -u; id -G; pwd; env"], user="nobody")
        uid, groups, directory, *environment = done.stdout.splitlines()
        assert (int(uid), directory) == (account.pw_uid, "/")
        assert groups == str(account.pw_gid)
        assert {line.partition("=")[0] for line in environment} - {"PWD"} == {
            *("HOME", "LOGNAME", "PATH", "USER", "XDG_RUNTIME_DIR")
        }
        assert f"XDG_RUNTIME_DIR=/run/user/{account.pw_uid}" in environment


class TestDockerSecrets:
    """docker's secrets are files, so they are looked at."""

    @pytest.fixture
    def engine(self) -> Any:
        # /dev/shm is a tmpfs wherever there is a /dev.
        directory = pathlib.Path("/dev/shm", f"cvmfs-publishing-test-{os.getpid()}")  # noqa: S108 (not predictable by others)
        yield _engine.Docker(Commands([]), str(directory / "secrets"))
        for path in sorted(directory.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        directory.rmdir()

    def test_only_the_owner_can_read_them(self, engine: Any) -> None:
        engine.create_secret(name="key", value="secret\n")
        path = pathlib.Path(engine._directory)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE((path / "key").stat().st_mode) == 0o400
        assert (path / "key").read_text() == "secret\n"
        assert engine.secrets() == ["key"]

    def test_they_can_be_replaced_and_removed(self, engine: Any) -> None:
        engine.create_secret(name="key", value="old")
        engine.create_secret(name="key", value="new")
        assert pathlib.Path(engine._directory, "key").read_text() == "new"
        engine.remove_secret(name="key")
        engine.remove_secret(name="key")
        assert engine.secrets() == []

    def test_directories_that_a_daemon_made_in_their_place_are_none(self, engine: Any) -> None:
        """As after a reboot, when they were mounted by ``-v`` and were gone."""
        path = pathlib.Path(engine._directory, "key")
        path.mkdir(parents=True)
        assert engine.secrets() == []
        engine.remove_secret(name="key")
        engine.create_secret(name="key", value="secret")
        assert path.read_text() == "secret"
        assert engine.secrets() == ["key"]

    def test_what_was_interrupted_is_in_nobodys_way(self, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        name = _engine.secret_name("sw.example.org", "key", "0" * 12)

        def interrupted(_old: str, _new: str) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", interrupted)
            with pytest.raises(KeyboardInterrupt):
                engine.create_secret(name=name, value="secret")
        assert engine.secrets() == []
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", interrupted)
            patch.setattr(engine, "remove_secret", lambda **_name: None)  # nor had it the time for that
            with pytest.raises(KeyboardInterrupt):
                engine.create_secret(name=name, value="secret")
        (partial,) = engine.secrets()
        engine.create_secret(name=name, value="secret")
        assert engine.secrets() == [partial, name]

    def test_what_was_interrupted_is_the_repositorys(self) -> None:
        name = _engine.secret_name("sw.example.org", "key", "0" * 12)
        for partial in (f".{name}", f".{name}.{'1' * 12}"):  # of an earlier version, too
            assert _engine.is_secret_of("sw.example.org", partial)
            assert not _engine.is_secret_of("other.example.org", partial)
        assert not _engine.is_secret_of("sw.example.org", f"{name}.{'1' * 12}")

    def test_a_disk_is_refused(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_engine, "file_system_type", lambda _path: "ext4")
        engine = _engine.Docker(Commands([]), str(tmp_path / "secrets"))
        with pytest.raises(PublishingError, match="is on a disk, where a secret would outlive its use"):
            engine.create_secret(name="key", value="secret")
        assert engine.secrets() == []
        assert not (tmp_path / "secrets").exists()

    def test_a_directory_that_leads_elsewhere_is_refused(self, engine: Any) -> None:
        directory = pathlib.Path(engine._directory)
        directory.parent.mkdir()
        elsewhere = directory.with_name("elsewhere")
        elsewhere.mkdir()
        directory.symlink_to(elsewhere)
        with pytest.raises(PublishingError, match="another user's"):
            engine.create_secret(name="key", value="secret")
        assert list(elsewhere.iterdir()) == []
        directory.unlink()

    def test_a_directory_of_another_user_is_refused(self, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        pathlib.Path(engine._directory).mkdir(parents=True)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(PublishingError, match="another user's, who could read what is put there"):
            engine.create_secret(name="key", value="secret")
        assert engine.secrets() == []


def test_the_file_system_is_that_of_the_longest_mount_point(tmp_path: pathlib.Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/vda / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n/dev/vdb /runner xfs rw 0 0\n")
    assert _engine.file_system_type("/run/cvmfs", str(mounts)) == "tmpfs"
    assert _engine.file_system_type("/runner/x", str(mounts)) == "xfs"
    assert _engine.file_system_type("/home", str(mounts)) == "ext4"


@pytest.mark.parametrize(("text", "size"), [("1g", 1 << 30), ("512M", 512 << 20), ("7k", 7 << 10), ("100", 100)])
def test_sizes(text: str, size: int) -> None:
    assert _engine.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "g", "1.5g", "many"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(PublishingError, match="is not a size"):
        _engine.parse_size(text)


class TestMount:
    def test_a_colon_needs_the_long_form(self) -> None:
        assert _engine.Mount("/a:b", "/source/a:b").arguments == [
            "--mount",
            "type=bind,source=/a:b,target=/source/a:b,readonly",
        ]

    def test_a_comma_needs_the_short_form(self) -> None:
        assert _engine.Mount("/a,b", "/source/a,b").arguments == ["-v", "/a,b:/source/a,b:ro"]

    def test_to_write_there(self) -> None:
        assert _engine.Mount("/a", "/b", is_writable=True).arguments == ["-v", "/a:/b:rw"]
        assert _engine.Mount("/a:b", "/c", is_writable=True).arguments[1] == "type=bind,source=/a:b,target=/c"

    def test_both_at_once_are_refused(self) -> None:
        with pytest.raises(PublishingError, match="No container engine can mount"):
            assert _engine.Mount("/a,b:c", "/source").arguments
