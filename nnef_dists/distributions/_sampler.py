"""Samplers of tractable families."""

from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._checks import guard
from nnef_dists._ranges import check_integer
from nnef_dists.families import ExponentialFamily, support_dim
from nnef_dists.moments import Status, sample_hmc
from nnef_dists.sampling import AbstractSampler, HMCConfig, quadrature_grids


@final
class HMCSampler(AbstractSampler):
    """Draws by Hamiltonian Monte Carlo: `sample_hmc`, with its checks.

    Chains run for `config.draws` iterations at least, so that the diagnostics mean something, and
    the n draws are spread evenly over all of them.

    Args:
        config: How to sample, and which draws are refused; None is `HMCConfig()`.
    """

    config: HMCConfig = eqx.field(static=True)

    def __init__(self, config: HMCConfig | None = None):
        self.config = HMCConfig() if config is None else config

    def sample(
        self, key: PRNGKeyArray, family: ExponentialFamily, eta: Float[Array, " eta_dim"], n: int
    ) -> Float[Array, "n *x_shape"]:
        """Draws n points; see `AbstractSampler`.

        Raises:
            RuntimeError: If the draws fail the checks of the config: chains that disagree, too few
                effective draws, divergences. Inside a compiled program they are NaN. `sample_hmc`
                returns such draws, with diagnostics.
            ValueError: If n < 1.
        """
        n = check_integer("n", n, 1)
        total = max(n, self.config.chains * self.config.draws)
        x, label = sample_hmc(key, family, eta, total, self.config)
        # Chains follow each other: an even spread takes the same share of each.
        rows = (np.arange(n) * total) // n
        return guard(
            x[rows],
            label.status == jnp.asarray(Status.OK, label.status.dtype),
            "Expected draws that pass the sampler's checks",
            _StatusName(label.status),
            "See the label of sample_hmc for the diagnostics, or use longer chains.",
            error=RuntimeError,
        )


@final
class QuadratureSampler(AbstractSampler):
    """Draws in one dimension by inverting the distribution function on a grid.

    The grid is the stretched one of `quadrature_moments`; between its points the distribution
    function is linear. It is fast, and fine under `jax.vmap`: many etas, a few draws of each.

    Args:
        points: Grid points, an odd number, at least 9.

    Raises:
        ValueError: For any other number.
    """

    points: int = eqx.field(static=True)

    def __init__(self, points: int = 1001):
        self.points = check_integer("points", points, 1)
        if self.points % 2 == 0 or self.points < 9:
            raise ValueError(f"Expected an odd number of points >= 9; got {points}")

    def sample(
        self, key: PRNGKeyArray, family: ExponentialFamily, eta: Float[Array, " eta_dim"], n: int
    ) -> Float[Array, "n *x_shape"]:
        """Draws n points; see `AbstractSampler`.

        Raises:
            RuntimeError: If the density goes on beyond the first grid. Inside a compiled program
                the draws are NaN.
            ValueError: If n < 1, or the family has more than one dimension.
        """
        n = check_integer("n", n, 1)
        if support_dim(family) != 1:
            raise ValueError(f"Expected a family of one dimension; got {family!r}")
        grid, _ = quadrature_grids(family, eta, points=self.points)
        logs = grid.logs + grid.log_weights
        axis, density = grid.axes[0], jnp.exp(logs - jnp.max(logs))
        steps = (density[1:] + density[:-1]) / 2
        cumulative = jnp.concatenate([jnp.zeros((1,), steps.dtype), jnp.cumsum(steps)])
        uniform = jax.random.uniform(key, (n,), axis.dtype)
        u = jnp.interp(uniform * cumulative[-1], cumulative, axis)
        x = jax.vmap(family.support.transform)(u.reshape(n, *family.support.shape))
        return guard(
            x,
            grid.held,
            "Expected a density that the first grid holds",
            f"one of {family!r} that goes on beyond it",
            "Use HMCSampler.",
            error=RuntimeError,
        )


def default_sampler(family: ExponentialFamily) -> AbstractSampler:
    """Returns the fastest sampler: by quadrature in one dimension, by HMC otherwise."""
    return QuadratureSampler() if support_dim(family) == 1 else HMCSampler()


class _StatusName:
    """Formats the status of a label, once its value is known."""

    def __init__(self, status: Array):
        self.status = status

    def __str__(self) -> str:
        status = Status(int(self.status))
        return f"status {status.name}: {status.reason}"
