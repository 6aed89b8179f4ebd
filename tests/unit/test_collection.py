# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists that must be kept together by hand."""

from __future__ import annotations

import pathlib

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in ROOT.joinpath("plugins", "modules").glob("*.py"))


def test_the_action_group_has_all_modules() -> None:
    runtime = yaml.safe_load(ROOT.joinpath("meta", "runtime.yml").read_text())
    assert runtime["action_groups"]["cvmfs"] == MODULES


def test_every_module_says_that_it_is_in_the_action_group() -> None:
    for module in MODULES:
        text = ROOT.joinpath("plugins", "modules", f"{module}.py").read_text()
        assert "cvmfs.publishing.attributes.action_group" in text, module


def test_action_plugins_have_their_modules() -> None:
    actions = {path.stem for path in ROOT.joinpath("plugins", "action").glob("*.py")}
    assert actions <= set(MODULES)


def test_modules_are_thin() -> None:
    """About a hundred lines of code each: what is more belongs into module_utils."""
    for module in MODULES:
        text = ROOT.joinpath("plugins", "modules", f"{module}.py").read_text()
        _documentation, _separator, code = text.partition('RETURN = r"""')
        lines = [line for line in code.partition('\n"""\n')[2].splitlines() if line.strip()]
        assert len(lines) <= 130, f"{module} has {len(lines)} lines of code"
