"""Simulating, in memory and to disk."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import nnef_dists as nd
from nnef_dists.posterior import _simulate
from tests.moments.stores import files, flip_a_bit
from tests.posterior.simulators import NOISE, linear, normal_prior, uniform_prior

N, CHUNK = 40, 16


def fails_above_one(key, theta):
    return jnp.where(theta[0] > 1, jnp.nan, linear(key, theta))


def simulate(simulator=linear, prior=None, n=N, seed=0, key=None, **options):
    prior = normal_prior() if prior is None else prior
    options = {"chunk_size": CHUNK, "progress": False} | options
    key = jax.random.key(seed) if key is None else key
    return nd.simulate(simulator, prior, key, n, **options)


def deviates(key, theta):
    """Like `linear`, except for few thetas."""
    return jnp.where(theta > 2.35, -5.0, linear(key, theta))


def assert_same(one, two):
    assert one.theta.tobytes() == two.theta.tobytes()
    assert one.x.tobytes() == two.x.tobytes()
    assert one.failed == two.failed


def test_pairs_are_of_the_joint_distribution():
    data = simulate(n=2000, chunk_size=512)
    assert data.theta.shape == data.x.shape == (2000, 2)
    joint = np.concatenate([data.theta, data.x], 1).astype(float)
    expected = np.kron([[1, 1], [1, 1 + NOISE**2]], np.eye(2))
    # The standard error of a covariance of normal variables is at most sqrt(2 / n) variances.
    assert np.all(np.abs(np.cov(joint.T) - expected) < 5 * (2 / 2000) ** 0.5 * 1.25)


def test_each_simulation_has_a_key_of_its_own():
    """Neither the chunk nor the number of simulations changes the others."""
    small, large = simulate(n=10, chunk_size=3), simulate(n=20, chunk_size=20)
    np.testing.assert_allclose(small.theta, large.theta[:10], rtol=1e-5)
    np.testing.assert_allclose(small.x, large.x[:10], rtol=1e-5)
    assert len(np.unique(large.theta)) == large.theta.size


def test_numpyro_priors():
    prior = dist.Uniform(-jnp.ones(2), 2 * jnp.ones(2)).to_event(1)
    data, ours = simulate(prior=prior), simulate(prior=uniform_prior())
    assert np.all((data.theta >= -1) & (data.theta <= 2))
    assert data.theta.shape == ours.theta.shape


def test_failures_are_counted_and_left_out():
    with pytest.warns(UserWarning, match=r"of 40 simulations are not finite"):
        data = simulate(fails_above_one)
    assert len(data) + data.failed == N
    assert data.failed > 0
    assert data.theta[:, 0].max() <= 1
    assert f"{data.failed} failed" in repr(data)
    with pytest.raises(ValueError, match=r"all 40 are not"):
        simulate(lambda key, theta: theta * jnp.nan)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "Expected n >= 1"),
        ({"chunk_size": 0}, "chunk_size >= 1"),
        ({"prior": dist.Normal()}, "Expected a prior of vectors"),
        ({"simulator": lambda key, theta: jnp.arange(3)}, "Expected x of one floating dtype"),
        ({"simulator": lambda theta, key: linear(key, theta)}, r"\(key, theta\); got one that "
         r"takes \(theta, key\)\. Swap its arguments, or pass lambda key, theta: "),
        ({"simulator": lambda theta, key: theta[0] + linear(key, theta)}, r"takes \(theta, key\)"),
        ({"simulator": lambda theta, key: 2 * theta}, r"takes \(theta, key\)"),
        ({"simulator": lambda theta: theta}, r"\(key, theta\); got one that takes \(theta\)\. Fix"),
        ({"simulator": normal_prior(), "prior": linear}, "The prior is the argument after the sim"),
        ({"key": 0}, r"Expected one jax\.random\.key; got 0\. Use jax\.random\.key\(seed\)"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("without_type_checks")
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        simulate(**options)


class Custom:
    """A prior by two functions."""

    def __init__(self, sample, log_prob=None):
        self.sample = sample
        if log_prob is not None:
            self.log_prob = log_prob


def draw_normal(key, shape):
    return jax.random.normal(key, (*shape, 2))


def normal_log_prob(theta):
    return jnp.sum(jax.scipy.stats.norm.logpdf(theta), -1)


class TestPriors:
    """A prior whose density is not that of its draws would be wrong in later rounds, silently."""

    @pytest.mark.parametrize(
        ("prior", "message"),
        [
            (dist.Normal(jnp.zeros(2), 1.0), r"log_prob\(theta\) of shape \(\) .*; got \(2,\)"),
            (dist.Uniform(jnp.zeros(3), 1.0), r"\(3,\). Use prior.to_event\(1\)"),
            (dist.Normal(), r"Expected a prior of vectors .*got points of \(\). Use prior.expand"),
            (dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(2), r"got points of \(2, 3\)"),
            (dist.Bernoulli(jnp.full(2, 0.5)).to_event(1), "floating dtype; got int"),
            (Custom(draw_normal, lambda theta: -(theta**2) / 2), r"got \(2,\)"),
            (Custom(draw_normal, lambda theta: normal_log_prob(theta)[None]), r"got \(1,\)"),
            (Custom(draw_normal, lambda theta: (normal_log_prob(theta), 0)), "got tuple"),
            (
                Custom(draw_normal, lambda theta: normal_log_prob(jnp.log(theta))),
                "log_prob to be finite at the prior's own draws; got nan at theta",
            ),
            (
                Custom(draw_normal, lambda t: jnp.where(jnp.all(t > 0), 0.0, -jnp.inf)),
                "got -inf at theta = .* of different distributions",
            ),
            (Custom(draw_normal, lambda theta: float(theta[0])), "log_prob to be traced by JAX"),
            (object(), r"Expected a prior with methods sample\(key, shape\)"),
        ],
    )
    def test_refuses(self, prior, message, without_type_checks):
        with pytest.raises(ValueError, match=message):
            simulate(prior=prior, n=16)

    def test_reduced_ones_are_taken(self):
        for prior in (
            dist.Normal(jnp.zeros(2), 1.0).to_event(1),
            dist.Normal().expand((2,)).to_event(1),
            dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)),
            Custom(draw_normal, normal_log_prob),
        ):
            assert simulate(prior=prior, n=4).theta_dim == 2

    def test_a_density_is_needed_for_rounds_alone(self, without_type_checks):
        assert simulate(prior=Custom(draw_normal), n=4).theta_dim == 2

    def test_a_few_draws_at_the_edge_do_no_harm(self):
        """Rounding may put one draw of many where the density is infinite."""

        def log_prob(theta):
            return jnp.where(theta[0] > 2.9, jnp.inf, normal_log_prob(theta))

        assert len(simulate(prior=Custom(draw_normal, log_prob), n=512, chunk_size=512)) == 512


class TestSimulators:
    @pytest.mark.parametrize(
        ("simulator", "message"),
        [
            (lambda key, theta: theta > 0, "x of one floating dtype; got bool .*astype"),
            (lambda key, theta: theta.astype(jnp.float16), "got float16 beside theta of float"),
            (lambda key, theta: theta.astype(jnp.complex64), "got complex64"),
            (lambda key, theta: {"x": theta}, "Expected one array x .*; got dict. Join parts"),
            (lambda key, theta: (theta, theta), "got tuple"),
            (lambda key, theta: None, "got NoneType"),
            (lambda key, theta: np.random.normal(np.asarray(theta)), "simulator to be traced"),  # noqa: NPY002
            (lambda key, theta: theta if theta[0] > 0 else -theta, "simulator to be traced"),
        ],
    )
    def test_refuses(self, simulator, message, without_type_checks):
        with pytest.raises(ValueError, match=message):
            simulate(simulator, n=4)

    def test_scalars_are_observations(self):
        assert simulate(lambda key, theta: theta[0], n=4).x_shape == ()


class TestStore:
    def test_is_what_memory_has(self, tmp_path):
        path = tmp_path / "store"
        assert_same(simulate(path=path), simulate())
        assert_same(nd.posterior.open_simulations(path), simulate())
        before = files(path)
        assert_same(simulate(path=path), simulate())
        assert files(path) == before

    def test_resumes_and_mends(self, tmp_path):
        path = tmp_path / "store"
        simulate(path=path)
        status = sorted((path / "status").glob("c/*"))
        assert len(status) == 3
        status[1].unlink()
        with pytest.raises(ValueError, match=r"1 of 3 chunks are missing"):
            nd.posterior.open_simulations(path)
        assert_same(simulate(path=path), simulate())
        flip_a_bit(next(file for file in (path / "x").rglob("2/*") if file.is_file()))
        with pytest.raises(ValueError, match=r"chunk 2 .*damaged"):
            nd.posterior.open_simulations(path)
        assert_same(simulate(path=path), simulate())
        assert_same(nd.posterior.open_simulations(path), simulate())

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"seed": 1}, "key.data"),
            ({"n": 41}, "n: 40 in the store, 41 asked"),
            ({"chunk_size": 8}, "chunk_size: 16 in the store, 8 asked"),
            ({"simulator": lambda key, theta: 2 * linear(key, theta)}, "x of the first chunk"),
            ({"simulator": deviates}, "x of the first chunk differ in 1 of 16 rows"),
            ({"prior": uniform_prior()}, "theta of the first chunk"),
        ],
    )
    def test_refuses_what_is_not_asked_for(self, changes, message, tmp_path):
        path = tmp_path / "store"
        simulate(path=path)
        before = files(path)
        with pytest.raises(ValueError, match=message):
            simulate(path=path, **changes)
        assert files(path) == before

    def test_rows_of_another_environment_may_deviate(self, tmp_path, monkeypatch):
        path = tmp_path / "store"
        with monkeypatch.context() as patch:
            patch.setattr(_simulate, "describe_environment", lambda: {"machine": "another"})
            simulate(deviates, path=path)
        stored = nd.posterior.open_simulations(path)
        for _ in range(2):  # Afterwards, both environments are known.
            assert_same(simulate(path=path), stored)
        with pytest.raises(ValueError, match="x of the first chunk differ in 16 of 16"):
            simulate(lambda key, theta: 2 * linear(key, theta), path=path)

    def test_moment_data_are_no_simulations(self, tmp_path):
        simulate(path=tmp_path / "store")
        with pytest.raises(ValueError, match=r"Expected moment data of format"):
            nd.MomentDataset.open(tmp_path / "store")
        with pytest.raises(FileNotFoundError, match=r"Expected simulations at"):
            nd.posterior.open_simulations(tmp_path / "nothing")

    def test_keeps_failures(self, tmp_path):
        with pytest.warns(UserWarning, match="not finite"):
            data = simulate(fails_above_one, path=tmp_path / "store")
        with pytest.warns(UserWarning, match="not finite"):
            assert_same(nd.posterior.open_simulations(tmp_path / "store"), data)


class TestSimulations:
    def test_parts(self):
        data = simulate()
        one, two = data.split(0.75, jax.random.key(0))
        assert (len(one), len(two)) == (30, 10)
        both = np.sort(np.concatenate([one.theta, two.theta]), 0)
        assert np.array_equal(both, np.sort(data.theta, 0))
        joined = nd.Simulations.concatenate([one, two])
        assert len(joined) == N
        batch = data[:3].arrays()
        assert batch.theta.shape == batch.x.shape == (3, 2)

    @pytest.mark.parametrize(
        ("theta", "x", "message"),
        [
            (np.zeros(3), np.zeros((3, 1)), "Expected theta of shape (n, theta_dim)"),
            (np.zeros((3, 1)), np.zeros((2, 1)), "Expected theta of shape (n, theta_dim)"),
            (np.zeros((3, 1)), np.zeros((3, 1), int), "Expected x of one floating dtype"),
            (np.zeros((3, 1)), np.full((3, 1), np.nan), "Expected finite x"),
        ],
    )
    def test_refuses(self, theta, x, message, without_type_checks):
        with pytest.raises(ValueError, match=re.escape(message)):
            nd.Simulations(theta, x)

    def test_refuses_splits_and_joins(self):
        with pytest.raises(ValueError, match="Expected 0 < fraction < 1"):
            simulate().split(1.0, jax.random.key(0))
        with pytest.raises(ValueError, match="Expected simulations of one shape"):
            nd.Simulations.concatenate([])
