# SPDX-License-Identifier: GPL-3.0-or-later
"""The release manager's image: what is in it, what is not, and that it runs with nothing but the least."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from conftest import BASE, CHECKOUT, CONFINED, RELEASE_MANAGER, Engine

OFFLINE = ["--network", "none", *CONFINED]
IMAGE_DIRECTORY = CHECKOUT / "images/release_manager"
SECRET = re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{16}|AKIA[0-9A-Z]{16}")


def inspect(engine: Engine, image: str, field: str) -> object:
    return json.loads(engine.output("image", "inspect", "--format", "{{json " + field + "}}", image))


def confined(engine: Engine, *command: str) -> str:
    return engine.run(*CONFINED, RELEASE_MANAGER, *command)


def test_labels(engine: Engine) -> None:
    labels = inspect(engine, RELEASE_MANAGER, ".Config.Labels")
    assert isinstance(labels, dict)
    for name in ("title", "description", "licenses", "vendor", "version", "revision"):
        assert labels.get(f"org.opencontainers.image.{name}"), name
    assert labels["io.cvmfs.publishing.engine"] == "native"
    assert f"version: {labels['org.opencontainers.image.version']}\n" in (CHECKOUT / "galaxy.yml").read_text()


def test_is_small(engine: Engine) -> None:
    size = inspect(engine, RELEASE_MANAGER, ".Size")
    assert isinstance(size, int)
    assert size < 300e6


def test_has_all_hash_algorithms(engine: Engine) -> None:
    """Many an OpenSSL comes without RIPEMD-160."""
    program = "from cvmfs_publisher.content import HashAlgorithm as H; print(*(h.digest(b'').hex() for h in H))"
    found = confined(engine, "/opt/cvmfs-publisher/bin/python", "-c", program)
    assert found.split() == [
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "9c1185a5c5e9fc54612808977ee8f548b2258d31",
        "7f9c2ba4e88f827d616045507605853ed73b8093",
    ]


def test_has_no_secret_and_nothing_of_the_build(podman: Engine, tmp_path: Path) -> None:
    """Every file of the image is read, in search of keys; caches, pip and the build's directories are not there."""
    container = podman.output("create", "--name", f"{podman.prefix}-export", RELEASE_MANAGER)
    try:
        podman.output("export", "--output", str(tmp_path / "image.tar"), container)
    finally:
        podman("rm", "--force", "--volumes", container)
    unwanted = re.compile(r"(^|/)(pip|setuptools|\.git|\.cache|tests|build)(/|$)")
    allowed = re.compile(r"site-packages/(numpy|cffi|cryptography)/|^usr/(share|lib)/")
    found, privileged, unreadable = [], [], []
    with tarfile.open(tmp_path / "image.tar") as archive:
        for member in archive:
            if unwanted.search(member.name) and not allowed.search(member.name):
                found.append(member.name)
            if member.isfile() and member.mode & 0o6000:
                privileged.append(member.name)
            if member.name.startswith("opt/") and not member.issym() and not member.mode & 0o004:
                unreadable.append(member.name)
            if member.isfile():
                file = archive.extractfile(member)
                assert file is not None
                if SECRET.search(file.read()):
                    found.append(f"{member.name} holds a key")
    assert found == []
    assert privileged == []
    assert unreadable == []


def test_has_no_secret_in_its_history(podman: Engine) -> None:
    history = podman.output("history", "--no-trunc", "--format", "{{.CreatedBy}}", RELEASE_MANAGER)
    assert not re.search(r"(?i)secret|password|token|access_key", history)


def test_environment_names_nothing_but_python(engine: Engine) -> None:
    environment = inspect(engine, RELEASE_MANAGER, ".Config.Env")
    assert isinstance(environment, list)
    assert {entry.split("=")[0] for entry in environment} == {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}


def test_runs_confined(engine: Engine) -> None:
    """Read-only, without capabilities and without a way to gain any: what the contract with the modules says."""
    assert "publish" in confined(engine, "cvmfs_server", "--help")
    status = confined(engine, "cat", "/proc/self/status")
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    directories = "/ /etc /etc/cvmfs /opt /root /usr /tmp /var/spool/cvmfs"
    writable = confined(engine, "sh", "-c", f"for d in {directories}; do test ! -w $d || echo $d; done")
    assert writable.split() == ["/tmp", "/var/spool/cvmfs"]  # noqa: S108


