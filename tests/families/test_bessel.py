"""Closed forms by Bessel functions, and of truncated normals, against facts of mpmath.

The facts are eta, A, E[T], and the lower triangle of Cov[T]. They were computed with 40 to 80
digits: those of the generalized inverse Gaussian by the trapezoidal rule for the integral of
exp(p t - w cosh t) over t, whose values agree with log K_p(w); those of the von Mises-Fisher
distribution by I_{d/2-1}(kappa) and I_{d/2}(kappa); those of the truncated normal by erfc and the
recurrence of its moments.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import nnef_dists as nd
from tests.families.checks import array, assert_refused

pytestmark = pytest.mark.usefixtures("strict_promotion")

SLOW = pytest.mark.slow
DTYPES = pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=SLOW)])
GIG = nd.families.GeneralizedInverseGaussian()
RECTIFIED = nd.RectifiedGaussian()

GIG_FACTS = [
    (
        (-1.0, -9.5367431640625e-07, -9.5367431640625e-07),
        3.2798375528742687,
        (4.635230563552991e-41, 39462.49705741228, 39462.49705741228),
        (
            60.421471549012,
            524288.0,
            39822138641.466866,
            -524288.0,
            -1557288673.0062728,
            39822138641.466866,
        ),
    ),
    (
        (-0.9999990463256836, -0.5, -9.5367431640625e-07),
        2.5953728078909184,
        (-6.584882486956296, 0.14923509704442053, 78241.17055922514),
        (
            16.4923841542546,
            1.000004277287591,
            0.27620127189097454,
            -524285.7574694435,
            -11675.328681275021,
            75920578936.66174,
        ),
    ),
    (
        (0.25, -8.0, -512.0),
        -126.90266762447452,
        (2.0891691869013753, 8.109692953840314, 0.12427254615375492),
        (
            0.0077818735379314285,
            0.06310561451164726,
            0.5137313377003399,
            -0.0009670997732555117,
            -0.007812191898901555,
            0.00012065431828621577,
        ),
    ),
    (
        (1048575.0, -524288.0, -9.5367431640625e-07),
        -321764.5145308446,
        (0.6931467037231661, 2.0000000000009095, 0.5000004768373856),
        (
            9.536747711528782e-07,
            1.9073486328116326e-06,
            3.814697265625e-06,
            -4.768380676984773e-07,
            -9.536752259009518e-07,
            2.3841948859821584e-07,
        ),
    ),
    (
        (-1048577.0, -9.5367431640625e-07, -1.0),
        13487767.94752331,
        (-13.862943134361672, 9.536752259018191e-07, 1048576.0),
        (
            9.536747711537455e-07,
            9.094964364988858e-13,
            8.673650467195312e-19,
            -1.0,
            -9.536752259018191e-07,
            1048576.0,
        ),
    ),
    (
        (-1.0, -524288.0, -524288.0),
        -1048582.0125333916,
        (5.478169282904553e-44, 1.0000004768370445, 1.0000004768370445),
        (
            9.536738616593689e-07,
            9.5367431640625e-07,
            9.536752259006265e-07,
            -9.5367431640625e-07,
            -9.536743164063584e-07,
            9.536752259006265e-07,
        ),
    ),
    (
        (-1.5, -1.0, -4.0),
        -4.120782237635245,
        (0.580867541306446, 2.0, 0.625),
        (0.2238375645409298, 0.4491185570139973, 1.0, -0.13772036074650068, -0.25, 0.09375),
    ),
]

# d, kappa, A, E[s], E[s] / kappa and Var[s], where s is the entry along eta.
FISHER_FACTS = [
    ((2, 0.0), 1.8378770664093456, 0.0, 0.5, 0.5),
    (
        (2, 9.5367431640625e-07),
        1.837877066409573,
        4.768371582030708e-07,
        0.49999999999994316,
        0.49999999999982947,
    ),
    (
        (2, 1048576.0),
        1048569.9874668468,
        0.9999995231627281,
        9.536738616587907e-07,
        4.547475677272088e-13,
    ),
    ((3, 1.0), 2.6924636085404865, 0.3130352854993313, 0.3130352854993313, 0.27593833903368953),
    ((5, 16.0), 14.066038167201572, 0.8791666666666379, 0.05494791666666487, 0.007274305555613432),
    (
        (10, 1024.0),
        1001.0711294948463,
        0.9956129862518597,
        0.0009722783068865817,
        4.276844675097155e-06,
    ),
    (
        (1000, 8.0),
        -2032.025761278343,
        0.007999489087090335,
        0.000999936135886292,
        0.0009998084239398475,
    ),
    (
        (1000, 16384.0),
        12447.24281659941,
        0.9699766602713444,
        5.9202677018514675e-05,
        1.8041873527181229e-06,
    ),
]

RECTIFIED_FACTS = [
    (
        (-1048576.0, -0.5),
        -13.862943611199816,
        (9.536743164045153e-07, 1.8189894035375847e-12),
        (9.094947017679652e-13, 3.4694469519220598e-18, 1.6543612250837868e-23),
    ),
    (
        (-16.0, -0.5),
        -2.7764575405550134,
        (0.06202098965450605, 0.007664165527903131),
        (0.003817562370178783, 0.0009399917316455226, 0.00028846334947789896),
    ),
    (
        (-1.0, -9.5367431640625e-07),
        -1.9073395379510608e-06,
        (0.9999961853391136, 1.9999809267828774),
        (0.9999885560900985, 3.999923707669911, 19.999435440214715),
    ),
    (
        (-1024.0, -1048576.0),
        -7.537265173071782,
        (0.0004065945514153801, 2.7830466239483395e-07),
        (1.1298553315415977e-07, 1.3871067307735465e-10, 1.9768218782351337e-13),
    ),
    (
        (0.0, -0.5),
        0.22579135264472744,
        (0.7978845608028654, 1.0),
        (0.3633802276324187, 0.7978845608028654, 2.0),
    ),
    (
        (0.0, -1048576.0),
        -7.052254043234698,
        (0.0005509663901833557, 4.76837158203125e-07),
        (1.732731950914472e-07, 2.627212477604655e-10, 4.547473508864641e-13),
    ),
    (
        (1.0, -0.5),
        1.246184754181223,
        (1.2875999709391783, 2.2875999709391786),
        (0.6296862857766053, 1.9172862567157838, 6.492486198594141),
    ),
    (
        (8.0, -0.5),
        32.918938533204674,
        (8.000000000000005, 65.00000000000004),
        (0.9999999999999596, 15.999999999999682, 257.99999999999756),
    ),
    ((4096.0, -0.5), 8388608.918938532, (4096.0, 16777217.0), (1.0, 8192.0, 67108866.0)),
    (
        (1.0, -9.5367431640625e-07),
        262151.50383674854,
        (524288.0, 274878431232.0),
        (524288.0, 549755813888.0, 5.764613020592374e17),
    ),
]


@functools.cache
def evaluated(family, dtype, etas):
    """A, the mean, its derivative and the derivatives of A, in one program."""

    def run(eta):
        a = family.log_partition
        derivatives = jax.grad(a)(eta), jax.hessian(a)(eta)
        return a(eta), family.mean(eta), family.covariance(eta), *derivatives

    with jax.enable_x64(dtype == "float64"):
        found = jax.jit(jax.vmap(run))(jnp.asarray(etas, dtype))
        assert all(leaf.dtype == dtype for leaf in found)
    return [np.asarray(leaf, np.float64) for leaf in found]


def lower(entries, size):
    """The symmetric matrix with this lower triangle."""
    matrix = np.zeros((size, size))
    matrix[np.tril_indices(size)] = entries
    return matrix + np.tril(matrix, -1).T


@DTYPES
@pytest.mark.parametrize(
    ("family", "facts"), [(GIG, GIG_FACTS), (RECTIFIED, RECTIFIED_FACTS)], ids=["K", "erfc"]
)
def test_facts(family, facts, dtype):
    """Errors are those of a few roundings of the result, and of eta, which enters A."""
    eps = np.finfo(dtype).eps
    found = evaluated(family, dtype, tuple(fact[0] for fact in facts))
    for (eta, a, mean, entries), *values in zip(facts, *found, strict=True):
        covariance = lower(entries, len(mean))
        sd = np.sqrt(np.diag(covariance))
        assert abs(values[0] - a) < 8 * eps * (1 + abs(a)), eta
        for value in (values[1], values[3]):
            room = sd + np.abs(mean) + np.abs(covariance) @ np.abs(eta)
            assert np.all(np.abs(value - mean) < 4 * eps * room), eta
        for value in (values[2], values[4]):
            assert np.all(np.abs(value - covariance) < 32 * eps * np.outer(sd, sd)), eta


@DTYPES
@pytest.mark.parametrize("d", [10, *(pytest.param(d, marks=SLOW) for d in (2, 3, 5, 1000))])
def test_von_mises_fisher_facts(d, dtype):
    eps, facts = np.finfo(dtype).eps, [fact for fact in FISHER_FACTS if fact[0][0] == d]
    # The direction is that of the last axis: sums over others add nothing.
    etas = tuple((0.0,) * (d - 1) + (fact[0][1],) for fact in facts)
    family = nd.families.VonMisesFisher(d)
    with jax.enable_x64(dtype == "float64"):
        given = jnp.asarray(etas, dtype)
        run = jax.vmap(lambda e: (family.log_partition(e), family.mean(e), family.covariance(e)))
        found = [np.asarray(leaf, np.float64) for leaf in jax.jit(run)(given)]
    for (_, a, length, across, along), got, mean, covariance in zip(facts, *found, strict=True):
        assert abs(got - a) < 8 * eps * (1 + abs(a))
        assert np.all(mean[:-1] == 0)
        assert abs(mean[-1] - length) <= 8 * eps * length
        exact = np.diag([across] * (d - 1) + [along])
        assert np.all(np.abs(covariance - exact) <= 16 * eps * exact)


@SLOW
def test_orders_and_arguments_against_scipy():
    """K and I of SciPy, scaled by exponentials, on a grid of six decades."""
    with jax.enable_x64(True):
        p, w = np.meshgrid(np.linspace(-20, 20, 9), np.logspace(-3, 3, 7))
        p, w = p.ravel(), w.ravel()
        etas = jnp.asarray(np.stack([p - 1, -w / 2, -w / 2], 1))
        found = np.asarray(jax.jit(jax.vmap(GIG.log_partition))(etas))
        np.testing.assert_allclose(
            found, np.log(2 * scipy.special.kve(p, w)) - w, rtol=1e-12, atol=1e-12
        )
        kappa = np.logspace(-3, 5, 9)
        exact = np.log(4 * np.pi) + kappa + np.log(-np.expm1(-2 * kappa) / (2 * kappa))
        etas = jnp.asarray(kappa[:, None] * np.array([0.6, 0.0, -0.8]))
        found = jax.jit(jax.vmap(nd.families.VonMisesFisher(3).log_partition))(etas)
        np.testing.assert_allclose(found, exact, rtol=1e-13)


def test_densities_too_flat_for_the_nodes_are_nan():
    """Not a wrong number: log x is spread evenly over 1,400 nats."""
    with jax.enable_x64(True):
        eta = jnp.asarray([-1.0, -1e-300, -1e-300])
        assert np.isnan(GIG.log_partition(eta))
        assert np.isnan(GIG.mean(eta)).all()
        assert np.isnan(GIG.covariance(eta)).all()


def test_domains():
    assert_refused(GIG, [0.0, 0.0, -1.0], "'x'")
    assert_refused(GIG, [0.0, -1.0, 1e-3], "'inverse'")
    assert GIG.is_valid_eta(array([-1e6, -1e-3, -1e-3]))
    for family in (GIG, RECTIFIED, nd.families.VonMisesFisher(3)):
        bad = jnp.full(family.eta_dim, jnp.nan)
        assert np.isnan(jax.jit(family.mean)(bad)).all()
        assert np.isnan(jax.jit(family.log_partition)(bad))
        with pytest.raises(ValueError, match="Expected natural parameter"):
            family.mean(bad)


def test_points_outside_have_no_density():
    for family, x in (
        (GIG, 0.0),
        (GIG, -1.0),
        (RECTIFIED, -0.1),
        (nd.families.VonMisesFisher(2), [0.9, 0.1]),
    ):
        eta = -jnp.ones(family.eta_dim)
        assert np.isfinite(family.sufficient_statistics(array(x))).all()
        assert family.logdensity_fn(eta)(array(x)) == -np.inf
    assert np.isfinite(RECTIFIED.logdensity_fn(array([1.0, -1.0]))(array(0.0)))


def test_conversions():
    eta = GIG.to_natural(array(2.5), array(3.0), array(0.5))
    np.testing.assert_allclose(eta, [1.5, -1.5, -0.25])
    family = nd.families.VonMisesFisher(2)
    np.testing.assert_allclose(family.to_natural(array([0.0, 2.0]), array(7.0)), [0, 7], rtol=1e-6)
    with pytest.raises(ValueError, match="'x'"):
        family.to_natural(array([0.0, 0.0]), array(7.0))
    for d in (1, 0):
        with pytest.raises(ValueError, match=f"d >= 2; got {d}"):
            nd.families.VonMisesFisher(d)


@SLOW
@pytest.mark.parametrize(("d", "kappa"), [(2, 0.0), (2, 3.0), (3, 1e4), (10, 1e-3), (50, 300.0)])
def test_directions_are_drawn(d, kappa):
    """Mean and second moments of unit vectors, in standard errors; along eta and across."""
    family, n = nd.families.VonMisesFisher(d), 4_000
    eta = kappa * jnp.eye(d)[0]
    x = jax.jit(jax.vmap(family.draw, (0, None)))(jax.random.split(jax.random.key(d), n), eta)
    x = np.asarray(x, np.float64)
    np.testing.assert_allclose(np.sum(x**2, 1), 1, rtol=1e-5)
    with jax.enable_x64(True):
        exact = jnp.asarray(eta, float)
        mean, covariance = np.asarray(family.mean(exact)), np.asarray(family.covariance(exact))
    products = (x - mean) ** 2
    # Some of many entries are large; rounding adds to those along eta.
    room = 5 * x.std(0) / np.sqrt(n) + 1e-7
    assert np.all(np.abs(x.mean(0) - mean) < room)
    assert np.all(np.abs(products.mean(0) - np.diag(covariance)) < 5 * products.std(0) / np.sqrt(n))
