"""Batches of labels, for losses."""

from collections.abc import Iterator
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nnef_dists._ranges import check_integer


@final
class MomentBatch(eqx.Module):
    """Valid labels as a pytree of arrays with one leading axis, from `MomentDataset.batch`.

    Example:
        `labels = data.batch()`, then `labels[rows]` inside a compiled training step.

    Attributes:
        eta: Natural parameters, `(n, eta_dim)`.
        mean: E[T], `(n, eta_dim)`.
        covariance: Cov[T], `(n, eta_dim, eta_dim)`.
        standard_error: Standard error of the mean, in units of T, `(n, eta_dim)`.
        covariance_error: Standard error of each entry of the covariance, `(n, eta_dim, eta_dim)`.
        base: The base of a network at each label, a pytree with this leading axis, from
            `network.batch(data)`. None by default.
    """

    eta: Float[Array, "n eta_dim"]
    mean: Float[Array, "n eta_dim"]
    covariance: Float[Array, "n eta_dim eta_dim"]
    standard_error: Float[Array, "n eta_dim"]
    covariance_error: Float[Array, "n eta_dim eta_dim"]
    base: Any = None

    def __len__(self) -> int:
        return self.eta.shape[0]

    def __getitem__(self, rows: Any) -> "MomentBatch":
        """Returns some of the labels, given by a slice, a mask or an array of indices."""
        return jax.tree.map(lambda leaf: leaf[rows], self)

    @property
    def sd(self) -> Float[Array, "*n eta_dim"]:
        """Standard deviations of T, `(n, eta_dim)`. An error divided by them is in z units."""
        return jnp.sqrt(jnp.diagonal(self.covariance, axis1=-2, axis2=-1))

    @property
    def z_error(self) -> Float[Array, "*n eta_dim"]:
        """Standard errors of the means in z units, `(n, eta_dim)`."""
        return self.standard_error / self.sd

    def batch_indices(
        self, key: PRNGKeyArray, batch_size: int
    ) -> Int[Array, "n_batches batch_size"]:
        """Returns the rows of the batches of one epoch, for a loop inside a compiled program.

        Args:
            key: PRNG key, a new one for each epoch.
            batch_size: Number of labels in a batch, from 1 to n.

        Returns:
            Each row at most once, in random order. Rows beyond the last full batch are left out of
            this epoch.

        Raises:
            ValueError: If `batch_size` is out of its range.
        """
        batch_size = check_integer("batch_size", batch_size, 1)
        if batch_size > len(self):
            raise ValueError(f"Expected 1 <= batch_size <= {len(self)}; got {batch_size}")
        n_batches = len(self) // batch_size
        order = jax.random.permutation(key, len(self))
        return order[: n_batches * batch_size].reshape(n_batches, batch_size)

    def batches(self, key: PRNGKeyArray, batch_size: int) -> Iterator["MomentBatch"]:
        """Yields the batches of one epoch, with the rows of `batch_indices`.

        Args:
            key: PRNG key, a new one for each epoch.
            batch_size: Number of labels in a batch, from 1 to n.

        Returns:
            An iterator of batches.

        Raises:
            ValueError: If `batch_size` is out of its range.
        """
        return (self[rows] for rows in self.batch_indices(key, batch_size))
