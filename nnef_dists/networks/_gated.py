"""Direct moment networks of residual blocks with products of features."""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.bayes import AbstractParameter, BayesianLinear, GaussianParameter, Module
from nnef_dists.families import ExponentialFamily
from nnef_dists.moments import MomentDataset
from nnef_dists.networks._base import AbstractDirectNetwork, Standardization, standardize


@final
class _GatedBlock(Module):
    """h + C (gate(A h + a) * (B h + b)) + c. If `gate` is None, it is the identity."""

    gating: BayesianLinear
    value: BayesianLinear
    out: BayesianLinear
    gate: Callable[[Array], Array] | None = eqx.field(static=True)

    def __init__(
        self, width: int, gate: Callable[[Array], Array] | None, key: PRNGKeyArray, **law: Any
    ):
        keys = jax.random.split(key, 3)
        self.gating, self.value, self.out = (
            BayesianLinear(width, width, key=key, **law) for key in keys
        )
        self.gate = gate

    def __call__(self, h: Float[Array, " width"]) -> Float[Array, " width"]:
        factor = self.gating(h)
        if self.gate is not None:
            factor = self.gate(factor)
        return h + self.out(factor * self.value(h))


@final
class _GatedStack(Module):
    """An affine map into hidden units, gated blocks, and an affine map out."""

    first: BayesianLinear
    blocks: tuple[_GatedBlock, ...]
    last: BayesianLinear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int,
        depth: int,
        gate: Callable[[Array], Array] | None,
        key: PRNGKeyArray,
        **law: Any,
    ):
        key_first, key_last, key_blocks = jax.random.split(key, 3)
        self.first = BayesianLinear(in_features, width, key=key_first, **law)
        self.blocks = tuple(
            _GatedBlock(width, gate, block_key, **law)
            for block_key in jax.random.split(key_blocks, depth)
        )
        self.last = BayesianLinear(width, out_features, key=key_last, **law)

    def __call__(self, x: Float[Array, " in_features"]) -> Float[Array, " out_features"]:
        h = self.first(x)
        for block in self.blocks:
            h = block(h)
        return self.last(h)


@final
class GLUMomentNetwork(AbstractDirectNetwork):
    """Residual blocks of gated linear units from eta to E[T | eta].

        h <- h + C (gate(A h + a) * (B h + b)) + c,    mu(eta) = standardization(last affine map)

    Args:
        family: The exponential family.
        data: Moment data of that family, from which the standardization is set.
        width: Number of units per hidden layer, at least 1. Defaults to 48.
        depth: Number of blocks, at least 1. Defaults to 3.
        gate: Activation of the gates. The logistic function gives the original units. Defaults to
            `jax.nn.silu`.
        param_type: Type of the weights' and biases' distribution. Defaults to `GaussianParameter`.
        key: PRNG key for the weights' means.

    Raises:
        ValueError: If `data` is of another family or has too few valid labels, or a size is below
            1.

    Reference:
        Dauphin, Fan, Auli and Grangier, *Language modeling with gated convolutional networks*,
        ICML 2017, eq. 1. Shazeer, *GLU variants improve transformer* (2020), eq. 5, for this gate.
    """

    family: ExponentialFamily = eqx.field(static=True)
    standardization: Standardization
    body: _GatedStack

    def __init__(
        self,
        family: ExponentialFamily,
        data: MomentDataset,
        *,
        width: int = 48,
        depth: int = 3,
        gate: Callable[[Array], Array] = jax.nn.silu,
        param_type: type[AbstractParameter] = GaussianParameter,
        key: PRNGKeyArray,
    ):
        self.family = family
        self.standardization = standardize(family, data, width=width, depth=depth)
        self.body = _GatedStack(
            self.standardization.input_dim,
            family.eta_dim,
            width,
            depth,
            gate=gate,
            param_type=param_type,
            dtype=data.eta.dtype,
            key=key,
        )


@final
class QuadraticMomentNetwork(AbstractDirectNetwork):
    """Residual blocks of products of features from eta to E[T | eta].

        h <- h + C ((A h + a) * (B h + b)) + c,    mu(eta) = standardization(last affine map)

    The outputs are polynomials of degree 2^depth in the inputs. They are accurate for smooth maps
    with few parameters, and unbounded outside the training box.

    Args:
        family: The exponential family.
        data: Moment data of that family, from which the standardization is set.
        width: Number of units per hidden layer, at least 1. Defaults to 48.
        depth: Number of blocks, at least 1. Defaults to 3.
        param_type: Type of the weights' and biases' distribution. Defaults to `GaussianParameter`.
        key: PRNG key for the weights' means.

    Raises:
        ValueError: If `data` is of another family or has too few valid labels, or a size is below
            1.

    Reference:
        Chrysos et al., *P-nets: deep polynomial neural networks*, CVPR 2020, for polynomials as
        products of affine maps.
    """

    family: ExponentialFamily = eqx.field(static=True)
    standardization: Standardization
    body: _GatedStack

    def __init__(
        self,
        family: ExponentialFamily,
        data: MomentDataset,
        *,
        width: int = 48,
        depth: int = 3,
        param_type: type[AbstractParameter] = GaussianParameter,
        key: PRNGKeyArray,
    ):
        self.family = family
        self.standardization = standardize(family, data, width=width, depth=depth)
        self.body = _GatedStack(
            self.standardization.input_dim,
            family.eta_dim,
            width,
            depth,
            gate=None,
            param_type=param_type,
            dtype=data.eta.dtype,
            key=key,
        )
