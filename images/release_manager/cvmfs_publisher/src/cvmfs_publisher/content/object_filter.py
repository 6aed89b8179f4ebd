# SPDX-License-Identifier: GPL-3.0-or-later
"""Large sets of object names, at eight bytes each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .hash import DIGEST_SIZE

Mask = npt.NDArray[np.bool_]
_Prints = npt.NDArray[np.uint64]

_LEAST_MERGED = 1 << 16
_PRINT_BYTES = 8
_GOLDEN = 0x9E37_79B9_7F4A_7C15  # spreads the letters over all bits


class ObjectFilter:
    """A set of object names, of which only 64 bits are kept.

    So it may take an object for one of its own that is not: of ten million objects that are looked for among ten
    million others, one in a hundred thousand runs. It never denies one of its own.
    """

    def __init__(self) -> None:
        self._many = np.empty(0, np.uint64)  # sorted, as is the other
        self._few = np.empty(0, np.uint64)
        self._new: list[_Prints] = []
        self._new_size = 0

    def __len__(self) -> int:
        self._merge()
        return self._many.size + int(np.count_nonzero(~_among(self._few, self._many)))

    def add(self, digests: bytes, suffix: str) -> None:
        """Add objects.

        :param digests: one after the other
        :param suffix: kind of all of them
        """
        prints = _distinct(_prints(digests, suffix))
        self._new.append(prints)
        self._new_size += prints.size
        if self._new_size > max(_LEAST_MERGED, self._many.size // 4):
            self._merge()

    def contains(self, digests: bytes, suffix: str) -> Mask:
        """Say of each object whether it is there. Parameters as for `add`."""
        prints = _prints(digests, suffix)
        self._merge()
        return _among(prints, self._many) | _among(prints, self._few)

    def _merge(self) -> None:
        """Sort in what was added last. The large array is sorted anew only when the small one has become large, too."""
        if self._new:
            self._few = _distinct(np.concatenate([self._few, *self._new]))
            self._new, self._new_size = [], 0
        if self._few.size > max(_LEAST_MERGED, self._many.size // 4):
            self._many = _distinct(np.concatenate([self._many, self._few]))
            self._few = np.empty(0, np.uint64)


def _among(prints: _Prints, known: _Prints) -> Mask:
    if not known.size:
        return np.zeros(prints.size, np.bool_)
    places = np.searchsorted(known, prints)
    places[places == known.size] = 0
    return np.asarray(known[places] == prints)


def _distinct(prints: _Prints) -> _Prints:
    """Sort an array in place, and return it without duplicates; NumPy's own ``unique`` is a hundred times slower."""
    prints.sort()
    first = np.ones(prints.size, np.bool_)
    first[1:] = prints[1:] != prints[:-1]
    return prints[first]


def _prints(digests: bytes, suffix: str) -> _Prints:
    table = np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_SIZE)
    prints = np.ascontiguousarray(table[:, :_PRINT_BYTES]).view("<u8").ravel().astype(np.uint64)
    letter = ord(suffix) if suffix else 0
    return prints ^ np.uint64(letter * _GOLDEN & 0xFFFF_FFFF_FFFF_FFFF)
