"""The one call protocol of everything Bayesian: `f(x, *, key=None, sample=None)`."""

from typing import TypeVar

from jaxtyping import PRNGKeyArray

from ._partition import check_whole
from ._sample import sample_all_parameters

_Model = TypeVar("_Model")


def drawing_key(key: PRNGKeyArray | None, sample: bool | None) -> PRNGKeyArray | None:
    """Returns the key that a call with these arguments draws weights with.

    Args:
        key: A PRNG key, or None.
        sample: None draws if there is a key; True draws; False uses the means.

    Returns:
        The key, or None if the call is to use the means.

    Raises:
        ValueError: If `sample=True` comes without a key.
    """
    if sample and key is None:
        raise ValueError("key is required when sample=True")
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
