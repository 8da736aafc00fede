"""Messages of factors that are not conjugate: natural gradients, and moment projection."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists._checks import check_instance
from nnef_dists.distributions import AbstractTractableFamily
from nnef_dists.families import ExponentialFamily
from nnef_dists.sampling import line_rule, quadrature_dim

# Number of nodes in each half of a piece, and largest error of a projection that is not NaN.
_NODES, _MOST_ERROR = 33, 1e-3
# Cutoff of singular values, in roundings of the largest one.
_ROUNDINGS = 16


def cvi_message(
    log_p: Callable[[Array], Any],
    q: AbstractTractableFamily,
    draws: Float[Array, "n *x_shape"],
) -> Float[Array, " eta_dim"]:
    """Returns the message of a factor that is not conjugate: the natural gradient of E_q[log p].

        m = Cov_q[T]^-1 Cov_q[T, log p]

    This is the gradient of E_q[log p] with respect to the mean parameters of q. It is computed by
    least-squares regression of log p on T over draws. If log p is a linear function of T, it is
    exact from any draws. Otherwise, damp the update: `step(..., extra=message, rho=0.1)`.

    Args:
        log_p: The log-density of the factor as a function of x, in nats, such as a log-likelihood.
        q: The tractable family of the node.
        draws: Points from q at its current eta, for example `q.sample(key, eta, n)`. The number n
            must exceed eta_dim.

    Returns:
        Natural parameters, `(eta_dim,)`. In an over-complete family, their norm in units of
        1 / sd(T) is least. NaN if log_p is not finite at a draw.

    Raises:
        ValueError: If there are not more draws than statistics, draws have the wrong shape, or
            log_p does not return a scalar.

    Reference:
        Khan and Lin, *Conjugate-computation variational inference*, AISTATS 2017. Salimans and
        Knowles, *Fixed-form variational posterior approximation through stochastic linear
        regression*, Bayesian Analysis 8 (2013).
    """
    check_instance(q, AbstractTractableFamily, "q")
    family = q.family
    draws = _check_draws(family, draws, family.eta_dim)
    values = _at_draws("log_p", log_p, draws)
    stats = jax.vmap(family.sufficient_statistics)(draws)
    # If a statistic is constant over draws, its message is undetermined: 0 / 0. The mean of equal
    # numbers is not exact, their differences are.
    stats = stats - stats[0]
    stats = stats - jnp.mean(stats, 0)
    scale = jnp.sqrt(jnp.mean(stats**2, 0))
    values = (values - jnp.mean(values)).astype(stats.dtype)
    # The default cutoff grows with the number of draws, and would lose nearly collinear statistics.
    cutoff = _ROUNDINGS * float(jnp.finfo(stats.dtype).eps)
    return jnp.linalg.lstsq(stats / scale, values, rcond=cutoff)[0] / scale


class Projection(NamedTuple):
    """The member of a family with the moments of another density.

    If quadrature does not converge to 1e-3, the error is infinite, and all other fields are NaN.

    Attributes:
        eta: Natural parameters of the member, `(eta_dim,)`. NaN if no member has these moments.
        mean: E[T] under the density, `(eta_dim,)`.
        log_integral: The logarithm of the density's integral, in nats.
        error: Error of `mean`, in z units, and of `log_integral`, in nats. With quadrature, it is a
            bound. With draws, it is about the standard error of importance sampling,
            1 / sqrt(effective sample size).
    """

    eta: Float[Array, " eta_dim"]
    mean: Float[Array, " eta_dim"]
    log_integral: Float[Array, ""]
    error: Float[Array, ""]


def project(
    q: AbstractTractableFamily,
    log_tilted: Callable[[Array], Any],
    init: Float[Array, " eta_dim"] | None = None,
    draws: Float[Array, "n *x_shape"] | None = None,
) -> Projection:
    """Projects a density p onto a family: the eta with equal E[T], which minimizes KL(p || q).

    In one dimension, the moments are integrals, by the adaptive quadrature of `nd.Quadrature`, with
    an error bound. In more dimensions, they are averages over draws from q at `init`, weighted by
    p / q.

    In one dimension, the density may have cuts, jumps and kinks, such as
    `jnp.where(x > 0.3, 0.0, -jnp.inf)`, at positions given by arrays. If its traced program
    contains operations such as comparisons or absolute values, up to five breaks are located, which
    takes about 20 times as long. With more breaks, the result is NaN. A part of the density between
    two neighboring points of all scans is missed. If it is the only part, the result is NaN. The
    points of the first scan are 3% of |x| apart. The points of the other scans are 0.3% of the
    located width apart. Derivatives do not include the motion of a cut or jump.

    Args:
        q: The tractable family.
        log_tilted: The log-density of p with respect to dx, in nats, up to a constant. For
            expectation propagation, p is the cavity times a factor.
        init: The eta of the draws, `(eta_dim,)`. Without draws, it only sets the dtype of the
            result.
        draws: Points from q at `init`, `(n, *x_shape)`. Required in more than one dimension.

    Returns:
        The projection.

    Raises:
        ValueError: If there are no draws in more than one dimension, or draws without `init`. If
            draws have the wrong shape, or log_tilted does not return a scalar.

    Reference:
        Minka, *Expectation propagation for approximate Bayesian inference*, UAI 2001.
    """
    check_instance(q, AbstractTractableFamily, "q")
    family = q.family
    if draws is None:
        if quadrature_dim(family) != 1:
            raise ValueError(
                f"Expected draws for {family!r}, which has {quadrature_dim(family)} dimensions. "
                "Use draws=q.sample(key, init, n) and init."
            )
        dtype = jnp.result_type(0.0 if init is None else init)
        dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)
        point = jax.ShapeDtypeStruct(family.x_shape, dtype)
        _check_scalar("log_tilted", jnp.shape(jax.eval_shape(log_tilted, point)))
        zeros = jnp.zeros(family.eta_dim, dtype)
        rule = line_rule(family, zeros, _NODES, log_tilted)
        error = jax.lax.stop_gradient(rule.error)
        is_known = error <= _MOST_ERROR
        # With a factor instead of a selection, derivatives are NaN, too.
        factor = jnp.where(is_known, 1, jnp.nan).astype(dtype)
        mean, log_integral = factor * rule.mean, factor * rule.log_partition
        error = jnp.where(is_known, error, jnp.inf)
    else:
        if init is None:
            raise ValueError("Expected init, the eta that the draws are from; got None.")
        init, draws = q.checked(init), _check_draws(family, draws, 1)
        log_q = jax.vmap(lambda x: q.log_prob(x, init))(draws)
        logs = _at_draws("log_tilted", log_tilted, draws) - jax.lax.stop_gradient(log_q)
        weights = jax.nn.softmax(logs)
        stats = jax.vmap(family.sufficient_statistics)(draws)
        origin = stats[jnp.argmax(weights)]
        mean = origin + weights @ (stats - origin)
        log_integral = jax.nn.logsumexp(logs) - jnp.log(len(draws))
        error = jnp.sqrt(jnp.sum(jax.lax.stop_gradient(weights) ** 2))
    return Projection(q.natural_parameters(mean, throw=False), mean, log_integral, error)


def _check_draws(
    family: ExponentialFamily, draws: Float[Array, "n *x_shape"], least: int
) -> Float[Array, "n *x_shape"]:
    draws = jnp.asarray(draws)
    if draws.shape[1:] != family.x_shape or draws.ndim == 0 or len(draws) <= least:
        raise ValueError(
            f"Expected draws of shape {('n', *family.x_shape)} with n > {least} for {family!r}, "
            f"which has {family.eta_dim} statistics; got {draws.shape}. Use q.sample(key, eta, n)."
        )
    return draws


def _at_draws(
    name: str, function: Callable[[Array], Any], draws: Float[Array, "n *x_shape"]
) -> Float[Array, " n"]:
    values = jax.vmap(function)(draws)
    _check_scalar(name, values.shape[1:])
    return values


def _check_scalar(name: str, shape: tuple[int, ...]) -> None:
    if shape:
        raise ValueError(
            f"Expected {name}(x) to return a scalar, in nats; got shape {shape}. Sum over the "
            "entries of x."
        )
