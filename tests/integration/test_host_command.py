# SPDX-License-Identifier: GPL-3.0-or-later
"""People edit a repository in place with `cvmfs-release-manager`, on a terminal that may be lost."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import IMAGE, Site, running_site
from .plays import before_the_engine, run_tasks
from .terminal import Terminal

pytestmark = pytest.mark.extended

QUESTION = "back to the shell? "


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose people have a software environment of their own."""
    name = f"localhost/cvmfs-test-{uuid.uuid4().hex[:12]}:shell"
    recipe = f"FROM {IMAGE}\nRUN echo ours >/etc/software-environment\n"
    subprocess.run(["podman", "build", "--quiet", "--tag", name, "-"], check=True, input=recipe, text=True)
    try:
        with running_site(tmp_path_factory.mktemp("site"), "podman", release_manager_shell_image=name) as site:
            yield site
    finally:
        subprocess.run(["podman", "rmi", "--force", name], check=True)


@pytest.fixture(scope="module")
def command(site: Site) -> list[str]:
    """The command as the role installs it."""
    return [str(site.command)]


@pytest.fixture(autouse=True)
def nothing_is_left(site: Site) -> Iterator[None]:
    """No transaction outlives a test."""
    yield
    left = site.has_container()
    if left:
        site.manager("cvmfs_transaction", state="aborted", force=True)
    assert not left


