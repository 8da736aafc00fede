"""Faults of the statistics at typical draws: rounding, linear dependence, the base measure."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnef_dists.moments._family_finding import FamilyFinding, stat_labels

# Largest rounding error of the log-density, in nats. A larger one in float32 is a warning, as
# labels are then made in double precision. In float64 it is an error.
_MOST_ROUNDING = 0.05
# Ratio of the rounding errors of float64 and float32.
_DOUBLE = float(np.finfo(np.float64).eps / np.finfo(np.float32).eps)
# Singular value of standardized statistics below which they are dependent.
_DEPENDENT = 1e-9
# Smallest eigenvalue of the correlation matrix, as a median over etas, of statistics that are not
# nearly collinear.
_COLLINEAR = 1e-6


def find_rounding(family, etas, probes) -> Iterator[FamilyFinding]:
    noise = np.nanstd(np.where(np.isfinite(probes.rounding), probes.rounding, np.nan), axis=1)
    sd = np.std(probes.values, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.sqrt(np.mean(probes.value_rounding**2, axis=1)) / sd
    relative = np.where(np.isfinite(relative) & (sd > 0), relative, 0.0)[:, :-1]
    i = int(np.nanargmax(noise))
    if noise[i] <= _MOST_ROUNDING and relative.max() <= 0.01:
        return
    if noise[i] <= _MOST_ROUNDING:
        i = int(np.argmax(relative.max(axis=1)))
    j = int(np.argmax(relative[i]))
    size = np.median(np.abs(probes.values[i, :, :-1] @ etas[i]))
    yield FamilyFinding(
        "cancellation",
        "error" if _DOUBLE * noise[i] > _MOST_ROUNDING else "warning",
        f"float32 rounds the log-density by {noise[i]:.2g} nats at typical draws (|eta . T| is "
        f"{size:.2g}), and {stat_labels(family)[j]} by {relative[i, j]:.2g} sd(T)",
        etas[i],
        np.median(probes.draws[i], axis=0),
        "center and scale x, so that T is of order one: labels of such etas are made in double "
        "precision, which is slower, and networks in float32 do not resolve their moments",
    )


def find_dependence(family, etas, probes) -> Iterator[FamilyFinding]:
    names, keep = _independent_by_symmetry(family, etas, probes)
    stats = np.concatenate([probes.values, probes.far_values], axis=1)[..., :-1][..., keep]
    pooled = stats.reshape(-1, len(keep))
    pooled = pooled[np.isfinite(pooled).all(axis=1)]
    mean, sd = pooled.mean(axis=0), pooled.std(axis=0)
    constant = sd <= 1e-12 * np.abs(pooled).max(axis=0)
    for j in np.flatnonzero(constant):
        yield FamilyFinding("overcomplete", "error", f"{names[j]} is constant: {mean[j]:.4g}",
                            None, None, f"leave out {names[j]}")  # fmt: skip
    if constant.any() or not len(pooled):
        return
    scaled = (pooled - mean) / sd
    _, singular, axes = np.linalg.svd(scaled / math.sqrt(len(scaled)), full_matrices=False)
    if len(null := axes[singular < _DEPENDENT]):
        combinations = [_equation(row / sd, mean, names) for row in _sparse_rows(null)]
        extra = "the last statistic of each" if len(null) > 1 else "one of these statistics"
        yield FamilyFinding(
            "overcomplete",
            "error",
            "T is linearly dependent: " + "; ".join(combinations[:4]),
            None,
            None,
            f"leave out {extra}, since different etas are the same density",
        )
        return
    smallest = np.array([_smallest_eigenvalue(s) for s in probes.values[..., :-1][..., keep]])
    if np.median(smallest) < _COLLINEAR:
        i = int(np.argmin(smallest))
        yield FamilyFinding(
            "nearly collinear",
            "warning",
            f"the correlation matrix of T has an eigenvalue of {smallest[i]:.2g}",
            etas[i],
            None,
            "use statistics that are less alike, such as orthogonal polynomials around the mean",
        )


def _independent_by_symmetry(family, etas, probes) -> tuple[list[str], list[int]]:
    """Returns names and indices of statistics, without the upper triangles of symmetric ones."""
    keep, start = [], 0
    for shape in family.stat_shapes.values():
        index = start + np.arange(math.prod(shape)).reshape(shape)
        start += math.prod(shape)
        if len(shape) == 2 and shape[0] == shape[1]:
            is_symmetric = all(
                np.allclose(part[..., index], part[..., index.T], rtol=1e-6)
                for part in (probes.values, etas)
            )
            if is_symmetric:
                index = index[np.tril_indices(shape[0])]
        keep += index.ravel().tolist()
    return [stat_labels(family)[j] for j in keep], keep


def _sparse_rows(null: np.ndarray) -> np.ndarray:
    """Returns a basis of the row space with many zeros, by elimination."""
    rows = null.copy()
    for i in range(len(rows)):
        rest = np.abs(rows[i])
        pivot = int(np.argmax(rest))
        rows[i] /= rows[i, pivot]
        for other in range(len(rows)):
            if other != i:
                rows[other] -= rows[other, pivot] * rows[i]
    return rows


def _equation(coefficients: np.ndarray, mean: np.ndarray, names: list[str]) -> str:
    """Writes a combination of statistics that is constant, such as `T['a'] - 2 T['b'] = 1`."""
    coefficients = np.where(
        np.abs(coefficients) > 1e-6 * np.abs(coefficients).max(), coefficients, 0
    )
    present = coefficients[coefficients != 0]
    coefficients = coefficients / (np.sign(present[0]) * np.abs(present).min())
    constant = float(coefficients @ mean)
    terms = [
        f"{'-' if c < 0 else '+'} {'' if abs(abs(c) - 1) < 1e-6 else f'{abs(c):.4g} '}{name}"
        for c, name in zip(coefficients, names, strict=True)
        if c != 0
    ]
    small = abs(constant) < 1e-7 * (1 + np.abs(coefficients * mean).max())
    return " ".join(terms).removeprefix("+ ") + f" = {0.0 if small else constant:.4g}"


def _smallest_eigenvalue(stats: np.ndarray) -> float:
    sd = stats.std(axis=0)
    if not np.isfinite(stats).all() or not (sd > 0).all():
        return 1.0
    scaled = (stats - stats.mean(axis=0)) / sd
    return float(np.linalg.eigvalsh(scaled.T @ scaled / len(scaled))[0])


def find_base_measure(family, etas, probes) -> Iterator[FamilyFinding]:
    log_h: Any = probes.values[..., -1]
    finite = np.isfinite(log_h)
    largest = np.abs(np.where(finite, log_h, 0.0))
    at = np.unravel_index(np.argmax(largest), largest.shape)
    if family.has_unit_base_measure and largest[at] > 1e-9:
        yield FamilyFinding(
            "base measure",
            "error",
            f"`has_unit_base_measure` is True, but log h is {log_h[at]:.4g}",
            etas[at[0]],
            probes.draws[at],
            "let `has_unit_base_measure` return False",
        )
    if not family.has_unit_base_measure and largest[at] == 0:
        yield FamilyFinding(
            "base measure",
            "warning",
            "log h is 0 at all draws, but `has_unit_base_measure` is False",
            None,
            None,
            "override `has_unit_base_measure` to return True, if h only marks the support. "
            "Otherwise entropies need E[log h]",
        )
