"""Zero-mean functions that a family declares, for control variates."""

from abc import abstractmethod
from typing import final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@final
class SteinFunctions(eqx.Module):
    """Smooth functions phi_1, ..., phi_k of a point u in R^n, with two derivatives at that point.

    Attributes:
        value: phi(u), `(k,)`.
        gradient: The gradients, `(k, n)`.
        laplacian: The sums of the second derivatives, `(k,)`.
        multiplied: Number of the first functions whose pairwise products are used as well.
            Defaults to 0.
    """

    value: Float[Array, " k"]
    gradient: Float[Array, "k n"]
    laplacian: Float[Array, " k"]
    multiplied: int = eqx.field(static=True, default=0)

    def stein(self, score: Float[Array, " n"]) -> Float[Array, " features"]:
        """Returns the Stein transforms, which have mean zero under the density.

        The transform of phi is A phi = laplacian + gradient . score. Its mean is zero because it is
        div(p grad phi) / p, and p grad phi vanishes at infinity. The transform of a product is
        A(phi psi) = phi A psi + psi A phi + 2 grad phi . grad psi.

        Args:
            score: The gradient of the log-density at u, `(n,)`.

        Returns:
            One number per function, then one per product phi_i phi_j with i <= j < `multiplied`.
        """
        transforms = self.laplacian + self.gradient @ score
        i, j = np.triu_indices(self.multiplied)
        if not len(i):
            return transforms
        gradient = self.gradient[: self.multiplied]
        mixed = jnp.outer(self.value, transforms)[: self.multiplied, : self.multiplied]
        products = mixed + mixed.T + 2 * gradient @ gradient.T
        return jnp.concatenate([transforms, products[i, j]])


class AbstractSteinFamily(eqx.Module):
    """A mixin for families with custom functions for control variates.

    By default, the functions come from derivatives of the statistics, which cost one pass per
    dimension of the space. Use this class if better functions exist, or if their derivatives have
    a closed form.
    """

    @abstractmethod
    def stein_functions(self, u: Array) -> SteinFunctions:
        """Returns functions of a point in the unconstrained coordinates of the support.

        Args:
            u: One point, `(n,)`, flat for any shape of the support.

        Returns:
            The functions. They and their gradients may grow like any power of |u|, and their
            scales do not matter. They replace the default functions: monomials of u, the
            statistics and their products. Include these if they are useful.
        """


class AbstractFlipFamily(eqx.Module):
    """A mixin for families with flips, which lead from one mode to another.

    A flip is a map g of the space that is its own inverse and leaves h(x) dx unchanged. An example
    is a sign change of some coordinates. A flip may change the density. Let
    a(x) = p(g x) / (p(x) + p(g x)), the logistic function of eta . (T(g x) - T(x)). Then the mean
    of a(x) (f(g x) - f(x)) is zero for any f, because the contributions of x and g x cancel.
    Control variates of this form correct the weights of modes. Stein functions cannot.

    Reference:
        Dellaportas and Kontoyiannis, *Control variates for estimation based on reversible Markov
        chain Monte Carlo samplers*, J. R. Statist. Soc. B 74 (2012); Barker, *Monte Carlo
        calculations of the radial distribution functions for a proton-electron plasma*, Aust. J.
        Phys. 18 (1965), for the probability a.
    """

    @abstractmethod
    def flips(self, x: Array) -> tuple[dict[str, Array], ...]:
        """Returns the changes T(g x) - T(x) of the statistics by flips g, kind by kind.

        Args:
            x: One point of the support.

        Returns:
            One dict per kind, from the name of a statistic to its changes by the m flips of this
            kind, `(m, *shape)`. Statistics that no flip of a kind changes are left out. The control
            variates are sums over a kind, so that their number does not grow with m.
        """
