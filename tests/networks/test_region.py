"""The training region: near training etas, whatever shape they fill."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

import nnef_dists as nd
from tests.networks.data import labeled
from tests.registry import FAMILIES

pytestmark = pytest.mark.usefixtures("strict_promotion")


def of_box(rng, n, m):
    return rng.uniform(-1, 1, (n, m))


def of_normal(rng, n, m):
    return rng.normal(size=(n, m)) * np.linspace(0.1, 10, m)


def of_wedge(rng, n, m):
    """Sums of 1 to 30 statistics: their spread grows with their number."""
    number = np.exp(rng.uniform(0, np.log(30), (n, 1)))
    return np.concatenate([number * rng.uniform(-0.5, 1.5, (n, m - 1)), np.log(number)], 1)


def of_ring(rng, n, m):
    angle, radius = rng.uniform(0, 2 * np.pi, n), rng.uniform(0.9, 1.1, n)
    rest = rng.uniform(-1, 1, (n, m - 2))
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle), rest])


def of_clusters(rng, n, m):
    return 0.3 * rng.normal(size=(n, m)) + np.where(rng.uniform(size=(n, 1)) < 0.5, 3, -3)


def of_band(rng, n, m):
    return rng.uniform(-1, 1, (n, 1)) + 0.03 * rng.normal(size=(n, m))


def of_simplex(rng, n, m):
    return rng.dirichlet(np.ones(m), n) + 1e-3 * rng.normal(size=(n, m))


SHAPES = {
    "box": (of_box, (2, 4, 10)),
    "normal": (of_normal, (2, 4)),
    "wedge": (of_wedge, (2, 4)),
    "ring": (of_ring, (2, 4)),
    "clusters": (of_clusters, (2, 4)),
    "band": (of_band, (2, 4, 10)),
    "simplex": (of_simplex, (4, 10)),
}
# Points that are in the range of each coordinate, and far from all etas of these shapes.
GAPS = {
    "wedge": [1.2 * 25.0, 0.0, 0.0, 0.3],
    "ring": [0.1, -0.2],
    "clusters": [0.4, -0.3, 0.2, 0.0],
    "band": [0.7, -0.7, 0.0, 0.0],
    "simplex": [0.7, 0.7, 0.6, 0.5],
}


def standardized(etas):
    """The standardization of etas that may take any value, as an even number of coordinates."""
    etas = jnp.asarray(etas, float)
    n, d = etas.shape
    family = nd.VonMisesHarmonic(d // 2)
    return nd.networks.Standardization.fit(
        labeled(family, etas, np.zeros((n, d)), np.broadcast_to(np.eye(d), (n, d, d)))
    )


@jax.jit
def inside(standardization, etas):
    return jax.vmap(lambda eta: standardization.is_inside(standardization.inputs(eta)))(etas)


def share_inside(standardization, etas):
    return float(np.mean(inside(standardization, jnp.asarray(etas, float))))


@pytest.mark.parametrize("n", [64, 256, 1024])
@pytest.mark.parametrize(
    ("shape", "m"), [(shape, m) for shape, (_, ms) in SHAPES.items() for m in ms]
)
def test_fresh_etas_of_the_same_shape_are_inside(shape, m, n):
    """At least 99 %; of 64 in many dimensions, whose ranges are hardly known, 97 %."""
    rng, draw = np.random.default_rng(m), SHAPES[shape][0]
    shares = [share_inside(standardized(draw(rng, n, m)), draw(rng, 1024, m)) for _ in range(3)]
    # The share itself varies with the n training etas.
    assert np.mean(shares) > (0.97 if n == 64 else 0.985)


@pytest.mark.parametrize("shape", GAPS)
@pytest.mark.parametrize("n", [256, 1024])
def test_gaps_are_outside(shape, n):
    gap = np.array(GAPS[shape])
    etas = SHAPES[shape][0](np.random.default_rng(0), n, len(gap))
    assert np.all((gap > etas.min(0)) & (gap < etas.max(0)))
    assert share_inside(standardized(etas), gap[None]) == 0


def test_what_is_off_a_thin_sheet_is_outside():
    """Neighbors are 0.2 apart in the sheet, and 0.01 across it."""
    rng = np.random.default_rng(8)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    scale = np.array([1.0, 1.0, 0.01, 1.0])

    def points(n):
        return of_box(rng, n, 4) * scale

    region = standardized(points(512) @ turn)
    assert share_inside(region, points(512) @ turn) > 0.98
    off = points(512) + 0.2 * np.eye(4)[2]
    assert share_inside(region, off @ turn) < 0.05


@pytest.mark.parametrize("m", [2, 4])
def test_corners_of_a_box_are_mostly_inside_and_its_surroundings_are_not(m):
    rng = np.random.default_rng(1)
    region = standardized(of_box(rng, 512, m))
    corners = np.array(np.meshgrid(*[[-0.98, 0.98]] * m)).reshape(m, -1).T
    assert share_inside(region, corners) >= 0.75
    assert share_inside(region, 1.5 * corners) == 0
    assert share_inside(region, 1.3 * np.concatenate([np.eye(m), -np.eye(m)])) == 0


def test_a_lonely_eta_does_not_cover_the_gap_around_it():
    etas = of_box(np.random.default_rng(2), 256, 2)
    etas[7] = [40.0, 40.0]
    region = standardized(etas)
    assert share_inside(region, etas) == 1
    assert share_inside(region, np.array([[20.0, 20.0], [10.0, 10.0], [35.0, 35.0]])) == 0


def test_repeated_etas_count_once():
    etas = np.repeat(of_box(np.random.default_rng(3), 64, 2), 12, axis=0)
    fresh = of_box(np.random.default_rng(4), 512, 2)
    assert share_inside(standardized(etas), fresh) > 0.97


def test_what_is_not_a_number_is_outside():
    region = standardized(of_box(np.random.default_rng(5), 64, 2))
    assert share_inside(region, np.array([[np.nan, 0.0], [np.inf, 0.0]])) == 0


def test_the_center_is_a_training_eta_in_the_middle():
    for draw in (of_box, of_wedge, of_clusters, of_ring):
        etas = np.asarray(jnp.asarray(draw(np.random.default_rng(6), 200, 2), float))
        region = standardized(etas)
        center = np.asarray(paramax.unwrap(region).center)
        assert np.any(np.all(etas == center, axis=1))
        assert share_inside(region, center[None]) == 1


def test_the_excess_is_zero_inside_and_grows_outside():
    region = standardized(of_ring(np.random.default_rng(7), 256, 2))

    def excess(eta):
        return jnp.sum(region.region.excess(region.inputs(eta)) ** 2)

    both = jax.jit(jax.vmap(jax.value_and_grad(excess)))
    radii = np.array([0.0, 0.3, 0.5, 1.0, 1.5, 3.0])
    values, slopes = both(jnp.asarray(np.stack([radii, 0.01 + 0 * radii], 1), float))
    assert values[3] == 0
    assert np.all(slopes[3] == 0)
    assert np.all(np.diff(values[:4]) <= 0)
    assert np.all(np.diff(values[3:]) > 0)
    assert np.all(np.isfinite(slopes))
    assert slopes[1][0] < 0 < slopes[5][0]


@functools.cache
def inputs_of(name):
    """Unconstrained coordinates of many random etas of a family, in its ranges of the registry."""
    case = next(case for case in FAMILIES if case.name == name)
    family = case.make()
    etas = family.sample_eta(jax.random.key(0), 4096, case.ranges)
    return np.asarray(jax.jit(jax.vmap(family.unconstrain_eta))(etas), np.float64)


@pytest.mark.parametrize(
    "name",
    ["MultivariateNormal", "DirichletPrior", "GammaShapePrior", "LaplaceProduct", "LatticePhi4"],
)
def test_fresh_etas_of_families_are_inside(name):
    points = inputs_of(name)
    fresh = points[2048:]
    for n in (64, 512):
        known = points[:n]
        shift, scale = known.mean(0), known.std(0)
        region = nd.networks.TrainingRegion(
            (known - shift) / scale, (known - shift) / scale, np.dtype("float32")
        )
        found = jax.vmap(region.contains)(jnp.asarray((fresh - shift) / scale, jnp.float32))
        assert np.mean(found) > (0.97 if n == 64 else 0.99)


def test_remoteness_is_one_at_an_example_and_bounded_with_finite_slopes():
    inputs = np.random.default_rng(0).normal(size=(64, 3))
    region = nd.networks.TrainingRegion.around(inputs, np.dtype(np.float32))
    example = region.examples.tree[0]
    for factor, low, high in ((0.0, 1.0, 1.0 + 1e-6), (3.0, 1.01, 101.0), (1e15, 100.9, 101.0)):
        point = example + factor * jnp.ones(3)
        assert low <= region.remoteness(point) <= high
        assert np.isfinite(jax.grad(region.remoteness)(point)).all()
    assert np.isnan(region.remoteness(jnp.full(3, jnp.nan)))
