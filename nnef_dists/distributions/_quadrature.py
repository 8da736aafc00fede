"""Families whose A and mu are integrals in one or two dimensions."""

from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists._checks import check_concrete, check_instance
from nnef_dists._ranges import check_integer
from nnef_dists.distributions._base import AbstractTractableFamily
from nnef_dists.distributions._sampler import default_sampler
from nnef_dists.families import ExponentialFamily
from nnef_dists.moments import QuadratureMoments, quadrature_moments
from nnef_dists.sampling import AbstractSampler, quadrature_dim


@final
class Quadrature(AbstractTractableFamily):
    """A family of one or two dimensions, whose log-partition and mean are integrals.

    No training is needed. See `quadrature_moments` for the rules and their error bound, which is
    below 1e-3 nats and z units, and usually at the rounding of eta's dtype. If the bound is larger,
    the call raises. Inside a compiled program, the result is NaN.

    All derivatives in eta differentiate the same sum at fixed nodes: the derivative of A is the
    mean, the derivative of the mean is the covariance, and so on to any order.

    Example:
        `q = nd.Quadrature(nd.Polynomial1D((1, 2, 4)))`, then `q.mean(eta)`, `q.entropy(eta)`.

    Args:
        family: An exponential family of one or two dimensions. A circle has one, and the
            sphere in R^3 two.
        points: Number of nodes, odd, at least 9. Defaults to the number of `quadrature_moments`.
            Memory and time per eta are proportional to it in one dimension, and to its square in
            two.
        sampler: The sampler that `sample` uses. Defaults to `QuadratureSampler()` in one dimension
            and on circles, and to `HMCSampler()` in two.
        strict: Whether an invalid eta raises inside compiled programs too.

    Raises:
        ValueError: If `family` has more than two dimensions, or `points` is even or too small.
    """

    family: ExponentialFamily = eqx.field(static=True)
    points: int | None = eqx.field(static=True)
    sampler: AbstractSampler
    strict: bool = eqx.field(static=True)

    def __init__(
        self,
        family: ExponentialFamily,
        *,
        points: int | None = None,
        sampler: AbstractSampler | None = None,
        strict: bool = False,
    ):
        check_instance(family, ExponentialFamily, "family")
        dim = quadrature_dim(family)
        if dim not in (1, 2):
            raise ValueError(
                f"Expected a family of one or two dimensions; {family!r} has {dim}. Use a trained "
                "AmortizedFamily(family, network)."
            )
        if points is not None and check_integer("points", points, 9) % 2 == 0:
            raise ValueError(f"Expected an odd number of points >= 9; got {points}")
        self.family, self.points, self.strict = family, points, strict
        self.sampler = default_sampler(family) if sampler is None else sampler

    def _moments(self, eta: Float[Array, " eta_dim"]) -> QuadratureMoments:
        found = quadrature_moments(self.family, eta, points=self.points)
        return check_concrete(
            found,
            jnp.isfinite(found.error),
            f"Expected quadrature of {self.family!r} to converge to 1e-3",
            f"a larger error bound at {jax.lax.stop_gradient(eta)}",
            "Increase points, use float64, or use an AmortizedFamily. A density with more than "
            "four modes, or with a step much narrower than its bulk, does not converge. If the "
            "integral diverges, correct natural_domain: nd.check_family names the etas. In two "
            "dimensions T and log h must be smooth: kinks and jumps are not searched for.",
        )

    def _accuracy(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        return quadrature_moments(self.family, eta, points=self.points).error

    def _potential(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        return self._moments(eta).log_partition

    def _mean(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        return self._moments(eta).mean

    def _potential_and_mean(
        self, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, ""], Float[Array, " eta_dim"]]:
        found = self._moments(eta)
        return found.log_partition, found.mean
