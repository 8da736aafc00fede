"""Labels of one eta that serve all etas of its orbit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from nnef_dists._checks import as_key
from nnef_dists._ranges import check_integer
from nnef_dists.families import AbstractSymmetry, check_symmetry, transformation
from nnef_dists.moments._dataset import MomentDataset


def orbit(
    data: MomentDataset, symmetry: AbstractSymmetry, key: PRNGKeyArray, copies: int
) -> MomentDataset:
    """Maps each label to other etas of its orbit, without sampling.

    With M and c of a random element of the group, a label of eta becomes one of M^-T eta: its mean
    is M mean + c, and its covariance M Cov M^T. Standard errors are upper limits if M mixes
    statistics, since their errors may agree. Diagnostics are the worst of the statistics mixed.

    Args:
        data: Moment data.
        symmetry: A symmetry of its family.
        key: PRNG key of the group elements.
        copies: Number of etas made of each one, at least 1.

    Returns:
        `copies` labels for each of the data, in the order of the data, copy after copy. The
        original ones are not among them.

    Raises:
        ValueError: If the statistics are not closed under the symmetry, or copies < 1.
    """
    family, dtype = data.family, data.eta.dtype
    check_symmetry(family, symmetry)
    copies, key = check_integer("copies", copies, 1), as_key(key)

    def one(key: PRNGKeyArray, eta: Any) -> Any:
        g = symmetry.random(key, family, dtype)
        matrix, shift, _ = transformation(family, symmetry, g, dtype)
        return jnp.linalg.solve(matrix.T, eta), matrix, shift

    rows = np.tile(np.arange(len(data)), copies)
    label = jax.tree.map(lambda leaf: leaf[rows], data.label)
    keys = jax.random.split(key, len(rows))
    found = jax.jit(jax.vmap(one))(keys, jnp.asarray(data.eta[rows]))
    eta, matrix, shift = map(np.asarray, found)
    size, is_used = np.abs(matrix), matrix != 0
    moved = label._replace(
        mean=np.einsum("nij,nj->ni", matrix, label.mean) + shift,
        covariance=np.einsum("nij,njk,nlk->nil", matrix, label.covariance, matrix),
        standard_error=np.einsum("nij,nj->ni", size, label.standard_error),
        covariance_error=np.einsum("nij,njk,nlk->nil", size, label.covariance_error, size),
        ess=np.min(np.where(is_used, label.ess[:, None], np.inf), 2).astype(dtype),
        rhat=np.max(np.where(is_used, label.rhat[:, None], -np.inf), 2).astype(dtype),
    )
    return MomentDataset(family, data.config, eta, moved)
