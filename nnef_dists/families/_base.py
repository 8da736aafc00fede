"""The base class of exponential families."""

import functools
import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import final

import equinox as eqx
import jax.numpy as jnp
from flowjax.bijections import Identity
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PRNGKeyArray

from nnef_dists._checks import as_array, as_key, as_vector, guard
from nnef_dists.families._declaration import check_declaration, find_stat_shapes
from nnef_dists.families._discrete import check_categories, inside_support, point_of
from nnef_dists.families._domain import AbstractDomain
from nnef_dists.families._eta_law import EtaLaw, as_eta_law, draw_etas
from nnef_dists.families._support import Support
from nnef_dists.families._symmetry import AbstractSymmetry

_REMEDY = "Test eta with family.is_valid_eta, or draw valid ones with family.sample_eta."


class ExponentialFamily(eqx.Module):
    """An exponential family, declared by its sufficient statistics.

        log p(x | eta) = eta . T(x) + log h(x) - A(eta)

    A subclass declares `x_shape`, `compute_stats` and `natural_domain`. `log_base_measure` (0) and
    `support` (the whole space) have defaults, and all other members are derived. A family is
    static and hashable. Its fields are numbers, strings and tuples, never arrays.

    Attributes:
        x_shape: The shape of one point x.
        natural_domain: The set of valid natural parameters eta.

    Raises:
        ValueError: If a field holds an array, or the domain does not fit the statistics.

    Example:
        ```python
        class Quartic(nd.ExponentialFamily):
            x_shape = ()
            natural_domain = nd.domain(x4=nd.negative)

            def compute_stats(self, x):
                return {"x": x, "x2": x**2, "x4": x**4}
        ```
    """

    x_shape: eqx.AbstractVar[tuple[int, ...]]
    natural_domain: eqx.AbstractVar[AbstractDomain]

    def __check_init__(self):
        check_declaration(self)
        self.natural_domain.check_statistics(self.stat_shapes)

    @abstractmethod
    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns the sufficient statistics T(x) by name.

        Args:
            x: One point, of shape `x_shape`.

        Returns:
            Floating arrays of any shapes. The flat eta has the order of the dict.
        """

    def log_base_measure(self, x: Array) -> Float[Array, ""]:
        """Returns log h(x), in nats: 0 unless overridden."""
        return jnp.zeros((), x.dtype if jnp.isdtype(x.dtype, "real floating") else float)

    @property
    def has_unit_base_measure(self) -> bool:
        """Whether h is 1 on the whole support: True unless `log_base_measure` is overridden.

        If True, E[log h] is 0. If h is only the indicator of the support, override this as well.
        """
        return type(self).log_base_measure is ExponentialFamily.log_base_measure

    @property
    def support(self) -> Support:
        """The map from R^n onto the support of x: the identity unless overridden.

        A flowjax bijection, or an `AbstractSupport` if x has another shape than its coordinates.
        For discrete x it is an `AbstractDiscreteSupport`, such as `Counts()` or `Spins(shape)`,
        and h is relative to counting measure.
        """
        return Identity(self.x_shape)

    @property
    def is_smooth(self) -> bool:
        """Whether the log-density is differentiable everywhere: True unless overridden."""
        return True

    @property
    def symmetries(self) -> tuple[AbstractSymmetry, ...]:
        """Groups under which the statistics are closed: none unless overridden.

        `functools.reduce(nd.Symmetric, family.symmetries, q)` uses all of them.
        """
        return ()

    @property
    @final
    def stat_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every statistic, by name, in the order of the flat eta."""
        return dict(find_stat_shapes(self))

    @property
    @final
    def eta_dim(self) -> int:
        """The length of the flat eta: the total size of the statistics."""
        return sum(math.prod(shape) for _, shape in find_stat_shapes(self))

    @property
    @final
    def stat_names(self) -> tuple[str, ...]:
        """A name for each entry of the flat eta, such as `x[0]` or `xxT[2,1]`."""
        return tuple(
            name + (f"[{','.join(map(str, index))}]" if shape else "")
            for name, shape in find_stat_shapes(self)
            for index in itertools.product(*map(range, shape))
        )

    @final
    def sufficient_statistics(self, x: Array) -> Float[Array, " eta_dim"]:
        """Returns T(x) as a flat vector.

        Args:
            x: One point, of shape `x_shape`.

        Returns:
            The statistics, `(eta_dim,)`. Compiled, they are NaN if x is not one of `Categories`.

        Raises:
            ValueError: If `x` has another shape, or is not one of `Categories`.
        """
        parts = self.compute_stats(point_of(self, x))
        return check_categories(self, x, self.flatten_stats_or_eta(parts))

    @final
    def logdensity_fn(self, eta: Float[Array, " eta_dim"]) -> Callable[[Array], Float[Array, ""]]:
        """Returns the unnormalized log-density `x -> eta . T(x) + log h(x)`, in nats.

        Args:
            eta: Valid natural parameters, flat, `(eta_dim,)`.

        Returns:
            A function of one point of shape `x_shape`.

        Raises:
            ValueError: If eta is invalid, as in `check_eta`.
        """
        eta = self.check_eta(eta)
        return functools.partial(self.unnormalized_logdensity, eta)

    @final
    def unnormalized_logdensity(self, eta: Float[Array, " eta_dim"], x: Array) -> Float[Array, ""]:
        """Returns `eta . T(x) + log h(x)`, in nats, without checking that eta is valid.

        Args:
            eta: Valid natural parameters, `(eta_dim,)`, not checked.
            x: One point, of shape `x_shape`.

        Returns:
            The log-density at `x`, -inf outside a discrete support, undefined outside others.
        """
        inside, x = inside_support(self, x)
        logs = jnp.sum(eta * self.sufficient_statistics(x)) + self.log_base_measure(x)
        return logs if inside is None else jnp.where(inside, logs, -jnp.inf)

    @final
    def flatten_stats_or_eta(self, parts: Mapping[str, Array]) -> Float[Array, " eta_dim"]:
        """Flattens a dict of statistics or of natural parameters.

        Args:
            parts: One array per statistic, of the statistic's shape.

        Returns:
            The flat vector, `(eta_dim,)`.

        Raises:
            ValueError: If `parts` is not a dict, or its names or shapes are not `stat_shapes`.
        """
        shapes = self.stat_shapes
        if not isinstance(parts, Mapping):
            raise ValueError(
                f"Expected a dict with the parts {list(shapes)} for {self!r}; got "
                f"{type(parts).__name__}. An array that is flat already needs no flattening."
            )
        got = {name: jnp.shape(value) for name, value in parts.items()}
        if got != shapes:
            raise ValueError(f"Expected parts of shapes {shapes} for {self!r}; got {got}")
        return jnp.concatenate([jnp.ravel(as_array(parts[name])) for name in shapes])

    @final
    def unflatten_stats_or_eta(self, flat: Float[Array, " eta_dim"]) -> dict[str, Array]:
        """Unflattens a vector of statistics or of natural parameters.

        Args:
            flat: The flat vector, `(eta_dim,)`.

        Returns:
            One array per statistic, of the statistic's shape.

        Raises:
            ValueError: If `flat` has another shape, or is not floating.
        """
        flat = as_vector(flat, self.eta_dim, "a flat vector", self)
        parts, start = {}, 0
        for name, shape in self.stat_shapes.items():
            stop = start + math.prod(shape)
            parts[name] = flat[start:stop].reshape(shape)
            start = stop
        return parts

    @final
    def is_valid_eta(self, eta: Float[Array, " eta_dim"]) -> Bool[Array, ""]:
        """Returns whether eta, `(eta_dim,)`, is in the natural domain, so that A(eta) is finite."""
        validity = self.natural_domain.contains(self.unflatten_stats_or_eta(eta))
        return jnp.all(jnp.stack(list(validity.values())))

    @final
    def check_eta(
        self, eta: Float[Array, " eta_dim"], *, strict: bool = False
    ) -> Float[Array, " eta_dim"]:
        """Returns eta as an array if it is valid.

        Most functions with an argument eta call this method, so they also accept a list of
        numbers. A dict of parts is an error: flatten it with `flatten_stats_or_eta`.

        Under `jax.jit` or `jax.vmap` an invalid eta becomes NaN, and so do log-densities, moments
        and derivatives that are computed from it. A Markov chain over eta then rejects the
        proposal. There is no host callback unless `strict`.

        Args:
            eta: Natural parameters, flat, `(eta_dim,)`.
            strict: Whether an invalid eta raises under `jax.jit` too, by `equinox.error_if`,
                which is a host callback. Defaults to False.

        Returns:
            Eta as an array, or NaN for an invalid eta under `jax.jit`.

        Raises:
            ValueError: If a concrete eta is invalid. The message names the natural parameter and
                its value.
        """
        eta = as_vector(eta, self.eta_dim, "eta", self)
        parts = self.unflatten_stats_or_eta(eta)
        checked = eta
        for name, valid in self.natural_domain.contains(parts).items():
            expected = (
                f"Expected natural parameter {name!r} of {self!r} to be "
                f"{self.natural_domain.expectation(name)}"
            )
            value = parts.get(name, eta)
            checked = guard(checked, valid, expected, value, _REMEDY, strict=strict)
        return checked

    @final
    def sample_eta(
        self,
        key: PRNGKeyArray,
        n: int,
        ranges: EtaLaw,
        *,
        first: int | Int[Array, ""] = 0,
        dtype: DTypeLike | None = None,
    ) -> Float[Array, "n eta_dim"]:
        """Draws random valid etas from ranges for each statistic or from another distribution.

        Eta i depends only on the key and on i, not on `n`.

        Args:
            key: PRNG key.
            n: Number of etas.
            ranges: Dict by statistic of `(low, high)` (uniform) or `(low, high, "log")`
                (log-uniform, bounds of one sign). Bounds broadcast to the statistic's shape. For a
                negative definite matrix, they bound the eigenvalues. In a domain that couples
                statistics, etas are from the part of the box inside it. Alternatively, an
                `AbstractEtaLaw`, such as `posterior_etas(...)`, or a function of a key.
            first: Index of the first eta, to draw a long sequence in parts. Defaults to 0.
            dtype: Floating dtype. None is JAX's default.

        Returns:
            Flat etas, `(n, eta_dim)`. Under `jax.jit` an invalid eta is NaN.

        Raises:
            ValueError: If a name is missing or unknown, a range is outside the domain, or another
                distribution draws an invalid eta. Invalid etas are not dropped or changed.
        """
        dtype = jnp.result_type(float) if dtype is None else dtype
        return draw_etas(as_eta_law(ranges), self, as_key(key), first, n, dtype)

    @property
    @final
    def unconstrained_dim(self) -> int:
        """The number of unconstrained coordinates of eta."""
        return self.natural_domain.unconstrained_dim(self.stat_shapes)

    @final
    def constrain_eta(self, u: Float[Array, " m"]) -> Float[Array, " eta_dim"]:
        """Returns the valid eta with unconstrained coordinates `u`, `(unconstrained_dim,)`."""
        u = as_vector(u, self.unconstrained_dim, "u", self)
        return self.flatten_stats_or_eta(self.natural_domain.constrain(u, self.stat_shapes))

    @final
    def unconstrain_eta(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " m"]:
        """Returns the unconstrained coordinates of a valid eta: the inverse of `constrain_eta`."""
        return self.natural_domain.unconstrain(self.unflatten_stats_or_eta(eta))

    @final
    def convex_features(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " k"]:
        """Returns convex functions of a valid eta, as `AbstractDomain.convex_features` does."""
        return self.natural_domain.convex_features(self.unflatten_stats_or_eta(eta))
