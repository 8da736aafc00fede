"""Every bijection of ours, once, small."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flowjax.bijections import AbstractBijection, Scan

import nnef_dists as nd


@dataclasses.dataclass(frozen=True, eq=False)
class BijectionCase:
    """A bijection of ours, and the shape of its condition if it takes one."""

    name: str
    make: Callable[[Any], AbstractBijection]

    def __str__(self) -> str:
        return self.name


def _stack(key):
    layer = eqx.filter_vmap(lambda key: nd.flows.CubicConjugation.random(key))
    return Scan(layer(jax.random.split(key, 4)))


def _net(in_size, bijection, key):
    return eqx.nn.MLP(in_size, nd.flows.conditioner_size(bijection), 8, 1, key=key)


def _radial_conditional(key):
    stack, features = _stack(key), nd.flows.FourierFeatures(5)
    conditioner = nd.flows.DirectionConditioner(
        features, nd.flows.conditioner_size(stack), width=6, key=key
    )
    return nd.flows.RadialConditional(
        stack, conditioner, jnp.array([0.3, -0.2]), jnp.array([0.7, 1.4])
    )


def _radial_conditional_3d(key):
    stack = _stack(key)
    return nd.flows.RadialConditional(stack, _net(5, stack, key), jnp.ones(3), cond_dim=2)


BIJECTIONS = (
    BijectionCase("CubicConjugation", lambda key: nd.flows.CubicConjugation.random(key)),
    BijectionCase(
        "SinhConjugation", lambda key: nd.flows.SinhConjugation(0.4, 0.6, -0.8, 1.3, 0.7)
    ),
    BijectionCase("CubicRational", lambda key: nd.flows.CubicRational.random(key)),
    BijectionCase(
        "ConditionedBijection",
        lambda key: nd.flows.ConditionedBijection(_stack(key), _net(2, _stack(key), key), 2),
    ),
    BijectionCase("RayTransform", lambda key: nd.flows.RayTransform(_stack(key))),
    BijectionCase(
        "Radial", lambda key: nd.flows.Radial(_stack(key), jnp.array([0.5, -1.0, 0.0]), 0.8)
    ),
    BijectionCase("Radial in one dimension", lambda key: nd.flows.Radial(_stack(key), jnp.ones(1))),
    BijectionCase("RadialConditional", _radial_conditional),
    BijectionCase("RadialConditional in three dimensions", _radial_conditional_3d),
)
