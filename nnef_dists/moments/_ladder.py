"""Fallback samplers: double precision, a longer run, importance sampling, tempering."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from nnef_dists.families import ExponentialFamily
from nnef_dists.moments._diagnostics import MomentLabel, Rung, Status, refuse
from nnef_dists.moments._label import label_chains, label_tiles
from nnef_dists.sampling import (
    ROUNDING,
    Density,
    HMCConfig,
    Modes,
    importance_chains,
    sample_chains,
    tempered_chains,
)

# In one program: few labels fail, each costs many times the first run, and padding as much.
_TILE = 2
_DOUBLE_TILE = 8
_FAULTS_OF_PRECISION = (Status.ROUNDING, Status.NOT_FINITE, Status.HEAVY_TAILS)
# Up to this dimension a mixture around the chains is a good proposal.
_MOST_DIMENSIONS = 3
_UNMIXED = (Status.NOT_CONVERGED, Status.LOW_ESS, Status.INFLUENTIAL)
# Of the weights' tail: above it averages do not settle (see `pareto_k`).
_MOST_K = 0.7


def climb(
    family: ExponentialFamily,
    config: HMCConfig,
    etas: Float[Array, "n eta_dim"],
    keys: Key[Array, " n"],
    labels: MomentLabel,
) -> MomentLabel:
    """Tries again where labels failed, rung by rung, until they are good or no rung is left.

    Args:
        family: The family.
        config: How the labels were sampled.
        etas: Natural parameters, `(n, eta_dim)`.
        keys: The keys that were used for them, `(n,)`.
        labels: Their labels, as NumPy arrays; changed in place.

    Returns:
        The labels; those that failed on all rungs with the status of the last.
    """
    if etas.dtype == jnp.float32:
        _label_in_double(family, config, etas, keys, labels)
    again = longer(config)
    for count, rows in _failed(labels):
        tile_keys = jax.vmap(lambda key: jax.random.fold_in(key, Rung.LONGER))(keys[rows])
        found, densities, modes = _label_longer(family, again, etas[rows], tile_keys)
        _store(labels, rows[:count], found, np.arange(count))
        # Divergences are a fault of the density, in float arithmetic at least: where short steps do
        # not cure them, a sampler that cannot see them would hide it.
        unmixed = np.isin(np.asarray(found.status), _UNMIXED)
        unmixed &= np.asarray(found.divergences) <= config.max_divergences
        # Rows that the longer run has mended are computed again, and left as they are.
        (failed,) = np.nonzero(unmixed[:count])
        if len(failed):
            tile_keys = jax.vmap(lambda key: jax.random.fold_in(key, Rung.IMPORTANCE))(keys[rows])
            found = _label_elsewhere(again, densities, tile_keys, modes)
            _store(labels, rows[failed], found, failed)
    return labels


def _label_in_double(
    family: ExponentialFamily,
    config: HMCConfig,
    etas: Float[Array, "n eta_dim"],
    keys: Key[Array, " n"],
    labels: MomentLabel,
) -> None:
    """Labels again, in double precision, what single precision has no digits for."""
    (rows,) = np.nonzero(np.isin(labels.status, _FAULTS_OF_PRECISION))
    if not len(rows):
        return
    config = dataclasses.replace(config, tile=_DOUBLE_TILE)
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(etas[rows], np.float64))
        found = label_tiles(family, config, wide, keys[rows])
        found = climb(family, config, wide, keys[rows], found)
    rounding = ROUNDING * float(jnp.finfo(etas.dtype).eps)
    diagonal = np.diagonal(found.covariance, axis1=1, axis2=2)
    found = found._replace(
        standard_error=np.hypot(found.standard_error, rounding * np.abs(found.mean)),
        covariance_error=np.hypot(
            found.covariance_error,
            rounding * np.sqrt(diagonal[:, :, None] * diagonal[:, None]),
        ),
        rung=np.where(found.rung == Rung.HMC, Rung.DOUBLE, found.rung).astype(np.int8),
    )
    with np.errstate(over="ignore"):
        _store(labels, rows, found, np.arange(len(rows)))
    (lost,) = np.nonzero((labels.status == Status.OK) & ~np.isfinite(labels.covariance).all((1, 2)))
    for leaf in (labels.mean, labels.covariance, labels.standard_error, labels.covariance_error):
        leaf[lost] = np.nan
    labels.status[lost] = Status.NOT_FINITE


def longer(config: HMCConfig) -> HMCConfig:
    """Returns the configuration of the second rung: four times the draws, thrice the steps."""
    return dataclasses.replace(
        config,
        warmup=2 * config.warmup,
        draws=4 * config.draws,
        leapfrog_steps=3 * config.leapfrog_steps,
        tile=_TILE,
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _label_longer(family, config, etas, keys) -> tuple[MomentLabel, Density, Modes]:
    def one(eta, key):
        density, chains = sample_chains(family, config, eta, key)
        label = label_chains(config, density, chains)[1]
        label = label._replace(rung=jnp.asarray(Rung.LONGER, jnp.int8))
        return label, density, Modes.of(chains)

    return jax.vmap(one)(etas, keys)


@functools.partial(jax.jit, static_argnums=0)
def _label_elsewhere(config, densities, keys, modes) -> MomentLabel:
    def one(density, key, modes):
        if modes.center.shape[-1] <= _MOST_DIMENSIONS:
            chains, k = importance_chains(density, modes, key, config)
            label = label_chains(config, density, chains)[1]
            label = refuse(label, ~(k <= _MOST_K), Status.HEAVY_WEIGHTS)
            rung = Rung.IMPORTANCE
        else:
            chains, _ = tempered_chains(density, modes, key, config)
            label = label_chains(config, density, chains)[1]
            rung = Rung.TEMPERED
        return label._replace(rung=jnp.asarray(rung, jnp.int8))

    return jax.vmap(one)(densities, keys, modes)


def _failed(labels: MomentLabel) -> Iterator[tuple[int, np.ndarray]]:
    """Yields tiles of rows that are not OK, padded by their last, with their number."""
    (rows,) = np.nonzero(~np.isin(labels.status, (Status.OK, *_FAULTS_OF_PRECISION)))
    for start in range(0, len(rows), _TILE):
        part = rows[start : start + _TILE]
        yield len(part), np.pad(part, (0, _TILE - len(part)), mode="edge")


def _store(labels: MomentLabel, rows: np.ndarray, found: MomentLabel, which: np.ndarray) -> None:
    for ours, new in zip(labels, found, strict=True):
        ours[rows] = np.asarray(new)[which]
