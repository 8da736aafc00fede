"""A flow in the place of HMC."""

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

    With `resample` above 1 that many times n points are drawn, and n of these chosen with
    probabilities in proportion to their weights: what the flow gets wrong shrinks with its number.

    Args:
        flow: A trained `ConditionalFlow`.
        resample: Points drawn for one that is kept, at least 1.

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
        """Draws n points; see `AbstractSampler`.

        Raises:
            ValueError: If the family is not the flow's, or n < 1.
        """
        if family != self.flow.family:
            raise ValueError(f"Expected the flow's family, {self.flow.family!r}; got {family!r}")
        if self.resample == 1:
            return self.flow.sample(key, eta, n)
        draw_key, choice_key = jax.random.split(key)
        x, log_weights = self.flow.draw_with_log_weights(draw_key, eta, n * self.resample)
        weights = jax.nn.softmax(log_weights)
        return jax.random.choice(choice_key, x, (n,), p=weights)
