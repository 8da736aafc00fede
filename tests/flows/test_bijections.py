"""Every bijection: round trips, determinants, what flowjax and JAX do with it."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from flowjax.bijections import Chain, Coupling, Invert, MaskedAutoregressive, Vmap
from flowjax.distributions import StandardNormal, Transformed
from jax.flatten_util import ravel_pytree

import nnef_dists as nd
from tests.flows.cases import BIJECTIONS

SCALARS = (nd.flows.CubicConjugation, nd.flows.SinhConjugation, nd.flows.CubicRational)
TIGHT = 1e-12 if jax.config.jax_enable_x64 else 1e-5


def condition_of(bijection):
    shape = bijection.cond_shape
    return None if shape is None else jnp.linspace(-0.5, 0.8, shape[0])


@functools.cache
def made(case):
    return case.make(jax.random.key(1))


@pytest.fixture(params=BIJECTIONS, ids=str)
def bijection(request):
    return made(request.param)


def points_of(bijection, n=16):
    points = 2 * jax.random.normal(jax.random.key(2), (n, *bijection.shape))
    # A ray has no negative radius.
    return jnp.abs(points) if isinstance(bijection, nd.flows.RayTransform) else points


def test_goes_there_and_back(bijection):
    condition = condition_of(bijection)

    @jax.jit
    def there_and_back(x):
        y, log_det = bijection.transform_and_log_det(x, condition)
        back, inverse_log_det = bijection.inverse_and_log_det(y, condition)
        return back, y, log_det, inverse_log_det

    x = points_of(bijection)
    back, y, log_det, inverse_log_det = jax.vmap(there_and_back)(x)
    assert back.dtype == y.dtype == log_det.dtype == x.dtype
    assert float(jnp.max(jnp.abs(y - x))) > 0.01
    np.testing.assert_allclose(back, x, rtol=10 * TIGHT, atol=10 * TIGHT)
    np.testing.assert_allclose(inverse_log_det, -log_det, atol=30 * TIGHT)


def test_determinants_are_those_of_autodiff(bijection):
    condition = condition_of(bijection)

    @jax.jit
    @jax.vmap
    def both(x):
        y, log_det = bijection.transform_and_log_det(x, condition)
        jacobian = jax.jacfwd(lambda x: bijection.transform(x, condition))(x)
        inverse = jax.jacrev(lambda y: bijection.inverse(y, condition))(y)
        size = max(1, x.size)
        expected = [jnp.linalg.slogdet(j.reshape(size, size))[1] for j in (jacobian, inverse)]
        return log_det, *expected

    log_det, forward, backward = both(points_of(bijection))
    np.testing.assert_allclose(log_det, forward, atol=10 * TIGHT)
    np.testing.assert_allclose(-log_det, backward, atol=30 * TIGHT)


def test_parameters_are_trained(bijection):
    dynamic, static = nd.partition_trainable(bijection)
    condition, x = condition_of(bijection), points_of(bijection)

    def loss(dynamic):
        y, log_det = jax.vmap(
            lambda x: nd.unfreeze_all(dynamic, static).transform_and_log_det(x, condition)
        )(x)
        return jnp.mean(y**2) - jnp.mean(log_det)

    gradient = jax.jit(jax.grad(loss))(dynamic)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient))
    assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradient))


def test_bayesianize_takes_it(bijection):
    model = nd.bayesianize(bijection, init_raw_stdv=0.3)
    condition, x = condition_of(bijection), points_of(bijection)[0]

    @eqx.filter_jit
    def transformed(model):
        drawn = [model.realize(key=jax.random.key(i)).transform(x, condition) for i in (0, 1)]
        return model.realize().transform(x, condition), *drawn

    means, one, other = transformed(model)
    expected = eqx.filter_jit(bijection.transform)(x, condition)
    np.testing.assert_allclose(means, expected, rtol=1e-6)
    assert float(jnp.max(jnp.abs(one - other))) > 0


@pytest.mark.parametrize("make", SCALARS)
class TestScalars:
    """Over draws of raw parameters; 1,000 of them are in the benchmark."""

    n = 200

    def raw(self, make):
        flat, unravel = ravel_pytree(make())
        return jax.random.normal(jax.random.key(0), (self.n, flat.size)), unravel

    def test_round_trips_far_and_near(self, make):
        raw, unravel = self.raw(make)
        x = jnp.concatenate([jnp.linspace(-100, 100, 101), jnp.linspace(-3, 3, 101)])

        def worst(raw):
            bijection = unravel(raw)
            y, log_det = jax.vmap(bijection.transform_and_log_det)(x)
            slope = jax.vmap(jax.grad(bijection.transform))(x)
            size = jnp.maximum(1, jnp.abs(x))
            trip = jnp.max(jnp.abs(jax.vmap(bijection.inverse)(y) - x) / size)
            other = jnp.max(
                jnp.abs(jax.vmap(bijection.transform)(jax.vmap(bijection.inverse)(x)) - x) / size
            )
            return trip, other, jnp.max(jnp.abs(log_det - jnp.log(slope)))

        for error in jax.jit(jax.vmap(worst))(raw):
            assert float(jnp.max(error)) <= TIGHT

    def test_derivatives_are_finite_to_third_order(self, make):
        raw, unravel = self.raw(make)
        x = jnp.array([0.0, 1e-3, -0.5, 10.0, 1e2, -1e3, 1e4, -1e4])

        def derivatives(raw, x):
            def f(x):
                bijection = unravel(raw)
                y, log_det = bijection.transform_and_log_det(x)
                back, _ = bijection.inverse_and_log_det(x)
                return y + back + log_det

            first, second = jax.grad(f), jax.grad(jax.grad(f))
            return first(x), second(x), jax.grad(second)(x)

        found = jax.jit(jax.vmap(jax.vmap(derivatives, (None, 0)), (0, None)))(raw, x)
        assert all(bool(jnp.all(jnp.isfinite(order))) for order in found)

    def test_is_the_identity_by_default_and_near_it_when_random(self, make):
        x = jnp.linspace(-5, 5, 41)
        transform = jax.jit(lambda bijection: jax.vmap(bijection.transform)(x))
        np.testing.assert_allclose(transform(make()), x, atol=1e-6)
        near = make.random(jax.random.key(0), depth=10_000)
        np.testing.assert_allclose(transform(near), x, atol=0.03)
        far = make.random(jax.random.key(0), depth=1)
        assert float(jnp.max(jnp.abs(transform(far) - x))) > 0.03

    def test_is_a_transformer_of_flowjax(self, make, strict_promotion):
        transformer = make()

        @jax.jit
        def run(key):
            layers = {"transformer": transformer, "dim": 3, "nn_width": 8, "nn_depth": 1}
            coupling = Coupling(key, untransformed_dim=1, **layers)
            autoregressive = MaskedAutoregressive(key, **layers)
            elementwise = Vmap(make.random(key), axis_size=3)
            flow = Transformed(
                StandardNormal((3,)), Invert(Chain([coupling, autoregressive, elementwise]))
            )
            x = flow.sample(key, (5,))
            latent = jax.vmap(flow.bijection.inverse)(x)
            return x, flow.log_prob(x), jax.vmap(flow.bijection.transform)(latent)

        with jax.numpy_dtype_promotion("standard"):
            x, log_prob, back = run(jax.random.key(0))
        np.testing.assert_allclose(back, x, atol=1e-4)
        assert x.shape == (5, 3)
        assert bool(jnp.all(jnp.isfinite(log_prob)))

    def test_refuses_scales_out_of_bounds(self, make):
        with pytest.raises(ValueError, match=r"Expected 0.05 < scale < 20; got -1"):
            make(scale=-1.0)
        with pytest.raises(ValueError, match=r"got 25"):
            make(scale=25.0)


def test_a_density_integrates_to_one():
    flow = Transformed(
        StandardNormal((2,)), Invert(BIJECTIONS[-2].make(jax.random.key(3)))
    )  # a radial flow in the plane
    side = jnp.linspace(-8, 8, 401)
    grid = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
    total = jnp.sum(jnp.exp(jax.jit(jax.vmap(flow.log_prob))(grid))) * (side[1] - side[0]) ** 2
    assert abs(float(total) - 1) < 5e-3


@pytest.mark.parametrize("case", BIJECTIONS[-5:], ids=str)
def test_rays_are_safe_at_the_center(case):
    bijection = made(case)
    condition = condition_of(bijection)
    center = jnp.zeros(()) if bijection.shape == () else bijection.center
    transform = eqx.filter_jit(lambda x: bijection.transform_and_log_det(x, condition))
    if bijection.shape != ():
        y, log_det = transform(center)
        np.testing.assert_allclose(y, center, atol=1e-6)
        assert bool(jnp.isfinite(log_det))
    else:
        assert float(bijection.transform(center)) == 0

    def value(x):
        y, log_det = bijection.transform_and_log_det(x, condition)
        back, inverse_log_det = bijection.inverse_and_log_det(x, condition)
        return jnp.sum(y + back) + log_det + inverse_log_det

    assert bool(jnp.all(jnp.isfinite(jax.jit(jax.grad(value))(center))))
    # Either side of where slopes take over from differences.
    if bijection.shape != ():
        edge = jnp.cbrt(jnp.finfo(center.dtype).eps)
        step = jnp.zeros_like(center).at[0].set(edge) * paramax.unwrap(bijection.scale)
        inside, outside = (transform(center + factor * step)[1] for factor in (0.999, 1.001))
        np.testing.assert_allclose(inside, outside, atol=1e-3)


def test_directions_stay():
    bijection = made(BIJECTIONS[-2])
    x = points_of(bijection)
    scale = paramax.unwrap(bijection.scale)
    before = (x - bijection.center) / scale
    after = (jax.jit(jax.vmap(bijection.transform))(x) - bijection.center) / scale
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    np.testing.assert_allclose(cross, 0, atol=1e-4)
    assert bool(jnp.all(jnp.sum(before * after, 1) > 0))


class TestFeatures:
    def test_are_those_of_the_angle(self):
        angle = jnp.linspace(-3, 3, 7)
        u = jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
        found = jax.jit(jax.vmap(nd.flows.FourierFeatures(7)))(u)
        expected = [jnp.ones_like(angle)]
        for k in (1, 2, 3):
            expected += [jnp.cos(k * angle) / k, jnp.sin(k * angle) / k]
        np.testing.assert_allclose(found, jnp.stack(expected, 1), atol=1e-6)

    def test_refusals(self, without_type_checks):
        with pytest.raises(ValueError, match="odd count of Fourier features; got 4"):
            nd.flows.FourierFeatures(4)
        with pytest.raises(ValueError, match=r"unit vector of the plane, \(2,\); got \(3,\)"):
            nd.flows.FourierFeatures(3)(jnp.ones(3))


class TestRefusals:
    def test_of_conditioners(self):
        stack = nd.flows.CubicConjugation()
        net = eqx.nn.MLP(2, 5, 4, 1, key=jax.random.key(0))
        with pytest.raises(ValueError, match=r"outputs of shape \(3,\); got \(5,\)"):
            nd.flows.RadialConditional(stack, net, jnp.zeros(2))
        with pytest.raises(ValueError, match=r"outputs of shape \(3,\); got \(5,\)"):
            nd.flows.ConditionedBijection(stack, net, 2)
        with pytest.raises(ValueError, match=r"inputs of shape \(4,\), as cond_dim is 4"):
            nd.flows.ConditionedBijection(stack, net, 4)

    def test_of_bijections(self):
        conditional = nd.flows.ConditionedBijection(
            nd.flows.CubicConjugation(), eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0)), 2
        )
        with pytest.raises(ValueError, match="unconditional bijection"):
            nd.flows.Radial(conditional, jnp.zeros(2))
        with pytest.raises(ValueError, match=r"shape \(\); got \(2,\)"):
            nd.flows.RayTransform(Vmap(nd.flows.CubicConjugation(), axis_size=2))
