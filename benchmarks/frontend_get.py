#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares how long a small GET takes by different ways to an object: from the storage, and through web frontends.

    frontend_get.py URL URL... [--requests N] [--rounds N]

Each way has one connection, which is kept alive, as CernVM-FS's client and proxies keep theirs. The ways take turns, so
that all meet the same service. The first one is what the others are compared with.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import time
from urllib.parse import urlsplit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("urls", nargs="+", metavar="URL")
    parser.add_argument("--requests", type=int, default=100, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    ways = [Way(url) for url in arguments.urls]
    for _ in range(arguments.rounds):
        for way in ways:
            way.measure(arguments.requests)
    first = statistics.median(ways[0].times)
    for way in ways:
        median = statistics.median(way.times)
        print(f"{median * 1000:8.2f} ms median, {median / first:6.2f} times the first   {way.url}")


class Way:
    """One connection, and what was measured on it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.times: list[float] = []
        parts = urlsplit(url)
        self._path = parts.path
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.netloc, timeout=30)

    def measure(self, requests: int) -> None:
        """Get the object that many times, one after the other."""
        for _ in range(requests):
            begin = time.perf_counter()
            self._connection.request("GET", self._path)
            response = self._connection.getresponse()
            response.read()
            self.times.append(time.perf_counter() - begin)
            if response.status != 200:
                raise SystemExit(f"{self.url}: {response.status} {response.reason}")


if __name__ == "__main__":
    main()
