"""Validity and accuracy of a factorized posterior."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nnef_dists.inference._node import Etas, Nodes, check_etas_of, over_plate


class NodeStatus(NamedTuple):
    """The status of a node, by plate element.

    Attributes:
        valid: Whether eta is in the natural domain, `(*plate,)`.
        accurate: Whether the moments are known to be accurate, `(*plate,)`.
        accuracy: Largest error of the mean parameters, in z units, by `accuracy` of the node's
            tractable family, `(*plate,)`. Infinite if it is unknown, or eta is invalid.
    """

    valid: Bool[Array, "*plate"]
    accurate: Bool[Array, "*plate"]
    accuracy: Float[Array, "*plate"]

    def __str__(self) -> str:
        n, is_known = self.valid.size, jnp.isfinite(self.accuracy)
        largest = float(jnp.max(jnp.where(is_known, self.accuracy, 0)))
        error = f"largest known error {largest:.2g} z" if is_known.any() else "errors unknown"
        return f"{int(self.valid.sum())} of {n} valid, {int(self.accurate.sum())} accurate; {error}"


def status(nodes: Nodes, eta: Etas, limit: float = 0.05) -> dict[str, NodeStatus]:
    """Returns the validity and accuracy of each node.

    Args:
        nodes: The nodes by name.
        eta: Natural parameters by node, each `(*plate, eta_dim)`.
        limit: Largest error of an accurate element, in z units. Defaults to 0.05.

    Returns:
        For each node, masks and accuracies of the shape of its plate. Print one for a summary. The
        accuracy of a network is unknown before `nd.validate`.

    Raises:
        ValueError: If the names or shapes of `eta` do not match `nodes`.
    """
    eta = check_etas_of(nodes, eta)
    found = {}
    for name, node in nodes.items():
        valid = over_plate(node, node.q.family.is_valid_eta, eta[name])
        accuracy = over_plate(node, node.q.accuracy, eta[name])
        accuracy = jnp.where(valid, accuracy, jnp.inf)
        found[name] = NodeStatus(valid, accuracy <= limit, accuracy)
    return found
