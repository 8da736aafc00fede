"""Keys of rows of statistics that are equal up to rounding."""

import numpy as np
from jaxtyping import Float, Int, UInt64

# Number of the last bits of a mantissa, which may differ between equal statistics.
_LAST_BITS = 8


def row_keys(rows: Float[np.ndarray, "n k"]) -> UInt64[np.ndarray, " n"]:
    """Returns one key for each row. Equal rows have equal keys.

    Numbers are rounded relative to their own size. Small differences therefore count beside large
    values at other points, such as penalties.
    """
    keys = np.zeros(len(rows), np.uint64)
    for column in _rounded_bits(np.ascontiguousarray(rows.T)):
        keys ^= column
        keys *= np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(32)
    return keys


def are_same(rows: Float[np.ndarray, "n k"], other: Int[np.ndarray, " n"]) -> bool:
    """Returns whether each row is equal to another row, given by its number."""
    moved = np.flatnonzero(other != np.arange(len(other)))
    one, two = (_rounded_bits(rows[which]) for which in (moved, other[moved]))
    return bool((one == two).all())


def _rounded_bits(values: Float[np.ndarray, "*n"]) -> UInt64[np.ndarray, "*n"]:
    # The sum turns -0 into 0. A carry of the mantissa raises the exponent.
    bits = (values + 0.0).view(np.uint64)
    bits += np.uint64(2 ** (_LAST_BITS - 1))
    bits >>= np.uint64(_LAST_BITS)
    return bits
