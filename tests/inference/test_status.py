"""The status of nodes."""

import jax
import jax.numpy as jnp
import numpy as np

import nnef_dists as nd
from nnef_dists.inference import Node, status
from tests.networks.exact import family_of


def test_valid_and_accurate_elements():
    nodes = {
        "shape": Node(nd.Quadrature(nd.GammaShapePrior()), (3,)),
        "rate": Node(nd.ClosedForm(nd.Gamma())),
        "learned": Node(family_of("Gamma"), (2,)),
    }
    eta = {
        "shape": jnp.array([[-2.0, -1.0], [2.0, 1.0], [-3e4, -1e4]]),
        "rate": jnp.array([2.0, -1.0]),
        "learned": jnp.array([[2.0, -1.0], [2.0, 1.0]]),
    }
    found = jax.jit(lambda eta: status(nodes, eta))(eta)
    np.testing.assert_array_equal(found["shape"].valid, [True, False, True])
    np.testing.assert_array_equal(found["shape"].accurate, [True, False, True])
    assert np.isinf(found["shape"].accuracy[1])
    assert found["rate"].accurate
    # A network that was not validated does not know.
    np.testing.assert_array_equal(found["learned"].valid, [True, False])
    assert not found["learned"].accurate.any()
    assert str(found["learned"]) == "1 of 2 valid, 0 accurate; errors unknown"
    assert str(found["shape"]).startswith("2 of 3 valid, 2 accurate")
