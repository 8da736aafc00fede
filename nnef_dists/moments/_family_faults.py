"""Judgements on the probes of a family: each fault with a place and a remedy."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from flowjax.bijections import Identity

from nnef_dists.families import ExponentialFamily
from nnef_dists.moments._family_probes import FamilyProbes

# A density that has lost this many nats at an edge has no mass there that matters.
_EDGE_NATS, _NAN_NATS = 10.0, 20.0
# Tails up to this index count as heavy.
_HEAVY_INDEX = 20.0
# Errors of a float32 log-density, in nats: of these a warning, of those an error.
_ROUNDING_WARNING, _ROUNDING_ERROR = 0.05, 1.0
_JUMP = 1e-3
_DEPENDENT, _COLLINEAR = 1e-9, 1e-6


@dataclasses.dataclass(frozen=True)
class FamilyFinding:
    """One fault of a family.

    Attributes:
        name: A short name of the kind of fault.
        severity: `"error"` if moments would be wrong or missing, `"warning"` otherwise.
        message: The fault.
        eta: The flat natural parameters at which it was found, or None.
        x: The point at which it was found, or None.
        remedy: What to do.
    """

    name: str
    severity: Literal["error", "warning"]
    message: str
    eta: np.ndarray | None
    x: np.ndarray | None
    remedy: str

    def __str__(self) -> str:
        places = [
            f"{name} = {np.array2string(np.asarray(value), precision=4, threshold=12)}"
            for name, value in (("eta", self.eta), ("x", self.x))
            if value is not None
        ]
        where = "\n    where: " + ", ".join(places).replace("\n", "") if places else ""
        return f"{self.severity}: {self.name}: {self.message}{where}\n    remedy: {self.remedy}"


def find_faults(
    family: ExponentialFamily, etas: np.ndarray, beyond: np.ndarray, probes: FamilyProbes
) -> list[FamilyFinding]:
    """Returns the findings of the numerical probes.

    Args:
        family: The exponential family.
        etas: Natural parameters, `(m, eta_dim)`.
        beyond: Which etas lie beyond the ranges, though in the natural domain, `(m,)`.
        probes: The probes of these etas.

    Returns:
        At most a few findings of each kind, the worst eta of each.
    """
    found: list[FamilyFinding] = []
    found += _support_map(family, probes)
    not_finite, finite_etas = _finiteness(family, etas, probes)
    found += not_finite
    failures, proper = _integrability(family, etas, beyond, probes, finite_etas)
    found += failures
    good = proper & ~beyond
    if good.any():
        part = FamilyProbes(*(array[good] for array in probes))
        found += _heavy_tails(family, etas[good], part)
        found += _edges(family, etas[good], part)
        found += _jumps(family, etas[good], part)
        found += _rounding(family, etas[good], part)
        found += _dependence(family, etas[good], part)
        found += _base_measure(family, etas[good], part)
    return found


def _names(family: ExponentialFamily) -> list[str]:
    return [f"T[{name!r}]" for name in family.stat_names] + ["log h"]


def _support_map(family, probes) -> Iterator[FamilyFinding]:
    error = np.abs(probes.log_det_error)
    error = np.where(np.isfinite(error), error, 0.0)
    worst = np.unravel_index(np.argmax(error), error.shape)
    if error[worst] > 1e-6:
        yield FamilyFinding(
            "support",
            "error",
            f"log_det of the support differs from log |det| of its Jacobian by {error[worst]:.3g}",
            None,
            probes.far[worst],
            "correct `transform_and_log_det` of the bijection",
        )


# ------------------------------------------------------------------------- where T is not finite


def _finiteness(family, etas, probes) -> tuple[list[FamilyFinding], np.ndarray]:
    """Finds points near the mass at which T is not finite; returns etas without such points too."""
    size = math.prod(family.x_shape)
    # Of log h, -inf is allowed: it marks points outside the support.
    def is_bad(values):
        bad = ~np.isfinite(values)
        bad[..., -1] &= ~np.isneginf(values[..., -1])
        return bad

    x = np.concatenate([probes.far, probes.draws], axis=1)
    values = np.concatenate([probes.far_values, probes.values], axis=1)
    bad = is_bad(values)
    # On a ray, beyond the last valid point, if the density has not decayed there.
    ray_bad = is_bad(probes.ray_values)
    first = np.argmax(np.any(ray_bad, -1), axis=1)
    at = np.arange(len(etas))[:, None], np.maximum(first, 0), np.arange(first.shape[1])
    before = at[0], np.maximum(first - 1, 0), at[2]
    logs = np.where(np.isfinite(probes.ray_logs), probes.ray_logs, -np.inf)
    live = (first > 0) & (logs[before] > np.max(logs, axis=(1, 2))[:, None] - _NAN_NATS)
    reached = np.where(live[..., None], ray_bad[at], False)
    is_fine = ~(np.any(bad, axis=(1, 2)) | np.any(reached, axis=(1, 2)))
    if is_fine.all():
        return [], is_fine
    good_x = x[~np.any(bad, -1)].reshape(-1, size)
    bad_x = np.concatenate([x[np.any(bad, -1)].reshape(-1, size),
                            probes.ray_x[at][np.any(reached, -1)].reshape(-1, size)])  # fmt: skip
    bad_values = np.concatenate([values[np.any(bad, -1)], probes.ray_values[at][np.any(reached, -1)]])
    place, remedy = _region(family, bad_x, good_x)
    names = []
    for j, name in enumerate(_names(family)):
        wrong = bad_values[is_bad(bad_values)[:, j], j]
        if len(wrong):
            names.append(f"{name} is {'NaN' if np.isnan(wrong).any() else wrong[0]}")
    nearest = bad_x[np.argmin(np.sum(bad_x**2, axis=1))].reshape(family.x_shape)
    message = f"{', '.join(names)} {place}"
    eta = etas[np.argmin(is_fine)]
    return [FamilyFinding("not finite", "error", message, eta, nearest, remedy)], is_fine


def _region(family, bad: np.ndarray, good: np.ndarray) -> tuple[str, str]:
    """Describes where x is bad, and the support that leaves these points out."""
    shape = str(family.x_shape) if family.x_shape else ""
    if not isinstance(family.support, Identity):
        return "on the declared support", (
            "correct T, or declare the support onto which it is finite; at points that rounding "
            "puts on the edge keep T finite and let log h be -inf"
        )
    if len(good):
        regions = (
            ("x {} < 0", lambda x: x > 0, "Exp"),
            ("x {} outside (0, 1)", lambda x: (x > 0) & (x < 1), "Sigmoid"),
            ("x {} outside (-1, 1)", lambda x: np.abs(x) < 1, "Tanh"),
        )
        for text, inside, bijection in regions[::1]:
            limited = inside(good).all(axis=0)  # entries of x that are inside at all good points
            if limited.any() and (~inside(bad[:, limited])).any(axis=1).all():
                # The narrowest region that fits: (0, 1) is part of x > 0.
                if bijection == "Exp" and good[:, limited].max() < 1:
                    continue
                entries = "" if limited.all() else f"[{', '.join(map(str, np.flatnonzero(limited)))}]"
                place = "for " + text.format(entries).replace(" [", "[").replace("x  ", "x ")
                remedy = f"declare a support, for instance `flowjax.bijections.{bijection}({shape})`"
                if not limited.all():
                    remedy += f" on {'x' + entries} alone"
                return place, remedy
    return "near typical points", (
        "declare the `support` on which T is finite, a flowjax bijection from R^n onto it"
    )


# --------------------------------------------------------------------------------- integrability


def _ends(probes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each ray ends `(m, r)`: the index of its last finite point, and two slopes there.

    The slopes are those of the mass and of the log-density over the log of the radius, the least
    over secants of up to two decades: a ridge that was not found at one radius would fake a rise.
    """
    finite = np.isfinite(probes.ray_mass) & np.isfinite(probes.ray_logs)
    count = np.where(finite.all(axis=1), finite.shape[1], np.argmin(finite, axis=1))
    last = np.maximum(count - 1, 0)
    return last, *(
        _slope(probes, values, last) for values in (probes.ray_mass, probes.ray_logs)
    )


