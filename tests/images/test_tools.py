# SPDX-License-Identifier: GPL-3.0-or-later
"""The tools behind ``make quickstart`` and ``make clean-quickstart``."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess

import pytest
from conftest import BASE, CHECKOUT, Engine

LABEL = "io.cvmfs.publishing.quickstart"


def tool(checkout: pathlib.Path, name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(checkout / "tools" / name), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=checkout,
    )


def test_clean_quickstart_takes_its_own_and_nothing_else(checkout: pathlib.Path, podman: Engine) -> None:
    """Of two quickstarts and an administrator's things on one machine, only this checkout's go."""
    state = checkout / ".quickstart"
    ours, theirs = f"{podman.prefix}-ours", f"{podman.prefix}-theirs"
    config = state / "etc/demo.example.org/release-manager.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"repository": podman.prefix, "secrets": {"keys/demo.example.org.key": ours}}))
    forgotten = f"cvmfs-{podman.prefix}-masterkey-0123456789ab"
    podman.output("secret", "create", forgotten, str(config))
    try:
        for name, owner in ((ours, state), (theirs, "/somewhere/else/.quickstart")):
            label = f"{LABEL}={owner}"
            podman.output("volume", "create", "--label", label, name)
            mount = ["--volume", f"{name}:/data"]
            podman.output("run", "--detach", "--name", name, "--label", label, *mount, BASE, "sleep", "600")
            podman.output("secret", "create", name, str(config))
            podman("build", "--tag", f"localhost/{name}", "--file", "-", input=f"FROM {BASE}\nLABEL a={name}\n")
        image_id = podman.output("image", "inspect", "--format", "{{.Id}}", f"localhost/{ours}")
        (state / "images").write_text(f"{image_id}\n")

        cleaned = tool(checkout, "clean-quickstart")
        assert cleaned.returncode == 0, cleaned.stderr
        assert not state.exists()
        for kind, prefix in (("container", ""), ("volume", ""), ("secret", ""), ("image", "localhost/")):
            assert podman(kind, "inspect", prefix + ours, check=False).returncode != 0, kind
            assert podman(kind, "inspect", prefix + theirs, check=False).returncode == 0, kind
        assert forgotten not in podman.output("secret", "ls")
        assert podman("image", "exists", BASE, check=False).returncode == 0
        assert "no quickstart" in tool(checkout, "clean-quickstart").stdout
    finally:
        for name in (ours, theirs):
            podman("rm", "--force", "--time", "0", name, check=False)
            podman("volume", "rm", name, check=False)
            podman("secret", "rm", name, forgotten, check=False)
            podman("rmi", f"localhost/{name}", check=False)


def test_clean_quickstart_keeps_the_cache_if_told(checkout: pathlib.Path) -> None:
    (checkout / ".quickstart/cache/pip").mkdir(parents=True)
    (checkout / ".quickstart/source").mkdir()
    assert tool(checkout, "clean-quickstart", KEEP_CACHE="1").returncode == 0
    assert [path.name for path in (checkout / ".quickstart").iterdir()] == ["cache"]


def test_quickstart_refuses_a_source_that_is_not_there(checkout: pathlib.Path) -> None:
    refused = tool(checkout, "quickstart", "/nonexistent/release.tar")
    assert refused.returncode == 1
    assert refused.stderr.strip() == (
        "quickstart: SRC=/nonexistent/release.tar cannot be read: name a directory or a tar file"
    )
    assert not (checkout / ".quickstart").exists()


def test_virtualenv_is_made_once_and_again_for_other_requirements(tmp_path: pathlib.Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# nothing\n")
    environment = tmp_path / "venv"
    assert tool(CHECKOUT, "virtualenv", str(environment), str(requirements)).returncode == 0
    (environment / "mark").touch()
    assert tool(CHECKOUT, "virtualenv", str(environment), str(requirements)).returncode == 0
    assert (environment / "mark").exists()
    requirements.write_text("# nothing else\n")
    assert tool(CHECKOUT, "virtualenv", str(environment), str(requirements)).returncode == 0
    assert not (environment / "mark").exists()


def test_virtualenv_refuses_what_has_no_matching_hash(tmp_path: pathlib.Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"six==1.17.0 --hash=sha256:{'0' * 64}\n")
    refused = tool(CHECKOUT, "virtualenv", str(tmp_path / "venv"), str(requirements))
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert not (tmp_path / "venv/requirements.sha256").exists()


def with_ceph(script: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CVMFS_TEST_")}
    return subprocess.run(
        [str(CHECKOUT / "tools/with-ceph"), "bash", "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )


def test_with_ceph_gives_credentials_and_leaves_nothing(podman: Engine) -> None:
    ran = with_ceph('echo "$CVMFS_TEST_CEPH"; podman exec "$CVMFS_TEST_CEPH" radosgw-admin user info --uid=test >&2')
    assert '"access_key": "testkey"' in ran.stderr
    assert podman("container", "exists", ran.stdout.strip(), check=False).returncode == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's containers have networks that can be lost")
def test_with_ceph_removes_what_lost_its_network(podman: Engine) -> None:
    """As the containers of a run that was killed together with everything it had started."""
    name = f"{podman.prefix}-lost"
    podman.output("run", "--detach", "--name", name, BASE, "sleep", "600")
    found = "{{.State.Pid}} {{.State.ConmonPid}} {{.NetworkSettings.SandboxKey}}"
    *processes, network = podman.output("inspect", "--format", found, name).split()
    try:
        for process in reversed(processes):
            os.kill(int(process), signal.SIGKILL)
        subprocess.run(["umount", network], check=True)
        assert podman("ps", "--all", check=False).returncode != 0
        with_ceph("true")
        assert podman("container", "exists", name, check=False).returncode == 1
        assert podman("ps", "--all", check=False).returncode == 0
    finally:
        podman("rm", "--force", "--time", "0", name, check=False)
        pathlib.Path(network).unlink(missing_ok=True)
