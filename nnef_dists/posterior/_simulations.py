"""Simulated pairs of parameters and observations, the training data of heads."""

from collections.abc import Sequence
from typing import NamedTuple, final

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._checks import as_key
from nnef_dists._ranges import check_number


class SimulationBatch(NamedTuple):
    """A batch of simulations for a loss: a pytree of arrays with one leading axis.

    Attributes:
        theta: Parameters, `(n, theta_dim)`.
        x: Observations, `(n, *x_shape)`.
    """

    theta: Float[Array, "n theta_dim"]
    x: Float[Array, "n *x_shape"]


@final
class Simulations:
    """Pairs (theta, x) with theta from a prior and x from the simulator at theta, on the host.

    Args:
        theta: Parameters, `(n, theta_dim)`.
        x: Observations, `(n, *x_shape)`, of the dtype of `theta`. Both must be finite.
        failed: Number of excluded simulations that were not finite. Defaults to 0.

    Attributes:
        theta: Parameters, `(n, theta_dim)`.
        x: Observations, `(n, *x_shape)`.
        failed: Number of excluded simulations that were not finite.

    Raises:
        ValueError: If the arrays differ in length or dtype, or are not floating or not finite.
    """

    theta: np.ndarray
    x: np.ndarray
    failed: int

    def __init__(
        self,
        theta: Float[Array, "n theta_dim"] | np.ndarray,
        x: Float[Array, "n *x_shape"] | np.ndarray,
        *,
        failed: int = 0,
    ):
        self.theta, self.x, self.failed = np.asarray(theta), np.asarray(x), failed
        if self.theta.ndim != 2 or self.x.shape[:1] != self.theta.shape[:1]:
            raise ValueError(
                "Expected theta of shape (n, theta_dim) and x of shape (n, ...); got "
                f"{self.theta.shape} and {self.x.shape}"
            )
        for name, array in (("theta", self.theta), ("x", self.x)):
            if array.dtype.kind != "f" or array.dtype != self.theta.dtype:
                raise ValueError(
                    f"Expected {name} of one floating dtype; got {array.dtype} beside "
                    f"{self.theta.dtype}. Convert with .astype(theta.dtype)"
                )
            if not np.isfinite(array).all():
                advice = (
                    ""
                    if name == "theta"
                    else (". Mark missing entries: use nnef_dists.posterior.masked_observation")
                )
                raise ValueError(f"Expected finite {name}; got NaN or infinity among them{advice}")

    @property
    def theta_dim(self) -> int:
        """The length of one theta."""
        return self.theta.shape[1]

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of one observation."""
        return self.x.shape[1:]

    def __len__(self) -> int:
        return len(self.theta)

    def __getitem__(self, rows: slice | np.ndarray | Sequence[int]) -> "Simulations":
        """Returns the pairs of a slice, a mask or indices."""
        return Simulations(self.theta[rows], self.x[rows], failed=self.failed)

    def __repr__(self) -> str:
        return (
            f"Simulations: {len(self)} pairs, theta_dim {self.theta_dim}, x of shape "
            f"{self.x_shape}; {self.failed} failed"
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Simulations"]) -> "Simulations":
        """Joins simulations, for example of several rounds.

        Raises:
            ValueError: If `parts` is empty, or the shapes differ.
        """
        if len({(part.theta_dim, part.x_shape) for part in parts}) != 1:
            raise ValueError(
                f"Expected simulations of one shape; got {[repr(part) for part in parts]}"
            )
        return cls(
            np.concatenate([part.theta for part in parts]),
            np.concatenate([part.x for part in parts]),
            failed=sum(part.failed for part in parts),
        )

    def arrays(self) -> SimulationBatch:
        """Returns all pairs as one batch."""
        return SimulationBatch(self.theta, self.x)  # pyright: ignore[reportArgumentType]

    def split(self, fraction: float, key: PRNGKeyArray) -> tuple["Simulations", "Simulations"]:
        """Splits at random, for example into training and validation pairs.

        Args:
            fraction: Fraction of pairs in the first part, in (0, 1).
            key: PRNG key.

        Returns:
            Two disjoint, non-empty parts in the original order. `failed` is unchanged in both.

        Raises:
            ValueError: If `fraction` is not in (0, 1), or there are fewer than two pairs.
        """
        fraction = check_number("fraction", fraction, 0.0, 1.0)
        if len(self) < 2:
            raise ValueError(f"Expected two pairs or more to split; got {len(self)}")
        order = np.asarray(jax.random.permutation(as_key(key), len(self)))
        first = min(max(round(fraction * len(self)), 1), len(self) - 1)
        return self[np.sort(order[:first])], self[np.sort(order[first:])]
