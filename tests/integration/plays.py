# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks with the results that a playbook sees, what happens meanwhile, and the bucket as its owner sees it."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import uuid
from typing import Any

import boto3
from botocore.config import Config

from .conftest import Site

COLLECTION = "cvmfs.publishing"


def run_tasks(site: Site, *tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """Run tasks on the release manager's host, one after the other, and return their results, diffs and all.

    A task is that of a playbook, with the module's short name for the key. One that fails does not end the play.
    """
    number = uuid.uuid4().hex
    results = site.directory / f"results-{number}.json"
    names = [f"result_{position}" for position in range(len(tasks))]
    play: list[dict[str, Any]] = []
    for name, task in zip(names, tasks, strict=True):
        module = next(key for key in task if key.startswith("cvmfs_"))
        common = {"repository": site.repository, "config_dir": str(site.config)}
        rest = {key: value for key, value in task.items() if key != module}
        play.append(
            {f"{COLLECTION}.{module}": {**common, **task[module]}, "register": name, "ignore_errors": True, **rest}
        )
    keep = {"content": f"{{{{ [{', '.join(names)}] | to_json }}}}", "dest": str(results), "mode": "0600"}
    play.append({"ansible.builtin.copy": keep, "delegate_to": "localhost", "become": False, "check_mode": False})
    playbook = site.directory / f"tasks-{number}"
    playbook.with_suffix(".yml").write_text(
        json.dumps([{"hosts": "release_managers", "gather_facts": False, "tasks": play}])
    )
    run = site.play(str(playbook))
    assert results.exists(), run.output
    found: list[dict[str, Any]] = json.loads(results.read_text())
    return found


def secret_names(site: Site) -> list[str]:
    """The names of the secrets that the engine has for the site's repository."""
    if site.engine == "docker":
        found = [path.name for path in site.docker_secrets.iterdir()]
    else:
        found = site.engine_command("secret", "ls", "--format", "{{.Name}}").split()
    return sorted(name for name in found if name.startswith(f"cvmfs-{site.repository}-"))


class Bucket:
    """The bucket of a site's repository, in the hands of its publisher, or in those of its owner if it is `owned`."""

    def __init__(self, site: Site, *, owned: bool = False) -> None:
        keys = site.owner_keys() if owned else {"access_key": site.access_key, "secret_key": site.secret_key}
        self._name = site.repository
        self._client = boto3.client(
            "s3",
            endpoint_url=site.endpoint,
            aws_access_key_id=keys["access_key"],
            aws_secret_access_key=keys["secret_key"],
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )

    def put(self, key: str, data: bytes) -> None:
        """Have an object of the repository be another one."""
        self._client.put_object(Bucket=self._name, Key=f"{self._name}/{key}", Body=data)

    def remove(self, key: str) -> None:
        """Lose an object of the repository."""
        self._client.delete_object(Bucket=self._name, Key=f"{self._name}/{key}")

    def objects(self, *, lease: bool = True) -> dict[str, str]:
        """The ETags of all objects; without `lease`, of those that every transaction does not write anyway."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._name)
        found = {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", [])}
        return found if lease else {key: tag for key, tag in found.items() if not key.endswith("lease.json")}


def grow(directory: pathlib.Path, files: int) -> None:
    """Put many small files, no two alike, into a directory: work for some seconds."""
    for number in range(files):
        folder = directory / f"d{number // 500}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(uuid.uuid4().bytes * 64)


def before_the_engine(site: Site, directory: pathlib.Path, script: str) -> str:
    """Return a PATH on which a script runs whenever the engine is called, before it."""
    (directory / "bin").mkdir()
    engine = directory / "bin" / site.engine
    engine.write_text(f'#!/bin/sh\n{script}\nexec {shutil.which(site.engine)} "$@"\n')
    engine.chmod(0o755)
    return f"{engine.parent}:{os.environ['PATH']}"
