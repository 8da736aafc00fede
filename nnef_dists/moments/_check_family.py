"""Checks of a new family, before any moments are estimated."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from nnef_dists._checks import as_key
from nnef_dists.families import (
    AbstractDiscreteSupport,
    AbstractNamedFamily,
    ClosedDomain,
    ExponentialFamily,
    ProductDomain,
)
from nnef_dists.moments._family_discrete import find_discrete_faults
from nnef_dists.moments._family_faults import find_faults
from nnef_dists.moments._family_finding import FamilyFinding
from nnef_dists.moments._family_probes import probe_family
from nnef_dists.moments._quadrature import quadrature_moments
from nnef_dists.sampling import quadrature_dim

# Largest numbers of etas: drawn from the ranges, at their corners, and beyond them (if valid).
_RANDOM, _CORNERS, _BEYOND = 10, 8, 6
# Number of etas on each declared edge of the natural domain.
_ON_EDGE = 3


@dataclasses.dataclass(frozen=True, repr=False)
class FamilyReport:
    """The findings of `check_family`. Print the report to read them.

    Attributes:
        family: The family, as text.
        findings: The findings, errors first.
        etas: Number of values of eta that were probed.
    """

    family: str
    findings: tuple[FamilyFinding, ...]
    etas: int

    @property
    def errors(self) -> tuple[FamilyFinding, ...]:
        """The findings of severity `"error"`."""
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def warnings(self) -> tuple[FamilyFinding, ...]:
        """The findings of severity `"warning"`."""
        return tuple(f for f in self.findings if f.severity == "warning")

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    def __repr__(self) -> str:
        counts = f"{len(self.errors)} error(s), {len(self.warnings)} warning(s)"
        head = f"FamilyReport of {self.family}, {self.etas} etas: "
        return "\n".join(
            [head + (counts if self.findings else "no findings")]
            + [str(finding) for finding in self.findings]
        )


def check_family(
    family: ExponentialFamily, ranges: Mapping[str, tuple], key: PRNGKeyArray
) -> FamilyReport:
    """Checks a new family over ranges of its natural parameters, in a few seconds.

    Call it before `estimate_moments`. It checks:

    - Shapes, dtypes, and the support's map and log-determinant.
    - That T and log h are finite around typical points and up to the edge of the support.
    - That the density can be normalized, along rays in unconstrained coordinates. The etas are
      random, at corners of the ranges, beyond them, and on declared edges of the domain.
    - Heavy tails, kinks and jumps, hard edges, loss of digits in float32.
    - Linear dependence of the statistics.
    - A closed form, by its gradient and by quadrature or approximate draws.

    For a discrete support, it checks that T is finite and linearly independent, and that sums over
    counts converge. It compares a closed form with sums.

    The checks are numerical and run in float64 on the CPU, even without 64-bit mode. They can miss
    a fault. For example, a statistic that is meant for integers looks like any other function if
    the support is not declared as `Counts()`.

    Example:
        `print(nd.check_family(family, {"x2": (-2.0, -0.5)}, jax.random.key(0)))`

    Args:
        family: The exponential family.
        ranges: Range per statistic, `(low, high)` or `(low, high, "log")`, as for
            `family.sample_eta`.
        key: PRNG key.

    Returns:
        A `FamilyReport`. Each finding has a name, a severity, a place and a remedy.

    Raises:
        ValueError: If `family` is not an instance of `ExponentialFamily`, `key` is not a key, or a
            range is malformed or outside the natural domain.
    """
    if not isinstance(family, ExponentialFamily):
        remedy = ", for example family = MyFamily()" if isinstance(family, type) else ""
        raise ValueError(f"Expected an instance of ExponentialFamily; got {family!r}{remedy}")
    data_key, key = jax.random.split(as_key(key))
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(cpu):
        findings = _static_findings(family)
        if any(finding.severity == "error" for finding in findings):
            return FamilyReport(repr(family), tuple(findings), 0)
        etas, beyond = _choose_etas(family, ranges, jax.device_put(data_key, cpu))
        if isinstance(family.support, AbstractDiscreteSupport):
            found = find_discrete_faults(family, etas, beyond)
            return FamilyReport(repr(family), (*findings, *found), len(etas))
        keys = jax.random.split(jax.device_put(key, cpu), len(etas))
        probes = jax.tree.map(np.asarray, probe_family(family, etas, keys))
        findings += find_faults(family, np.asarray(etas), beyond, probes)
        bad = [f.name for f in findings if f.severity == "error"]
        if isinstance(family, AbstractNamedFamily) and not bad:
            findings += _closed_form_findings(family, etas[: _RANDOM // 2], probes)
    findings.sort(key=lambda finding: finding.severity)
    return FamilyReport(repr(family), tuple(findings), len(etas))


def _static_findings(family: ExponentialFamily) -> list[FamilyFinding]:
    """Returns faults of shapes and dtypes, which need no numerical evaluation."""
    found: list[FamilyFinding] = []

    def error(name: str, message: str, remedy: str):
        found.append(FamilyFinding(name, "error", message, None, None, remedy))

    support = family.support
    for dtype in (jnp.float32, jnp.float64):
        point = jax.ShapeDtypeStruct(family.x_shape, dtype)
        if isinstance(support, AbstractDiscreteSupport):
            if not jnp.issubdtype(support.dtype(dtype), jnp.floating):
                continue
        else:
            u = jax.ShapeDtypeStruct(support.shape, dtype)
            x, log_det = jax.eval_shape(support.transform_and_log_det, u)
            if x.shape != family.x_shape or log_det.shape != ():
                error(
                    "support",
                    f"the support maps onto points of shape {x.shape} with log-determinants of "
                    f"shape {log_det.shape}; x_shape is {family.x_shape}",
                    f"pass the shape to the bijection, for example Exp({family.x_shape}), or "
                    "correct x_shape",
                )
                return found
        stats = jax.eval_shape(lambda x: dict(family.compute_stats(x)), point)
        shapes = {name: jnp.shape(value) for name, value in stats.items()}
        if shapes != family.stat_shapes:
            error("shapes", f"T has shapes {shapes} in {dtype.__name__} and {family.stat_shapes} "
                  "elsewhere", "let shapes depend on x_shape alone")  # fmt: skip
        outputs = {f"T[{name!r}]": value for name, value in stats.items()}
        log_h = jax.eval_shape(family.log_base_measure, point)
        if log_h.shape != ():
            error("shapes", f"log_base_measure returns shape {log_h.shape}",
                  "return a scalar, for example the sum over entries of x")  # fmt: skip
        for name, value in {**outputs, "log_base_measure": log_h}.items():
            if value.dtype != dtype:
                error(
                    "dtype",
                    f"{name} is {value.dtype} if x is {jnp.dtype(dtype)}",
                    "compute with x.dtype: use Python numbers for constants, or "
                    "jnp.asarray(constant, x.dtype), and .astype(x.dtype) for the results of "
                    "comparisons and of jnp.where between numbers",
                )
        if found:
            break
    return found


def _choose_etas(
    family: ExponentialFamily, ranges: Mapping[str, tuple], key: Array
) -> tuple[Array, np.ndarray]:
    """Returns etas, and a mask of the valid etas beyond the ranges."""
    few = 1 if family.unconstrained_dim <= 40 else 2
    draw_key, corner_key, beyond_key = jax.random.split(key, 3)
    drawn = family.sample_eta(draw_key, _RANDOM // few, ranges, dtype=jnp.float64)
    corners = _corners(family, ranges, corner_key, _CORNERS // few)
    coordinates = jax.vmap(family.unconstrain_eta)(drawn[: _BEYOND // few])
    shifts = 1.5 * jax.random.rademacher(beyond_key, coordinates.shape, jnp.float64)
    beyond = jax.vmap(family.constrain_eta)(coordinates + shifts)
    domain = family.natural_domain
    edges = domain.edges if isinstance(domain, ClosedDomain) else ()
    for edge in edges:
        parts = jax.vmap(family.unflatten_stats_or_eta)(drawn[:_ON_EDGE])
        on_edge = jax.vmap(lambda p, edge=edge: family.flatten_stats_or_eta(edge.project(p)))(parts)
        corners = jnp.concatenate([corners, on_edge])
    etas = jnp.concatenate([drawn, corners, beyond])
    etas = etas.astype(jnp.float32).astype(jnp.float64)
    is_beyond = np.arange(len(etas)) >= len(etas) - len(beyond)
    valid = np.asarray(jax.vmap(family.is_valid_eta)(etas))
    # The program is compiled for one number of etas, so an invalid eta is replaced by the first.
    return etas[np.where(valid, np.arange(len(etas)), 0)], is_beyond & valid


def _corners(
    family: ExponentialFamily, ranges: Mapping[str, tuple], key: Array, count: int
) -> Array:
    """Returns etas at corners of the ranges, `(count, eta_dim)`.

    In a coupled domain some corners may be invalid.
    """
    names, domain = list(family.stat_shapes), family.natural_domain
    domain = domain.inside if isinstance(domain, ClosedDomain) else domain
    random = jax.random.bernoulli(key, shape=(count - 2, len(names)))
    sides = [[0] * len(names), [1] * len(names), *np.asarray(random, int).tolist()]
    found = []
    for side in sides:
        ends = {name: ranges[name][end] for name, end in zip(names, side, strict=True)}
        if isinstance(domain, ProductDomain):
            box = {name: (end, end) for name, end in ends.items()}
            found.append(family.sample_eta(key, 1, box, dtype=jnp.float64)[0])
        else:
            parts = {name: jnp.broadcast_to(jnp.asarray(ends[name], jnp.float64), shape)
                     for name, shape in family.stat_shapes.items()}  # fmt: skip
            found.append(family.flatten_stats_or_eta(parts))
    return jnp.stack(found)


@functools.partial(jax.jit, static_argnums=0)
def _closed_form(family: Any, etas: Array) -> tuple[Array, Array, Array]:
    log_partition, gradient = jax.vmap(jax.value_and_grad(family.log_partition))(etas)
    return log_partition, gradient, jax.vmap(family.mean)(etas)


def _closed_form_findings(family: Any, etas: Array, probes: Any) -> list[FamilyFinding]:
    """Compares a closed form with its own gradient, with quadrature and with draws."""
    found: list[FamilyFinding] = []
    log_partition, gradient, mean = map(np.asarray, _closed_form(family, etas))
    n = len(etas)
    stats = probes.values[:n, :, :-1]
    sd = np.std(stats, axis=1)
    sd = np.where(sd > 0, sd, 1.0)

    def compare(truth: np.ndarray, tolerance: float, source: str):
        z = np.abs(mean - truth) / sd
        z = np.where(np.isfinite(z), z, np.inf)
        i, j = np.unravel_index(np.argmax(z), z.shape)
        if z[i, j] > tolerance:
            found.append(
                FamilyFinding(
                    "closed form",
                    "error",
                    f"mean of {family.stat_names[j]!r} is {mean[i, j]:.6g}, but {source} is "
                    f"{truth[i, j]:.6g} ({z[i, j]:.2g} sd(T) apart)",
                    np.asarray(etas[i]),
                    None,
                    "correct `mean` or `log_partition`: the gradient of A is E[T]",
                )
            )

    compare(gradient, 1e-4, "the gradient of log_partition")
    if quadrature_dim(family) > 2:
        # The walkers of the ensemble are autocorrelated, with a standard error of about 0.06 sd(T).
        compare(np.mean(stats, axis=1), 0.5, "the mean of approximate draws")
        return found
    exact = [jax.tree.map(np.asarray, quadrature_moments(family, eta)) for eta in etas[:2]]
    known = [e.error < 1e-4 and np.isfinite(e.log_partition) for e in exact]
    mean, sd = mean[:2], sd[:2]
    truth = np.array([e.mean if k else m for e, k, m in zip(exact, known, mean, strict=True)])
    compare(truth, 1e-3, "quadrature")
    for eta, value, e, k in zip(etas, log_partition, exact, known, strict=False):
        if k and abs(value - e.log_partition) > 1e-3 * (1 + abs(e.log_partition)):
            found.append(
                FamilyFinding(
                    "closed form",
                    "error",
                    f"log_partition is {value:.6g}, but quadrature is {e.log_partition:.6g}",
                    np.asarray(eta),
                    None,
                    "correct `log_partition`: exp(A) is the integral of h(x) exp(eta . T(x))",
                )
            )
            break
    return found