def _slope(probes, values: np.ndarray, last: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(last.shape)
    radii = np.log(probes.radii)
    slopes = np.full(last.shape, np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        for back in range(3, 11):
            start = last - back
            at = rows, np.maximum(start, 0), columns
            rise = values[rows, last, columns] - values[at]
            slope = rise / (radii[rows, last] - radii[rows, at[1]])
            slopes = np.where(start >= 0, np.fmin(slopes, slope), slopes)
    return np.where(last >= 3, slopes, -np.inf)


def _integrability(family, etas, beyond, probes, finite_etas):
    """Finds etas whose density has infinite mass along a ray; returns the etas without such too.

    Mass per log radius is r times density times the volume across the ray: its logarithm must fall.
    """
    last, slope, log_slope = _ends(probes)
    rows, columns = np.indices(last.shape)
    beyond_last = np.minimum(last + 1, probes.ray_logs.shape[1] - 1)
    following = probes.ray_logs[rows, beyond_last, columns]
    x_end = probes.ray_x[rows, last, columns].reshape(*last.shape, -1)
    with np.errstate(divide="ignore"):
        is_far = (np.abs(np.log(np.abs(x_end))) > 600).any(-1)  # overflow or underflow of x
    ends_at_wall = np.isneginf(following) & (last < beyond_last) & ~is_far
    ends_at_nan = np.isnan(following) & ~is_far & ~finite_etas[:, None]
    falls = slope < -1.005
    infinite = np.isposinf(following) | (~falls & ~ends_at_wall & ~ends_at_nan)
    improper = infinite.any(axis=1)
    found = []
    for outside in (False, True):
        rows_here = np.flatnonzero(improper & (beyond == outside))
        if outside and found or not len(rows_here):
            continue
        excess = np.where(infinite, np.where(np.isposinf(following), np.inf, slope), -np.inf)
        i = rows_here[np.argmax(excess[rows_here].max(axis=1))]
        j = int(np.argmax(excess[i]))
        v = probes.directions[i, last[i, j], j]
        trend = log_slope[i, j]
        toward = np.array2string(v, precision=3, suppress_small=True)
        of = f"{len(rows_here)} of {int(np.sum(beyond == outside))} etas"
        message = (
            f"at {of}{' beyond the ranges' if outside else ''} the density "
            + ("grows" if trend > 0.1 else "is constant" if trend > -0.1 else "falls too slowly")
            + f" along u = r * {toward}"
            + ("" if trend > 100 else f", and its mass per log radius goes like r^{slope[i, j] + 1:.2g}")
        )
        everywhere = not outside and len(rows_here) == np.sum(~beyond)
        remedy = (
            "add a statistic that falls in this direction, such as an even power with a negative "
            "parameter, or declare a bounded `support`"
            if everywhere
            else "narrow `natural_domain`"
            + ("" if outside else " and the ranges")
            + " to the etas whose integral exists, for example by nd.interval or nd.negative"
        )
        found.append(
            FamilyFinding(
                "not integrable",
                "warning" if outside else "error",
                message,
                etas[i],
                probes.ray_x[i, last[i, j], j],
                remedy,
            )
        )
    return found, ~improper & finite_etas


def _heavy_tails(family, etas, probes) -> Iterator[FamilyFinding]:
    last, slope, _ = _ends(probes)
    end = probes.ray_mass.shape[1] - 1
    middle = _slope(probes, probes.ray_mass, np.full_like(last, end // 2))
    with np.errstate(invalid="ignore"):
        steady = np.abs(middle - slope) < 0.05 * np.abs(slope)
    index = -(slope + 1)
    heavy = (last == end) & steady & (index < _HEAVY_INDEX)
    if heavy.any():
        lowest = np.where(heavy, index, np.inf)
        i, j = np.unravel_index(np.argmin(lowest), lowest.shape)
        toward = np.array2string(probes.directions[i, -1, j], precision=3, suppress_small=True)
        yield FamilyFinding(
            "heavy tail",
            "warning",
            f"at {int(heavy.any(axis=1).sum())} of {len(etas)} etas a tail falls like a power: "
            f"P(|u| > r) like r^-{lowest[i, j]:.3g} along u = r * {toward} at the slowest",
            etas[i],
            None,
            "declare a `support` that compresses the tail, or stay away from small exponents, and "
            "look at the status of each label",
        )


def _edges(family, etas, probes) -> Iterator[FamilyFinding]:
    """Hard edges inside the declared support, and those that float32 reaches too early."""
    last, slope, _ = _ends(probes)
    rows, columns = np.indices(last.shape)
    top = np.nanmax(np.where(np.isfinite(probes.ray_logs), probes.ray_logs, -np.inf), axis=(1, 2))
    following = np.minimum(last + 1, probes.ray_logs.shape[1] - 1)
    log_end = probes.ray_logs[rows, last, columns]
    wall = np.isneginf(probes.ray_logs[rows, following, columns]) & (last < following)
    wall &= (log_end > top[:, None] - _EDGE_NATS) | (slope > -1)
    if wall.any():
        i, j = np.argwhere(wall)[0]
        yield FamilyFinding(
            "hard edge",
            "warning",
            f"log h is -inf beyond a point at which the density is {top[i] - log_end[i, j]:.3g} "
            "nats below its maximum: HMC rejects there",
            etas[i],
            probes.ray_x[i, following[i, j], j],
            "declare the `support`, a bijection from R^n onto the points where h > 0",
        )
    finite = np.isfinite(probes.ray_values[..., :-1]).all(-1) & np.isfinite(probes.ray_logs)
    live = finite & (probes.ray_logs > top[:, None, None] - _EDGE_NATS)
    lost = live & ~probes.ray_is_finite_32 & np.isfinite(probes.ray_values[..., -1])
    if lost.any():
        i, k, j = np.argwhere(lost)[0]
        yield FamilyFinding(
            "float32 range",
            "warning",
            f"T or log h is not finite in float32 at a point that is only "
            f"{top[i] - probes.ray_logs[i, k, j]:.3g} nats below the maximum",
            etas[i],
            probes.ray_x[i, k, j],
            "keep T finite where rounding puts x on the edge of the support (clip it and let log h "
            "be -inf), scale x down, or use float64 etas",
        )


def _jumps(family, etas, probes) -> Iterator[FamilyFinding]:
    names = _names(family)
    for jump, places, name, what, severity in (
        (probes.jump, probes.jump_x, "discontinuity", "jumps", "error"),
        (probes.slope_jump, probes.slope_jump_x, "kink", "has a gradient that jumps", "error"),
    ):
        i, j = np.unravel_index(np.argmax(jump), jump.shape)
        if jump[i, j] <= _JUMP or (name == "kink" and not family.is_smooth):
            continue
        wrong = [names[k] for k in range(len(names)) if jump[:, k].max() > _JUMP]
        yield FamilyFinding(
            name,
            severity,
            f"{', '.join(wrong)} {what}, but `is_smooth` is {family.is_smooth}",
            etas[i],
            places[i],
            "override `is_smooth` to return False" if name == "kink" else
            "use a continuous statistic, or a `support` whose edge is at the jump",
        )  # fmt: skip
        return


# ------------------------------------------------------------------------ rounding and dependence


def _rounding(family, etas, probes) -> Iterator[FamilyFinding]:
    noise = np.nanstd(np.where(np.isfinite(probes.rounding), probes.rounding, np.nan), axis=1)
    sd = np.std(probes.values, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.sqrt(np.mean(probes.value_rounding**2, axis=1)) / sd
    relative = np.where(np.isfinite(relative) & (sd > 0), relative, 0.0)[:, :-1]
    i = int(np.nanargmax(noise))
    if noise[i] <= _ROUNDING_WARNING and relative.max() <= 0.01:
        return
    if noise[i] <= _ROUNDING_WARNING:
        i = int(np.argmax(relative.max(axis=1)))
    j = int(np.argmax(relative[i]))
    size = np.median(np.abs(probes.values[i, :, :-1] @ etas[i]))
    yield FamilyFinding(
        "cancellation",
        "error" if noise[i] > _ROUNDING_ERROR else "warning",
        f"float32 rounds the log-density by {noise[i]:.2g} nats at typical draws (|eta . T| is "
        f"{size:.2g}), and {_names(family)[j]} by {relative[i, j]:.2g} sd(T)",
        etas[i],
        np.median(probes.draws[i], axis=0),
        "center and scale x, so that T is of order one, or use float64 etas (JAX_ENABLE_X64=1)",
    )


def _dependence(family, etas, probes) -> Iterator[FamilyFinding]:
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
    """Names and positions of statistics, without the upper triangle of symmetric ones."""
    keep, start = [], 0
    for shape in family.stat_shapes.values():
        index = start + np.arange(math.prod(shape)).reshape(shape)
        start += math.prod(shape)
        if len(shape) == 2 and shape[0] == shape[1]:
            is_symmetric = all(
                np.array_equal(part[..., index], part[..., index.T])
                for part in (probes.values, etas)
            )
            if is_symmetric:
                index = index[np.tril_indices(shape[0])]
        keep += index.ravel().tolist()
    return [_names(family)[j] for j in keep], keep


def _sparse_rows(null: np.ndarray) -> np.ndarray:
    """A basis of the same rows with many zeros, by elimination."""
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
    scale = coefficients[np.argmax(np.abs(coefficients) * (1 + np.abs(mean)))]
    coefficients = coefficients / scale
    constant = float(coefficients @ mean)
    terms = [
        f"{'-' if c < 0 else '+'} {'' if abs(abs(c) - 1) < 1e-6 else f'{abs(c):.4g} '}{name}"
        for c, name in zip(coefficients, names, strict=True)
        if abs(c) > 1e-6
    ]
    small = abs(constant) < 1e-7 * (1 + np.abs(coefficients * mean).max())
    return " ".join(terms).removeprefix("+ ") + f" = {0.0 if small else constant:.4g}"


def _smallest_eigenvalue(stats: np.ndarray) -> float:
    sd = stats.std(axis=0)
    if not np.isfinite(stats).all() or not (sd > 0).all():
        return 1.0
    scaled = (stats - stats.mean(axis=0)) / sd
    return float(np.linalg.eigvalsh(scaled.T @ scaled / len(scaled))[0])


def _base_measure(family, etas, probes) -> Iterator[FamilyFinding]:
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
            "log h is 0 at all draws, but `has_unit_base_measure` is False: entropies need E[log h]",
            None,
            None,
            "override `has_unit_base_measure` to return True, if h only marks the support",
        )
