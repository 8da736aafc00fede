"""Every posterior head, once, small."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

import nnef_dists as nd
from tests.posterior.simulators import box, simulations


@dataclasses.dataclass(frozen=True, eq=False)
class HeadCase:
    """A posterior head of simulations, their theta of some dimension.

    Its first entries may be discrete: 0, 1 or 2. The support is that of the others.

    A foreign one holds functions and integers of other libraries, which `equinox.filter_jit` is
    for.
    """

    name: str
    make: Callable[[nd.Simulations, Any, Any], nd.posterior.AbstractPosterior]
    theta_dim: int = 2
    is_foreign: bool = False
    discrete: int = 0

    def data(self, **options) -> nd.Simulations:
        return simulations(theta_dim=self.theta_dim, discrete=self.discrete, **options)

    def box(self, dtype=None):
        """The support of the continuous entries."""
        return box(self.theta_dim - self.discrete, dtype)

    def __str__(self) -> str:
        return self.name


def mixed(data, support, key):
    """A head of one discrete entry and of the others."""
    parts = (nd.Simulations(data.theta[:, rows], data.x) for rows in (slice(1), slice(1, None)))
    one, two = jax.random.split(key)
    discrete, continuous = parts
    options = {"width": 8, "depth": 1}
    return nd.posterior.MixedPosterior(
        nd.posterior.CategoricalPosterior(discrete, 3, key=one, **options),
        nd.GaussianPosterior(continuous, context=3, bounds=bounds_of(support), key=two, **options),
    )


def bounds_of(support):
    """The ends of a box, for heads that are truncated to it."""
    return None if support is None else (support.low.tree, support.high.tree)


HEADS = (
    HeadCase(
        "GaussianPosterior",
        lambda data, support, key: nd.GaussianPosterior(
            data, support=support, width=8, depth=1, key=key
        ),
    ),
    HeadCase(
        "GaussianPosterior(diagonal)",
        lambda data, support, key: nd.GaussianPosterior(
            data, diagonal=True, support=support, width=8, depth=1, key=key
        ),
    ),
    HeadCase(
        "MixturePosterior",
        lambda data, support, key: nd.MixturePosterior(
            data, 3, support=support, width=8, depth=1, key=key
        ),
    ),
    HeadCase(
        "GaussianPosterior(bounds)",
        lambda data, support, key: nd.GaussianPosterior(
            data, bounds=bounds_of(support), width=8, depth=1, key=key
        ),
    ),
    HeadCase(
        "MixturePosterior(bounds)",
        lambda data, support, key: nd.MixturePosterior(
            data, 3, bounds=bounds_of(support), width=8, depth=1, key=key
        ),
    ),
    HeadCase(
        "FlowPosterior(coupling)",
        lambda data, support, key: nd.FlowPosterior.coupling(
            data, layers=2, flow_width=8, features=4, support=support, width=8, depth=1, key=key
        ),
        is_foreign=True,
    ),
    HeadCase(
        "FlowPosterior(autoregressive)",
        lambda data, support, key: nd.FlowPosterior.autoregressive(
            data, layers=2, flow_width=8, features=4, support=support, width=8, depth=1, key=key
        ),
        is_foreign=True,
    ),
    HeadCase(
        "ExponentialFamilyPosterior",
        lambda data, support, key: nd.ExponentialFamilyPosterior(
            nd.ClosedForm(nd.GaussianNatural1D()), data, support=support, width=8, depth=1, key=key
        ),
        theta_dim=1,
    ),
    HeadCase(
        "EnsemblePosterior",
        lambda data, support, key: nd.posterior.EnsemblePosterior(
            jax.vmap(
                lambda key: nd.MixturePosterior(data, 2, support=support, width=8, depth=1, key=key)
            )(jax.random.split(key, 2))
        ),
    ),
    HeadCase(
        "CategoricalPosterior",
        lambda data, support, key: nd.posterior.CategoricalPosterior(
            data, 3, features=4, width=8, depth=1, key=key
        ),
        discrete=2,
    ),
    HeadCase("MixedPosterior", mixed, discrete=1),
)
