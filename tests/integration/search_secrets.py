#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: (c) 2026, the cvmfs.publishing authors
"""Looks for secrets where they must not be. Runs by itself, on any host, as root.

Standard input is a JSON document: ``needles`` are the secrets by name, ``roots`` the directories to search, ``pids``
the processes to look at (all, if it is null). Each needle is looked for as it is and in base64, in files of any kind,
and in the arguments and environments of processes. Standard output is a JSON list of ``{place, needle, mode}``.
"""

from __future__ import annotations

import base64
import json
import os
import stat
import sys
from collections.abc import Iterator

_BLOCK = 1 << 24


def forms(secret: bytes) -> list[bytes]:
    """Return how a secret may be written: plainly, and in base64 at each of three alignments."""
    found = [secret]
    for shift in range(3):
        text = base64.b64encode(bytes(shift) + secret)
        found.append(text[4 if shift else 0 : len(text) // 4 * 4 - 4])  # without what the neighbours have a say in
    return found


def contains(path: str, needles: list[tuple[str, list[bytes]]]) -> Iterator[str]:
    """Yield the names of the needles that a file has."""
    longest = max(len(form) for _name, group in needles for form in group)
    found, tail = set(), b""
    try:
        with open(path, "rb") as stream:
            while block := stream.read(_BLOCK):
                data = tail + block
                found |= {name for name, group in needles if any(form in data for form in group)}
                tail = data[-longest:]
    except OSError:
        return  # it has gone, or is no ordinary file
    yield from sorted(found)


def files(root: str) -> Iterator[tuple[str, int]]:
    """Yield the regular files below a directory and the most that they and the directories around them permit."""
    device = os.stat(root).st_dev
    for directory, names, leaves in os.walk(root):
        try:
            names[:] = [name for name in names if os.lstat(os.path.join(directory, name)).st_dev == device]
        except OSError:
            continue
        for leaf in leaves:
            path = os.path.join(directory, leaf)
            try:
                mode = os.lstat(path).st_mode
                permitted = _permitted(path, mode)
            except OSError:
                continue  # it has gone, or a directory on the way has
            if stat.S_ISREG(mode):
                yield path, permitted


def _permitted(path: str, mode: int) -> int:
    """Others read a file only if they can pass every directory on the way to it."""
    parent = os.path.dirname(path)
    others = True
    while parent != "/":
        others = others and bool(os.stat(parent).st_mode & stat.S_IXOTH)
        parent = os.path.dirname(parent)
    return stat.S_IMODE(mode) if others else stat.S_IMODE(mode) & ~0o007


def main() -> None:
    request = json.load(sys.stdin)
    needles = [(name, forms(secret.encode())) for name, secret in request["needles"].items()]
    found = []
    for root in request["roots"]:
        for path, mode in files(root):
            found += [{"place": path, "needle": name, "mode": f"{mode:04o}"} for name in contains(path, needles)]
    pids = request["pids"]
    if pids is None:
        pids = [name for name in os.listdir("/proc") if name.isdecimal()]
    for pid in pids:
        for what in ("cmdline", "environ"):
            path = f"/proc/{pid}/{what}"
            found += [{"place": path, "needle": name, "mode": ""} for name in contains(path, needles)]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
