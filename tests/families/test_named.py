"""What the shipped families add to the common interface."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nnef_dists as nd
from tests.numerics import assert_close

pytestmark = pytest.mark.usefixtures("strict_promotion")


class TestGaussian:
    def test_known_values(self):
        """N(3, 2^2): eta = (3/4, -1/8)."""
        family = nd.GaussianNatural1D()
        eta = family.to_natural(jnp.asarray(3.0), jnp.asarray(4.0))
        assert_close(eta, np.array([0.75, -0.125]))
        assert_close(family.mean(eta), np.array([3.0, 13.0]))
        # Cov[x, x^2] = 2 m v; Var[x^2] = 2 v^2 + 4 m^2 v.
        assert_close(family.covariance(eta), np.array([[4.0, 24.0], [24.0, 176.0]]))
        # A = log of the integral of exp(eta . T) = m^2 / (2 v) + log(2 pi v) / 2.
        assert_close(family.log_partition(eta), 9 / 8 + np.log(8 * np.pi) / 2)

    @given(mean=st.floats(-10, 10, width=32), variance=st.floats(0.125, 100, width=32))
    def test_round_trip(self, mean, variance):
        family = nd.GaussianNatural1D()
        eta = family.to_natural(jnp.asarray(mean, float), jnp.asarray(variance, float))
        back = family.to_mean_variance(eta)
        assert_close(back[0], mean, scale=1 + abs(mean))
        assert_close(back[1], variance)

    def test_a_variance_that_is_not_positive_is_refused(self):
        with pytest.raises(ValueError, match="'x2'"):
            nd.GaussianNatural1D().to_natural(jnp.asarray(0.0), jnp.asarray(-1.0))


@pytest.mark.parametrize("cls", [nd.MultivariateNormal, nd.families.MinimalMultivariateNormal])
class TestMultivariateNormals:
    def batch(self, d=3, n=6):
        means = jax.random.normal(jax.random.key(1), (n, d))
        roots = jax.random.normal(jax.random.key(2), (n, d, d))
        return means, jax.vmap(lambda a: a @ a.T + 0.5 * jnp.eye(d, dtype=a.dtype))(roots)

    def test_round_trip_under_vmap_and_jit(self, cls):
        family = cls(3)
        means, covariances = self.batch()
        etas = jax.jit(jax.vmap(family.to_natural))(means, covariances)
        assert etas.shape == (6, family.eta_dim)
        back_means, back_covariances = jax.jit(jax.vmap(family.to_mean_covariance))(etas)
        assert_close(back_means, means, ulps=1024)
        assert_close(back_covariances, covariances, ulps=1024)
        assert np.array_equal(back_covariances, jnp.swapaxes(back_covariances, 1, 2))
        again = jax.jit(jax.vmap(family.to_natural))(back_means, back_covariances)
        assert_close(again, etas, ulps=4096)

    def test_natural_parameters_are_those_of_the_precision(self, cls):
        family = cls(3)
        means, covariances = self.batch(n=1)
        mean, covariance = means[0], covariances[0]
        precision = np.linalg.inv(np.asarray(covariance, np.float64))
        eta = jax.jit(family.to_natural)(mean, covariance)
        linear, quadratic = family.unflatten_stats_or_eta(eta).values()
        assert_close(linear, precision @ np.asarray(mean, np.float64), ulps=1024)
        form = -precision / 2
        if cls is nd.families.MinimalMultivariateNormal:
            form = (2 * form - np.diag(np.diag(form)))[np.tril_indices(3)]
        assert_close(quadratic, form, ulps=1024)

    def test_a_covariance_that_is_not_definite_is_refused(self, cls):
        with pytest.raises(ValueError, match=r"xxT|covariance"):
            cls(2).to_natural(jnp.zeros(2), jnp.asarray([[1.0, 2.0], [2.0, 1.0]]))

    @pytest.mark.parametrize("d", [0, -1])
    def test_a_dimension_below_one_is_refused(self, cls, d):
        with pytest.raises(ValueError, match=f"d >= 1; got {d}"):
            cls(d)

    def test_dimensions(self, cls):
        sizes = {
            nd.MultivariateNormal: [2, 6, 12],
            nd.families.MinimalMultivariateNormal: [2, 5, 9],
        }
        assert [cls(d).eta_dim for d in (1, 2, 3)] == sizes[cls]


def test_full_and_minimal_normals_agree():
    full, minimal = nd.MultivariateNormal(3), nd.families.MinimalMultivariateNormal(3)
    ranges = {"x": (-1.0, 1.0), "xxT": (-2.0, -0.3)}
    etas = jax.jit(lambda key: full.sample_eta(key, 5, ranges))(jax.random.key(3))
    rows, columns = np.tril_indices(3)

    def both(eta):
        other = minimal.to_natural(*full.to_mean_covariance(eta))
        x = jnp.asarray([0.3, -1.2, 0.7], eta.dtype)
        return [
            (f.log_partition(e), f.mean(e), f.unnormalized_logdensity(e, x))
            for f, e in ((full, eta), (minimal, other))
        ]

    ours, theirs = jax.jit(jax.vmap(both))(etas)
    assert_close(ours[0], theirs[0], ulps=512)
    assert_close(ours[2], theirs[2], ulps=512)
    second = np.asarray(ours[1][:, 3:]).reshape(-1, 3, 3)
    packed = np.concatenate([ours[1][:, :3], second[:, rows, columns]], axis=1)
    assert_close(theirs[1], packed, ulps=512)


def test_only_the_symmetric_part_of_the_full_form_counts():
    family = nd.MultivariateNormal(2)
    symmetric = jnp.asarray([0.5, -0.2, -1.0, 0.3, 0.3, -0.8], float)
    skewed = jnp.asarray([0.5, -0.2, -1.0, 0.9, -0.3, -0.8], float)
    assert_close(family.mean(skewed), family.mean(symmetric))
    assert_close(family.log_partition(skewed), family.log_partition(symmetric))
    x = jnp.asarray([0.4, -2.0], float)
    assert_close(family.logdensity_fn(skewed)(x), family.logdensity_fn(symmetric)(x))


def test_the_minimal_form_is_row_major():
    family = nd.families.MinimalMultivariateNormal(3)
    stats = family.sufficient_statistics(jnp.asarray([2.0, 3.0, 5.0], float))
    assert_close(stats, np.array([2, 3, 5, 4, 6, 9, 10, 15, 25.0]))
    assert family.stat_names[3:5] == ("xxT_lower[0]", "xxT_lower[1]")


class TestPolynomial:
    def test_order_is_that_of_the_powers_not_of_the_alphabet(self):
        family = nd.Polynomial1D((1, 2, 10, 12))
        assert family.stat_names == ("x", "x2", "x10", "x12")
        stats = family.sufficient_statistics(jnp.asarray(1.5, float))
        assert_close(stats, 1.5 ** np.array([1, 2, 10, 12.0]))
        parts = jax.jit(family.unflatten_stats_or_eta)(jnp.asarray([1.0, 2.0, 3.0, -4.0], float))
        assert {name: float(v) for name, v in parts.items()} == {
            "x": 1.0,
            "x2": 2.0,
            "x10": 3.0,
            "x12": -4.0,
        }
        assert not family.is_valid_eta(jnp.asarray([1.0, 2.0, -3.0, 4.0], float))

    @given(powers=st.lists(st.integers(-1, 9), max_size=4))
    def test_only_increasing_powers_with_an_even_top_are_taken(self, powers):
        allowed = (
            bool(powers) and powers == sorted(set(powers)) and powers[0] > 0 and powers[-1] % 2 == 0
        )
        if allowed:
            family = nd.Polynomial1D(tuple(powers))
            assert family.eta_dim == len(powers)
            eta = jnp.asarray([1.0] * (len(powers) - 1) + [-1.0], float)
            assert family.is_valid_eta(eta)
            assert not family.is_valid_eta(-eta)
        else:
            with pytest.raises(ValueError, match="increasing positive integer powers"):
                nd.Polynomial1D(tuple(powers))

    def test_powers_distinguish_families(self):
        assert nd.Polynomial1D((1, 2, 4)) == nd.Polynomial1D()
        assert nd.Polynomial1D((2, 4)) != nd.Polynomial1D()