def run(command: list[str], *arguments: str, rc: int = 0, cwd: pathlib.Path | None = None) -> str:
    """Run the command without a terminal; all that it prints."""
    done = subprocess.run(
        [*command, *arguments],
        check=False,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == rc, done.stdout
    return done.stdout


def status(site: Site, command: list[str]) -> dict[str, Any]:
    """What the command says about the site's repository."""
    (found,) = json.loads(run(command, "status", "--json", site.repository))["repositories"]
    return found


def test_edit_and_publish(site: Site, command: list[str]) -> None:
    before = site.revision()
    with Terminal([*command, "shell", site.repository]) as terminal:
        terminal.expect(f"/cvmfs/{site.repository} is writable")
        terminal.type('mkdir edited; echo $((6*7)) >edited/answer; pwd; echo "<$(cat edited/answer)>"')
        assert f"/cvmfs/{site.repository}" in terminal.expect("<42>")
        terminal.type("exit")
        assert "2 added" in terminal.expect(QUESTION)
        terminal.type("diff")
        assert f"[add] /cvmfs/{site.repository}/edited/answer" in terminal.expect(QUESTION)
        terminal.type("publish first-edit")
        terminal.expect(f"published revision {before + 1}, tagged first-edit")
        assert terminal.end() == 0
    assert site.revision() == before + 1
    shown = run(command, "server", site.repository, "tag", "-l")
    assert "first-edit" in shown


def test_abort(site: Site, command: list[str]) -> None:
    before = site.revision()
    with Terminal([*command, "shell", site.repository]) as terminal:
        terminal.expect("is writable")
        terminal.type("touch nobody-wants-this; exit")
        terminal.expect(QUESTION)
        terminal.type("abort")
        terminal.expect("Sure (yes, no)? ")
        terminal.type("no")
        terminal.expect(QUESTION)
        terminal.type("shell")
        terminal.type("ls")
        terminal.expect("nobody-wants-this")
        terminal.type("exit")  # engines may lose what comes just before
        terminal.expect(QUESTION)
        terminal.type("ab")
        terminal.expect("Sure (yes, no)? ")
        terminal.type("yes")
        assert terminal.end() == 0
    assert site.revision() == before
    assert status(site, command)["lease"] is None


def test_a_dropped_connection(site: Site, command: list[str]) -> None:
    """What runs in the shell runs on, the lease is renewed, and the shell is found again."""
    with Terminal([*command, "shell", site.repository]) as terminal:
        terminal.expect("is writable")
        terminal.type("kept=$((40+2)); for i in $(seq 1000); do sleep 0.2; echo $i >counter; done & echo started-$kept")
        terminal.expect("started-42")
    opened = status(site, command)
    assert opened["transaction"]["mount_point"] == f"/cvmfs/{site.repository}"
    deadline = time.monotonic() + 60
    while status(site, command)["lease"]["expires"] == opened["lease"]["expires"]:
        assert time.monotonic() < deadline, "the lease was not renewed"
        time.sleep(2)
    with Terminal([*command, "attach", site.repository]) as terminal:
        terminal.expect(opened["transaction"]["id"])
        terminal.type("kill %1; wait; test $(cat counter) -gt 50 && echo kept-$kept")
        terminal.expect("kept-42")
        terminal.type("exit")
        terminal.expect(QUESTION)
        terminal.type("publish")
        terminal.expect("published revision")
        assert terminal.end() == 0


def test_who_still_writes_is_named(site: Site, command: list[str]) -> None:
    with Terminal([*command, "shell", site.repository]) as terminal:
        terminal.expect("is writable")
        terminal.type("setsid sleep 600 >unfinished & exit")
        terminal.expect(QUESTION)
        terminal.type("publish")
        assert "sleep" in terminal.expect(QUESTION)
        terminal.type("shell")
        terminal.type("pkill sleep || kill $(pidof sleep); exit")
        terminal.expect(QUESTION)
        terminal.type("publish")
        terminal.expect("published revision")
        assert terminal.end() == 0


@pytest.mark.parametrize("ends", [["kill", "--signal", "KILL"], ["stop"]], ids=["power cut", "restart of the host"])
def test_an_interrupted_container(site: Site, command: list[str], ends: list[str]) -> None:
    with Terminal([*command, "shell", site.repository]) as terminal:
        terminal.expect("is writable")
        terminal.type("mkdir survivor && echo written >survivor/file && sync && echo done-$((40+2))")
        terminal.expect("done-42")
        site.engine_command(*ends, site.container)
        terminal.expect("has been interrupted. Go on with it: ")
        terminal.end()
    assert not site.manager("cvmfs_transaction", state="aborted", id="another")["changed"]
    assert status(site, command)["interrupted"]
    with Terminal([*command, "shell", site.repository]) as terminal:
        terminal.expect("has been interrupted. Go on with it: ")
        assert terminal.end() == 1
    assert "has been interrupted" in site.manager("cvmfs_transaction")["msg"]
    with Terminal([*command, "attach", site.repository]) as terminal:
        terminal.type("cat survivor/file")
        terminal.expect("written\r\n")
        terminal.type("rm -r survivor; exit")
        terminal.expect(QUESTION)
        terminal.type("publish")
        terminal.expect("published revision")
        assert terminal.end() == 0


def test_the_modules_transaction_can_be_attached_to(site: Site, command: list[str]) -> None:
    (opened,) = run_tasks(site, {"cvmfs_transaction": {"interactive": True}})
    identity = opened["transaction"]["id"]
    with Terminal([*command, "attach", site.repository]) as terminal:
        terminal.expect(identity)
        terminal.type("echo by hand >edited-by-hand; exit")
        terminal.expect(QUESTION)
        terminal.type("keep")
        terminal.expect("stays open")
        assert terminal.end() == 0
    (published,) = run_tasks(site, {"cvmfs_publish": {"transaction": identity}})
    assert "edited-by-hand" in str(published["paths"]["added"]), published


def test_others_transactions_are_left_alone(site: Site, command: list[str]) -> None:
    (opened,) = run_tasks(site, {"cvmfs_transaction": {}})
    identity = opened["transaction"]["id"]
    assert f"Transaction {identity} is open on {site.repository}" in run(
        command, "run", site.repository, "--", "true", rc=1
    )
    with Terminal([*command, "attach", site.repository]) as terminal:
        terminal.expect("is not interactive")
        assert terminal.end() == 1
    assert identity in run(command, "status", site.repository)
    assert "Aborted" in run(command, "abort", "--force", site.repository)
    assert "No transaction is open" in run(command, "abort", site.repository)


def test_run_publishes_what_succeeds(site: Site, command: list[str], tmp_path: pathlib.Path) -> None:
    before = site.revision()
    (tmp_path / "payload").write_text("installed")
    (tmp_path / "install.sh").write_text(
        f"#!/bin/sh -e\nmkdir -p /cvmfs/{site.repository}/$1\ncp payload /cvmfs/{site.repository}/$1\n"
    )
    (tmp_path / "install.sh").chmod(0o755)
    printed = run(
        command, "run", "-a", "v1", f"{site.repository}/by-run", "--", "./install.sh", "by-run/1.0", rc=1, cwd=tmp_path
    )
    assert "has no /by-run" in printed
    printed = run(command, "run", "-a", "v1", site.repository, "--", "./install.sh", "by-run/1.0", cwd=tmp_path)
    assert f"published revision {before + 1}, tagged v1" in printed
    printed = run(command, "run", f"{site.repository}/by-run", "--", "./install.sh", "elsewhere", rc=1, cwd=tmp_path)
    assert "elsewhere" in printed
    assert site.revision() == before + 1


def test_run_aborts_what_fails(site: Site, command: list[str], tmp_path: pathlib.Path) -> None:
    before = site.revision()
    script = f"grep ours /etc/software-environment && touch /cvmfs/{site.repository}/half-a-release; exit 7"
    printed = run(command, "run", site.repository, "--", "sh", "-c", script, rc=7, cwd=tmp_path)
    assert "exit code 7" in printed
    assert "ours" in printed
    assert "not found" in run(command, "run", site.repository, "--", "./missing", rc=127, cwd=tmp_path)
    assert site.revision() == before
    assert status(site, command)["lease"] is None


def test_run_keeps_for_a_person_what_could_not_be_published(
    site: Site, command: list[str], source: pathlib.Path
) -> None:
    site.publish(source, "sw/kept").expect()
    script = f"echo hours of work >/cvmfs/{site.repository}/outside"
    with Terminal([*command, "run", f"{site.repository}/sw/kept", "--", "sh", "-c", script]) as terminal:
        terminal.expect("The transaction stays open")
        assert terminal.end() == 1
    with Terminal([*command, "attach", site.repository]) as terminal:
        terminal.type(f"cat /cvmfs/{site.repository}/outside")
        terminal.expect("hours of work\r\n")
        terminal.type("exit")
        terminal.expect(QUESTION)
        terminal.type("abort")
        terminal.expect("Sure")
        terminal.type("yes")
        assert terminal.end() == 0


def test_run_that_is_told_to_end_aborts(site: Site, command: list[str], tmp_path: pathlib.Path) -> None:
    with subprocess.Popen([*command, "run", site.repository, "--", "sleep", "600"], cwd=tmp_path) as process:
        deadline = time.monotonic() + 60
        while not site.engine_command("ps", "--filter", f"name={site.container}", "--format", "{{.Names}}"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        while status(site, command)["transaction"] is None:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        process.terminate()
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert status(site, command)["lease"] is None


def test_nobody_is_shown_what_is_the_engines(site: Site, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its storage has the secrets of other containers."""
    publishing = ["run", "--source", "@SOURCE@", site.repository, "--", "true"]
    storage = site.engine_command("info", "--format", "{{.Store.GraphRoot}}").strip()
    monkeypatch.setenv("SUDO_USER", "nobody")
    for source in ("/", "/run", storage, f"{storage}/secrets", str(pathlib.Path(storage).parent)):
        words = [word.replace("@SOURCE@", source) for word in publishing]
        assert "No container may see" in run(command, *words, rc=1)


def test_what_is_shown_is_what_was_looked_at(
    site: Site, command: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner of a source puts a link there, just before the engine starts the container."""
    source = tmp_path / "source"
    source.mkdir()
    swap = f'case "$*" in "run -d "*) mv {source} {source}.old; ln -s /etc {source};; esac'
    monkeypatch.setenv("PATH", before_the_engine(site, tmp_path, swap))
    words = ["run", "--source", str(source), site.repository, "--", "true"]
    assert "was replaced while the container started" in run(command, *words, rc=1)
    assert status(site, command)["transaction"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shell", "other.example.org"], "other.example.org in cvmfs_repositories"),
        (["run", "other.example.org"], "say what to run: a command after --"),
        (["server", "other.example.org"], "say which subcommand of cvmfs_server"),
        (["run", "--source", "/nowhere", "@FQRN@", "--", "true"], "/nowhere does not exist"),
        (["shell", "@FQRN@"], "This needs a terminal. Use run for scripts."),
        (["attach", "@FQRN@"], "This needs a terminal. "),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_wrong_use(site: Site, command: list[str], arguments: list[str], message: str) -> None:
    words = [word.replace("@FQRN@", site.repository) for word in arguments]
    done = subprocess.run([*command, *words], check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert message in done.stderr


def test_server_passes_everything_through(site: Site, command: list[str]) -> None:
    assert json.loads(run(command, "server", site.repository, "info", "--json"))["repository"] == site.repository
    assert "not-a-tag" in run(command, "server", site.repository, "rollback", "-f", "-t", "not-a-tag", rc=1)
