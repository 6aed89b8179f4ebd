# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: (c) 2026, the cvmfs.publishing authors
"""Keeps what everybody can read of a repository: record.py URL DIRECTORY NAME writes DIRECTORY/NAME.json."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "shared/tests"))

from reader import PublishedTree


class RecordedTree(PublishedTree):
    """Remembers the names of all that is read."""

    def __init__(self, url: str) -> None:
        self.keys: set[str] = set()
        super().__init__(url)

    def get(self, key: str) -> bytes:
        self.keys.add(key)
        return super().get(key)


def main(url: str, directory: str, name: str) -> None:
    published = RecordedTree(url)
    record = {
        "revision": published.revision,
        "root_hash": published.manifest["C"],
        "tree": {path: dataclasses.asdict(entry) for path, entry in published.tree().items()},
        "objects": sorted(key for key in published.keys if key.startswith("data/")),
        "tags": {tag: revision for tag, (revision, _root_hash) in published.tags().items()},
        "whitelist_expires": published.get(".cvmfswhitelist").splitlines()[1].decode(),
    }
    (pathlib.Path(directory) / f"{name}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main(*sys.argv[1:])