@pytest.mark.parametrize("user", ["0:0", "12345:12345"])
def test_runs_as_any_user(engine: Engine, user: str) -> None:
    assert "publish" in engine.run(*CONFINED, "--user", user, RELEASE_MANAGER, "cvmfs_server", "--help")


def test_passes_on_the_exit_code(engine: Engine) -> None:
    process = engine("run", "--rm", *OFFLINE, RELEASE_MANAGER, "cvmfs_server", "no-such-command", check=False)
    assert process.returncode not in (0, 125, 126, 127)


def test_stays_until_it_is_told_to_end(engine: Engine) -> None:
    """Without a command the container waits, with an init as PID 1, and ends at once, and well, on SIGTERM."""
    container = engine.output("run", "--detach", "--name", f"{engine.prefix}-stay", *OFFLINE, RELEASE_MANAGER)
    time.sleep(1)
    try:
        assert engine.output("inspect", "--format", "{{.State.Running}}", container) == "true"
        assert engine.output("exec", container, "cat", "/proc/1/comm") == "catatonit"
        start = time.monotonic()
        engine.output("stop", "--time", "20", container)
        assert time.monotonic() - start < 18, "it was killed"
        assert engine.output("inspect", "--format", "{{.State.ExitCode}}", container) == "0"
    finally:
        engine("rm", "--force", "--volumes", container)


def test_reaps_orphans(engine: Engine) -> None:
    """A child whose parent is gone leaves no zombie behind."""
    script = "(sleep 0.2 &) ; sleep 1; grep -l 'State:.Z' /proc/[0-9]*/status || true"
    assert confined(engine, "sh", "-c", script) == ""


def test_change_of_the_code_rebuilds_the_last_layer_only(podman: Engine, tmp_path: Path) -> None:
    context = tmp_path / "release_manager"
    shutil.copytree(IMAGE_DIRECTORY, context, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "tests"))
    initial = context / "cvmfs_publisher/src/cvmfs_publisher/__init__.py"
    initial.write_text(initial.read_text() + "# changed\n")
    image = f"localhost/{podman.prefix}-changed:1"
    stage = f"localhost/{podman.prefix}-stage:1"
    build = ["build", "--build-arg", f"BASE={BASE}", "--file", str(context / "Containerfile")]
    try:
        podman.output(*build, "--target", "package", "--tag", stage, str(context))
        podman.output(*build, "--tag", image, str(context))
        original = inspect(podman, RELEASE_MANAGER, ".RootFS.Layers")
        changed = inspect(podman, image, ".RootFS.Layers")
    finally:
        podman("rmi", image, stage, check=False)
    assert isinstance(original, list)
    assert isinstance(changed, list)
    different = [number for number, layer in enumerate(changed) if layer != original[number]]
    assert different == [len(original) - 1]


@pytest.mark.parametrize("buildkit", ["0", "1"])
def test_docker_builds_the_same_containerfile(engine: Engine, buildkit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not engine.is_docker:
        pytest.skip("about docker")
    monkeypatch.setenv("DOCKER_BUILDKIT", buildkit)
    image = f"localhost/{engine.prefix}-built:{buildkit}"
    engine.output(
        *("build", "--network", "host", "--build-arg", f"BASE={BASE}", "--tag", image),
        *("--file", str(IMAGE_DIRECTORY / "Containerfile"), str(IMAGE_DIRECTORY)),
    )
    assert "publish" in engine.run(*CONFINED, image, "cvmfs_server", "--help")


def test_build_context_holds_only_what_is_copied(podman: Engine) -> None:
    """Neither tests, nor caches, nor keys that lie around in the directory can get into an image."""
    image = f"localhost/{podman.prefix}-context:1"
    containerfile = f"FROM {BASE}\nCOPY . /context\nRUN find /context -type f\n"
    process = subprocess.run(
        ["podman", "build", "--no-cache", "--quiet", "--file", "-", "--tag", image, str(IMAGE_DIRECTORY)],
        input=containerfile,
        check=True,
        capture_output=True,
        text=True,
    )
    listed = podman.run(image, "find", "/context", "-type", "f").split()
    podman("rmi", image, check=False)
    assert listed, process.stderr
    wanted = re.compile(
        r"/context/(requirements(-build)?\.txt|upstream/prepare|cvmfs_publisher/(pyproject\.toml|README\.md|src/cvmfs_publisher/.*\.(py|typed|sql)))"
    )
    assert [name for name in listed if not wanted.fullmatch(name)] == []
