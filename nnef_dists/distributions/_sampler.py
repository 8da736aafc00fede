"""Samplers of tractable families."""

from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nnef_dists._checks import check_concrete, guard
from nnef_dists._ranges import check_integer
from nnef_dists.families import (
    AbstractDiscreteSupport,
    AbstractDrawFamily,
    Counts,
    ExponentialFamily,
)
from nnef_dists.moments import Status, has_exact_sum, sample_gibbs, sample_hmc
from nnef_dists.sampling import (
    AbstractSampler,
    HMCConfig,
    count_states,
    counts_of,
    draw_counts,
    draw_states,
    line_quantiles,
    quadrature_dim,
    transform,
)


@final
class HMCSampler(AbstractSampler):
    """A sampler by Hamiltonian Monte Carlo, with the checks of `sample_hmc`.

    Chains run for at least `config.draws` iterations, so that the diagnostics are meaningful. The n
    draws are spread evenly over all iterations.

    Args:
        config: Sampler settings, and thresholds of the checks. Defaults to `HMCConfig()`.
    """

    config: HMCConfig = eqx.field(static=True)

    def __init__(self, config: HMCConfig | None = None):
        self.config = HMCConfig() if config is None else config

    def sample(
        self, key: PRNGKeyArray, family: ExponentialFamily, eta: Float[Array, " eta_dim"], n: int
    ) -> Float[Array, "n *x_shape"]:
        """Draws n points. See `AbstractSampler`.

        Raises:
            RuntimeError: If the draws fail the checks of the config: chains that disagree, too few
                effective draws, divergences. Inside a compiled program, they are NaN. `sample_hmc`
                returns such draws, with diagnostics.
            ValueError: If n < 1.
        """
        n = check_integer("n", n, 1)
        total = max(n, self.config.chains * self.config.draws)
        x, label = sample_hmc(key, family, eta, total, self.config)
        # Draws are ordered by chain, so that an even spread takes an equal share of each chain.
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
    """A sampler in one dimension that inverts the CDF.

    The CDF has the nodes of `quadrature_moments`, and is linear between them. The sampler is fast,
    and suits `jax.vmap` over many etas with a few draws each.

    Args:
        points: Number of nodes in each half of a piece, odd, at least 9. Defaults to 65.

    Raises:
        ValueError: If `points` is even, or less than 9.
    """

    points: int = eqx.field(static=True)

    def __init__(self, points: int = 65):
        self.points = check_integer("points", points, 1)
        if self.points % 2 == 0 or self.points < 9:
            raise ValueError(f"Expected an odd number of points >= 9; got {points}")

    def sample(
        self, key: PRNGKeyArray, family: ExponentialFamily, eta: Float[Array, " eta_dim"], n: int
    ) -> Float[Array, "n *x_shape"]:
        """Draws n points. See `AbstractSampler`.

        Raises:
            RuntimeError: If the density does not fall before numbers overflow, or has too many
                modes. Inside a compiled program the draws are NaN.
            ValueError: If n < 1, or the family has more than one dimension.
        """
        n = check_integer("n", n, 1)
        if quadrature_dim(family) != 1:
            raise ValueError(f"Expected a family of one dimension; got {family!r}")
        table = line_quantiles(family, eta, self.points)
        uniform = jax.random.uniform(key, (n,), table.u.dtype)
        u = jnp.interp(uniform, table.cumulative, table.u)
        x = jax.vmap(lambda u: transform(family, u)[0])(u)
        return guard(
            x,
            table.is_held,
            "Expected a density whose modes and tails are found",
            f"one of {family!r} that is not",
            "Use HMCSampler.",
            error=RuntimeError,
        )


