"""Random etas: uniform, log-uniform, eigenvalues of matrices, and the ranges that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import nnef_dists as nd

pytestmark = pytest.mark.usefixtures("strict_promotion")

GAUSSIAN = nd.GaussianNatural1D()
GOOD = {"x": (-2.0, 2.0), "x2": (-2.0, -0.2)}


class VectorStatistic(nd.ExponentialFamily):
    """A statistic of two entries, whose ranges may differ."""

    x_shape = (2,)
    natural_domain = nd.domain(square=nd.negative)

    def compute_stats(self, x):
        return {"x": x, "square": x**2}


def drawn(seed, n, ranges, family=GAUSSIAN):
    return jax.jit(lambda key: family.sample_eta(key, n, ranges))(jax.random.key(seed))


def test_uniform_and_log_uniform_laws():
    ranges = {"x": (-2.0, 3.0), "x2": (-10.0, -0.01, "log")}
    etas = np.asarray(drawn(0, 2_000, ranges), np.float64)
    uniform = scipy.stats.uniform(-2, 5)
    log_uniform = scipy.stats.loguniform(0.01, 10)
    assert scipy.stats.kstest(etas[:, 0], uniform.cdf).pvalue > 1e-3
    assert scipy.stats.kstest(-etas[:, 1], log_uniform.cdf).pvalue > 1e-3
    correlation = np.corrcoef(etas[:, 0], np.log(-etas[:, 1]))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(2_000)


def test_log_uniform_of_positive_bounds():
    ranges = {"x": (0.1, 10.0, "log"), "x2": (-1.0, -0.5)}
    etas = np.asarray(drawn(1, 500, ranges), np.float64)
    assert scipy.stats.kstest(etas[:, 0], scipy.stats.loguniform(0.1, 10).cdf).pvalue > 1e-3


def test_bounds_may_differ_by_entry():
    ranges = {"x": ((-1.0, 5.0), (1.0, 6.0)), "square": (-2.0, (-1.0, -1.5))}
    etas = np.asarray(drawn(2, 300, ranges, VectorStatistic()))
    assert np.allclose(etas.min(0), [-1, 5, -2, -2], atol=0.05)
    assert np.allclose(etas.max(0), [1, 6, -1, -1.5], atol=0.05)


def test_a_range_of_one_point():
    etas = drawn(3, 4, {"x": (0.5, 0.5), "x2": (-1.0, -1.0)})
    assert np.array_equal(etas, np.tile(np.asarray([0.5, -1.0], etas.dtype), (4, 1)))


def test_eigenvectors_are_uniform_over_rotations():
    """With eigenvalues (-2, -1) the angle of the first axis is uniform over half a turn."""
    family = nd.MultivariateNormal(2)
    ranges = {"x": (0.0, 0.0), "xxT": ((-2.0, -1.0), (-2.0, -1.0))}
    etas = drawn(4, 1_000, ranges, family)
    unflatten = jax.jit(jax.vmap(family.unflatten_stats_or_eta))
    matrices = np.asarray(unflatten(etas)["xxT"], np.float64)
    values, vectors = np.linalg.eigh(matrices)
    assert np.allclose(values, [-2, -1], atol=1e-5)
    angles = np.arctan2(vectors[:, 1, 0], vectors[:, 0, 0]) % np.pi
    assert scipy.stats.kstest(angles / np.pi, "uniform").pvalue > 1e-3


def test_keys_decide():
    one, same, other = (drawn(seed, 8, GOOD) for seed in (5, 5, 6))
    assert np.array_equal(one, same)
    assert not np.intersect1d(one, other).size


def test_a_sequence_can_be_drawn_in_parts():
    key = jax.random.key(7)
    whole = GAUSSIAN.sample_eta(key, 12, GOOD)
    parts = [GAUSSIAN.sample_eta(key, n, GOOD, first=first) for first, n in ((0, 5), (5, 7))]
    assert np.allclose(np.concatenate(parts), whole, rtol=1e-6)
    traced = jax.jit(lambda first: GAUSSIAN.sample_eta(key, 7, GOOD, first=first))(5)
    assert np.allclose(traced, whole[5:], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"x": None}, "x2"),
        ({"x3": (0.0, 1.0)}, "x3"),
        ({"x2": (-1.0, 1.0)}, "x2"),
        ({"x2": (-1.0, 0.0)}, "x2"),
        ({"x": (2.0, -2.0)}, "x"),
        ({"x": (0.0, np.inf)}, "x"),
        ({"x": (np.nan, 1.0)}, "x"),
        ({"x": (0.0, 1.0, "log")}, "x"),
        ({"x": (-1.0, 1.0, "log")}, "x"),
        ({"x": (0.0, 1.0, "linear")}, "x"),
        ({"x": (0.0,)}, "x"),
        ({"x": (0.0, (1.0, 2.0))}, "x"),
        ({"x": ("low", 1.0)}, "x"),
    ],
    ids=str,
)
def test_bad_ranges_are_refused_by_name(changes, culprit):
    ranges = {name: r for name, r in {**GOOD, **changes}.items() if r is not None}
    with pytest.raises(ValueError, match=rf"Expected.*'{culprit}'"):
        GAUSSIAN.sample_eta(jax.random.key(0), 2, ranges)


def test_a_range_that_is_no_pair_is_refused_by_name(without_type_checks):
    with pytest.raises(ValueError, match="'x2'"):
        GAUSSIAN.sample_eta(jax.random.key(0), 2, {"x": (0.0, 1.0), "x2": -1.0})


def test_eigenvalue_ranges_are_negative():
    with pytest.raises(ValueError, match=r"'xxT'.*\(-1.0, 0.0\)"):
        nd.MultivariateNormal(2).sample_eta(
            jax.random.key(0), 2, {"x": (0.0, 1.0), "xxT": (-1.0, 0.0)}
        )


def test_a_bound_that_the_dtype_cannot_hold_yields_no_invalid_eta():
    """-1e-60 is negative, but rounds to -0 in float32."""
    ranges = {"x": (0.0, 1.0), "x2": (-1.0, -1e-60, "log")}
    try:
        etas = GAUSSIAN.sample_eta(jax.random.key(0), 8, ranges, dtype=jnp.float32)
    except ValueError as error:
        assert "'x2'" in str(error)  # noqa: PT017
    else:
        assert jax.vmap(GAUSSIAN.is_valid_eta)(etas).all()
