"""Affine layer with random weights."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from nnef_dists._checks import as_key
from nnef_dists._ranges import check_integer

from ._deterministic import DeterministicParameter
from ._gaussian import GaussianParameter
from ._make_parameter import make_parameter
from ._module import Module
from ._noise import draw_noise, normal_pair
from ._parameter import AbstractParameter
from ._partition import check_whole
from ._positivity import AbstractPositivity
from ._sample import drawing_key, sample_all_parameters


@final
class BayesianLinear(Module):
    """An affine map with random weights: `y = W x + b`.

    The initial means of `W` are Xavier-uniform [Glorot and Bengio, 2010, eq. 16]. The initial means
    of `b` are zero.

    Args:
        in_features: Size of the last axis of the input, at least 1.
        out_features: Size of the last axis of the output, at least 1.
        use_bias: Whether the layer adds `b`. Defaults to True.
        bayesian: Whether `W` is random. If False, it is a `DeterministicParameter`. Defaults to
            True.
        bayesian_bias: Whether `b` is random. Defaults to True.
        param_type: Class of the random parameters. Defaults to `GaussianParameter`.
        init_raw_stdv: Initial unconstrained scale, see `make_parameter`. Defaults to 0.01.
        positivity: Transform from unconstrained scale to scale. By default, the class of the
            parameters chooses it.
        local_reparameterization: Whether a call with a key draws outputs instead of weights
            [Kingma, Salimans and Welling, 2015, eq. 6]. Each row of the input then has independent
            weights. The distribution of each output is unchanged. Outputs of different rows are
            independent given the input, so gradients of an average over rows have less variance.
            `W` and `b` must be Gaussian or deterministic. Defaults to False.
        dtype: Floating dtype. Defaults to JAX's default.
        key: PRNG key for the initial means of the weights.
    """

    W: AbstractParameter
    b: AbstractParameter | None
    in_features: int = eqx.field(static=True)
    out_features: int = eqx.field(static=True)
    local_reparameterization: bool = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = True,
        bayesian: bool = True,
        bayesian_bias: bool = True,
        param_type: type[AbstractParameter] = GaussianParameter,
        init_raw_stdv: Any = 0.01,
        positivity: AbstractPositivity | None = None,
        local_reparameterization: bool = False,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        dtype = jnp.zeros(()).dtype if dtype is None else dtype
        in_features = check_integer("in_features", in_features, 1)
        out_features = check_integer("out_features", out_features, 1)
        limit = (6 / (in_features + out_features)) ** 0.5
        law = {
            "param_type": param_type,
            "init_raw_stdv": init_raw_stdv,
            "positivity": positivity,
        }
        # A flat draw has the same numbers, and compiles in half the time.
        draw = limit * jax.random.uniform(as_key(key), (out_features * in_features,), dtype, -1)
        weights = draw.reshape(out_features, in_features)
        self.W = make_parameter(weights, bayesian=bayesian, **law)
        self.b = (
            make_parameter(jnp.zeros((out_features,), dtype), bayesian=bayesian_bias, **law)
            if use_bias
            else None
        )
        self.in_features = in_features
        self.out_features = out_features
        self.local_reparameterization = local_reparameterization

    def __check_init__(self):
        shape = (self.out_features, self.in_features)
        if self.W.shape[-2:] != shape:
            raise ValueError(f"Expected W of shape {shape}; got {self.W.shape}.")
        if self.b is not None and self.b.shape[-1:] != shape[:1]:
            raise ValueError(f"Expected b of shape {shape[:1]}; got {self.b.shape}.")
        summable = (GaussianParameter, DeterministicParameter)
        laws = [law for law in (self.W, self.b) if law is not None]
        if self.local_reparameterization and not all(isinstance(law, summable) for law in laws):
            # A weighted sum of other distributions has another kind of distribution.
            raise ValueError(
                "Expected Gaussian or deterministic parameters for local reparameterization; got "
                f"{[type(law).__name__ for law in laws]}."
            )

    def __call__(
        self,
        x: Float[Array, "... in_features"],
        *,
        key: PRNGKeyArray | None = None,
        sample: bool | None = None,
    ) -> Float[Array, "... out_features"]:
        """Applies the layer to the last axis of `x`.

        All leading axes share one draw of the weights, except with local reparameterization.

        Args:
            x: Inputs `(..., in_features)`.
            key: PRNG key for the weights. Without a key, the means are used.
            sample: Whether to draw the weights. By default, they are drawn if there is a key.

        Returns:
            Outputs `(..., out_features)`.

        Raises:
            ValueError: If `x` has the wrong size, or `sample` is True without a key.
        """
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"Expected x of shape (..., {self.in_features}); got {x.shape}.")
        drawn = drawing_key(key, sample)
        check_whole(self)
        # Inside a flowjax structure, paramax.unwrap has already replaced parameters by arrays.
        is_random = isinstance(self.W, AbstractParameter)
        if drawn is not None and is_random and self.local_reparameterization:
            return self._draw_outputs(x, drawn)
        layer = self if drawn is None else sample_all_parameters(self, drawn)
        y = x @ paramax.unwrap(layer.W).T
        return y if layer.b is None else y + paramax.unwrap(layer.b)

    def _draw_outputs(self, x: Array, key: PRNGKeyArray) -> Array:
        """Draws the outputs from their Gaussian given `x`."""
        mean = self(x)
        # Squares of small integers overflow.
        variance = x.astype(mean.dtype) ** 2 @ self.W.stdv.T**2
        if self.b is not None:
            variance = variance + self.b.stdv**2
        noise = draw_noise(key, normal_pair, mean.size, mean.dtype)
        # The gradient of the root is infinite at zero variance, such as for x = 0 without a bias.
        is_random = variance > 0
        stdv = jnp.where(is_random, jnp.sqrt(jnp.where(is_random, variance, 1.0)), 0.0)
        return mean + stdv * noise.reshape(mean.shape)
