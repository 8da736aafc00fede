"""Projections of densities with cuts, steps and kinks, against truncated normals."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from scipy.special import i0e
from scipy.stats import norm

import nnef_dists as nd
from nnef_dists.networks._variational import find_normal
from nnef_dists.sampling._smooth import is_smooth

# A compiled program is faster than one operation after another.
project = eqx.filter_jit(nd.inference.project)
Q = nd.ClosedForm(nd.GaussianNatural1D())
INF = np.inf
# Pieces (start, end, log-height) of a standard normal density: whatever is in none of them is cut.
PIECES = {
    "half line": [(0.3, INF, 0.0)],
    "lower half line": [(-INF, 0.3, 0.0)],
    "from the mode on": [(0.0, INF, 0.0)],
    "tail": [(5.0, INF, 0.0)],
    "interval": [(0.3, 0.5, 0.0)],
    "interval beside the mode": [(-2.0, -1.5, 0.0)],
    "two intervals": [(-1.0, -0.5, 0.0), (0.3, 2.0, 0.0)],
    "step": [(-INF, 0.3, 0.0), (0.3, INF, 1.5)],
    "small step": [(-INF, 0.3, 0.0), (0.3, INF, 0.01)],
    "step beside a cut": [(-0.7, 0.3, 0.0), (0.3, INF, -1.0)],
}
# Slopes of the normal density times exp(-kink |z - 0.3| + clip(z, -1, 1) height).
KINKS = {"kink": (2.0, 0.0), "small kink": (0.05, 0.0), "cusp": (-3.0, 0.0), "clip": (0.0, 1.0)}
# Rounding of z at a cut is that of x, so that there are fewer digits far from 0.
SCALES = {
    jnp.float32: [(0.0, 1.0), (-2.0, 1e3), (30.0, 10.0)],
    jnp.float64: [(0.0, 1.0), (-2.0, 1e3), (300.0, 100.0)],
}
LARGEST_ERROR = {jnp.float32: 1e-3, jnp.float64: 1e-10}


def truncated_moments(pieces):
    """Mean, standard deviation and log of the integral, by the formulas of truncated normals."""
    total = np.zeros(3)
    for low, high, height in pieces:
        p, q = norm.pdf(low), norm.pdf(high)
        mass = norm.cdf(high) - norm.cdf(low) if low < 0 else norm.sf(low) - norm.sf(high)
        ends = (low * p if low > -INF else 0) - (high * q if high < INF else 0)
        part = np.array([mass, p - q, mass + ends])
        total += np.exp(height) * np.sqrt(2 * np.pi) * part
    return in_moments(total)


def in_moments(total):
    mean, square = total[1:] / total[0]
    return mean, np.sqrt(square - mean**2), np.log(total[0])


def integrated_moments(log_density, breaks):
    ends = [-12.0, *breaks, 12.0]

    def part(k, low, high):
        def integrand(z):
            return z**k * np.exp(log_density(z))

        return integrate.quad(integrand, low, high, epsabs=1e-14, epsrel=1e-13)[0]

    pairs = list(itertools.pairwise(ends))
    return in_moments(np.array([sum(part(k, *pair) for pair in pairs) for k in range(3)]))


def assert_right(found, exact, loc, scale, largest):
    """All errors are within their bound, the bounds are small, and eta has the moments."""
    mean, sd, log_integral = exact
    bound = np.asarray(found.error, np.float64)
    assert (bound < largest).all(), bound
    z = (np.asarray(found.mean[:, 0], np.float64) - (loc + scale * mean)) / (scale * sd)
    # The formulas lose digits in the tails.
    assert (np.abs(z) <= 2 * bound + 1e-11).all(), (z, bound)
    # The log-integral has the rounding of the log-density and of its logarithm, too.
    eps = float(jnp.finfo(found.error.dtype).eps)
    off = np.abs(np.asarray(found.log_integral, np.float64) - log_integral - np.log(scale))
    assert (off <= 2 * bound + 64 * eps).all(), (off, bound)


@pytest.mark.parametrize("dtype", SCALES, ids=["float32", "float64"])
class TestTruncatedNormals:
    def test_pieces(self, dtype):
        """Cuts are arrays of the program: one serves all."""
        rows = [[*one, (1.0, 1.0, 0.0)][:2] for one in PIECES.values()]
        exact = np.array([truncated_moments(pieces) for pieces in PIECES.values()]).T
        with jax.enable_x64(dtype == jnp.float64):

            @jax.jit
            @jax.vmap
            def run(row, place):
                def log_tilted(x):
                    z = (x - place[0]) / place[1]
                    is_in = (z > row[:, 0]) & (z < row[:, 1])
                    height = jnp.sum(jnp.where(is_in, row[:, 2], 0))
                    return -(z**2) / 2 + jnp.where(jnp.any(is_in), height, -jnp.inf)

                return project(Q, log_tilted, init=jnp.zeros(2, dtype))

            rows = jnp.asarray(rows, dtype)
            for loc, scale in SCALES[dtype]:
                places = jnp.tile(jnp.array([loc, scale], dtype), (len(rows), 1))
                found = run(rows, places)
                assert_right(found, exact, loc, scale, LARGEST_ERROR[dtype])
                if loc == 0 and dtype == jnp.float64:
                    np.testing.assert_allclose(jax.vmap(Q.mean)(found.eta), found.mean, rtol=1e-9)

    def test_kinks(self, dtype):
        def log_factor(z, row, np=np):
            return -row[0] * np.abs(z - 0.3) + row[1] * np.clip(z, -1.0, 1.0) - z**2 / 2

        exact = [
            integrated_moments(lambda z, row=row: log_factor(z, row), (-1, 0.3, 1))
            for row in KINKS.values()
        ]
        with jax.enable_x64(dtype == jnp.float64):

            @jax.jit
            @jax.vmap
            def run(row, place):
                def log_tilted(x):
                    return log_factor((x - place[0]) / place[1], row, jnp)

                return project(Q, log_tilted, init=jnp.zeros(2, dtype))

            rows = jnp.asarray(list(KINKS.values()), dtype)
            for loc, scale in SCALES[dtype]:
                places = jnp.tile(jnp.array([loc, scale], dtype), (len(rows), 1))
                found = run(rows, places)
                assert_right(found, np.array(exact).T, loc, scale, LARGEST_ERROR[dtype])


def test_a_cut_of_a_positive_variable():
    """Of an exponential density: the rest is one again."""
    with jax.enable_x64(True):
        q = nd.ClosedForm(nd.Gamma())
        found = project(q, lambda x: jnp.where(x > 1.0, -2 * x, -jnp.inf))
        assert abs(found.mean[list(q.family.stat_shapes).index("x")] - 1.5) < 1e-12
        assert abs(found.log_integral - (-2 - np.log(2))) < 1e-12
        assert found.error < 1e-12


def test_a_cut_beside_a_kink_of_the_family():
    """T = |x| has a kink at 0, where the density has none."""

    class Sharp(nd.ExponentialFamily):
        x_shape = ()
        natural_domain = nd.domain(size=nd.negative)

        def compute_stats(self, x):
            return {"size": jnp.abs(x)}

    with jax.enable_x64(True):
        found = project(
            nd.Quadrature(Sharp()), lambda x: jnp.where(x > -1.0, -(x**2) / 2, -jnp.inf)
        )
        mass = norm.sf(-1.0)
        exact = (2 * norm.pdf(0.0) - norm.pdf(1.0)) / mass
        assert abs(found.mean[0] - exact) < 1e-12
        assert found.error < 1e-12


def test_a_cut_of_a_circle():
    with jax.enable_x64(True):
        q = nd.Quadrature(nd.VonMisesHarmonic(1))
        found = project(q, lambda x: jnp.where(jnp.sin(x) > 0, 2 * jnp.cos(x), -jnp.inf))
        log_integral = np.log(np.pi * i0e(2.0)) + 2
        assert abs(found.log_integral - log_integral) < 1e-12
        assert found.error < 1e-12


class TestTheLimits:
    """Otherwise the result is NaN, with an infinite error."""

    @pytest.mark.parametrize("scale", [0.1, 1e-3])
    def test_a_half_line_far_from_0_is_found(self, scale):
        with jax.enable_x64(True):
            found = project(
                Q, lambda x: -(((x - 300) / scale) ** 2) / 2 + jnp.where(x > 300.0, 0.0, -jnp.inf)
            )
            mean = 300 + scale * np.sqrt(2 / np.pi)
            assert abs(found.mean[0] - mean) < 1e-8 * scale
            assert found.error < 1e-8

    def test_an_interval_between_the_points_of_the_first_scan(self):
        def log_tilted(x):
            return jnp.where((x > 300.0) & (x < 300.01), 0.0, -jnp.inf)

        found = project(Q, log_tilted)
        assert np.isnan(found.log_integral)
        assert np.isinf(found.error)

    def test_more_breaks_than_are_kept(self):
        found = project(Q, lambda x: -(x**2) / 2 + jnp.floor(3 * x) % 2)
        assert np.isnan(found.log_integral)
        assert np.isinf(found.error)


@pytest.mark.parametrize("kink", [0.0, 0.5])
@pytest.mark.parametrize(
    ("edge", "is_known"), [(0.7, False), (0.0, False), (-0.7, False), (30.0, True)]
)
def test_nan_is_unknown_and_not_zero(kink, edge, is_known):
    """Right where the density does not matter, refused elsewhere, with and without a search."""

    def log_tilted(x):
        value = -(x**2) / 2 - (kink * jnp.abs(x) if kink else 0.0)
        return jnp.where(x < edge, value, jnp.nan)

    found = project(Q, log_tilted)
    if is_known:
        np.testing.assert_allclose(found.mean[0], 0, atol=1e-5)
        assert found.error < 1e-3
    else:
        assert np.isnan(found.mean).all()
        assert np.isinf(found.error)


@pytest.mark.parametrize(
    "log_tilted",
    [
        lambda angle: jnp.cos(angle) + jnp.where(angle < 0.5, 0.0, jnp.nan),
        lambda angle: jnp.cos(angle) + jnp.where(jnp.abs(angle - 1) > 0.2, 0.0, jnp.nan),
    ],
)
def test_nan_is_unknown_on_a_circle(log_tilted):
    found = project(nd.Quadrature(nd.VonMisesHarmonic(1)), log_tilted)
    assert np.isinf(found.error)


def test_nan_is_unknown_beside_a_square_root():
    found = project(Q, lambda x: jnp.sqrt(x) - jnp.abs(x - 1))
    assert np.isinf(found.error)


@pytest.mark.parametrize(
    "smooth",
    [
        lambda x: -jnp.log1p(jnp.exp(-x)),
        lambda x: jax.nn.log_sigmoid(x) + jax.nn.softplus(2 * x),
        lambda x: jax.scipy.stats.norm.logcdf(x),
        lambda x: jax.nn.logsumexp(jnp.stack([x, -x])),
        lambda x: jax.scipy.stats.t.logpdf(x, 3.0),
        lambda x: jnp.sinc(x) - jnp.sum(jnp.array([1.0, 2.0]) * x) ** 2,
        lambda x: jnp.where(jnp.array(1.0) > 0, x, -x),
        lambda x: jnp.sin(x) * jnp.where(x < 3, 1, jnp.nan),
        lambda x: Q.log_partition(jnp.stack([x, jnp.full_like(x, -0.5)])),
        lambda x: nd.inference.evidence(Q, jnp.array([0.0, -1.0]), jnp.stack([x, -x * 0 - 2])),
        lambda x: find_normal(nd.Gamma(), jnp.stack([x * 0 + 1, x]))[0],
        lambda x: nd.networks.LaplaceBase(nd.GaussianNatural1D())(jnp.stack([x, -x])).value,
        lambda x: jnp.diagonal(jnp.stack([jnp.stack([x, x])] * 2)),
    ],
)
def test_smooth_functions_are_not_searched(smooth):
    assert is_smooth(smooth, jax.ShapeDtypeStruct((), jnp.float32))


@jax.jit
def log_ndtr(x):
    """A function with the name of a smooth one."""
    return jnp.abs(x)


@pytest.mark.parametrize(
    "rough",
    [
        lambda x: jnp.where(x > 0.3, 0.0, -jnp.inf),
        lambda x: jnp.abs(x),
        lambda x: jnp.max(jnp.stack([x, 2 * x])),
        lambda x: jax.nn.relu(x),
        lambda x: jax.lax.cond(x > 0, lambda: 1.0, lambda: 2.0),
        lambda x: jax.lax.fori_loop(0, 3, lambda i, y: jnp.maximum(y, x), 0.0),
        lambda x: jnp.round(x),
        lambda x: jnp.where(x < 3, jnp.abs(x), jnp.nan),
        lambda x: jnp.where(jnp.isnan(jnp.where(x > 1, x, jnp.nan)), 0.0, 1.0),
        lambda x: jnp.nan_to_num(jnp.where(x > 1, x, jnp.nan), nan=-jnp.inf),
        lambda x: jax.lax.switch(jnp.int32(x), [lambda: 1.0, lambda: jnp.nan, lambda: 2.0]),
        lambda x: jax.lax.select_n((10 * x).astype(int), x, x + 1, jnp.full_like(x, jnp.nan)),
        lambda x: x.astype(int) / 2,
        log_ndtr,
        lambda x: jax.lax.platform_dependent(x, cpu=jnp.sin, default=jnp.abs),
    ],
)
def test_functions_with_breaks_are_searched(rough):
    assert not is_smooth(rough, jax.ShapeDtypeStruct((), jnp.float32))
