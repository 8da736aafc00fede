"""The log-partition at one eta, the constant that moments do not determine."""

import functools
import math
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._checks import as_key, check_instance
from nnef_dists.families import AbstractDiscreteSupport, AbstractNamedFamily, ExponentialFamily
from nnef_dists.moments._discrete import exact_log_sum, has_exact_sum
from nnef_dists.moments._quadrature import quadrature_moments
from nnef_dists.sampling import (
    HMCConfig,
    Modes,
    annealed_log_sum,
    quadrature_dim,
    sample_chains,
    tempered_chains,
)

# Default number of draws. A population has a quarter of them as particles: 16 populations of 1,000.
_DRAWS = 4000
# Largest error of quadrature, in nats and z units. Above it the integral has not converged.
_MOST_ERROR = 1e-3


@final
class LogPartitionEstimate(eqx.Module):
    """A(eta) = log of the integral of h(x) exp(eta . T(x)) over x, for one eta.

    Attributes:
        eta: Natural parameters, `(eta_dim,)`.
        value: A(eta), in nats.
        standard_error: Standard error of A, in nats. For quadrature or a sum it is an error bound,
            and for a closed form 0. The rounding error, in proportion to A, is not included.
        method: The method, in words.
    """

    eta: Float[Array, " eta_dim"]
    value: Float[Array, ""]
    standard_error: Float[Array, ""]
    method: str = eqx.field(static=True)


def estimate_log_partition(
    family: ExponentialFamily,
    eta: Float[Array, " eta_dim"],
    key: PRNGKeyArray | None = None,
    config: HMCConfig | None = None,
) -> LogPartitionEstimate:
    """Computes A(eta) at one eta of any family, by the most accurate method available.

    The methods are, in this order:

    - The family's closed form.
    - Quadrature, in one and two dimensions. For discrete x, the sum over all x if it is affordable.
    - The evidence of tempered sequential Monte Carlo, from a wide Gaussian around HMC chains. The
      standard error is from the scatter of several independent populations.
    - For discrete x, annealed importance sampling by Gibbs sweeps, from the uniform distribution.

    The integral is over the reference measure of the family's densities: counting measure for
    discrete x, the angle on the circle, surface area on the sphere, and all entries except the last
    on the simplex.

    Args:
        family: The exponential family.
        eta: Valid natural parameters, `(eta_dim,)`.
        key: A `jax.random.key`. Required if no closed form, quadrature or sum applies.
        config: The configuration of the sampler, with one population per chain, of `draws` / 4
            particles. Defaults to `HMCConfig(draws=4000)`.

    Returns:
        The estimate, with its standard error.

    Raises:
        ValueError: If a key is needed and missing, sampling failed, or eta is invalid.

    Reference:
        Del Moral, Doucet and Jasra, *Sequential Monte Carlo samplers*, J. R. Statist. Soc. B 68
        (2006). Neal, *Annealed importance sampling*, Statistics and Computing 11 (2001).
    """
    check_instance(family, ExponentialFamily, "family")
    eta = family.check_eta(eta)
    exact = exact_log_partition(family, eta)
    if exact is not None:
        return exact
    if key is None:
        raise ValueError(
            f"Expected a key: A(eta) of {family!r} has no closed form, nor can quadrature find it, "
            "so that it is sampled; got None"
        )
    key = as_key(key)
    config = HMCConfig(draws=_DRAWS) if config is None else config
    if isinstance(family.support, AbstractDiscreteSupport):
        value, error = annealed_log_sum(family, config, eta, key)
        return LogPartitionEstimate(eta, value, error, "annealed Gibbs sampling")
    value, error, finite = _evidence(family, config, eta, key)
    if not (finite and jnp.isfinite(value)):
        raise ValueError(
            f"Expected tempered sequential Monte Carlo to reach the density of {family!r} at "
            f"{eta}; got particles that did not"
        )
    return LogPartitionEstimate(eta, value, error, "tempered sequential Monte Carlo")


def exact_log_partition(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"]
) -> LogPartitionEstimate | None:
    """Computes A(eta) without sampling, if possible.

    Args:
        family: The exponential family.
        eta: Valid natural parameters, `(eta_dim,)`.

    Returns:
        The estimate by closed form, quadrature or a sum. None if none of them applies.
    """
    check_instance(family, ExponentialFamily, "family")
    eta = family.check_eta(eta)
    if isinstance(family, AbstractNamedFamily):
        value = family.log_partition(eta)
        return LogPartitionEstimate(eta, value, jnp.zeros_like(value), "closed form")
    if isinstance(family.support, AbstractDiscreteSupport):
        return _sum(family, eta)
    if quadrature_dim(family) > 2:
        return None
    found = quadrature_moments(family, eta)
    if not found.error < _MOST_ERROR:
        return None
    return LogPartitionEstimate(eta, found.log_partition, found.error, "quadrature")


def _sum(family: ExponentialFamily, eta: Float[Array, " eta_dim"]) -> LogPartitionEstimate | None:
    """Returns A of a discrete family by a sum over all x, or None if it is not affordable."""
    if not has_exact_sum(family):
        return None
    value, error = exact_log_sum(family, np.asarray(eta))
    if not error < _MOST_ERROR:
        return None
    return LogPartitionEstimate(
        eta, jnp.asarray(value, eta.dtype), jnp.asarray(error, eta.dtype), "a sum over x"
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _evidence(family, config, eta, key):
    key_chains, key_populations = jax.random.split(key)
    density, chains = sample_chains(family, config, eta, key_chains)
    chains, logs = tempered_chains(density, Modes.of(chains), key_populations, config)
    highest = jnp.max(logs)
    ratios = jnp.exp(logs - highest)
    mean = jnp.mean(ratios)
    error = jnp.std(ratios, ddof=1) / (mean * math.sqrt(config.chains))
    return highest + jnp.log(mean), error, chains.info.finite
