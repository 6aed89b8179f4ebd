# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists that must be kept together by hand."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator

import pytest
import yaml
from ansible_collections.cvmfs.publishing.plugins.module_utils._upstream_server import _SINCE as SINCE

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


def _documentation(module: str) -> dict:
    text = ROOT.joinpath("plugins", "modules", f"{module}.py").read_text()
    return yaml.safe_load(text.partition('DOCUMENTATION = r"""')[2].partition('"""')[0])


def test_modules_for_release_managers_say_what_they_need_of_the_upstream_engine() -> None:
    for module in MODULES:
        documentation = _documentation(module)
        if "cvmfs.publishing.release_manager" in documentation.get("extends_documentation_fragment", []):
            assert documentation["attributes"]["upstream_engine"]["details"], module


@pytest.mark.parametrize(
    ("module", "subcommands"),
    [
        ("cvmfs_check", {"check"}),
        ("cvmfs_publish", {"publish", "ingest", "diff"}),
        ("cvmfs_tag", {"tag"}),
        ("cvmfs_transaction", {"transaction", "abort", "diff"}),
    ],
)
def test_versions_of_the_upstream_engine_are_those_that_the_code_demands(module: str, subcommands: set[str]) -> None:
    details = " ".join(_documentation(module)["attributes"]["upstream_engine"]["details"])
    assert set(re.findall(r"\b\d+\.\d+\.\d+\b", details)) == {SINCE[name] for name in subcommands}


def test_no_subcommand_of_the_upstream_engine_is_left_out() -> None:
    assert set(SINCE) == {"check", "publish", "ingest", "diff", "tag", "transaction", "abort"}


def _secret_arguments() -> set[str]:
    """The arguments with secrets that modules get on the host: with the master key, action plugins sign here."""
    texts = [
        path.read_text() for kind in ("module_utils", "modules") for path in (ROOT / "plugins" / kind).glob("*.py")
    ]
    return set(re.findall(r'"?(\w+)"?(?:: \{|=dict\()[^})]*"?no_log"?(?:: |=)True', "\n".join(texts))) - {"masterkey"}


def _tasks_with_variables(items: list[dict], variables: dict) -> Iterator[tuple[dict, dict]]:
    """Every task of a play or a list of tasks, with the variables that are set for it there."""
    for item in items:
        known = {**variables, **(item.get("vars") or {})}
        yield item, known
        for part in ("block", "rescue", "always", "pre_tasks", "tasks", "post_tasks", "handlers"):
            yield from _tasks_with_variables(item.get(part) or [], known)


def _variables_of_includes(path: pathlib.Path) -> dict:
    """The variables that each include of a role's tasks sets for them."""
    found = [
        variables
        for other in path.parent.glob("*.yml")
        for task, variables in _tasks_with_variables(yaml.safe_load(other.read_text()) or [], {})
        if task.get("ansible.builtin.include_tasks") == path.name
    ]
    return (
        {name: value for name, value in found[0].items() if all(each.get(name) == value for each in found)}
        if found
        else {}
    )


def test_secrets_that_are_arguments_do_not_touch_the_hosts_disk() -> None:
    secrets = _secret_arguments()
    assert {"secret_key", "admin_secret_key", "value", "source_s3_config"} <= secrets
    found = []
    for path in [*ROOT.glob("playbooks/**/*.yml"), *ROOT.glob("roles/*/tasks/*.yml")]:
        content = yaml.safe_load(path.read_text())
        known = _variables_of_includes(path) if path.parent.name == "tasks" else {}
        for task, variables in _tasks_with_variables(content if isinstance(content, list) else [], known):
            modules = [name for name in task if name.startswith("cvmfs.publishing.")]
            if any(secrets.intersection(task[name] or {}) for name in modules):
                found.append(task["name"])
                assert variables.get("ansible_pipelining") is True, f"{path}: {task['name']}"
    assert "Have the bucket" in found
