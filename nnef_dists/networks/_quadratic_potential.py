"""The simple potential whose gradient is nearest to moment data."""

from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float

from nnef_dists.moments import MomentDataset
from nnef_dists.networks._base import Standardization

# Of the curvatures in the fit of the quadratic, relative to their mean square.
_RIDGE = 1e-6
# In z units: a network beside a fit that leaves less still has some weight, and is uncertain.
LEAST_RESIDUAL = 1e-3
# What is left with features has to be less than this part of what is left without.
_GAIN = 0.1
# Most rounds of reweighted least squares, and the ratio of two losses that ends them.
_REWEIGHTED, _CONVERGED = 20, 0.99


@final
class QuadraticPotential(eqx.Module):
    """The simple function whose gradient is nearest to moment data; never trained.

        Q(eta) = a . eta + b . x + x^T C x / 2 + c . phi(eta)

    with x the standardized inputs of eta and phi the convex features of the natural domain. The fit
    has the least sum of log(1 + z^2), z = (grad Q - mu) / sd(T), which is the loss of networks: a
    few labels with a tiny sd(T) do not decide. The features make it exact for Gaussians. If they
    do not explain nearly all, c is zero, because their residual is steep toward the domain's edge.
    The rest is for a network.

    `QuadraticPotential.fit(data, standardization)` returns the one of some data.

    Attributes:
        linear: a, `(eta_dim,)`.
        slope: b, `(m,)`.
        curvature: C, symmetric, `(m, m)`.
        features: c, `(k,)`.
        residual_scale: Size of a function of x whose gradient is about the residual of the
            quadratic.
    """

    linear: paramax.NonTrainable[Array]
    slope: paramax.NonTrainable[Array]
    curvature: paramax.NonTrainable[Array]
    features: paramax.NonTrainable[Array]
    residual_scale: paramax.NonTrainable[Array]

    @classmethod
    def fit(cls, data: MomentDataset, standardization: Standardization) -> "QuadraticPotential":
        """Fits the function to moment data.

        Args:
            data: Moment data, of which the valid labels are used.
            standardization: The coordinates x.

        Returns:
            The function.
        """
        labels = data.batch()
        dtype = labels.eta.dtype
        n, d = labels.eta.shape
        m = standardization.input_dim
        x = np.asarray(jax.vmap(standardization.inputs)(labels.eta), np.float64)
        slopes = np.asarray(jax.vmap(jax.jacfwd(standardization.inputs))(labels.eta), np.float64)
        sd = np.asarray(labels.sd, np.float64)
        features = jax.vmap(jax.jacfwd(data.family.convex_features))(labels.eta)
        rows, columns = np.triu_indices(m)
        # d(x_i x_j) / d eta, and half of it on the diagonal.
        products = x[:, rows, None] * slopes[:, columns] + x[:, columns, None] * slopes[:, rows]
        products[:, rows == columns] /= 2
        parts = [np.broadcast_to(np.eye(d), (n, d, d)), slopes, products, features]
        gradients = np.concatenate(parts, 1, dtype=np.float64)
        design = (gradients / sd[:, None]).transpose(0, 2, 1).reshape(n * d, -1)
        target = (np.asarray(labels.mean) / sd).reshape(-1)
        end = d + m + len(rows)
        typical = np.minimum(sd / np.median(sd, 0), 1.0).reshape(-1)
        coefficients, left = _robust_fit(design[:, :end], target, typical)
        coefficients = np.pad(coefficients, (0, design.shape[1] - end))
        with_features, less = _robust_fit(design, target, typical)
        if less < _GAIN * left:
            coefficients, left = with_features, less
        # Of the typical label: where sd(T) is next to nothing gradients have any size.
        steepness = np.median(np.sqrt(np.sum((slopes / sd[:, None]) ** 2, (1, 2))))
        curvature = np.zeros((m, m))
        curvature[rows, columns] = coefficients[d + m : end]
        curvature = curvature + curvature.T - np.diag(np.diagonal(curvature))

        def to_buffer(leaf) -> paramax.NonTrainable[Array]:
            return paramax.NonTrainable(jnp.asarray(leaf, dtype))

        return cls(
            linear=to_buffer(coefficients[:d]),
            slope=to_buffer(coefficients[d : d + m]),
            curvature=to_buffer(curvature),
            features=to_buffer(coefficients[end:]),
            residual_scale=to_buffer(max(left, LEAST_RESIDUAL) / steepness),
        )

    def __call__(
        self,
        eta: Float[Array, " eta_dim"],
        inputs: Float[Array, " m"],
        features: Float[Array, " k"],
    ) -> Float[Array, ""]:
        """Returns Q, in nats, at eta, whose inputs and convex features are given."""
        fixed = paramax.unwrap(self)
        quadratic = inputs @ fixed.curvature @ inputs / 2
        linear = fixed.linear @ eta + fixed.slope @ inputs
        return linear + quadratic + fixed.features @ features


def _robust_fit(
    design: np.ndarray, target: np.ndarray, typical: np.ndarray
) -> tuple[np.ndarray, float]:
    """Returns coefficients of the least mean of log(1 + z^2), and the root of this mean.

    Least squares with weights 1 / (1 + z^2) of the fit before, from two starts: all weights equal
    in z units, and equal in units of T up to a typical sd(T). The better end is returned.
    """
    ends = []
    for weight in (np.ones_like(target), typical):
        loss, coefficients = np.inf, np.zeros(design.shape[1])
        for _ in range(_REWEIGHTED):
            coefficients, _ = least_squares(design * weight[:, None], target * weight)
            z = target - design @ coefficients
            weight = 1 / np.sqrt(1 + z**2)
            before, loss = loss, float(np.mean(np.log1p(z**2)))
            if loss > _CONVERGED * before:
                break
        ends.append((loss**0.5, coefficients))
    left, coefficients = min(ends, key=lambda end: end[0])
    return coefficients, left


def least_squares(design: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns coefficients of a hardly regularized fit, and the rms of what it leaves."""
    size = np.sqrt(np.mean(design**2, 0))
    size = np.where(size > 0, size, 1.0)
    scaled = design / size
    # The ridge bounds the condition number: normal equations lose no digits that matter.
    gram = scaled.T @ scaled + _RIDGE * len(target) * np.eye(len(size))
    coefficients = np.linalg.solve(gram, scaled.T @ target) / size
    return coefficients, float(np.sqrt(np.mean((target - design @ coefficients) ** 2)))
