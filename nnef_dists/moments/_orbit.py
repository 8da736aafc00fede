"""Labels of other etas from a symmetry, without sampling."""

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

    A random group element, with matrix M and shift c, maps a label of eta to a label of M^-T eta.
    The mean becomes M mean + c, and the covariance M Cov M^T. If M mixes statistics, standard
    errors are upper limits, since the errors may be correlated. ESS and R-hat are the worst of the
    mixed statistics.

    Args:
        data: Moment data.
        symmetry: A symmetry of its family.
        key: PRNG key for the group elements.
        copies: Number of new etas per eta, at least 1.

    Returns:
        `copies` labels per label, in the order of the data, copy after copy. The original labels
        are not included.

    Raises:
        ValueError: If the statistics are not closed under the symmetry, or copies < 1.
    """
    family, dtype = data.family, data.eta.dtype
    check_symmetry(family, symmetry)
    copies, key = check_integer("copies", copies, 1), as_key(key)

    def one(key: PRNGKeyArray, eta: Any) -> Any:
        g = symmetry.random(key, family, dtype)
        matrix, shift = transformation(family, symmetry, g, dtype)[:2]
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
