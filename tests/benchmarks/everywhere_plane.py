"""The log-partition from one observation to a million: quadrature in two dimensions.

    python tests/benchmarks/everywhere_plane.py [NAME ...] [--batch 64] [--quick]

Etas are posteriors of n observations, from n = 1 to 10^6 (for wells to 10^3, since the grid of the
exact moments ends there): a prior's eta plus n times mean statistics. For each family: the largest
error of the mean in z units in float64 and float32, how many float32 etas have no result,
milliseconds per eta of A and all moments, the median of five runs in processor time (of all cores),
and seconds of compilation, in processor time. Beside them the largest errors in z units of a fixed
grid of 301 x 301 points over the box that holds the density at the least n, and of the Laplace
approximation, in the coordinates of quadrature around the mode.
"""

import functools
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
from nnef_dists.families import AbstractAngularSupport
from nnef_dists.moments import quadrature_moments
from nnef_dists.sampling import transform
from tests.benchmarks.results import Table, main
from tests.planes import PLANES, Plane, exact_fisher_bingham

_POINTS = 301
_NEWTON_STEPS = 50
CASES = {
    **PLANES,
    "Fisher-Bingham": Plane(
        nd.FisherBingham(),
        (0.1, 0.2, 0.3, 0.0, 0.0, 0.0, 0.0, 0.1),
        ((0.6, -0.5, 0.3, 0.1, -0.2, 0.1, 0.2, 0.1), (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.2, 0.1)),
        exact_fisher_bingham,
        # As above.
        largest=1e4,
    ),
}


def _log_density(family, eta, u):
    x, log_det = transform(family, u)
    return family.unnormalized_logdensity(eta, x) + log_det


def _stats(family, u):
    return family.sufficient_statistics(transform(family, u)[0])


def _wide(family):
    line = np.sinh(np.linspace(-6, 6, _POINTS))
    angular = isinstance(family.support, AbstractAngularSupport)
    return line, np.pi * np.linspace(-1, 1, _POINTS) if angular else line


def _mesh(axes):
    return jnp.asarray(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2))


def fixed_grid(family, eta):
    """Returns means by the trapezoidal rule over the box of one eta's density."""
    axes = _wide(family)
    for _ in range(6):
        logs = jax.vmap(functools.partial(_log_density, family, eta))(_mesh(axes))
        logs = np.where(np.isfinite(logs), logs, -np.inf).reshape(_POINTS, _POINTS)
        matters = logs > logs.max() - 40
        ends = []
        for i, axis in enumerate(axes):
            (along,) = np.nonzero(matters.any(1 - i))
            ends.append((axis[max(along[0] - 1, 0)], axis[min(along[-1] + 1, _POINTS - 1)]))
        axes = [np.linspace(low, high, _POINTS) for low, high in ends]
    u = _mesh(axes)
    stats = jax.vmap(functools.partial(_stats, family))(u)

    def mean(eta):
        logs = jax.vmap(functools.partial(_log_density, family, eta))(u)
        weights = jax.nn.softmax(jnp.where(jnp.isfinite(logs), logs, -jnp.inf))
        return weights @ jnp.where(weights[:, None] > 0, stats, 0)

    return mean


def laplace(family):
    """Returns means of the Laplace approximation: the gradient of its A."""
    start = _mesh([axis[::6] for axis in _wide(family)])

    def mean(eta):
        log_density = functools.partial(_log_density, family, eta)
        logs = jax.vmap(log_density)(start)
        u = start[jnp.argmax(jnp.where(jnp.isfinite(logs), logs, -jnp.inf))]

        def newton(_, u):
            values, vectors = jnp.linalg.eigh(jax.hessian(log_density)(u))
            gradient = vectors.T @ jax.grad(log_density)(u)
            step = vectors @ (gradient / jnp.maximum(jnp.abs(values), 1e-12))
            sizes = jnp.exp2(-jnp.arange(12.0))
            trials = u + sizes[:, None] * step
            logs = jax.vmap(log_density)(trials)
            return trials[jnp.argmax(jnp.where(jnp.isfinite(logs), logs, -jnp.inf))]

        u = jax.lax.fori_loop(0, _NEWTON_STEPS, newton, u)
        hessian = jax.hessian(log_density)(u)
        spread = jnp.linalg.inv(-hessian)

        def curvature(u, eta):
            at_eta = functools.partial(_log_density, family, eta)
            return jnp.linalg.slogdet(-jax.hessian(at_eta)(u))[1]

        # The mode moves by the spread times the gradient of T: an implicit derivative.
        moved = jax.jacfwd(functools.partial(_stats, family))(u) @ spread
        by_mode = moved @ jax.grad(curvature)(u, eta)
        return _stats(family, u) - (by_mode + jax.grad(curvature, 1)(u, eta)) / 2

    return mean


def timed(fn, etas):
    """Returns results, milliseconds per eta and seconds of compilation, in processor time."""
    start = time.process_time()
    program = jax.jit(lambda etas: jax.lax.map(jax.vmap(fn), etas)).lower(etas).compile()
    compilation = time.process_time() - start
    result = jax.block_until_ready(program(etas))
    seconds = []
    for _ in range(5):
        start = time.process_time()
        jax.block_until_ready(program(etas))
        seconds.append(time.process_time() - start)
    flat = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), result)
    return flat, 1e3 * np.median(seconds) / (etas.shape[0] * etas.shape[1]), compilation


def planes(options):
    jax.config.update("jax_enable_x64", True)
    table = Table(
        "Quadrature in two dimensions, a fixed grid and the Laplace approximation",
        ["family", "largest error [z units]", "in float32", "no result in float32",
         "largest bound", "ms per eta", "compilation [s]", "fixed grid: largest error",
         "Laplace: largest error"],
    )  # fmt: skip
    for name in options.names:
        case = CASES[name]
        family, etas = case.family, case.etas()
        exact = [case.exact(eta) for eta in etas]
        mean, sd = np.stack([e.mean for e in exact]), np.stack([e.sd for e in exact])
        batch = np.resize(etas, (-(-max(options.batch, len(etas)) // 8), 8, family.eta_dim))

        def error(found, mean=mean, sd=sd):
            z = np.max(np.abs(found[: len(mean)] - mean) / sd, 1)
            return np.max(z, initial=0.0, where=np.isfinite(z))

        moments = functools.partial(quadrature_moments, family)
        double, ms, compilation = timed(moments, batch)
        single, _, _ = timed(moments, batch.astype(np.float32))
        # Of the etas that single precision holds.
        rounded = timed(moments, batch.astype(np.float32).astype(float))[0]
        single_z = np.max(np.abs(single.mean - rounded.mean)[: len(etas)] / sd, 1)
        lost = int(np.isnan(single_z).sum())
        grid = timed(fixed_grid(family, jnp.asarray(etas[0])), batch)[0]
        normal = timed(laplace(family), batch)[0]
        table.add(
            *(name, error(double.mean), np.nanmax(single_z), f"{lost} of {len(etas)}"),
            *(np.max(double.error[: len(etas)]), ms, compilation, error(grid), error(normal)),
        )


def arguments(parser):
    parser.add_argument("names", nargs="*", default=list(CASES))
    parser.add_argument("--batch", type=int, default=64)


if __name__ == "__main__":
    main(__doc__, {"plane": planes}, arguments, {"batch": 8, "names": list(CASES)[:1]})
