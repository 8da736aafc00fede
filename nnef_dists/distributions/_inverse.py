"""The inverse of the moment map: natural parameters of given mean parameters."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int

from nnef_dists.distributions._curvature import covariance_and_mean
from nnef_dists.families import edge_charts
from nnef_dists.networks import AbstractMomentNetwork

if TYPE_CHECKING:
    from nnef_dists.distributions._base import AbstractTractableFamily

_STEPS = 200
# Factor of the damping between steps, least damping after a rejection, and damping that ends.
_DAMPING = 8.0
_LEAST_DAMPING = 1e-3
_LARGEST_DAMPING = 1e6
# Largest slope at the end of a step, relative to the slope at its start, of a step that is kept.
_OVERSHOOT = 0.9
# Largest factor by which a step may change the size of d eta / d u.
_MOST_STRETCH = 20.0
# Start of a second search, as a part of the way from an edge to the middle of the domain.
_BESIDE = 1e-4
# Rounding error of mu, in units of eps (sd(T) + |mu|).
_ROUNDINGS = 4.0
# Weight of one unit of distance to the training region, in whitened z units.
_WALL = 10.0


class _Point(NamedTuple):
    """A point of the search, without the slope in its coordinates u.

    Attributes:
        place: Coordinates in which the function is convex, or nearly so.
        gradient: Gradient of the function in these coordinates.
        stretch: Size of d eta / d u, for each entry of u.
        hessian: Second derivative of the function in u, at a solution.
        misfit: The largest |mu(eta) - mu|, divided by its rounding.
        found: Whether mu(eta) is mu within sqrt(eps), in z units.
    """

    place: Float[Array, " k"]
    gradient: Float[Array, " k"]
    stretch: Float[Array, " m"]
    hessian: Float[Array, "m m"]
    misfit: Float[Array, ""]
    found: Bool[Array, ""]


class _State(NamedTuple):
    """The next trial, the slope and `_Point` of the best point, and the damping."""

    trial: Float[Array, " m"]
    slope: Float[Array, " m"]
    best: _Point
    damping: Float[Array, ""]


@final
class _DampedNewton(optx.AbstractRootFinder):
    """Newton's method for the stationary point of a convex function.

    The root-finding problem returns the slope in u, and a `_Point`. A step is kept if the slope
    along it does not change its sign to more than nine tenths of its size, or if the misfit halves.
    A step that changes d eta / d u by a large factor is not kept. Then the damping grows. The value
    of the function is not used, because its rounding hides the last half of all digits.
    """

    # Optimistix requires these fields. The search ends at the rounding of mu, without a tolerance.
    rtol: float = 0.0
    atol: float = 0.0
    norm: Callable[[Any], Any] = optx.max_norm

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        """Returns a state without a best point, so that the first trial is kept."""
        best = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), aux_struct)
        best = best._replace(misfit=jnp.full((), jnp.inf, y.dtype))
        return _State(y, jnp.zeros_like(y), best, jnp.ones((), y.dtype))

    def step(self, fn, y, args, options, state, tags):
        """Evaluates the trial, keeps or rejects it, and proposes the next trial."""
        slope, here = fn(state.trial, args)
        best = state.best
        move = here.place - best.place
        before, after = jnp.sum(move * best.gradient), jnp.sum(move * here.gradient)
        falls = (before < 0) & (after <= -_OVERSHOOT * before)
        falls |= here.misfit < best.misfit / 2
        # A long step along a coordinate such as a logarithm would end at an edge, or far beyond.
        ratio = here.stretch / best.stretch
        falls &= jnp.all((ratio < _MOST_STRETCH) & (ratio > 1 / _MOST_STRETCH))
        falls |= jnp.isinf(best.misfit)
        kept = falls & jnp.all(jnp.isfinite(slope)) & jnp.all(jnp.isfinite(here.hessian))

        def pick(new, old):
            return jax.tree.map(lambda a, b: jnp.where(kept, a, b), new, old)

        y, slope, best = pick((state.trial, slope, here), (y, state.slope, best))
        eps = jnp.finfo(y.dtype).eps.astype(y.dtype)
        smaller = jnp.where(state.damping > eps, state.damping / _DAMPING, 0)
        # The first rejected step of full length is tried again with a noticeable damping.
        larger = jnp.maximum(state.damping * _DAMPING, _LEAST_DAMPING)
        damping = jnp.where(kept, smaller, larger).astype(y.dtype)
        diagonal = jnp.abs(jnp.diagonal(best.hessian))
        scale = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
        matrix = best.hessian / jnp.outer(scale, scale) + damping * jnp.eye(len(y), dtype=y.dtype)
        direction = jnp.linalg.solve(matrix, slope / scale) / scale
        return y, _State(y - direction, slope, best, damping), best

    def terminate(self, fn, y, args, options, state, tags):
        """Returns whether mu is met within rounding, or no step is kept."""
        ends = (state.best.misfit <= 1) | (state.damping > _LARGEST_DAMPING)
        return ends, optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        """Returns the best point."""
        return y, aux, {}


def invert_mean(
    q: "AbstractTractableFamily", mu: Float[Array, " eta_dim"]
) -> tuple[Float[Array, " eta_dim"], Bool[Array, ""]]:
    """Solves mu(eta) = mu for eta by minimizing the convex function A(eta) - eta . mu.

    Damped Newton steps in the unconstrained coordinates u of eta, from u = 0, solve

        K^T (mu(eta(u)) - mu) = 0,    K = d eta / d u

    with the curvature K^T Cov K. Derivatives in mu and in arrays of q follow from the implicit
    function theorem. Each declared edge of the natural domain is also searched, in separate
    coordinates. The result is the solution with the smallest misfit.

    Args:
        q: A tractable family whose A is convex.
        mu: Mean parameters, `(eta_dim,)`.

    Returns:
        The eta, `(eta_dim,)`, and whether its mean is within sqrt(eps) of mu, in z units.

    Reference:
        Nocedal and Wright, *Numerical Optimization* (2006), section 3.4. Wainwright and Jordan,
        *Graphical Models, Exponential Families, and Variational Inference* (2008), section 3.6,
        for the convex dual.
    """
    us, choice, found = _search(q, mu)
    charts = _charts(q)
    etas = [constrain(u) for u, (_, constrain) in zip(us, charts, strict=True)]
    return jax.lax.select_n(choice, *etas) if len(etas) > 1 else etas[0], found


_Chart = tuple[int, Callable[[Array], Array]]


def _charts(q: "AbstractTractableFamily") -> list[_Chart]:
    """Returns the charts of the domain and of its edges: numbers of coordinates, maps to eta."""
    return [(q.family.unconstrained_dim, q.family.constrain_eta), *edge_charts(q.family)]


def _stationarity(q: "AbstractTractableFamily", constrain: Callable[[Array], Array]) -> Callable:
    """Returns the root-finding problem in the coordinates of a chart."""

    def stationarity(u, mu):
        eta, tangents = constrain(u), jax.jacfwd(constrain)(u)
        covariance, mean = covariance_and_mean(q, eta)
        gradient = mean - mu
        hessian = tangents.T @ covariance @ tangents
        stretch = jnp.max(jnp.abs(tangents), 0)
        fit = _fit(gradient, jnp.sqrt(jnp.diagonal(covariance)), mu)
        return tangents.T @ gradient, _Point(eta, gradient, stretch, hessian, *fit)

    return stationarity


# The derivative of the root-finding problem would fail if one chart had no solution.
@eqx.filter_custom_jvp
def _search(
    q: "AbstractTractableFamily", mu: Float[Array, " eta_dim"]
) -> tuple[list[Array], Int[Array, ""], Bool[Array, ""]]:
    """Returns coordinates in each chart, the best chart, and whether its solution meets mu."""
    family, charts = q.family, _charts(q)
    edges = [
        _solve(_stationarity(q, constrain), jnp.zeros(size, mu.dtype), mu)
        for size, constrain in charts[1:]
    ]
    origin = jnp.zeros(family.unconstrained_dim, mu.dtype)
    starts = [origin]
    for (u, _), (_, constrain) in zip(edges, charts[1:], strict=True):
        beside = (1 - _BESIDE) * constrain(u) + _BESIDE * family.constrain_eta(origin)
        starts.append(family.unconstrain_eta(beside))
    inner = _stationarity(q, family.constrain_eta)
    us, points = jax.vmap(lambda u: _solve(inner, u, mu))(jnp.stack(starts))
    best = jnp.argmin(_misfit(points))
    found = [jax.tree.map(lambda leaf: leaf[best], (us, points)), *edges]
    misfits = jnp.stack([_misfit(point) for _, point in found])
    choice = jnp.argmin(misfits)
    # The coordinates of other solutions may be infinite.
    us = [jnp.where(choice == number, u, 0) for number, (u, _) in enumerate(found)]
    return us, choice, jnp.any(jnp.isfinite(misfits))


@_search.def_jvp
def _search_jvp(primals, tangents):
    (q, mu), (q_tangent, mu_tangent) = primals, tangents
    us, choice, found = _search(q, mu)
    changes = []
    for number, (u, (_, constrain)) in enumerate(zip(us, _charts(q), strict=True)):
        point = _stationarity(q, constrain)(u, mu)[1]
        eta, chosen = constrain(u), (choice == number) & found
        mean_tangent = eqx.filter_jvp(lambda q, eta=eta: q._mean(eta), (q,), (q_tangent,))[1]
        # None is a tangent of zero.
        slope = jnp.zeros_like(mu) if mu_tangent is None else mu_tangent
        slope = slope if mean_tangent is None else slope - mean_tangent
        slope = jax.jacfwd(constrain)(u).T @ slope
        hessian = jnp.where(chosen, point.hessian, jnp.eye(len(u), dtype=u.dtype))
        change = jnp.where(chosen, jnp.linalg.solve(hessian, slope), 0)
        changes.append(change * jnp.where(found, 1, jnp.nan).astype(u.dtype))
    return (us, choice, found), (changes, None, None)


def invert_network(
    q: "AbstractTractableFamily", network: AbstractMomentNetwork, mu: Float[Array, " eta_dim"]
) -> tuple[Float[Array, " eta_dim"], Bool[Array, ""]]:
    """Solves mu(eta) = mu for eta, in the training region.

    This search is like `invert_mean`, but in the standardized coordinates x of eta. It starts from
    the training example under which mu is most probable, for independent normal errors of size
    sd(T). Outside the training region, the squared distance to the region is added to the function,
    because the extrapolation of a network may meet mu anywhere.

    Args:
        q: The amortized family.
        network: Its network.
        mu: Mean parameters, `(eta_dim,)`.

    Returns:
        The eta, `(eta_dim,)`, and whether it is in the training region and its mean within
        sqrt(eps) of mu, in z units.
    """
    coordinates = network.standardization

    def outside(x):
        excess = coordinates.region.excess(x)
        return excess, excess

    def stationarity(x, given):
        q, mu = given
        eta, tangents = coordinates.eta_at(x), jax.jacfwd(coordinates.eta_at)(x)
        covariance, mean = covariance_and_mean(q, eta)
        walls, excess = jax.jacfwd(outside, has_aux=True)(x)
        slope = tangents.T @ (mean - mu) + _WALL**2 * (excess @ walls)
        hessian = tangents.T @ covariance @ tangents + _WALL**2 * (walls.T @ walls)
        fit = _fit(mean - mu, coordinates.rough_sd(x), mu)
        return slope, _Point(x, slope, jnp.ones_like(x), hessian, *fit)

    start = _start(*jax.lax.stop_gradient((network, mu)))
    x, point = _solve(stationarity, start, (q, mu))
    return coordinates.eta_at(x), point.found & coordinates.is_inside(x)


def _solve(stationarity, start, args):
    """Returns the solution, differentiable in the arguments, and its `_Point`."""
    solution = optx.root_find(
        stationarity,
        _DampedNewton(),
        start,
        args=args,
        has_aux=True,
        max_steps=_STEPS,
        throw=False,
    )
    return solution.value, solution.aux


def _misfit(point: _Point) -> Float[Array, "*n"]:
    """Returns the misfit of a solution, infinite if none was found."""
    return jnp.where(point.found, point.misfit, jnp.inf)


def _fit(
    error: Float[Array, " eta_dim"], sd: Float[Array, " eta_dim"], mu: Float[Array, " eta_dim"]
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Returns the largest error of mu by its rounding, and whether all are within sqrt(eps) sd."""
    eps = jnp.finfo(mu.dtype).eps.astype(mu.dtype)
    error = jnp.abs(error)
    misfit = jnp.max(error / (_ROUNDINGS * eps * (sd + jnp.abs(mu))))
    return misfit, jnp.all(error <= jnp.sqrt(eps) * sd)


def _start(network: AbstractMomentNetwork, mu: Float[Array, " eta_dim"]) -> Float[Array, " m"]:
    """Returns inputs of the example under which mu is most probable."""
    coordinates = network.standardization
    examples = coordinates.examples

    def unlikeness(x):
        sd = coordinates.rough_sd(x)
        z = (network(coordinates.eta_at(x)) - mu) / sd
        return jnp.sum(z**2) + 2 * jnp.sum(jnp.log(sd))

    return examples[jnp.argmin(jax.vmap(unlikeness)(examples))]
