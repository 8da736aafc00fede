"""Domains of linear inequalities: coordinates, distances, and inequalities that are unlike ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.numerics import assert_close, epsilon

pytestmark = pytest.mark.usefixtures("strict_promotion")

SHAPES = {"a": (2,)}
# A and b, with two entries of eta.
CASES = {
    "one": ([1, 1], 0),
    "cone": ([[-1, 0], [1, -1]], [0, 0]),
    "strip": ([[1, 0], [-1, 0]], [2, -1]),
    "box": ([[1, 0], [-1, 0], [0, 1], [0, -1]], [1, 1, 2, 3]),
    "triangle": ([[-1, 0], [0, -1], [1, 1]], [0, 0, 1]),
    "unbounded": ([[-1, 0], [0, -1], [-1, -1]], [0, 0, -1]),
    "redundant": ([[1, 1], [2, 2], [1, 1]], [0, 0, 5]),
    "unlike scales": ([[1e-3, 0], [-1e4, 0]], [1e-5, 0]),
    "needle": ([[1, 0], [1, 1e-3], [1, -1e-3]], [0, 0, 0]),
}


def found(name):
    """At 200 random u: eta, whether it is inside, u again, and a product of Jacobians."""
    domain = nd.half_space(*CASES[name])

    def constrain(u):
        return domain.constrain(u, SHAPES)["a"]

    def unconstrain(eta):
        return domain.unconstrain({"a": eta})

    def run(u):
        eta = constrain(u)
        product = jax.jacrev(constrain)(u) @ jax.jacfwd(unconstrain)(eta)
        return (
            eta,
            domain.contains({"a": eta})["eta"],
            unconstrain(eta),
            product,
            domain.distances({"a": eta}),
        )

    u = 2 * jax.random.normal(jax.random.key(0), (200, 2))
    return u, *jax.tree.map(np.asarray, jax.jit(jax.vmap(run))(u))


@pytest.mark.parametrize("name", CASES)
def test_coordinates(name):
    u, eta, inside, again, product, distances = found(name)
    assert inside.all()
    # Distances have the rounding of eta, which logarithms and nearly parallel normals amplify.
    sizes = np.linalg.svd(np.array(nd.half_space(*CASES[name]).normals), compute_uv=False)
    condition = sizes[0] / np.min(sizes[sizes > 1e-9])
    rounding = condition * epsilon(eta) * (1 + np.abs(eta).max(1)) * (1 + 1 / distances.min(1))
    assert np.max(np.abs(again - np.asarray(u)).max(1) / rounding) < 64
    # Jacobians have the square: they solve with sums of a_i a_i^T.
    error = np.abs(product - np.eye(2)).max((1, 2))
    assert np.max(error / (condition * rounding)) < 64


@pytest.mark.parametrize("name", CASES)
def test_distances(name):
    """Against A and b as declared, in double precision."""
    a, b = np.atleast_2d(CASES[name][0]).astype(float), np.atleast_1d(CASES[name][1])
    _, eta, _, _, _, distances = found(name)
    exact = (b - eta.astype(float) @ a.T) / np.linalg.norm(a, axis=1)
    assert_close(distances.min(1), exact.min(1), scale=1 + np.abs(eta).max())


def test_one_entry_has_the_coordinates_of_an_interval():
    value = jnp.asarray([0.3, 1.2, 2.9], float)
    below = jax.vmap(lambda v: nd.half_space([1], 3).unconstrain({"a": v}))(value)
    assert_close(below[:, 0], -np.log(3 - np.asarray(value)), ulps=8)
    between = nd.half_space([[1], [-1]], [3, 0])
    logit = np.log(np.asarray(value) / (3 - np.asarray(value)))
    assert_close(
        jax.vmap(lambda v: between.unconstrain({"a": v}))(value)[:, 0], logit / np.sqrt(2), ulps=16
    )


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([[1, 0], [-1, 0]], [0, 0], "common interior"),
        ([[1, 0], [-1, 0]], [-1, -1], "common interior"),
        ([[1, 1], [-1, 0], [0, -1]], [0, 0, 0], "common interior"),
        ([[1, 0], [0, 0]], [1, 0], "some eta satisfies; got 0 < b <= 0"),
        ([0, 0], 1, r"not all zero.*domain\(\)"),
        ([1, np.nan], 0, "finite"),
        ([1, 1], np.inf, "finite"),
        ([[1, 1]], [0, 1], r"got \(1, 2\) and \(2,\)"),
        ([], 0, "shape"),
    ],
)
def test_refusals(a, b, message):
    with pytest.raises(ValueError, match=message):
        nd.half_space(a, b)


def test_a_thin_domain_is_accepted():
    domain = nd.half_space([[1, 0], [-1, 0]], [1e-6, 0])
    assert_close(
        domain.distances({"a": jnp.asarray(domain.inner, float)}), [5e-7, 5e-7], scale=1e-6
    )


class Wedge(nd.ExponentialFamily):
    """exp(a x - b |x|) with a < b and -a < b: tails of different rates."""

    x_shape = ()
    natural_domain = nd.half_space([[1, -1], [-1, -1]], [0, 0])

    def compute_stats(self, x):
        return {"x": x, "minus_size": -jnp.sqrt(1 + x**2)}


class TestFamilies:
    RANGES = {"x": (-2.0, 2.0), "minus_size": (0.1, 3.0)}  # noqa: RUF012

    def test_random_etas(self):
        etas = Wedge().sample_eta(jax.random.key(0), 200, self.RANGES)
        assert np.all(np.abs(etas[:, 0]) < etas[:, 1])
        with pytest.raises(ValueError, match="A eta < b"):
            Wedge().sample_eta(jax.random.key(0), 2, {"x": (2.0, 3.0), "minus_size": (0.1, 1.0)})

    def test_membership(self):
        family = Wedge()
        assert family.is_valid_eta(jnp.array([0.5, 1.0]))
        for bad in ([1.0, 1.0], [2.0, 1.0], [jnp.nan, 1.0], [0.0, jnp.inf]):
            assert not family.is_valid_eta(jnp.array(bad))
        with pytest.raises(ValueError, match=r"A eta < b.*got \[2. 1.\]"):
            family.check_eta(jnp.array([2.0, 1.0]))
        assert np.isnan(jax.jit(family.check_eta)(jnp.array([2.0, 1.0]))).all()

    def test_messages_list_few_coefficients(self):
        few, many = nd.half_space([1, 1], 0), nd.half_space(np.eye(4), np.ones(4))
        assert few.expectation("eta") == "with A eta < b, A = [[1.0, 1.0]], b = [0.0]"
        assert many.expectation("eta").endswith("half_space(A, b) with 4 inequalities")

    def test_sizes(self):
        class Other(Wedge):
            natural_domain = nd.half_space([1, 1, 1], 0)

        with pytest.raises(ValueError, match=r"with 2 coefficients.*got 3.*stat_names"):
            Other()

    def test_features_are_convex_and_grow_at_the_edge(self):
        class Free(nd.ExponentialFamily):
            """One inequality, and so one direction that is not restricted."""

            x_shape = ()
            natural_domain = nd.half_space([0, 1], 0)

            def compute_stats(self, x):
                return {"x": x, "x2": x**2}

        eta = jnp.array([0.6, -0.5])
        assert_close(Free().convex_features(eta), [-np.log(0.5), 0.36 / 0.5], ulps=8)
        hessians = jax.jit(jax.vmap(jax.hessian(Wedge().convex_features)))(
            Wedge().sample_eta(jax.random.key(1), 50, self.RANGES)
        )
        values = np.linalg.eigvalsh(np.asarray(hessians, float))
        assert np.all(values[..., 0] > -64 * epsilon(hessians) * values[..., -1])

    def test_tractable_sources(self):
        """Means by quadrature come back to their etas, also near the edge."""
        q = nd.Quadrature(Wedge())
        etas = jnp.array([[0.5, 1.0], [0.0, 2.0], [0.9, 1.0], [-1.5, 2.0]])
        found = jax.jit(jax.vmap(lambda eta: q.natural_parameters(q.mean(eta), throw=False)))(etas)
        assert_close(found, np.asarray(etas), ulps=3e3)

    def test_a_network(self):
        """Its inputs are the coordinates, so that every point of input space is valid."""
        family = Wedge()
        etas = family.sample_eta(jax.random.key(2), 64, self.RANGES)
        with jax.numpy_dtype_promotion("standard"):
            data = nd.estimate_moments(family, etas, jax.random.key(3))
        network = nd.LogPartitionNetwork(
            family, data, base=None, width=8, depth=1, key=jax.random.key(4)
        )
        q = nd.AmortizedFamily(family, network)
        assert np.all(jax.vmap(q.network.is_inside)(jnp.asarray(data.only_ok().eta)))
        assert np.isfinite(q.mean(etas[0])).all()
        assert not q.network.is_inside(jnp.array([0.0, 500.0]))
