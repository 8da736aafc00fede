"""The inverse of the moment map: natural parameters of given mean parameters."""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float

from nnef_dists.networks import AbstractMomentNetwork

if TYPE_CHECKING:
    from nnef_dists.distributions._base import AbstractTractableFamily

# Largest numbers of steps, with a network and without.
_STEPS = 64
_NEWTON_STEPS = 200
# Factor of the damping between steps, and the damping that ends the search.
_DAMPING = 8.0
_LARGEST_DAMPING = 1e8
# Steps of the solver end below this, in inputs; Newton's steps after it double the digits.
_TOLERANCE = 1e-3
_POLISH = 3
# Of the correlations: directions in which T hardly varies count no more than this allows.
_LEAST_EIGENVALUE = 1e-4
# Weight of one unit of distance to the training region, in whitened z units.
_WALL = 10.0


class Inverse(NamedTuple):
    """What solving for an eta finds.

    Attributes:
        inputs: Standardized inputs of the eta, `(m,)`.
        residual: The largest |mu(eta) - mu| / s(eta), in z units.
    """

    inputs: Float[Array, " m"]
    residual: Float[Array, ""]


@jax.jit
def invert_network(network: AbstractMomentNetwork, mu: Float[Array, " eta_dim"]) -> Inverse:
    """Solves mu(eta) = mu for eta, in the training region.

    Levenberg and Marquardt's method in the standardized coordinates x of eta starts from that
    example of the training etas whose moments are most like mu: the one under which mu is most
    probable for independent normal errors of size sd(T). Its residuals are mu(eta) - mu, whitened
    by the covariance there, and outside the training region the distance to it, as a network's
    extrapolation may meet mu anywhere. Newton's steps on

        K^T (mu(eta(x)) - mu) = 0,    K = d eta / d x

    follow, each kept if it lowers the residuals. With mu = grad A this is the stationarity of
    A(eta) - eta . mu along x, whose Jacobian at the solution is K^T Cov K: by it the result is
    differentiable in mu and in the weights.

    Args:
        network: A moment network.
        mu: Mean parameters, `(eta_dim,)`.

    Returns:
        The solution, and how far it misses: not checked here.

    Reference:
        Nocedal and Wright, *Numerical Optimization* (2006), section 10.3; Wainwright and Jordan,
        *Graphical Models, Exponential Families, and Variational Inference* (2008), section 3.6,
        for the convex dual.
    """
    coordinates = network.standardization
    target = jax.lax.stop_gradient(mu)
    frozen = jax.tree.map(jax.lax.stop_gradient, network)
    start = _start(frozen, target)
    sd = coordinates.rough_sd(start)
    whiten = _whitening(frozen, start)

    def misfit(x):
        return frozen(coordinates.eta_at(x)) - target

    def size(x):
        return jnp.max(jnp.abs(misfit(x)) / sd)

    # The solver's own constants have the default dtype, which may be wider than that of mu.
    wide = jnp.result_type(float)

    def residuals(x, _):
        x = x.astype(mu.dtype)
        beyond = _WALL * coordinates.region.excess(x)
        return jnp.concatenate([whiten @ misfit(x), beyond]).astype(wide)

    with jax.numpy_dtype_promotion("standard"):
        solver = optx.LevenbergMarquardt(rtol=_TOLERANCE, atol=_TOLERANCE)
        solution = optx.least_squares(
            residuals, solver, start.astype(wide), max_steps=_STEPS, throw=False
        )
    x = solution.value.astype(mu.dtype)

    def stationarity(network, x, mu):
        eta, pull_back = jax.vjp(coordinates.eta_at, x)
        return pull_back(network(eta) - mu)[0]

    def newton(_, carry):
        x, least = carry
        value = stationarity(frozen, x, target)
        slope = jax.jacfwd(lambda x: stationarity(frozen, x, target))(x)
        new = x - jnp.linalg.solve(slope, value)
        better = size(new) < least
        return jnp.where(better, new, x), jnp.where(better, size(new), least)

    x, _ = jax.lax.fori_loop(0, _POLISH, newton, (x, size(x)))
    x = jax.lax.stop_gradient(x)
    # Zero in value; its derivatives are those of the solution, by the implicit function theorem.
    value = stationarity(network, x, mu)
    slope = jax.jacfwd(lambda x: stationarity(frozen, x, target))(x)
    x = x - jnp.linalg.solve(slope, value - jax.lax.stop_gradient(value))
    eta = coordinates.eta_at(jax.lax.stop_gradient(x))
    return Inverse(x, jnp.max(jnp.abs(frozen(eta) - target) / coordinates.rough_sd(x)))


