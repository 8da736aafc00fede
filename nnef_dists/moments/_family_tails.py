"""Faults of the tails: infinite mass, power laws and edges, from the rays of the probes."""

from collections.abc import Iterator

import numpy as np

from nnef_dists.moments._family_finding import FamilyFinding

# Distance below the largest log-density, in nats, at which an edge has negligible mass.
_EDGE_NATS = 10.0
# Largest tail index that counts as heavy.
_HEAVY_INDEX = 20.0


def _ends(probes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the index of the last finite point of each ray, and two slopes there, all `(m, r)`.

    The slopes are derivatives of the log-mass and the log-density by the log of the radius. Each is
    the least over secants of up to two decades, since a ridge missed at one radius would fake a
    rise.
    """
    finite = np.isfinite(probes.ray_mass) & np.isfinite(probes.ray_logs)
    count = np.where(finite.all(axis=1), finite.shape[1], np.argmin(finite, axis=1))
    last = np.maximum(count - 1, 0)
    return last, _slope(probes, probes.ray_mass, last), _slope(probes, probes.ray_logs, last)


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


def find_improper(family, etas, beyond, probes) -> tuple[np.ndarray, list[FamilyFinding]]:
    """Returns a mask of the etas with infinite mass along a ray, and the findings.

    The mass per log radius is r times the density times the volume across the ray. It must fall.
    """
    last, slope, log_slope = _ends(probes)
    rows, columns = np.indices(last.shape)
    beyond_last = np.minimum(last + 1, probes.ray_logs.shape[1] - 1)
    following = probes.ray_logs[rows, beyond_last, columns]
    x_end = probes.ray_x[rows, last, columns].reshape(*last.shape, -1)
    is_far = (np.abs(np.log(np.abs(x_end))) > 600).any(-1)  # overflow or underflow of x
    # A hard edge, or T that is NaN, is a finding of another kind.
    is_cut = (np.isneginf(following) | np.isnan(following)) & (last < beyond_last) & ~is_far
    at_once = np.isposinf(following) & (last < 3)
    infinite = at_once | (~(slope < -1.005) & ~is_cut)
    improper = infinite.any(axis=1)
    found = []
    for outside in (False, True):
        rows_here = np.flatnonzero(improper & (beyond == outside))
        if (outside and found) or not len(rows_here):
            continue
        excess = np.where(infinite, slope, -np.inf)
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
            + (
                ""
                if trend > 100
                else f", and its mass per log radius goes like r^{slope[i, j] + 1:.2g}"
            )
        )
        everywhere = not outside and len(rows_here) == np.sum(~beyond)
        remedy = (
            "add a statistic that falls in this direction, such as an even power with a negative "
            "parameter, or declare a bounded `support`"
            if everywhere
            else "narrow `natural_domain`"
            + ("" if outside else " and the ranges")
            + " to the etas whose integral exists, by nd.interval or nd.negative, or by "
            "nd.half_space where statistics couple"
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
    return improper, found


def find_heavy_tails(family, etas, probes) -> Iterator[FamilyFinding]:
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


def find_edges(family, etas, probes) -> Iterator[FamilyFinding]:
    """Yields hard edges inside the support, and points near the mass not finite in float32."""
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
