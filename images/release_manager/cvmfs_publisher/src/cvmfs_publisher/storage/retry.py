# SPDX-License-Identifier: GPL-3.0-or-later
"""When, and for how long, a failed request is repeated."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

_RETRY_AFTER_CAP = 10.0  # seconds; a server may ask for a longer wait, but does not get it


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with jitter. All times are in seconds.

    :param initial: the first wait is at most this long, and each next one at most twice the one before
    :param maximum: no wait is longer than this
    :param total: no attempt is begun later than this after the first one
    :param at_least: number of repetitions that are made in spite of `total`
    :param first_contact: takes the place of `total` for a server that has never answered
    """

    initial: float = 0.1
    maximum: float = 10.0
    total: float = 300.0
    at_least: int = 0
    first_contact: float = 15.0

    @classmethod
    def from_settings(cls, retries: int | None, initial: float, maximum: float) -> RetryPolicy:
        """Return the policy for CernVM-FS's settings.

        CernVM-FS's few retries are over within a second. Here they are a lower limit, except that 0 means none.
        """
        if retries == 0:
            return cls(initial, maximum, total=0)
        return cls(initial, maximum, at_least=retries or 0)


class Backoff:
    """The waits between the attempts of one request."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._begin = time.monotonic()
        self._failures = 0

    @property
    def elapsed(self) -> float:
        """Seconds since the first attempt began."""
        return time.monotonic() - self._begin

    def next(self, retry_after: float | None, *, contacted: bool) -> float | None:
        """Return the seconds to wait before the next attempt; None when there should be none.

        :param retry_after: what the server asked for, if anything
        :param contacted: whether the server has ever answered
        """
        policy = self._policy
        delay = min(policy.maximum, policy.initial * 2.0 ** min(self._failures, 40))
        delay *= random.uniform(0.5, 1)  # noqa: S311  (spreads load; no secret depends on it)
        if retry_after is not None:
            delay = max(delay, min(retry_after, _RETRY_AFTER_CAP))
        self._failures += 1
        late = self.elapsed + delay
        if late > policy.total and self._failures > policy.at_least:
            return None
        if late > policy.first_contact and not contacted:
            return None
        return delay
