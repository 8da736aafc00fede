"""Drawing all of a model's parameters at once, and the one call protocol: f(x, *, key, sample)."""

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
    """Replaces every parameter's mean by one reparameterized draw.

    The result has the model's structure, so that calling it without a key computes with the
    draw, and gradients reach the model's means and widths. Elementwise laws share one draw of
    noise per law and dtype; other laws of equal structure share one vmapped `sample`. The cost
    of tracing is linear in the number of parameters.

    Args:
        model: Any pytree.
        rng: A PRNG key; do not use it again.

    Returns:
        The model with sampled means. Deterministic parameters are unchanged.

    Raises:
        ValueError: If the model is one part of a split, or a key or a function; if `rng` is not one
            key. Join the parts of a split with `unfreeze_all`.
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
    """Returns the key that a call with these arguments draws weights with.

    Args:
        key: A PRNG key, or None.
        sample: None draws if there is a key; True draws; False uses the means.

    Returns:
        The key, or None if the call is to use the means.

    Raises:
        ValueError: If `sample=True` comes without a key, or `key` is not one key.
    """
    if sample and key is None:
        raise ValueError("key is required when sample=True")
    # A key that draws no weights may serve layers that are random themselves.
    key = None if key is None else as_key(key)
    return None if sample is False else key


def draw_or_mean(
    model: _Model, *, key: PRNGKeyArray | None = None, sample: bool | None = None
) -> _Model:
    """Returns the model whose means are the weights that a call is to use.

    A network implements the protocol by one line at the head of its `__call__`, after which it
    computes with means alone:

        net = draw_or_mean(self, key=key, sample=sample)

    Args:
        model: Any pytree with parameters.
        key: With a key, one set of weights is drawn; without, the means are used.
        sample: True insists on a draw, False on the means; None leaves it to the key.

    Returns:
        A sampled model, or the model itself.

    Raises:
        ValueError: If `sample=True` comes without a key, or the model is one part of a split.
    """
    drawn = drawing_key(key, sample)
    if drawn is not None:
        return sample_all_parameters(model, drawn)
    check_whole(model)
    return model


def _draw(laws: list[AbstractParameter], key: PRNGKeyArray) -> list[Array]:
    """Draws every law; those of one group share one random draw."""
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
    """Names the group whose draw a law shares; a law that fits none is a group of its own."""
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
        # One split, not one slice a parameter: its tracing and its transpose are one operation.
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
