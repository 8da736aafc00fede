"""The ladder: the samplers of labels, in the order in which they are tried."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PRNGKeyArray

from nnef_dists.families import ExponentialFamily, support_dim
from nnef_dists.moments._diagnostics import MomentLabel, Rung, Status, is_out_of_range
from nnef_dists.moments._label import label_chains, label_tile
from nnef_dists.moments._rung import AbstractRung, Climb, in_tiles
from nnef_dists.sampling import (
    ROUNDING,
    Chains,
    Density,
    HMCConfig,
    Modes,
    importance_chains,
    sample_chains,
    tempered_chains,
)

# Number of etas per call of a fallback sampler. Few labels fail, and each row costs many times the
# first run, even if it is padding.
_TILE = 2
_DOUBLE_TILE = 8
# Statuses that double precision can cure.
_FAULTS_OF_PRECISION = (Status.ROUNDING, Status.NOT_FINITE, Status.HEAVY_TAILS)
# Largest dimension in which a mixture around the chains is a good proposal.
_MOST_DIMENSIONS = 3


@final
class HMC(AbstractRung):
    """Hamiltonian Monte Carlo as configured, the first sampler for each eta."""

    rung = Rung.HMC

    def tries(self, climb: Climb) -> np.ndarray:
        """Returns a mask of the etas without a label, empty if labels start in double precision."""
        return climb.has(Status.MISSING) & ~_begins_in_double(climb)

    def label(self, climb: Climb, rows: np.ndarray) -> MomentLabel:
        """Labels tiles of the configured size on all local devices."""
        return in_tiles(
            functools.partial(label_tile, climb.family, climb.config),
            climb.config.tile,
            (climb.etas[rows], climb.fresh_keys(rows)),
            devices=climb.devices,
            on_tile=climb.on_tile,
        )


@final
class DoublePrecision(AbstractRung):
    """The whole ladder in double precision, if single precision cannot resolve eta . T.

    This is the first rung if the support is `ill_conditioned` and the etas are float32.
    """

    rung = Rung.DOUBLE

    def tries(self, climb: Climb) -> np.ndarray:
        """Returns a mask of float32 labels that start here, or have a fault of precision."""
        missing = climb.has(Status.MISSING) & _begins_in_double(climb)
        is_single = climb.etas.dtype == jnp.float32
        return missing | (climb.has(*_FAULTS_OF_PRECISION) & is_single)

    def label(self, climb: Climb, rows: np.ndarray) -> MomentLabel:
        """Returns labels in the dtype of the etas. Their standard errors include its rounding."""
        config, on_tile = dataclasses.replace(climb.config, tile=_DOUBLE_TILE), lambda n: None
        if _begins_in_double(climb):
            config, on_tile = climb.config, climb.on_tile
        with jax.enable_x64(True):
            wide = jnp.asarray(np.asarray(climb.etas[rows], np.float64))
            inner = Climb(climb.family, config, wide, climb.keys[rows], on_tile, climb.devices)
            found = inner.run(LADDER)
        rounding = ROUNDING * float(jnp.finfo(climb.etas.dtype).eps)
        variances = np.diagonal(found.covariance, axis1=1, axis2=2)
        scale = np.sqrt(variances[:, :, None] * variances[:, None])
        found = found._replace(
            standard_error=np.hypot(found.standard_error, rounding * np.abs(found.mean)),
            covariance_error=np.hypot(found.covariance_error, rounding * scale),
        )
        with np.errstate(over="ignore", under="ignore"):
            found = MomentLabel(
                *(new.astype(old.dtype) for new, old in zip(found, climb.labels, strict=True))
            )
        lost = (found.status == Status.OK) & is_out_of_range(found.mean, found.covariance)
        for leaf in (found.mean, found.covariance, found.standard_error, found.covariance_error):
            leaf[lost] = np.nan
        found.status[lost] = Status.NOT_FINITE
        return found


def _begins_in_double(climb: Climb) -> bool:
    is_single = climb.etas.dtype == jnp.float32
    return bool(getattr(climb.family.support, "ill_conditioned", False) and is_single)


@final
class LongerRun(AbstractRung):
    """Four times the draws and three times the leapfrog steps, if the first run failed."""

    rung = Rung.LONGER

    def tries(self, climb: Climb) -> np.ndarray:
        """Returns a mask of the labels that failed for reasons other than precision."""
        return ~climb.has(Status.MISSING, Status.OK, *_FAULTS_OF_PRECISION)

    def label(self, climb: Climb, rows: np.ndarray) -> MomentLabel:
        """Labels by longer chains. Later rungs start from their densities and modes."""
        labels, densities, modes = in_tiles(
            functools.partial(_label_longer, climb.family, longer(climb.config)),
            _TILE,
            (climb.etas[rows], climb.fresh_keys(rows)),
            devices=climb.devices[:1],
        )
        climb.found = rows, densities, modes
        return labels


class AbstractFromModes(AbstractRung):
    """A sampler that starts from the modes of the longer run, if its chains do not mix."""

    @abc.abstractmethod
    def suits(self, dim: int) -> bool:
        """Returns whether the sampler suits densities of this dimension."""

    @abc.abstractmethod
    def draw(self, density: Density, modes: Modes, key: PRNGKeyArray, config: HMCConfig) -> Chains:
        """Returns the draws of one eta, in a compiled program."""

    def tries(self, climb: Climb) -> np.ndarray:
        """Returns a mask of the labels that failed because chains disagree or mix slowly.

        Labels with too many divergences are left out. Divergences are a fault of the density, at
        least in floating-point arithmetic. A sampler without divergences would hide the fault.
        """
        unmixed = climb.has(Status.NOT_CONVERGED, Status.LOW_ESS, Status.INFLUENTIAL)
        unmixed &= climb.labels.divergences <= climb.config.max_divergences
        return unmixed & (climb.found is not None) & self.suits(support_dim(climb.family))

    def label(self, climb: Climb, rows: np.ndarray) -> MomentLabel:
        """Labels by draws from the densities of the longer run."""
        assert climb.found is not None
        known, *found = climb.found
        which = np.searchsorted(known, rows)
        densities, modes = jax.tree.map(lambda leaf: leaf[which], found)
        return in_tiles(
            functools.partial(_label_from_modes, self, longer(climb.config)),
            _TILE,
            (densities, modes, climb.fresh_keys(rows)),
            devices=climb.devices[:1],
        )


@final
class ImportanceSampling(AbstractFromModes):
    """Importance sampling from a mixture of Student t distributions, up to three dimensions."""

    rung = Rung.IMPORTANCE

    def suits(self, dim: int) -> bool:
        """Returns whether a mixture is a good proposal in this dimension."""
        return dim <= _MOST_DIMENSIONS

    def draw(self, density: Density, modes: Modes, key: PRNGKeyArray, config: HMCConfig) -> Chains:
        """Returns resampled draws."""
        return importance_chains(density, modes, key, config)


@final
class TemperedSMC(AbstractFromModes):
    """Tempered sequential Monte Carlo, above three dimensions."""

    rung = Rung.TEMPERED

    def suits(self, dim: int) -> bool:
        """Returns whether the dimension is too high for importance sampling."""
        return dim > _MOST_DIMENSIONS

    def draw(self, density: Density, modes: Modes, key: PRNGKeyArray, config: HMCConfig) -> Chains:
        """Returns the particles at the last temperature."""
        return tempered_chains(density, modes, key, config)[0]


LADDER: tuple[AbstractRung, ...] = (
    HMC(),
    DoublePrecision(),
    LongerRun(),
    ImportanceSampling(),
    TemperedSMC(),
)


def climb(
    family: ExponentialFamily,
    config: HMCConfig,
    etas: Float[Array, "n eta_dim"],
    keys: Key[Array, " n"],
    ladder: Sequence[AbstractRung],
    on_tile: Callable[[int], object] = lambda n: None,
    devices: Sequence[Any] = (),
) -> MomentLabel:
    """Labels etas, rung by rung, until the labels are valid or no rung is left.

    Args:
        family: The exponential family.
        config: The configuration of the sampler, with the checks of labels.
        etas: Valid natural parameters, `(n, eta_dim)`.
        keys: A key per eta, `(n,)`.
        ladder: The rungs, in their order.
        on_tile: Callback after each tile of the first rung, with the number of etas in it.
        devices: The devices that share the work. Defaults to all local devices.

    Returns:
        The labels, with a leading axis of n, as NumPy arrays.
    """
    return Climb(family, config, etas, keys, on_tile, devices).run(ladder)


def longer(config: HMCConfig) -> HMCConfig:
    """Returns the configuration of `LongerRun`, and of the rungs that start from its modes."""
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
        return label_chains(config, density, chains)[1], density, Modes.of(chains)

    return jax.vmap(one)(etas, keys)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _label_from_modes(rung, config, densities, modes, keys) -> MomentLabel:
    def one(density, modes, key):
        return label_chains(config, density, rung.draw(density, modes, key, config))[1]

    return jax.vmap(one)(densities, modes, keys)
