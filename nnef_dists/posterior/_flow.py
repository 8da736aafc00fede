"""The head for posteriors from a conditional normalizing flow."""

from collections.abc import Callable
from typing import Any, final

import jax
from flowjax.bijections import AbstractBijection, RationalQuadraticSpline
from flowjax.distributions import AbstractDistribution, StandardNormal, Transformed
from flowjax.flows import coupling_flow, masked_autoregressive_flow
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._checks import as_key
from nnef_dists.posterior._base import AbstractLaw, AbstractPosterior, Vector
from nnef_dists.posterior._coordinates import PosteriorCoordinates
from nnef_dists.posterior._embeddings import AbstractEmbedding
from nnef_dists.posterior._simulations import Simulations
from nnef_dists.posterior._trunk import Trunk, check_head, make_coordinates


@final
class FlowPosterior(AbstractPosterior):
    """A flowjax distribution of standardized coordinates z, conditioned on learned features of x.

        q(z | x) = flow(z | trunk(x))

    `parameters(x)` returns the features that condition the flow. The weights of the trunk are
    random. The weights of `flow` are used as given. For random weights, pass
    `nd.bayesianize(flow).module`.

    A flow may contain functions and integers besides its weights, as in flowjax. Then use
    `eqx.filter_jit` and `eqx.filter_grad`.

    Args:
        data: Simulations, which set the coordinates.
        flow: A distribution of shape `(theta_dim,)` with `cond_shape` `(features,)`, or a bijection
            of these shapes, which transforms a standard normal distribution.
        support: Flowjax bijection from R^d onto the support of theta, such as `BoxSupport`. By
            default, the support is R^d.
        embedding: Network from one observation to a vector. By default, x is flattened.
        key: PRNG key for the initial means of the trunk's weights.
        **trunk: `width`, `depth`, `activation`, `param_type` and `context` of the `Trunk`.

    Attributes:
        coordinates: Coordinates of theta and x.
        trunk: The network from x to features.
        flow: The conditional distribution of z.

    Raises:
        ValueError: If the flow has other shapes, or `PosteriorCoordinates` or `Trunk` raises.

    Reference:
        Greenberg, Nonnenmacher and Macke, *Automatic posterior transformation for likelihood-free
        inference*, ICML (2019).
    """

    coordinates: PosteriorCoordinates
    trunk: Trunk
    flow: AbstractDistribution

    def __init__(
        self,
        data: Simulations,
        flow: AbstractDistribution | AbstractBijection,
        *,
        support: AbstractBijection | None = None,
        embedding: AbstractEmbedding | None = None,
        key: PRNGKeyArray,
        **trunk: Any,
    ):
        check_head(data, trunk, type(self).__init__)
        if not isinstance(flow, AbstractDistribution | AbstractBijection):
            raise ValueError(
                "Expected flow as a flowjax distribution or bijection; got "
                f"{type(flow).__name__}. FlowPosterior.autoregressive(data, key=key) makes one."
            )
        shape, condition = (data.theta_dim,), flow.cond_shape
        if flow.shape != shape or condition is None or len(condition) != 1:
            raise ValueError(
                f"Expected a flow of shape {shape}, conditioned on a vector; got shape "
                f"{flow.shape}, condition {condition}"
            )
        if isinstance(flow, AbstractBijection):
            flow = Transformed(StandardNormal(shape), flow)
        self.coordinates = make_coordinates(data, support, embedding)
        self.trunk = Trunk(data, condition[0], embedding=embedding, key=key, **trunk)
        self.flow = flow

    @classmethod
    def coupling(cls, data: Simulations, *, key: PRNGKeyArray, **options: Any) -> "FlowPosterior":
        """Builds a flow of coupling layers, for two or more dimensions. See `autoregressive`.

        Reference:
            Durkan, Bekasov, Murray and Papamakarios, *Neural spline flows*, NeurIPS (2019).
        """
        check_head(data, {})
        if data.theta_dim < 2:
            raise ValueError(
                "Expected theta_dim >= 2 for coupling layers; got 1 (use autoregressive)"
            )
        return cls._with_layers(coupling_flow, data, key=key, **options)

    @classmethod
    def autoregressive(
        cls, data: Simulations, *, key: PRNGKeyArray, **options: Any
    ) -> "FlowPosterior":
        """Builds a flow of masked autoregressive layers.

        Args:
            data: Simulations.
            key: PRNG key for the trunk and the flow.
            **options: Arguments of `FlowPosterior`, and of the flow. `transformer` is a scalar
                flowjax bijection. It defaults to a rational-quadratic spline on [-4, 4] with 8
                inner knots, the identity outside. `layers` is the number of layers, `flow_width`
                and `flow_depth` are sizes of the network of each layer, and `features` is the
                number of outputs of the trunk.

        Returns:
            The head. A density takes one pass. A draw takes one pass only in one dimension or with
            coupling layers.

        Reference:
            Papamakarios, Pavlakou and Murray, *Masked autoregressive flow for density estimation*,
            NeurIPS (2017).
        """
        return cls._with_layers(masked_autoregressive_flow, data, key=key, **options)

    @classmethod
    def _with_layers(
        cls,
        make: Callable[..., Transformed],
        data: Simulations,
        *,
        transformer: AbstractBijection | None = None,
        layers: int = 3,
        flow_width: int = 32,
        flow_depth: int = 1,
        features: int = 32,
        key: PRNGKeyArray,
        **options: Any,
    ) -> "FlowPosterior":
        names = {"support", "embedding"}
        trunk = {name: value for name, value in options.items() if name not in names}
        check_head(data, trunk, cls.__init__, cls._with_layers)
        key_flow, key_trunk = jax.random.split(as_key(key))
        if transformer is None:
            transformer = RationalQuadraticSpline(knots=8, interval=4)
        flow = make(
            key_flow,
            base_dist=StandardNormal((data.theta_dim,)),
            transformer=transformer,
            cond_dim=features,
            flow_layers=layers,
            nn_width=flow_width,
            nn_depth=flow_depth,
            nn_activation=jax.nn.silu,
        )
        return cls(data, flow, key=key_trunk, **options)

    def law_at(self, inputs: Any) -> "_FlowLaw":
        """Returns the flow, conditioned on the features of one standardized observation."""
        return _FlowLaw(self.flow, self.trunk(inputs))


@final
class _FlowLaw(AbstractLaw):
    """The distribution of a flow at one vector of features."""

    flow: AbstractDistribution
    features: Float[Array, " features"]

    def log_prob(self, z: Vector) -> Float[Array, ""]:
        return self.flow.log_prob(z, self.features)

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n theta_dim"]:
        return self.flow.sample(key, (n,), self.features)

    def parameters(self, shift: Vector, scale: Vector) -> Float[Array, " features"]:
        return self.features
