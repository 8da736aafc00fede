"""What is tried for an eta whose label failed: a longer run, then samplers of another kind."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from nnef_dists.families import ExponentialFamily
from nnef_dists.moments._config import HMCConfig
from nnef_dists.moments._density import Density
from nnef_dists.moments._diagnostics import MomentLabel, Rung, Status, refuse
from nnef_dists.moments._importance import importance_chains
from nnef_dists.moments._label import label_chains, sample_chains
from nnef_dists.moments._modes import Modes
from nnef_dists.moments._tempered import tempered_chains

# In one program: few labels fail, each costs many times the first run, and padding as much.
_TILE = 2
# Up to this dimension a mixture around the chains is a good proposal.
_MOST_DIMENSIONS = 3
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
    again = longer(config)
    for count, rows in _failed(labels):
        tile_keys = jax.vmap(lambda key: jax.random.fold_in(key, Rung.LONGER))(keys[rows])
        found, densities, modes = _label_longer(family, again, etas[rows], tile_keys)
        _store(labels, rows[:count], found, np.arange(count))
        # Divergences are a fault of the density, in float arithmetic at least: where short steps do
        # not cure them, a sampler that cannot see them would hide it.
        unmixed = np.isin(np.asarray(found.status), (Status.NOT_CONVERGED, Status.LOW_ESS))
        unmixed &= np.asarray(found.divergences) <= config.max_divergences
        # Rows that the longer run has mended are computed again, and left as they are.
        (failed,) = np.nonzero(unmixed[:count])
        if len(failed):
            tile_keys = jax.vmap(lambda key: jax.random.fold_in(key, Rung.IMPORTANCE))(keys[rows])
            found = _label_elsewhere(again, densities, tile_keys, modes)
            _store(labels, rows[failed], found, failed)
    return labels


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
    (rows,) = np.nonzero((labels.status != Status.OK) & (labels.status != Status.NOT_FINITE))
    for start in range(0, len(rows), _TILE):
        part = rows[start : start + _TILE]
        yield len(part), np.pad(part, (0, _TILE - len(part)), mode="edge")


def _store(labels: MomentLabel, rows: np.ndarray, found: MomentLabel, which: np.ndarray) -> None:
    for ours, new in zip(labels, found, strict=True):
        ours[rows] = np.asarray(new)[which]
