# SPDX-License-Identifier: GPL-3.0-or-later
"""Containerfiles that cannot be built here are held to the one that is."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from typing import NamedTuple

import pytest
from conftest import CHECKOUT

DIRECTORY = CHECKOUT / "images/release_manager"


class Instruction(NamedTuple):
    stage: int
    name: str
    value: str


def read(name: str) -> list[Instruction]:
    """The instructions of a Containerfile, each on one line."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (DIRECTORY / name).read_text()).replace("\\\n", " ")
    found: list[Instruction] = []
    stage = -1
    for line in filter(str.strip, text.splitlines()):
        instruction, value = line.split(maxsplit=1)
        stage += instruction == "FROM"
        found.append(Instruction(stage, instruction, " ".join(value.split())))
    return found


def values(containerfile: list[Instruction], *names: str) -> list[tuple[str, str]]:
    return [(item.name, item.value) for item in containerfile if item.name in names]


def labels(containerfile: list[Instruction]) -> dict[str, str]:
    text = " ".join(value for _name, value in values(containerfile, "LABEL"))
    return dict(word.split("=", 1) for word in shlex.split(text))


NATIVE, EL9, UPSTREAM = read("Containerfile"), read("Containerfile.el9"), read("Containerfile.upstream")
DESCRIPTION = {"org.opencontainers.image.title", "org.opencontainers.image.description"}


def test_el9_is_run_as_the_native_image() -> None:
    """Modules and shells find in it what they find in the other: paths, volume, entry point, labels."""
    names = "ENV", "VOLUME", "WORKDIR", "STOPSIGNAL", "ENTRYPOINT", "COPY", "USER", "FROM"
    assert values(EL9, *names) == values(NATIVE, *names)
    ours, theirs = labels(EL9), labels(NATIVE)
    assert {name for name in ours if ours[name] != theirs.get(name)} == DESCRIPTION
    assert ours.keys() == theirs.keys()
    assert [value for _name, value in values(EL9, "RUN") if "/usr/local/bin/" in value] == [
        value for _name, value in values(NATIVE, "RUN") if "/usr/local/bin/" in value
    ]


def test_el9_installs_the_publisher_as_the_native_image_does() -> None:
    """The same commands of pip, with the same hashes, but for what Python is called."""

    def pip(containerfile: list[Instruction]) -> list[str]:
        commands = [command for _name, value in values(containerfile, "RUN") for command in value.split(" && ")]
        plain = (
            re.sub(r"^python3\.\d+ -m pip ", "pip ", command).replace("python3.12", "python3") for command in commands
        )
        return [command for command in plain if re.match(r"(python3 -m venv|pip|/build/venv/bin/pip) ", command)]

    assert pip(EL9) == pip(NATIVE)
    assert len(pip(EL9)) == 6


def test_el9_has_a_python_that_the_publisher_runs_on() -> None:
    project = tomllib.loads((DIRECTORY / "cvmfs_publisher/pyproject.toml").read_text())["project"]
    floor = tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))
    text = (DIRECTORY / "Containerfile.el9").read_text()
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"python(3\.\d+)", text)}
    assert len(versions) == 1
    assert versions.pop() >= floor
    assert not re.search(r"(?m)^.*\bpython3 -m", text)  # EL 9's own is older


def test_el9_has_what_the_native_image_needs_of_its_distribution() -> None:
    runtime = next(value for _name, value in values(NATIVE, "RUN") if "apt-get install" in value)
    needed = re.search(r"--no-install-recommends (.*?) &&", runtime)
    assert needed
    text = (DIRECTORY / "Containerfile.el9").read_text()
    for package in needed[1].split():
        assert re.search(rf"\b{package}\b", text), package
    assert "fuse3" in text  # fusermount3, which fuse-overlayfs brings along on Debian


@pytest.mark.parametrize("containerfile", [NATIVE, EL9, UPSTREAM], ids=["native", "el9", "upstream"])
def test_commands_are_shell_and_files_are_there(containerfile: list[Instruction]) -> None:
    for _name, command in values(containerfile, "RUN"):
        subprocess.run(["sh", "-n", "-c", command], check=True)
    copied = [value.split()[0] for _name, value in values(containerfile, "COPY") if not value.startswith("--from")]
    ignored = (DIRECTORY / ".dockerignore").read_text().splitlines()
    for path in copied:
        assert (DIRECTORY / path).exists(), path
        assert any(line.startswith(f"!{path}") for line in ignored), path
    stages = [value.rpartition(" AS ")[2] for _name, value in values(containerfile, "FROM")]
    for value in (value for _name, value in values(containerfile, "COPY") if value.startswith("--from")):
        assert value.split()[0].removeprefix("--from=") in stages
