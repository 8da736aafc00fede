"""Quadrature rules for normal distributions of any dimension."""

import math

import numpy as np

# Approximate number of nodes.
_NODES = 48


def sphere_rule(n: int) -> tuple[np.ndarray, float]:
    """Returns nodes of a rule for normal expectations of functions that vanish at the origin.

    The nodes, `(k, n)`, are plus and minus the axes of fixed random frames, at the distance
    sqrt(n + 2), and all have the returned weight. The origin has the remaining weight, of a total
    of 1. Cubic polynomials, and even ones of degree four in the distance, are integrated exactly.
    """
    frames = 1 if n == 1 else max(2, _NODES // (2 * n))
    rng = np.random.default_rng(0)
    axes = [np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(frames)]
    nodes = np.concatenate([sign * axis for axis in axes for sign in (1, -1)])
    return nodes * math.sqrt(n + 2), n / (n + 2) / len(nodes)
