# SPDX-License-Identifier: GPL-3.0-or-later
"""What a role says about its variables is what its defaults are, and they are named as the house names them."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import yaml

ROLES = sorted(pathlib.Path(__file__).resolve().parents[3].joinpath("roles").iterdir())


@pytest.fixture(params=ROLES, ids=lambda role: role.name)
def role(request: pytest.FixtureRequest) -> pathlib.Path:
    return request.param


def _load(path: pathlib.Path) -> Any:
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def _options(role: pathlib.Path) -> dict[str, Any]:
    return _load(role / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]


def test_defaults_are_those_that_are_documented(role: pathlib.Path) -> None:
    documented = {name: option["default"] for name, option in _options(role).items() if "default" in option}
    assert _load(role / "defaults" / "main.yml") == documented


def test_what_has_no_default_is_required(role: pathlib.Path) -> None:
    for name, option in _options(role).items():
        assert ("default" in option) != option.get("required", False), name


def test_everything_is_described(role: pathlib.Path) -> None:
    assert all(option["description"] for option in _options(role).values())
    assert (role / "README.md").exists()


def test_public_names(role: pathlib.Path) -> None:
    assert all(name.startswith(f"{role.name}_") for name in _options(role))


def test_constants(role: pathlib.Path) -> None:
    assert all(name.startswith(f"_{role.name}_") for name in _load(role / "vars" / "main.yml"))


def test_registered_names(role: pathlib.Path) -> None:
    for path in role.joinpath("tasks").glob("*.yml"):
        for name in re.findall(r"^\s*register: (\S+)", path.read_text(), re.MULTILINE):
            assert name.startswith(f"__{role.name}_"), f"{path.name}: {name}"


def test_every_variable_is_used(role: pathlib.Path) -> None:
    files = [path for part in ("tasks", "templates", "vars") for path in role.joinpath(part).glob("*")]
    text = "".join(path.read_text() for path in files)
    names = [*_options(role), *_load(role / "vars" / "main.yml")]
    assert [name for name in names if not re.search(rf"\b{name}\b(?!:)", text)] == []
