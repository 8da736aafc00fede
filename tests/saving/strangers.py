"""Things that a user may put into a file, in a module of their own."""

import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flowjax.bijections
import jax
import jax.numpy as jnp
import numpy as np

import nnef_dists as nd


class Quartic(nd.ExponentialFamily):
    """A family of one's own, with a field."""

    order: int = 4
    x_shape = ()
    natural_domain = nd.domain(top=nd.negative)

    def compute_stats(self, x):
        return {"x": x, "top": x**self.order}


class Scaled(nd.ExponentialFamily):
    """A family whose constructor takes other arguments than its fields."""

    powers: tuple[int, ...]
    scale: Any
    matrix: tuple[tuple[float, ...], ...]
    inner: nd.ExponentialFamily
    link: Callable
    where: nd.families.AbstractConstraint
    x_shape = ()
    natural_domain = nd.domain(top=nd.negative)

    def __init__(self, n, scale, matrix=((1.0, 0.1), (0.1, float("inf")))):
        self.powers, self.scale, self.matrix = tuple(range(1, n + 1)), scale, matrix
        self.inner, self.link, self.where = Quartic(), cube, nd.interval(0.0, 2.0)

    def compute_stats(self, x):
        return {"odd": self.link(x * self.scale), "top": x ** self.powers[-1]}


class WithBase(nd.ExponentialFamily):
    """A family with a base measure."""

    x_shape = ()
    natural_domain = nd.domain(x2=nd.negative)
    support = flowjax.bijections.Identity(())

    def compute_stats(self, x):
        return {"x": x, "x2": x**2}

    def log_base_measure(self, x):
        return -(x**4)


class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


class Steps(enum.IntFlag):
    UP = 1
    DOWN = 2
    BOTH = 3
    FAR = 4


@dataclasses.dataclass
class Prepared:
    """A dataclass with more than its fields."""

    n: int

    def __post_init__(self):
        self.table = list(range(self.n))


@dataclasses.dataclass
class Record(dict):
    """A dataclass that is a dict, too."""

    n: int


@dataclasses.dataclass
class Cached:
    """A dataclass that computes something at its first use."""

    n: int

    @functools.cached_property
    def table(self):
        return list(range(self.n))


@dataclasses.dataclass(frozen=True)
class Options:
    """A frozen dataclass, in a static field."""

    rate: Any
    mode: Mode


class Pair(NamedTuple):
    first: Any
    second: Any


def cube(x):
    return x**3


class Layer(eqx.Module):
    """A layer of one's own, with a static field of each kind."""

    weight: nd.AbstractParameter
    pair: Pair
    options: Options = eqx.field(static=True)
    activation: Callable = eqx.field(static=True)
    kind: type = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, key, activation=cube):
        self.weight = nd.make_parameter(jax.random.normal(key, (3,)))
        self.pair = Pair(jnp.arange(3.0), None)
        self.options = Options(np.float32("inf"), Mode.SLOW)
        self.activation = functools.partial(activation)
        self.kind, self.dtype = nd.GaussianParameter, np.dtype("float16")

    def __call__(self, x):
        return self.activation(self.weight.mean * x)


def labels(family):
    """A few labels by quadrature of a family of two statistics, the second of them negative."""
    from tests.networks.data import labeled

    etas = jnp.stack([jnp.cos(7 * jnp.arange(32.0)), -jnp.linspace(0.5, 1.5, 32)], 1)
    found = jax.jit(jax.vmap(lambda eta: nd.quadrature_moments(family, eta)))(etas)
    return labeled(family, etas, found.mean, found.covariance)


def amortized(family, key=0):
    """An amortized family with an untrained network."""
    key = jax.random.key(key)
    network = nd.LogPartitionNetwork(family, labels(family), width=4, depth=1, key=key)
    return nd.AmortizedFamily(family, network)


def simulations(theta_dim=1):
    """A few simulations."""
    theta = jax.random.normal(jax.random.key(0), (64, theta_dim))
    return nd.Simulations(theta, theta[:, :1] + jax.random.normal(jax.random.key(1), (64, 3)))
