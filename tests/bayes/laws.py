"""Laws and models that the tests of `bayes` share."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax

from nnef_dists.bayes import (
    AbstractParameter,
    BayesianLinear,
    BayesianMLP,
    DeterministicParameter,
    GaussianParameter,
    LaplacianParameter,
    Module,
    make_parameter,
)


class UniformParameter(AbstractParameter):
    """A user's own law: uniform within `exp(raw_half_width)` of the mean."""

    mean: jax.Array
    raw_half_width: jax.Array

    @property
    def stdv(self):
        return jnp.exp(self.raw_half_width) / math.sqrt(3.0)

    def sample(self, key):
        u = jax.random.uniform(key, self.shape, self.dtype, -1.0, 1.0)
        return self.mean + jnp.exp(self.raw_half_width) * u

    def entropy(self):
        return jnp.sum(self.raw_half_width + math.log(2.0))


class SeedMLP(Module):
    """The model of the user guide, as a user writes it."""

    layers: list

    def __init__(self, dims, *, key, **options):
        keys = jax.random.split(key, len(dims) - 1)
        self.layers = [
            BayesianLinear(dims[i], dims[i + 1], key=keys[i], **options)
            for i in range(len(dims) - 1)
        ]

    def __call__(self, x, *, key, sample=True):
        keys = jax.random.split(key, len(self.layers)) if sample else [None] * len(self.layers)
        for i, layer in enumerate(self.layers):
            x = layer(x, key=keys[i], sample=sample)
            if i < len(self.layers) - 1:
                x = jax.nn.relu(x)
        return x


class Mixed(Module):
    """One of everything that a partition has to tell apart."""

    gaussian: AbstractParameter
    laplacian: AbstractParameter
    deterministic: AbstractParameter
    uniform: AbstractParameter
    plain: jax.Array
    buffer: paramax.NonTrainable
    counts: jax.Array
    name: str = eqx.field(static=True)

    def __init__(self):
        self.gaussian = make_parameter(jnp.arange(6.0).reshape(2, 3), init_raw_stdv=0.5)
        self.laplacian = make_parameter(
            jnp.ones(4), param_type=LaplacianParameter, init_raw_stdv=0.3
        )
        self.deterministic = make_parameter(jnp.full((2,), 3.0), bayesian=False)
        self.uniform = UniformParameter(jnp.zeros(5), jnp.full((5,), -1.0))
        self.plain = jnp.full((3,), 7.0)
        self.buffer = paramax.NonTrainable(jnp.full((2,), 9.0))
        self.counts = jnp.arange(3)
        self.name = "mixed"


# Each law once, with widths that differ from entry to entry.
LAWS = {
    "gaussian": lambda: GaussianParameter(jnp.array([0.5, -2.0]), jnp.array([0.3, 1.1])),
    "laplacian": lambda: LaplacianParameter(jnp.array([0.5, -2.0]), jnp.array([0.3, 1.1])),
    "deterministic": lambda: DeterministicParameter(jnp.array([0.5, -2.0])),
    "uniform": lambda: UniformParameter(jnp.array([0.5, -2.0]), jnp.array([-0.3, 0.7])),
}

# Each model of the package once, called on an input of 3 features.
MODELS = {
    "BayesianLinear": lambda: BayesianLinear(3, 2, key=jax.random.key(0)),
    "BayesianLinear(laplacian)": lambda: BayesianLinear(
        3, 2, param_type=LaplacianParameter, key=jax.random.key(0)
    ),
    "BayesianLinear(local)": lambda: BayesianLinear(
        3, 2, local_reparameterization=True, key=jax.random.key(0)
    ),
    "BayesianMLP": lambda: BayesianMLP(3, 2, 4, 2, key=jax.random.key(0)),
    "BayesianMLP(residual, local)": lambda: BayesianMLP(
        3, 2, 4, 2, residual=True, local_reparameterization=True, key=jax.random.key(0)
    ),
}
