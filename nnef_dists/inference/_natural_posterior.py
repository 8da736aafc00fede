"""Posteriors of natural parameters, with likelihoods normalized by A."""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.diagnostics import effective_sample_size, potential_scale_reduction
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._checks import as_key, as_vector, check_instance
from nnef_dists._ranges import check_integer, check_number
from nnef_dists.distributions import AbstractTractableFamily
from nnef_dists.inference._natural_grid import NAN_REMEDY, draw_from_grid

# Largest share of transitions of NUTS that meet a density of NaN.
_MOST_NAN = 1e-3
# Largest rounding error of a log-density, in nats, for which draws are valid.
_MOST_ROUNDING = 0.1

LogPrior = Callable[[Float[Array, " eta_dim"]], Float[Array, ""]]


class NaturalPosterior(NamedTuple):
    """Draws of natural parameters, with their diagnostics.

    Attributes:
        eta: The draws, `(chains, draws, eta_dim)`.
        rhat: Split R-hat of each natural parameter, `(eta_dim,)`. Above 1.01, chains disagree.
        ess: Effective sample size of each natural parameter, `(eta_dim,)`.
        divergences: Fraction of divergent transitions. 0 for draws from a grid.
    """

    eta: Float[Array, "chains draws eta_dim"]
    rhat: Float[Array, " eta_dim"]
    ess: Float[Array, " eta_dim"]
    divergences: Float[Array, ""]


def sample_natural_posterior(
    key: PRNGKeyArray,
    q: AbstractTractableFamily,
    total: Float[Array, " eta_dim"],
    n: float | int,
    log_prior: LogPrior,
    start: Float[Array, " eta_dim"],
    *,
    chains: int = 4,
    warmup: int = 500,
    draws: int = 1000,
    method: str = "auto",
) -> NaturalPosterior:
    """Draws natural parameters from their posterior, given n independent observations of x.

        log p(eta | x_1, ..., x_n) = eta . sum_i T(x_i) - n A(eta) + log p(eta) + constant

    Such posteriors are doubly intractable if A is unknown. If q computes A, they are ordinary
    posteriors. With one or two unconstrained coordinates of eta, draws are independent, from a grid
    of 65,536 points of the density. Otherwise, BlackJAX's NUTS draws in these coordinates, with
    adapted step sizes and a dense mass matrix. A is needed only up to a constant, so that networks
    need no anchor.

    The likelihood is log-concave in eta. If the prior has separate modes, draws may miss all modes
    but the mode around the start.

    An eta outside the natural domain, or outside the training region of a network, has probability
    zero. Train the network on etas around the whole posterior, for example by
    `nd.families.ellipsoid_etas` or `nearby_etas`.

    Args:
        key: A `jax.random.key`.
        q: The tractable family of x.
        total: The sum of T over the observations, `(eta_dim,)`.
        n: Number of observations, positive.
        log_prior: Differentiable function from eta, `(eta_dim,)`, to its log-density up to a
            constant.
        start: Valid natural parameters at which all chains begin, `(eta_dim,)`.
        chains: Number of chains, at least 2. Defaults to 4.
        warmup: Number of adaptation iterations per chain, at least 1. Defaults to 500.
        draws: Number of iterations per chain after the adaptation, at least 4. Defaults to 1000.
        method: Sampler, "grid" or "nuts". By default, "auto" chooses "grid" if eta has at most two
            unconstrained coordinates, and "nuts" otherwise. A grid evaluates A about 100,000 times.

    Returns:
        The draws and their diagnostics. Check R-hat and the divergences.

    Raises:
        ValueError: If `start` is invalid, outside the training region, or without finite density.
            If the rounding error of the log-density is too large. If A or the prior is NaN at
            etas inside that are likely, or beside likely ones. If no grid covers the posterior,
            or a grid would have more than two coordinates. If a number is out of range, or `method`
            is unknown.

    Reference:
        Murray, Ghahramani and MacKay, *MCMC for doubly-intractable distributions*, UAI 2006, for
        the problem. Hoffman and Gelman, *The No-U-Turn sampler*, JMLR 15 (2014).
    """
    check_instance(q, AbstractTractableFamily, "q")
    key, family = as_key(key), q.family
    total = as_vector(total, family.eta_dim, "total", family)
    n = check_number("n", n, 0.0)
    sizes = (
        check_integer("chains", chains, 2),
        check_integer("warmup", warmup, 1),
        check_integer("draws", draws, 4),
    )
    start = family.check_eta(start)
    density = functools.partial(_log_posterior, q, total, n, log_prior)
    u = family.unconstrain_eta(start)
    value, slope = jax.jit(jax.value_and_grad(density))(u)
    if not (jnp.isfinite(value) and jnp.isfinite(slope).all()):
        raise ValueError(
            f"Expected a start with a finite density and gradient; got {value} and {slope} at "
            f"{start}. Begin inside the training region of q, where the prior is positive."
        )
    rounding = _rounding(q, total, n, start)
    if not rounding < _MOST_ROUNDING:
        raise ValueError(
            f"Expected a log-density with a rounding error below {_MOST_ROUNDING} nats; got "
            f"{rounding:.2g} for n = {n:g} in {start.dtype}. Use double precision: "
            "jax.config.update('jax_enable_x64', True)."
        )
    if _is_on_grid(method, u.size):
        us = _draw_from_grid(q, density, u, (sizes[0], sizes[2]), key)
        divergences = jnp.zeros(())
    else:
        us, divergences, meets_nan = _run(density, sizes, u, key)
        _check_no_nan(float(jnp.mean(meets_nan)))
    eta = jax.vmap(jax.vmap(family.constrain_eta))(us)
    return NaturalPosterior(
        eta,
        jnp.reshape(potential_scale_reduction(eta), (-1,)),
        jnp.reshape(effective_sample_size(eta), (-1,)),
        jnp.mean(divergences),
    )


