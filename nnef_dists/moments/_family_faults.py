"""Findings from the probes of a family, each with a place and a remedy."""

import math
from collections.abc import Iterator

import numpy as np
from flowjax.bijections import Identity

from nnef_dists.families import ExponentialFamily
from nnef_dists.moments._family_finding import FamilyFinding, stat_labels
from nnef_dists.moments._family_probes import FamilyProbes
from nnef_dists.moments._family_statistics import find_base_measure, find_dependence, find_rounding
from nnef_dists.moments._family_tails import find_edges, find_heavy_tails, find_improper

# Distance below the largest log-density, in nats, at which a point is far from the mass.
_NAN_NATS = 20.0
# Smallest jump, in standard deviations of T or mean sizes of its slope.
_JUMP = 1e-3


def find_faults(
    family: ExponentialFamily, etas: np.ndarray, beyond: np.ndarray, probes: FamilyProbes
) -> list[FamilyFinding]:
    """Returns the findings of the numerical probes.

    Args:
        family: The exponential family.
        etas: Natural parameters, `(m, eta_dim)`.
        beyond: Mask of the etas beyond the ranges, but in the natural domain, `(m,)`.
        probes: The probes of these etas.

    Returns:
        At most a few findings of each kind, each at the worst eta.
    """
    found: list[FamilyFinding] = []
    with np.errstate(invalid="ignore", divide="ignore"):
        found += _support_map(family, probes)
        improper, failures = find_improper(family, etas, beyond, probes)
        kept = ~improper & ~beyond
        part = FamilyProbes(*(array[kept] for array in probes))
        wrong, not_finite = _finiteness(family, etas[kept], part)
        # If T is not finite, a ray beyond the ranges may end early for this reason.
        found += not_finite + [f for f in failures if f.severity == "error" or not not_finite]
        kept[kept] = ~wrong
        if kept.any():
            part = FamilyProbes(*(array[kept] for array in probes))
            checks = (
                find_heavy_tails,
                find_edges,
                _jumps,
                find_rounding,
                find_dependence,
                find_base_measure,
            )
            for check in checks:
                found += check(family, etas[kept], part)
    return found


def _support_map(family, probes) -> Iterator[FamilyFinding]:
    error = np.abs(probes.log_det_error)
    worst = np.max(np.where(np.isfinite(error), error, 0.0))
    if worst > 1e-6:
        yield FamilyFinding(
            "support",
            "error",
            f"log_det of the support differs from log |det| of its Jacobian by {worst:.3g}",
            None,
            None,
            "correct `transform_and_log_det` of the bijection",
        )


def _finiteness(family, etas, probes) -> tuple[np.ndarray, list[FamilyFinding]]:
    """Returns a mask of the etas with points near the mass where T is not finite, and a finding."""
    if not len(etas):
        return np.zeros(0, bool), []
    size = math.prod(family.x_shape)

    def is_bad(values):
        """Returns whether values are not finite. log h may be -inf, outside the support."""
        bad = ~np.isfinite(values)
        bad[..., -1] &= ~np.isneginf(values[..., -1])
        return bad

    x = np.concatenate([probes.far, probes.draws], axis=1)
    values = np.concatenate([probes.far_values, probes.values], axis=1)
    bad = is_bad(values)
    # The first bad point of a ray counts if the density has not decayed at the point before.
    ray_bad = is_bad(probes.ray_values)
    first = np.argmax(np.any(ray_bad, -1), axis=1)
    at = np.arange(len(etas))[:, None], np.maximum(first, 0), np.arange(first.shape[1])
    before = at[0], np.maximum(first - 1, 0), at[2]
    logs = np.where(np.isfinite(probes.ray_logs), probes.ray_logs, -np.inf)
    live = (first > 0) & (logs[before] > np.max(logs, axis=(1, 2))[:, None] - _NAN_NATS)
    reached = np.where(live[..., None], ray_bad[at], False)
    is_fine = ~(np.any(bad, axis=(1, 2)) | np.any(reached, axis=(1, 2)))
    if is_fine.all():
        return ~is_fine, []
    good_x = x[~np.any(bad, -1)].reshape(-1, size)
    bad_x = np.concatenate([x[np.any(bad, -1)].reshape(-1, size),
                            probes.ray_x[at][np.any(reached, -1)].reshape(-1, size)])  # fmt: skip
    bad_values = np.concatenate(
        [values[np.any(bad, -1)], probes.ray_values[at][np.any(reached, -1)]]
    )
    place, remedy = _region(family, bad_x, good_x)
    names = []
    for j, name in enumerate(stat_labels(family)):
        wrong = bad_values[is_bad(bad_values)[:, j], j]
        if len(wrong):
            names.append(f"{name} is {'NaN' if np.isnan(wrong).any() else wrong[0]}")
    nearest = bad_x[np.argmin(np.sum(bad_x**2, axis=1))].reshape(family.x_shape)
    message = f"{', '.join(names)} {place}"
    eta = etas[np.argmin(is_fine)]
    return ~is_fine, [FamilyFinding("not finite", "error", message, eta, nearest, remedy)]


def _region(family, bad: np.ndarray, good: np.ndarray) -> tuple[str, str]:
    """Describes the region of the bad points, and a support that excludes it."""
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
        for text, inside, bijection in regions:
            limited = inside(good).all(axis=0)  # entries of x that are inside at all good points
            if limited.any() and (~inside(bad[:, limited])).any(axis=1).all():
                # The narrowest region that fits is reported: (0, 1) is part of x > 0.
                if bijection == "Exp" and good[:, limited].max() < 1:
                    continue
                entries = (
                    "" if limited.all() else f"[{', '.join(map(str, np.flatnonzero(limited)))}]"
                )
                place = "for " + text.format(entries).replace(" [", "[").replace("x  ", "x ")
                remedy = (
                    f"declare a support, for instance `flowjax.bijections.{bijection}({shape})`"
                )
                if not limited.all():
                    remedy += f" on {'x' + entries} alone"
                return place, remedy
    return "near typical points", (
        "declare the `support` on which T is finite, a flowjax bijection from R^n onto it"
    )


def _jumps(family, etas, probes) -> Iterator[FamilyFinding]:
    names = stat_labels(family)
    for jump, places, name, what in (
        (probes.jump, probes.jump_x, "discontinuity", "jumps between nearby points"),
        (
            probes.slope_jump,
            probes.slope_jump_x,
            "kink",
            "has a gradient that jumps, but `is_smooth` is True",
        ),
    ):
        i, j = np.unravel_index(np.argmax(jump), jump.shape)
        if jump[i, j] <= _JUMP or (name == "kink" and not family.is_smooth):
            continue
        wrong = [names[k] for k in range(len(names)) if jump[:, k].max() > _JUMP]
        yield FamilyFinding(
            name,
            "error",
            f"{', '.join(wrong)} {what}",
            etas[i],
            places[i],
            "override `is_smooth` to return False" if name == "kink" else
            "use a continuous statistic, or a `support` whose edge is at the jump",
        )  # fmt: skip
        return
