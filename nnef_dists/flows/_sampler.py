"""A sampler that uses a trained flow instead of HMC."""

from typing import final

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._ranges import check_integer
from nnef_dists.families import ExponentialFamily
from nnef_dists.flows._conditional_flow import ConditionalFlow
from nnef_dists.sampling import AbstractSampler


@final
class FlowSampler(AbstractSampler):
    """Draws by a trained flow, for any tractable family: `ClosedForm(..., sampler=FlowSampler(f))`.

    If `resample` is above 1, `resample` times n points are drawn. n of these are chosen with
    replacement, with probabilities in proportion to their weights. The error of the flow then
    shrinks as `resample` grows.

    Args:
        flow: A trained `ConditionalFlow`.
        resample: Number of points drawn per point kept, at least 1. Defaults to 1.

    Raises:
        ValueError: If `resample < 1`.

    Reference:
        Rubin, *Using the SIR algorithm to simulate posterior distributions* (1988).
    """

    flow: ConditionalFlow
    resample: int = eqx.field(static=True)

    def __init__(self, flow: ConditionalFlow, resample: int = 1):
        self.flow, self.resample = flow, check_integer("resample", resample, 1)

    def sample(
        self, key: PRNGKeyArray, family: ExponentialFamily, eta: Float[Array, " eta_dim"], n: int
    ) -> Float[Array, "n *x_shape"]:
        """Draws n points, as in `AbstractSampler`.

        Raises:
            ValueError: If `family` is not the family of the flow, or n < 1.
        """
        if family != self.flow.family:
            raise ValueError(f"Expected the flow's family, {self.flow.family!r}; got {family!r}")
        if self.resample == 1:
            return self.flow.sample(key, eta, n)
        draw_key, choice_key = jax.random.split(key)
        x, log_weights = self.flow.draw_with_log_weights(draw_key, eta, n * self.resample)
        weights = jax.nn.softmax(log_weights)
        return jax.random.choice(choice_key, x, (n,), p=weights)
