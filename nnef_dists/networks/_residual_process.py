"""A Gaussian process of random features, for the residual of a trained network."""

from typing import final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import paramax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from nnef_dists.bayes import GaussianParameter

# Degrees of freedom of Student's t, the distribution of the frequencies.
_TAILS = 5


@final
class ResidualProcess(eqx.Module):
    """A Gaussian process in the space of its weights. It is not trained.

        g(x) = phi(x) . (m + L omega),    phi(x) = (cos(W x), sin(W x)),    omega ~ N(0, 1)

    `sample_all_parameters` draws omega, and thereby one function g. At the means, omega is 0.

    Attributes:
        frequencies: W, `(k, m)`.
        mean: m, `(2 k,)`.
        factor: L, `(2 k, 2 k)`, a square root of the covariance of the weights.
        noise: omega, `(2 k,)`.

    Reference:
        Rahimi and Recht, *Random features for large-scale kernel machines*, NeurIPS 2007.
    """

    frequencies: paramax.NonTrainable[Array]
    mean: paramax.NonTrainable[Array]
    factor: paramax.NonTrainable[Array]
    noise: paramax.NonTrainable[GaussianParameter]

    @classmethod
    def of_arrays(
        cls, frequencies: np.ndarray, mean: np.ndarray, factor: np.ndarray, dtype: DTypeLike
    ) -> "ResidualProcess":
        """Returns the process with these W, m and L, stored in a dtype."""

        def to_buffer(leaf: np.ndarray) -> paramax.NonTrainable[Array]:
            return paramax.NonTrainable(jnp.asarray(leaf, dtype))

        noise = GaussianParameter.from_stdv(jnp.zeros(len(mean), dtype), 1.0)
        return cls(
            to_buffer(frequencies), to_buffer(mean), to_buffer(factor), paramax.NonTrainable(noise)
        )

    def __call__(self, x: Float[Array, " m"]) -> Float[Array, ""]:
        """Returns g at inputs, `(m,)`."""
        fixed = paramax.unwrap(self)
        angles = fixed.frequencies @ x
        features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])
        return features @ (fixed.mean + fixed.factor @ fixed.noise)


def draw_frequencies(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    """Draws W for length 1, `(count, dim)`.

    The frequencies belong to a Matern kernel of smoothness 5 / 2. Its functions are twice
    differentiable, but no smoother.
    """
    normal = rng.normal(size=(count, dim))
    return normal / np.sqrt(rng.chisquare(_TAILS, size=(count, 1)) / _TAILS)


def features_and_gradients(
    frequencies: np.ndarray,
    scale: tuple[np.ndarray, np.ndarray],
    inputs: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns s phi(x) at n etas, `(n, 2 k)`, and its gradients, `(n, 2 k, eta_dim)`.

    Args:
        frequencies: W, `(k, m)`.
        scale: The scale s, `(n,)`, and its gradients, `(n, eta_dim)`.
        inputs: The inputs x, `(n, m)`, and their Jacobians, `(n, m, eta_dim)`.
    """
    (s, s_slopes), (x, x_slopes) = scale, inputs
    angles, slopes = x @ frequencies.T, frequencies @ x_slopes
    cos, sin = np.cos(angles), np.sin(angles)
    phi = np.concatenate([cos, sin], 1)
    phi_slopes = np.concatenate([-sin[:, :, None] * slopes, cos[:, :, None] * slopes], 1)
    return (
        s[:, None] * phi,
        s_slopes[:, None] * phi[:, :, None] + s[:, None, None] * phi_slopes,
    )