def _rounding(q: Any, total: Array, n: float, start: Array) -> float:
    """Returns the rounding error of eta . total - n A, whose terms cancel, in nats."""
    terms = jnp.sum(jnp.abs(total * start)) + n * jnp.abs(q._potential(start))
    return float(jnp.finfo(start.dtype).eps * terms)


def _draw_from_grid(
    q: Any, density: Any, u: Float[Array, " m"], shape: tuple[int, int], key: PRNGKeyArray
) -> Float[Array, "chains draws m"]:
    """Returns draws from a grid, in double precision if q's programs are in it, as its calls."""
    wider = jax.enable_x64(True) if q._in_double else contextlib.nullcontext()
    with wider:
        start = jnp.asarray(u, jnp.float64 if q._in_double else u.dtype)
        us = np.asarray(draw_from_grid(density, start, math.prod(shape), key))
    return jnp.asarray(us.reshape(*shape, -1), u.dtype)


def _check_no_nan(share: float) -> None:
    if share > _MOST_NAN:
        raise ValueError(
            "Expected a log-density that is a number or -inf inside the natural domain and the "
            f"training region; got NaN in {share:.2%} of all transitions. {NAN_REMEDY}"
        )


def _is_on_grid(method: str, size: int) -> bool:
    if method not in ("auto", "grid", "nuts"):
        raise ValueError(f"Expected method 'auto', 'grid' or 'nuts'; got {method!r}")
    if method == "grid" and size > 2:
        raise ValueError(
            f"Expected at most two unconstrained coordinates for a grid; got {size}. Use "
            "method='nuts'."
        )
    return method == "grid" or (method == "auto" and size <= 2)


def _log_posterior(
    q: Any, total: Array, n: float, log_prior: LogPrior, u: Float[Array, " m"]
) -> Float[Array, ""]:
    eta = q.family.constrain_eta(u)
    tangents = jax.jacfwd(q.family.constrain_eta)(u)
    # This form holds for square and for tall Jacobians.
    log_det = jnp.linalg.slogdet(tangents.T @ tangents)[1] / 2
    # The potential is A up to a constant, so that a network needs no anchor.
    value = jnp.sum(total * eta) - n * q._potential(eta) + log_prior(eta) + log_det
    # NaN inside is an A that is not known, and does not mean that eta has no density.
    return jnp.where(q.is_inside(eta), value, -jnp.inf)


def _run(density: Any, sizes: tuple[int, int, int], u: Array, key: PRNGKeyArray) -> Any:
    chains, warmup, draws = sizes

    @jax.jit
    def run(u, key):
        key_warmup, key_draws = jax.random.split(key)
        adaptation: Any = blackjax.window_adaptation(
            blackjax.nuts, density, is_mass_matrix_diagonal=False
        )

        def one(keys):
            (state, parameters), _ = adaptation.run(keys[0], u, num_steps=warmup)
            step: Any = blackjax.nuts(density, **parameters).step

            def draw(state, key):
                state, info = step(key, state)
                # A trajectory ends at the first NaN.
                ends = info.trajectory_leftmost_state, info.trajectory_rightmost_state
                meets_nan = jnp.any(jnp.stack([jnp.isnan(end.logdensity) for end in ends]))
                return state, (state.position, info.is_divergent, meets_nan)

            return jax.lax.scan(draw, state, jax.random.split(keys[1], draws))[1]

        pairs = jax.random.split(key_warmup, chains), jax.random.split(key_draws, chains)
        return jax.vmap(one)(jnp.stack(pairs, 1))

    return run(u, key)