def _start(network: AbstractMomentNetwork, mu: Float[Array, " eta_dim"]) -> Float[Array, " m"]:
    """Returns inputs of the example whose moments are most like mu."""
    coordinates = network.standardization
    examples = coordinates.examples

    def unlikeness(x):
        sd = coordinates.rough_sd(x)
        z = (network(coordinates.eta_at(x)) - mu) / sd
        return jnp.sum(z**2) + 2 * jnp.sum(jnp.log(sd))

    return examples[jnp.argmin(jax.vmap(unlikeness)(examples))]


def _whitening(
    network: AbstractMomentNetwork, inputs: Float[Array, " m"]
) -> Float[Array, "eta_dim eta_dim"]:
    """Returns the matrix that gives statistics with the covariance at some inputs unit variance."""
    jacobian = jax.jacfwd(network)(network.standardization.eta_at(inputs))
    sd = network.standardization.rough_sd(inputs)
    values, vectors = jnp.linalg.eigh((jacobian + jacobian.T) / 2 / jnp.outer(sd, sd))
    return (vectors / jnp.sqrt(jnp.maximum(values, _LEAST_EIGENVALUE))).T / sd


class _Step(NamedTuple):
    """The convex dual at one point: its value, its slope and curvature, and the misfit in z."""

    u: Float[Array, " m"]
    value: Float[Array, ""]
    rounding: Float[Array, ""]
    gradient: Float[Array, " m"]
    hessian: Float[Array, "m m"]
    misfit: Float[Array, ""]


def invert_mean(
    q: "AbstractTractableFamily", mu: Float[Array, " eta_dim"]
) -> tuple[Float[Array, " eta_dim"], Bool[Array, ""]]:
    """Solves mu(eta) = mu for eta by minimizing the convex function A(eta) - eta . mu.

    Damped Newton steps in the unconstrained coordinates u of eta, from u = 0, with the curvature
    K^T Cov K, where K = d eta / d u. A step is kept if the function falls, or if it stays within
    its rounding and mu(eta) - mu becomes smaller. The derivative in mu is that of the implicit
    function theorem.

    Args:
        q: A tractable family whose A is convex.
        mu: Mean parameters, `(eta_dim,)`.

    Returns:
        The eta, `(eta_dim,)`, and whether its mean is within sqrt(eps) of mu, in z units.

    Reference:
        Wainwright and Jordan, *Graphical Models, Exponential Families, and Variational Inference*
        (2008), section 3.6.
    """
    family = q.family
    target = jax.lax.stop_gradient(mu)
    eps = jnp.finfo(mu.dtype).eps.astype(mu.dtype)

    def at(u):
        eta, tangents = family.constrain_eta(u), jax.jacfwd(family.constrain_eta)(u)
        potential, covariance = q._potential(eta), q._covariance(eta)
        excess = q._mean(eta) - target
        value = potential - jnp.sum(eta * target)
        rounding = 4 * eps * (jnp.abs(potential) + jnp.sum(jnp.abs(eta * target)))
        sd = jnp.sqrt(jnp.diagonal(covariance))
        gradient, hessian = tangents.T @ excess, tangents.T @ covariance @ tangents
        return _Step(u, value, rounding, gradient, hessian, jnp.max(jnp.abs(excess) / sd))

    def newton(here, damping):
        diagonal = jnp.diagonal(here.hessian)
        scale = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
        matrix = here.hessian / jnp.outer(scale, scale)
        matrix = matrix + damping * jnp.eye(len(scale), dtype=scale.dtype)
        return jnp.linalg.solve(matrix, here.gradient / scale) / scale

    def go_on(carry):
        here, damping, steps = carry
        return (here.misfit > eps) & (damping < _LARGEST_DAMPING) & (steps < _NEWTON_STEPS)

    def step(carry):
        here, damping, steps = carry
        there = at(here.u - newton(here, damping))
        falls = there.value < here.value - here.rounding
        keeps = (there.value <= here.value + here.rounding) & (there.misfit < here.misfit)
        better = falls | keeps
        here = jax.tree.map(lambda new, old: jnp.where(better, new, old), there, here)
        smaller = jnp.where(damping > eps, damping / _DAMPING, 0)
        # The first rejected step of full length is tried again with a noticeable damping.
        larger = jnp.maximum(damping * _DAMPING, eps)
        return here, jnp.where(better, smaller, larger).astype(damping.dtype), steps + 1

    start = at(jnp.zeros(family.unconstrained_dim, mu.dtype))
    here = jax.lax.while_loop(go_on, step, (start, jnp.ones((), mu.dtype), 0))[0]
    # At the solution, d u / d mu = (K^T Cov K)^-1 K^T. The change has the value zero.
    u = jax.lax.stop_gradient(here.u)
    _, pull_back = jax.vjp(family.constrain_eta, u)
    frozen = jax.lax.stop_gradient(here)._replace(gradient=pull_back(mu - target)[0])
    eta = family.constrain_eta(u + newton(frozen, 0.0))
    return eta, here.misfit <= jnp.sqrt(eps)
