"""Comparison of families by their descriptions."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnef_dists.families import ExponentialFamily, support_point
from nnef_dists.storage import differences

Description = dict[str, Any]

_POINTS, _ENTRIES = 3, 32
# Tolerance relative to the largest |T| of a statistic. Rounding in float32 is below 1e-6 of it, and
# the factor of 100 admits statistics that are differences of larger terms.
_RELATIVE = 1e-4
# Tolerances of log h, in nats and relative. A sum of many log-gammas has rounding errors of 1e-6.
_LOG_H, _RELATIVE_LOG_H = 1e-3, 1e-5


@functools.cache
def probe(family: ExponentialFamily) -> tuple[str, ...]:
    """Returns the first 32 entries of T, and log h, at three fixed points as text."""
    shape = family.support.shape
    u = np.sin(1.0 + np.arange(_POINTS * math.prod(shape))).reshape(_POINTS, *shape)
    values: list[float] = []
    # By default, products of matrices have only 10 bits on some accelerators.
    with jax.default_matmul_precision("highest"):
        for point in u:
            x = support_point(family, jnp.asarray(point, jnp.float32))
            stats = np.asarray(family.sufficient_statistics(x), np.float64)
            values += stats[:_ENTRIES].tolist()
            values.append(float(family.log_base_measure(x)))
    return tuple(f"{value:.8e}" for value in values)


def family_differences(
    stored: Description, asked: Description, *, source: str = "the store"
) -> list[str]:
    """Lists differences of descriptions of families, except for modules, since classes move."""
    one, two = {"family": _essence(stored)}, {"family": _essence(asked)}
    found = differences(one, two, source=source)
    if not found and not _is_same_probe(stored, asked):
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


def _is_same_probe(stored: Description, asked: Description) -> bool:
    """Compares probes up to rounding, in units of each statistic."""
    one, two = (np.asarray(node.get("probe"), float) for node in (stored, asked))
    # The number of the statistic of each entry. The last one is log h.
    sizes = [math.prod(shape) for shape in asked["statistics"].values()]
    owners = np.append(np.repeat(np.arange(len(sizes)), sizes)[:_ENTRIES], len(sizes))
    if one.shape != two.shape or one.shape != (_POINTS * len(owners),):
        return False
    one, two = one.reshape(_POINTS, -1), two.reshape(_POINTS, -1)
    size = np.maximum(*(np.where(np.isfinite(v), np.abs(v), 0).max(0) for v in (one, two)))
    largest = np.zeros(len(sizes) + 1)
    np.maximum.at(largest, owners, size)
    tolerances = _RELATIVE * largest
    tolerances[-1] = _LOG_H + _RELATIVE_LOG_H * largest[-1]
    with np.errstate(invalid="ignore"):
        is_close = np.abs(one - two) <= tolerances[owners]
    return bool(np.all(is_close | (one == two) | (np.isnan(one) & np.isnan(two))))
