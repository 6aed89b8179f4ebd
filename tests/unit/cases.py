# SPDX-License-Identifier: GPL-3.0-or-later
"""Test cases as data: what goes in, which commands are expected and what they answer, and what comes out.

A case in a YAML file has an `id`; `commands`, a list of {argv, stdin, user, rc, out, err} in the order in which they
are expected, with the caller as user, rc 0 and no output by default; and what the test that reads the file wants
besides. A list in an argv stands for its words, so that commands can share how they begin.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
import yaml
from ansible_collections.cvmfs.publishing.plugins.module_utils import _command

Case = dict[str, Any]


def load(test_file: str) -> list[Any]:
    """Return the cases of the YAML file beside a test file, as parameters for pytest."""
    document = yaml.safe_load(pathlib.Path(test_file).with_suffix(".yaml").read_text())
    return [pytest.param(case, id=case["id"]) for case in document["cases"]]


class Commands:
    """Stands in for :func:`_command.run`: answers the commands of a case, and refuses any other."""

    def __init__(self, expected: list[Case]) -> None:
        self._expected = list(expected)

    def __call__(
        self,
        argv: list[str],
        *,
        stdin: str | None = None,
        stderr_path: str | None = None,
        user: str | None = None,
    ) -> _command.Completed:
        assert self._expected, f"no command was expected any more, but there came {argv}"
        command = self._expected.pop(0)
        assert argv == _flat(command["argv"])
        assert user == command.get("user")
        assert self._like(command.get("stdin"), stdin) == command.get("stdin")
        err = command.get("err", "")
        if stderr_path is not None:
            pathlib.Path(stderr_path).write_text(err)
        return _command.Completed(list(argv), command.get("rc", 0), self._text(command.get("out", "")), err)

    def finish(self) -> None:
        """Every command must have come."""
        assert not self._expected, f"these commands were expected and did not come: {self._expected}"

    @staticmethod
    def _like(wanted: Any, stdin: str | None) -> Any:
        """Return `stdin` in the form of what is wanted: none or a text, bytes that are no text, or else a document."""
        if wanted is None or isinstance(wanted, str):
            return stdin
        if isinstance(wanted, bytes):
            return (stdin or "").encode(errors="surrogateescape")
        return json.loads(stdin or "")

    @staticmethod
    def _text(value: Any) -> str:
        """Documents are written as YAML in the cases, and are JSON to the commands."""
        return value if isinstance(value, str) else json.dumps(value)


def _flat(words: list[Any]) -> list[str]:
    return [text for word in words for text in (_flat(word) if isinstance(word, list) else [str(word)])]
