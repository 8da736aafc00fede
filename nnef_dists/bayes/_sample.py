"""Joint draws of all parameters of a model, and the call protocol f(x, *, key, sample)."""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PRNGKeyArray

from nnef_dists._checks import as_key, check_model

from ._deterministic import DeterministicParameter
from ._noise import draw_noise
from ._parameter import AbstractElementwiseParameter, AbstractParameter, is_parameter
from ._partition import check_whole

_Model = TypeVar("_Model")


def sample_all_parameters(model: _Model, rng: PRNGKeyArray) -> _Model:
    """Replaces the mean of every parameter by one reparameterized draw.

    The result has the structure of the model. A call of the result without a key uses the draw,
    and gradients reach the means and scales of the model. Elementwise parameters share one draw of
    noise per class and dtype. Other parameters of equal structure share one vmapped `sample`. The
    cost of tracing is linear in the number of parameters.

    Args:
        model: Any pytree.
        rng: PRNG key. Do not use it again.

    Returns:
        The model with sampled means. Deterministic parameters are unchanged.

    Raises:
        ValueError: If `model` is one part of a split, a key or a function, or `rng` is not one key.
            Join the parts of a split with `unfreeze_all`.
    """
    check_model(model, "sample_all_parameters(model, key)")
    rng = as_key(rng)
    check_whole(model)
    nodes, treedef = jax.tree.flatten(model, is_leaf=is_parameter)
    random = [
        i
        for i, node in enumerate(nodes)
        if is_parameter(node) and not isinstance(node, DeterministicParameter)
    ]
    draws = _draw([nodes[i] for i in random], rng)
    for i, draw in zip(random, draws, strict=True):
        nodes[i] = nodes[i].with_mean(draw)
    return jax.tree.unflatten(treedef, nodes)


def drawing_key(key: PRNGKeyArray | None, sample: bool | None) -> PRNGKeyArray | None:
    """Returns the key for the weights of a call with these arguments.

    Args:
        key: PRNG key, or None.
        sample: Whether to draw the weights. By default, they are drawn if there is a key.

    Returns:
        The key, or None if the call uses the means.

    Raises:
        ValueError: If `sample` is True without a key, or `key` is not one key.
    """
    if sample and key is None:
        raise ValueError("key is required when sample=True")
    # Check the key even if it draws no weights, since random layers may use it.
    key = None if key is None else as_key(key)
    return None if sample is False else key


def draw_or_mean(
    model: _Model, *, key: PRNGKeyArray | None = None, sample: bool | None = None
) -> _Model:
    """Returns the model with the weights of a call as its means.

    A network implements the protocol by one line at the start of its `__call__`. After this line,
    it uses only means:

        net = draw_or_mean(self, key=key, sample=sample)

    Args:
        model: Any pytree with parameters.
        key: PRNG key for one set of weights. Without a key, the means are used.
        sample: Whether to draw the weights. By default, they are drawn if there is a key.

    Returns:
        A sampled model, or the model itself.

    Raises:
        ValueError: If `sample` is True without a key, or `model` is one part of a split.
    """
    drawn = drawing_key(key, sample)
    if drawn is not None:
        return sample_all_parameters(model, drawn)
    check_whole(model)
    return model


def _draw(laws: list[AbstractParameter], key: PRNGKeyArray) -> list[Array]:
    """Draws all parameters. The parameters of one group share one random draw."""
    groups: dict[Any, list[int]] = {}
    for i, law in enumerate(laws):
        groups.setdefault(_group(law, i), []).append(i)
    keys = [key] if len(groups) == 1 else list(jax.random.split(key, max(len(groups), 1)))
    draws: dict[int, Array] = {}
    for group_key, members in zip(keys, groups.values(), strict=False):
        group = [laws[i] for i in members]
        draws.update(zip(members, _draw_group(group, group_key), strict=True))
    return [draws[i] for i in range(len(laws))]


def _group(law: AbstractParameter, index: int) -> Any:
    """Returns the group whose draw a parameter shares: a group of one if it fits no other."""
    if isinstance(law, AbstractElementwiseParameter):
        return type(law), law.dtype
    leaves, treedef = jax.tree.flatten(law)
    if all(eqx.is_array(leaf) for leaf in leaves):
        return treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    return index


def _draw_group(group: list[Any], key: PRNGKeyArray) -> list[Array]:
    first = group[0]
    if isinstance(first, AbstractElementwiseParameter):
        sizes = [law.mean.size for law in group]
        noise = draw_noise(key, first.standard_noise, sum(sizes), first.dtype)
        # One split instead of a slice per parameter: tracing and transpose are one operation.
        parts = lax.split(noise, sizes)
        return [
            law.reparameterize(part.reshape(law.shape))
            for law, part in zip(group, parts, strict=True)
        ]
    if len(group) == 1:
        return [first.sample(key)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *group)
    drawn = jax.vmap(lambda law, k: law.sample(k))(stacked, jax.random.split(key, len(group)))
    return list(drawn)