@final
class SummationSampler(AbstractSampler):
    """A sampler of counts by the sums of `Summation`. Draws are independent."""

    def sample(
        self, key: PRNGKeyArray, family: ExponentialFamily, eta: Float[Array, " eta_dim"], n: int
    ) -> Int[Array, " n"]:
        """Draws n integers. See `AbstractSampler`.

        Raises:
            RuntimeError: If the sum diverges. Inside a compiled program, the draws are then -1,
                which is no count.
            ValueError: If n < 1, or the support is not `Counts`.
        """
        counts_of(family)
        x, is_exact = draw_counts(key, family, eta, check_integer("n", n, 1))
        return check_concrete(
            jnp.where(is_exact, x, -1),
            is_exact,
            f"Expected a sum over counts of {family!r} that converges",
            f"one that does not at {eta}",
            "Correct natural_domain.",
            error=RuntimeError,
        )


@final
class EnumerationSampler(AbstractSampler):
    """A sampler of a finite support, in two passes over all points. Draws are independent."""

    def sample(
        self, key: PRNGKeyArray, family: ExponentialFamily, eta: Float[Array, " eta_dim"], n: int
    ) -> Int[Array, "n *x_shape"]:
        """Draws n points, as integers. See `AbstractSampler`.

        Raises:
            ValueError: If n < 1, or the support has more than 2^24 points.
        """
        count_states(family)
        return draw_states(key, family, eta, check_integer("n", n, 1))


@final
class GibbsSampler(AbstractSampler):
    """A sampler of a finite support by Gibbs sampling, with the checks of `sample_gibbs`.

    Args:
        config: Sampler settings, and thresholds of the checks. Defaults to `HMCConfig()`.
    """

    config: HMCConfig = eqx.field(static=True)

    def __init__(self, config: HMCConfig | None = None):
        self.config = HMCConfig() if config is None else config

    def sample(
        self, key: PRNGKeyArray, family: ExponentialFamily, eta: Float[Array, " eta_dim"], n: int
    ) -> Int[Array, "n *x_shape"]:
        """Draws n points, as integers. See `AbstractSampler`.

        Raises:
            RuntimeError: If the draws fail the checks of the config. Inside a compiled program, all
                entries are then the smallest integer, which no support contains.
            ValueError: If n < 1, or the support is not finite.
        """
        x, label = sample_gibbs(key, family, eta, n, self.config)
        is_good = label.status == jnp.asarray(Status.OK, label.status.dtype)
        return check_concrete(
            jnp.where(is_good, x, jnp.iinfo(x.dtype).min),
            is_good,
            "Expected draws that pass the sampler's checks",
            _StatusName(label.status),
            "See the label of sample_gibbs for the diagnostics, or use longer chains.",
            error=RuntimeError,
        )


@final
class DirectSampler(AbstractSampler):
    """A sampler by the algorithm of an `AbstractDrawFamily`. Draws are independent."""

    def sample(
        self, key: PRNGKeyArray, family: ExponentialFamily, eta: Float[Array, " eta_dim"], n: int
    ) -> Float[Array, "n *x_shape"]:
        """Draws n points. See `AbstractSampler`.

        Raises:
            ValueError: If n < 1, or the family is not an `AbstractDrawFamily`.
        """
        if not isinstance(family, AbstractDrawFamily):
            raise ValueError(
                f"Expected an AbstractDrawFamily, with an algorithm of its own; got {family!r}. "
                "Use HMCSampler, or QuadratureSampler in one dimension."
            )
        keys = jax.random.split(key, check_integer("n", n, 1))
        return jax.vmap(family.draw, (0, None))(keys, eta)


def default_sampler(family: ExponentialFamily) -> AbstractSampler:
    """Returns the fastest sampler: direct, by sums or quadrature, else Gibbs sampling or HMC."""
    if isinstance(family, AbstractDrawFamily):
        return DirectSampler()
    support = family.support
    if isinstance(support, Counts):
        return SummationSampler()
    if isinstance(support, AbstractDiscreteSupport):
        return EnumerationSampler() if has_exact_sum(family) else GibbsSampler()
    return QuadratureSampler() if quadrature_dim(family) == 1 else HMCSampler()


class _StatusName:
    """Formats the status of a label, once its value is known."""

    def __init__(self, status: Array):
        self.status = status

    def __str__(self) -> str:
        status = Status(int(self.status))
        return f"status {status.name}: {status.reason}"
