"""Comparison of families by their descriptions."""

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from nnef_dists.families import ExponentialFamily, support_point
from nnef_dists.storage import differences

Description = dict[str, Any]


@functools.cache
def probe(family: ExponentialFamily) -> tuple[str, ...]:
    """Returns the first 32 entries of T, and log h, at three fixed points as text."""
    shape = family.support.shape
    u = np.sin(1.0 + np.arange(3 * math.prod(shape))).reshape(3, *shape)
    values: list[float] = []
    for point in u:
        x = support_point(family, jnp.asarray(point, jnp.float32))
        values += np.asarray(family.sufficient_statistics(x), np.float64)[:32].tolist()
        values.append(float(family.log_base_measure(x)))
    return tuple(f"{value:.6e}" for value in values)


def family_differences(
    stored: Description, asked: Description, *, source: str = "the store"
) -> list[str]:
    """Lists differences of descriptions of families, except for modules, since classes move."""
    one, two = {"family": _essence(stored)}, {"family": _essence(asked)}
    found = differences(one, two, source=source)
    if not found and not _is_same_probe(stored.get("probe"), asked.get("probe")):
        found.append("family: T(x) or log h(x) at fixed points; its formulas have changed")
    return found


def _essence(node: Any) -> Any:
    """Returns a description without modules, and without probes, which have rounding errors."""
    if isinstance(node, list):
        return [_essence(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {name: _essence(value) for name, value in node.items() if name != "probe"}
    if isinstance(kept.get("class"), str):
        kept["class"] = kept["class"].partition(":")[2]
    return kept


def _is_same_probe(stored: Any, asked: Any) -> bool:
    # Tolerances that admit other backends and reduced precision.
    one, two = np.asarray(stored, float), np.asarray(asked, float)
    return one.shape == two.shape and bool(np.allclose(one, two, 1e-2, 1e-3, equal_nan=True))
