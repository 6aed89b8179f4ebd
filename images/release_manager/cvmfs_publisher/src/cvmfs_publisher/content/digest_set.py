# SPDX-License-Identifier: GPL-3.0-or-later
"""Large sets of digests, each kept whole, at little more than its own twenty bytes.

NumPy is loaded once a set is large, as a small publish would spend a good part of its time on that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .hash import DIGEST_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

_LEAST_MERGED = 1 << 14
_DTYPE = f"S{DIGEST_SIZE}"  # compares as bytes


class DigestSet:
    """A set of digests. It is exact, unlike an `ObjectFilter`, and not for several threads at a time."""

    def __init__(self) -> None:
        self._many: npt.NDArray[np.bytes_] | None = None  # sorted; none of them is in the other
        self._few: set[bytes] = set()

    def __len__(self) -> int:
        return (0 if self._many is None else self._many.size) + len(self._few)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._few or self._is_among_many(digest)

    def __iter__(self) -> Iterator[bytes]:
        digests = self.tobytes()
        return (digests[start : start + DIGEST_SIZE] for start in range(0, len(digests), DIGEST_SIZE))

    def add(self, digest: bytes) -> bool:
        """Add a digest; say whether it is new."""
        if digest in self:
            return False
        self._few.add(digest)
        if len(self._few) > max(_LEAST_MERGED, len(self) // 9):
            self._merge()
        return True

    def tobytes(self) -> bytes:
        """Return all digests, sorted, one after the other."""
        self._merge()
        return b"" if self._many is None else self._many.tobytes()

    def _is_among_many(self, digest: bytes) -> bool:
        if self._many is None:
            return False
        import numpy as np

        place = int(np.searchsorted(self._many, np.bytes_(digest)))
        # NumPy takes zeros at the end away
        return place < self._many.size and bool(self._many[place] == digest.rstrip(b"\0"))

    def _merge(self) -> None:
        if self._few:
            import numpy as np

            few = np.frombuffer(b"".join(self._few), _DTYPE)
            self._many = few.copy() if self._many is None else np.concatenate([self._many, few])
            self._few.clear()
            self._many.sort(kind="stable")  # which makes use of what is sorted already
