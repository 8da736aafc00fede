"""Labels of discrete families: exact sums if they are affordable, otherwise Gibbs sampling."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from nnef_dists._checks import as_key, check_instance
from nnef_dists._ranges import check_integer
from nnef_dists.families import AbstractDiscreteSupport, Counts, ExponentialFamily
from nnef_dists.moments._control_variates import WideDraws, correct_label
from nnef_dists.moments._diagnostics import (
    MomentLabel,
    Rung,
    Status,
    is_out_of_range,
    label_draws,
    missing_labels,
    refuse,
)
from nnef_dists.moments._features import Features
from nnef_dists.moments._ladder import longer
from nnef_dists.moments._rung import AbstractRung, Climb, in_tiles
from nnef_dists.sampling import (
    GibbsDraws,
    HMCConfig,
    finite_support,
    gibbs_chains,
    gibbs_plan,
    states_table,
    sum_counts,
    sum_states,
)

# Largest error of a sum, in nats and z units. Above it the sum counts as divergent.
_MOST_ERROR = 1e-6
# Numbers of etas per compiled call.
_COUNTS_TILE, _TABLE_TILE, _GIBBS_TILE, _LONGER_TILE = 64, 16, 64, 16
# Largest numbers of points that are summed: for each eta anew, and from a table.
_MOST_PASSED = 2.0**20
_MOST_TABLED = 2.0**24
# Stride between the draws that estimate the error of independent draws.
_STRIDE = 4


@final
class ExactSum(AbstractRung):
    """Sums over all points, in double precision."""

    rung = Rung.EXACT

    def tries(self, climb: Climb) -> np.ndarray:
        """Returns a mask of the etas without a label."""
        return climb.has(Status.MISSING)

    def label(self, climb: Climb, rows: np.ndarray) -> MomentLabel:
        """Labels etas by `sum_counts` or `sum_states`."""
        family = climb.family
        with jax.enable_x64(True):
            program, tile = _exact_program(family)
            etas = jnp.asarray(np.asarray(climb.etas[rows], np.float64))
            mean, covariance, error, _ = in_tiles(
                program, tile, (etas,), devices=climb.devices[:1], on_tile=climb.on_tile
            )
        labels = missing_labels(len(rows), family.eta_dim, climb.etas.dtype)
        eps = float(np.finfo(climb.etas.dtype).eps)
        sd = np.sqrt(np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 0))
        relative = np.where(np.isfinite(error), error, 0)[:, None] + eps
        scale = sd[:, :, None] * sd[:, None]
        found = {
            "mean": mean,
            "covariance": covariance,
            "standard_error": relative * sd + eps * np.abs(mean),
            "covariance_error": relative[:, :, None] * scale + eps * np.abs(covariance),
            "ess": np.full_like(mean, np.inf),
            "rhat": np.ones_like(mean),
            "divergences": np.zeros(len(rows)),
            "jumps": np.zeros(len(rows)),
            "effective_fraction": np.ones(len(rows)),
            "influence": np.zeros(len(rows)),
            "pareto_k": np.full(len(rows), -np.inf),
        }
        with np.errstate(over="ignore", under="ignore"):
            for name, values in found.items():
                getattr(labels, name)[...] = values
        labels.status[...] = np.select(
            [
                ~(error <= _MOST_ERROR),
                ~np.isfinite(mean).all(1),
                ~(sd > 0).all(1),
                is_out_of_range(labels.mean, labels.covariance),
            ],
            [Status.DIVERGES, Status.NOT_FINITE, Status.DEGENERATE, Status.NOT_FINITE],
            Status.OK,
        )
        bad = labels.status != Status.OK
        for name in ("mean", "covariance", "standard_error", "covariance_error"):
            getattr(labels, name)[bad] = np.nan
        labels.rung[...] = Rung.EXACT
        return labels


class AbstractGibbs(AbstractRung):
    """Gibbs sampling, with its diagnostics and control variates."""

    def label(self, climb: Climb, rows: np.ndarray) -> MomentLabel:
        """Labels tiles of etas."""
        is_first = self.rung is Rung.GIBBS
        config = climb.config if is_first else longer(climb.config)
        # The plan depends only on the family. It raises before any program is compiled.
        gibbs_plan(climb.family)
        return in_tiles(
            functools.partial(_label_gibbs, self.rung, climb.family, config),
            min(climb.config.tile, _GIBBS_TILE) if is_first else _LONGER_TILE,
            (climb.etas[rows], climb.fresh_keys(rows)),
            devices=climb.devices if is_first else climb.devices[:1],
            on_tile=climb.on_tile if is_first else lambda n: None,
        )


@final
class Gibbs(AbstractGibbs):
    """Gibbs sampling as configured, the first sampler for each eta."""

    rung = Rung.GIBBS

    def tries(self, climb: Climb) -> np.ndarray:
        """Returns a mask of the etas without a label."""
        return climb.has(Status.MISSING)


@final
class LongerGibbs(AbstractGibbs):
    """Gibbs sampling with four times the draws and three times the sweeps, after a failed run."""

    rung = Rung.LONGER

    def tries(self, climb: Climb) -> np.ndarray:
        """Returns a mask of the failed labels, except for faults that no run can repair."""
        return ~climb.has(Status.MISSING, Status.OK, Status.NOT_FINITE, Status.DEGENERATE)


@final
class TemperedGibbs(AbstractGibbs):
    """Replica exchange, if longer chains do not mix, for example between ordered phases."""

    rung = Rung.TEMPERED_GIBBS

    def tries(self, climb: Climb) -> np.ndarray:
        """Returns a mask of the labels that failed because chains disagree or mix slowly."""
        unmixed = (Status.NOT_CONVERGED, Status.LOW_ESS, Status.INFLUENTIAL, Status.DISAGREES)
        return climb.has(*unmixed)


def discrete_ladder(family: ExponentialFamily) -> tuple[AbstractRung, ...]:
    """Returns the rungs for a family with a discrete support."""
    return (ExactSum(),) if has_exact_sum(family) else (Gibbs(), LongerGibbs(), TemperedGibbs())


def has_exact_sum(family: ExponentialFamily) -> bool:
    """Returns whether the labels of a discrete family are sums over counts or over few points."""
    support = family.support
    assert isinstance(support, AbstractDiscreteSupport)
    if isinstance(support, Counts) or support.log2_states <= math.log2(_MOST_PASSED):
        return True
    return support.log2_states <= math.log2(_MOST_TABLED) and states_table(family) is not None


def _exact_program(family: ExponentialFamily) -> tuple[Callable[..., Any], int]:
    """Returns a compiled program of means, covariances and errors, and its tile size."""
    if isinstance(family.support, Counts):
        return functools.partial(_sum_counts, family), _COUNTS_TILE
    table = states_table(family)
    return functools.partial(_sum_states, family, table), 1 if table is None else _TABLE_TILE


def exact_log_sum(family: ExponentialFamily, eta: np.ndarray) -> tuple[float, float]:
    """Returns A(eta) of a family with `has_exact_sum`, in double precision, and its error bound."""
    with jax.enable_x64(True):
        etas = jnp.asarray(np.asarray(eta, np.float64))[None]
        program, tile = _exact_program(family)
        found = program(jnp.broadcast_to(etas, (tile, etas.shape[1])))
        return float(found[3][0]), float(found[2][0])


@functools.partial(jax.jit, static_argnums=0)
def _sum_counts(family, etas):
    found = jax.vmap(functools.partial(sum_counts, family))(etas)
    return found.mean, found.covariance, found.error, found.log_partition


@functools.partial(jax.jit, static_argnums=0)
def _sum_states(family, table, etas):
    found = jax.lax.map(lambda eta: sum_states(family, eta, table), etas)
    error = jnp.zeros(len(etas), etas.dtype)
    return found.mean, found.covariance, error, found.log_partition


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _label_gibbs(
    rung: Rung,
    family: ExponentialFamily,
    config: HMCConfig,
    etas: Float[Array, "n eta_dim"],
    keys: Key[Array, " n"],
) -> MomentLabel:
    is_tempered = rung is Rung.TEMPERED_GIBBS

    def one(eta, key):
        draws = gibbs_chains(family, config, eta, key, tempered=is_tempered)
        return label_gibbs(config, draws)

    return jax.vmap(one)(etas, keys)


def label_gibbs(config: HMCConfig, draws: GibbsDraws) -> MomentLabel:
    """Labels one eta from its Gibbs draws.

    Args:
        config: The configuration, with the thresholds of valid labels.
        draws: The draws.

    Returns:
        The label. Its status is `DEGENERATE` if a statistic is constant over all draws.
    """
    stats, features = draws.stats, draws.features
    constant = jnp.any(jnp.max(stats, (0, 1)) == jnp.min(stats, (0, 1)))
    fault = jnp.where(constant, Status.DEGENERATE, Status.OK)
    label = label_draws(stats, draws.info, config, fault)
    if config.control_variates:
        some = stats.reshape(-1, stats.shape[-1])[::_STRIDE]
        wide = WideDraws(
            some,
            (features.reshape(-1, features.shape[-1])[::_STRIDE],),
            jnp.ones(len(some), stats.dtype),
        )
        label = correct_label(label, stats, Features(lambda x: x, 0), (features,), wide)
    of_mean = label.standard_error[:, None] * label.standard_error
    label = label._replace(covariance_error=jnp.hypot(label.covariance_error, of_mean))
    return refuse(label, ~(label.influence <= config.max_influence), Status.INFLUENTIAL)


def sample_gibbs(
    key: PRNGKeyArray,
    family: ExponentialFamily,
    eta: Float[Array, " eta_dim"],
    n: int,
    config: HMCConfig | None = None,
) -> tuple[Int[Array, "n *x_shape"], MomentLabel]:
    """Draws from p(x | eta) of a family with a finite support, by Gibbs sampling.

    Args:
        key: A `jax.random.key`.
        family: The exponential family.
        eta: Valid natural parameters, `(eta_dim,)`.
        n: Total number of draws, at least 1.
        config: The configuration. Defaults to `HMCConfig()`. Each chain makes n / chains draws
            (rounded up), or `draws` if this is more. The n results are spread evenly over them.

    Returns:
        Draws, `(n, *x_shape)`, and the `MomentLabel` of T at all draws. The draws are returned even
        if the status is not OK, so check the status.

    Raises:
        ValueError: If n < 1, the support is not finite, or eta is invalid.
    """
    config = HMCConfig() if config is None else config
    check_instance(config, HMCConfig, "config")
    n = check_integer("n", n, 1)
    support = finite_support(family)
    config = dataclasses.replace(config, draws=max(config.draws, -(-n // config.chains)))
    gibbs_plan(family)
    points, label = _draw_gibbs(family, config, family.check_eta(eta), as_key(key))
    points = points.reshape(-1, *family.x_shape)
    rows = (np.arange(n) * len(points)) // n
    return support.as_integers(points[rows]), label


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw_gibbs(family, config, eta, key):
    draws = gibbs_chains(family, config, eta, key)
    return draws.points, label_gibbs(config, draws)
