"""The quadratic potential: a least-squares fit of the log-partition to moment data."""

from typing import NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float

from nnef_dists.moments import MomentDataset
from nnef_dists.networks._base import Standardization

# Ridge of least squares, relative to the mean square of each column.
_RIDGE = 1e-6
# Smallest residual of a fit, in z units, so that the network keeps some weight and uncertainty.
LEAST_RESIDUAL = 1e-3
# Largest residual ratio, with features to without, at which the fit keeps the features.
_GAIN = 0.1
# Largest number of rounds of reweighted least squares, and ratio of two losses that ends them.
_REWEIGHTED, _CONVERGED = 20, 0.99
# Largest ratio of the median |z|, robust fit to least squares, at which the robust fit is used.
_DECIDED = 0.5


@final
class QuadraticPotential(eqx.Module):
    """The quadratic function whose gradient fits moment data best. It is not trained.

        Q(eta) = a . eta + b . x + x^T C x / 2 + c . phi(eta)

    with x the standardized inputs of eta and phi the convex features of the natural domain. The fit
    is least squares of z = (grad Q - mu) / sd(T). If a few labels with a tiny sd(T) would dominate,
    it minimizes the sum of log(1 + z^2) instead. The features make Q exact for Gaussians. If they
    do not reduce the residual tenfold, c is zero, because their residual is steep toward the edge
    of the domain. A network fits the residual.

    `QuadraticPotential.fit(data, standardization)` returns the fit to moment data.

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
            data: Moment data. Only valid labels are used.
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
        fit = _fit(design[:, :end], target, typical)
        coefficients = np.pad(fit.coefficients, (0, design.shape[1] - end))
        with_features = _fit(design, target, typical)
        if with_features.left < _GAIN * fit.left:
            fit, coefficients = with_features, with_features.coefficients
        # In z units, gradients of a function of x are unbounded if sd(T) is nearly zero.
        squares = np.mean(np.sum((slopes / sd[:, None]) ** 2, 1), 1)
        steepness = np.sqrt(np.median(squares) if fit.is_robust else np.mean(squares))
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
            residual_scale=to_buffer(max(fit.left, LEAST_RESIDUAL) / steepness),
        )

    def __call__(
        self,
        eta: Float[Array, " eta_dim"],
        inputs: Float[Array, " m"],
        features: Float[Array, " k"],
    ) -> Float[Array, ""]:
        """Returns Q at eta, in nats, from eta, its inputs and its convex features."""
        fixed = paramax.unwrap(self)
        quadratic = inputs @ fixed.curvature @ inputs / 2
        linear = fixed.linear @ eta + fixed.slope @ inputs
        return linear + quadratic + fixed.features @ features


class _Fit(NamedTuple):
    coefficients: np.ndarray
    left: float
    is_robust: bool


def _fit(design: np.ndarray, target: np.ndarray, typical: np.ndarray) -> _Fit:
    """Returns the least-squares fit of z, or a robust fit if a few labels dominate.

    The robust fit has the least mean of log(1 + z^2). It is used if its median |z| is below half
    the median of least squares. It repeats least squares with weights 1 / (1 + z^2) of the previous
    fit. The first weights are equal in units of T, up to a typical sd(T).
    """
    plain, left = least_squares(design, target)
    weight, loss, coefficients, z = typical, np.inf, plain, target - design @ plain
    most = _DECIDED * np.median(np.abs(z))
    for _ in range(_REWEIGHTED):
        coefficients, _ = least_squares(design * weight[:, None], target * weight)
        z = target - design @ coefficients
        weight = 1 / np.sqrt(1 + z**2)
        before, loss = loss, float(np.mean(np.log1p(z**2)))
        if loss > _CONVERGED * before:
            break
    if np.median(np.abs(z)) < most:
        return _Fit(coefficients, loss**0.5, True)
    return _Fit(plain, left, False)


def least_squares(design: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the coefficients of a weakly regularized fit, and its RMS residual."""
    size = np.sqrt(np.mean(design**2, 0))
    size = np.where(size > 0, size, 1.0)
    scaled = design / size
    # The ridge bounds the condition number, so the normal equations are accurate enough.
    gram = scaled.T @ scaled + _RIDGE * len(target) * np.eye(len(size))
    coefficients = np.linalg.solve(gram, scaled.T @ target) / size
    return coefficients, float(np.sqrt(np.mean((target - design @ coefficients) ** 2)))
