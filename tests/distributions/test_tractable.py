"""Closed forms, quadrature and an exact network behind one face."""

import functools
import subprocess
import sys
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from flowjax.bijections import Affine, Chain, Exp, Sigmoid
from numpyro.infer import util

import nnef_dists as nd
from nnef_dists.distributions._method import _compiled_program
from tests.networks.exact import CASES, etas_of, family_of
from tests.numerics import assert_close

pytestmark = pytest.mark.usefixtures("strict_promotion")

GAUSSIAN, GAMMA = nd.GaussianNatural1D(), nd.Gamma()
QUARTIC = nd.Quadrature(nd.Polynomial1D((1, 2, 4)))
SYMMETRIES = {"GaussianNatural1D": nd.families.LocationScale(), "Gamma": nd.families.Scaling(x=1)}
SOURCES = {
    "closed": lambda name: nd.ClosedForm(CASES[name][0]),
    "quadrature": lambda name: nd.Quadrature(CASES[name][0]),
    "symmetric": lambda name: nd.Symmetric(nd.ClosedForm(CASES[name][0]), SYMMETRIES[name]),
    "network": lambda name: family_of(name, sampler=nd.distributions.QuadratureSampler()),
}
each = pytest.mark.parametrize("name", ["GaussianNatural1D", "Gamma"])
each_source = pytest.mark.parametrize("source", SOURCES)


@functools.cache
def evaluated(source, name):
    """All methods and derivatives at 8 pairs of etas, in one program."""
    q, etas = SOURCES[source](name), etas_of(name)
    x = jnp.asarray(0.7, etas.dtype)

    def run(eta, other):
        return {
            "log_partition": q.log_partition(eta),
            "mean": q.mean(eta),
            "covariance": q.covariance(eta),
            "entropy": q.entropy(eta),
            "kl": q.kl(eta, other),
            "log_prob": q.log_prob(x, eta),
            "gradient": jax.grad(q.log_partition)(eta),
            "hessian": jax.jacrev(jax.grad(q.log_partition))(eta),
            "jacobian": jax.jacrev(q.mean)(eta),
            "third": jax.jacrev(q.covariance)(eta),
            "inverse": q.natural_parameters(q.mean(eta), throw=False),
        }

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(run))(etas[:8], etas[8:16]))


@functools.cache
def exact(name):
    """The same by the family's formulas in double precision."""
    family, etas = CASES[name][0], np.asarray(etas_of(name)[:16], np.float64)

    def run(eta, other):
        a, mean, covariance = family.log_partition(eta), family.mean(eta), family.covariance(eta)
        return {
            "log_partition": a,
            "mean": mean,
            "covariance": covariance,
            "entropy": a - jnp.sum(eta * mean),
            "kl": jnp.sum((eta - other) * mean) - a + family.log_partition(other),
            "log_prob": family.unnormalized_logdensity(eta, jnp.asarray(0.7)) - a,
            "gradient": mean,
            "hessian": covariance,
            "jacobian": covariance,
            "third": jax.jacfwd(family.covariance)(eta),
            "inverse": eta,
        }

    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(run))(jnp.asarray(etas[:8]), jnp.asarray(etas[8:]))
        return jax.tree.map(np.asarray, found)


@each_source
@each
def test_identities(source, name):
    found, truth = evaluated(source, name), exact(name)
    for what, value in found.items():
        size = np.max(np.abs(truth[what]))
        # Sums of A and eta . mu, up to 20, and derivatives of sums over the grid.
        scale = max(size, 20.0) if what in ("log_partition", "entropy", "kl", "log_prob") else size
        ulps = 3e3 if what in ("inverse", "third") else 256
        assert_close(value, truth[what], scale=scale, ulps=ulps)


@pytest.mark.parametrize("source", ["closed", "quadrature"])
def test_the_inverse_is_differentiable(source):
    q, eta = SOURCES[source]("Gamma"), etas_of("Gamma")[0]
    mu = GAMMA.mean(eta)
    found = jax.jit(jax.jacrev(q.natural_parameters))(mu)
    covariance = np.asarray(GAMMA.covariance(eta), np.float64)
    condition = np.linalg.cond(covariance)
    assert_close(found, np.linalg.inv(covariance), ulps=64 * condition)


@pytest.mark.parametrize("source", ["closed", "quadrature"])
class TestFailures:
    def test_an_invalid_eta(self, source):
        q = SOURCES[source]("GaussianNatural1D")
        bad = jnp.array([0.5, 0.5])
        for call in (q.mean, q.log_partition, q.at, lambda eta: q.kl(jnp.array([0.5, -1]), eta)):
            with pytest.raises(ValueError, match=r"'x2' of GaussianNatural1D\(\) to be negative"):
                call(bad)
        with pytest.raises(ValueError, match="'x2'"):
            jax.grad(q.entropy)(bad)
        assert np.isnan(jax.jit(lambda eta: q.mean(eta))(bad)).all()
        assert np.isnan(jax.vmap(q.mean)(bad[None])).all()
        assert np.isnan(jax.jit(jax.grad(q.entropy))(bad)).all()

    def test_unattainable_means(self, source):
        q, mu = SOURCES[source]("GaussianNatural1D"), jnp.array([1.0, 0.5])
        with pytest.raises(RuntimeError, match=r"of some eta in the natural domain; got \[.*throw"):
            q.natural_parameters(mu)
        assert np.isnan(q.natural_parameters(mu, throw=False)).all()


def test_what_has_no_source_is_refused(without_type_checks):
    with pytest.raises(ValueError, match=r"AbstractNamedFamily.*got Polynomial1D.*Use Quadrature"):
        nd.ClosedForm(nd.Polynomial1D((2, 4)))
    with pytest.raises(ValueError, match=r"one or two dimensions.*has 4.*AmortizedFamily"):
        nd.Quadrature(nd.LatticePhi4(4))
    with pytest.raises(ValueError, match="odd number of points"):
        nd.Quadrature(GAUSSIAN, points=10)


class Heavy(nd.ExponentialFamily):
    """Tails that an exponent near 1/2 leaves without an integral, which the domain admits."""

    x_shape = ()
    natural_domain = nd.domain(log=nd.positive)

    def compute_stats(self, x):
        return {"log": -jnp.log1p(x**2)}


def test_quadrature_without_convergence():
    q, eta = nd.Quadrature(Heavy()), jnp.array([0.4])
    message = r"quadrature of Heavy\(\) to converge to 1e-3; got a larger error bound at"
    with pytest.raises(ValueError, match=message):
        q.mean(eta)
    assert np.isnan(jax.jit(lambda eta: q.mean(eta))(eta)).all()


def test_two_dimensions():
    family = nd.MultivariateNormal(2)
    q, truth = nd.Quadrature(family), nd.ClosedForm(family)
    eta = jnp.array([0.3, -0.5, -1.0, 0.2, 0.2, -0.8])
    for method in ("log_partition", "mean", "covariance"):
        exact = np.asarray(getattr(truth, method)(eta))
        assert_close(getattr(q, method)(eta), exact, ulps=256, scale=max(1, np.max(np.abs(exact))))


@each_source
def test_calls_reuse_programs(source):
    q, etas = SOURCES[source]("GaussianNatural1D"), etas_of("GaussianNatural1D")
    q.entropy(etas[0]), q.mean(etas[0])
    programs = _compiled_program._cache_size()
    for eta in etas[:4]:
        q.entropy(eta), q.mean(eta), SOURCES[source]("GaussianNatural1D").mean(eta)
    assert _compiled_program._cache_size() == programs


def test_strict_families_raise_in_programs():
    q = nd.ClosedForm(GAUSSIAN, strict=True)
    with pytest.raises(Exception, match="'x2'"):
        jax.block_until_ready(jax.jit(lambda eta: q.mean(eta))(jnp.array([0.5, 0.5])))


def test_saving(tmp_path):
    q = nd.Quadrature(GAUSSIAN, points=21)
    nd.save(tmp_path / "q.safetensors", q)
    again = nd.load(tmp_path / "q.safetensors")
    assert again == q


class TestDistribution:
    def test_methods(self):
        q, other = QUARTIC, jnp.array([0.5, 0.2, -1.0])
        p = q.at(jnp.array([0.0, 1.0, -0.5]))
        assert np.array_equal(p.mean(), q.mean(p.eta))
        assert np.array_equal(p.covariance(), q.covariance(p.eta))
        assert p.entropy() == q.entropy(p.eta)
        assert p.kl(q.at(other)) == q.kl(p.eta, other)
        assert p.log_prob(jnp.array(0.3)) == q.log_prob(jnp.array(0.3), p.eta)
        with pytest.raises(ValueError, match=r"distribution of Polynomial1D.*got one of Gamma"):
            p.kl(nd.ClosedForm(GAMMA).at(jnp.array([1.0, -1.0])))
        with pytest.raises(ValueError, match="Distribution"):
            p.kl(other)

    def test_draws(self):
        p = nd.ClosedForm(GAMMA).at(jnp.array([2.0, -1.5]))
        x = np.asarray(p.sample(jax.random.key(0), (40, 50)))
        assert x.shape == (40, 50)
        assert p.sample(jax.random.key(0)).shape == ()
        assert scipy.stats.kstest(x.ravel(), scipy.stats.gamma(3, scale=1 / 1.5).cdf).pvalue > 1e-3
        with pytest.raises(ValueError, match="sample_shape"):
            p.sample(jax.random.key(0), (0,))

    def test_is_a_pytree(self):
        p = QUARTIC.at(jnp.array([0.0, 1.0, -0.5]))
        doubled = jax.jit(lambda p: jax.tree.map(lambda leaf: 2 * leaf, p))(p)
        assert isinstance(doubled, nd.distributions.Distribution)
        assert np.array_equal(doubled.eta, 2 * p.eta)
        gradient = jax.jit(jax.grad(lambda p: p.entropy()))(p)
        assert np.array_equal(gradient.eta, jax.grad(QUARTIC.entropy)(p.eta))


class Half(nd.ExponentialFamily):
    """A normal density on a part of the line, whose statistics exist everywhere."""

    natural_domain: ClassVar = nd.domain(x2=nd.negative)
    x_shape: ClassVar = ()
    is_box: bool = False

    @property
    def support(self):
        return Chain([Sigmoid(), Affine(2.0, 3.0)]) if self.is_box else Exp()

    def compute_stats(self, x):
        return {"x": x, "x2": x**2}


class Unnormalized(nd.distributions.AbstractTractableFamily):
    """A source of A = 0, whose programs are small."""

    family: nd.ExponentialFamily
    sampler: nd.sampling.AbstractSampler = nd.distributions.QuadratureSampler()
    strict: bool = False

    def _potential(self, eta):
        return 0 * eta[0]

    def _mean(self, eta):
        return 0 * eta


@pytest.mark.parametrize(("family", "inside", "outside"), [
    (Half(), [0.0, 1e-30, 0.7, 3.0], [-1.0, -1e-30, -np.inf]),
    (Half(is_box=True), [2.0, 2.5, 4.9], [7.0, 5.1, 1.9, -1.0]),
])  # fmt: skip
def test_there_is_no_density_outside_a_support(family, inside, outside):
    q, eta, n = Unnormalized(family), jnp.array([0.5, -0.5]), len(inside)
    log_prob = jax.jit(jax.vmap(jax.value_and_grad(q.log_prob), (0, None)))
    value, slope = log_prob(jnp.array([*inside, *outside, np.nan]), eta)
    x = np.array(inside)
    assert_close(value[:n], 0.5 * x - 0.5 * x**2, scale=10.0)
    assert_close(slope[:n], 0.5 - x, scale=10.0)
    assert np.all(value[n:-1] == -np.inf)
    assert np.all(slope[n:-1] == 0)
    assert np.isnan(value[-1])


class TestNumPyro:
    @pytest.fixture(autouse=True)
    def promotion(self):
        with jax.numpy_dtype_promotion("standard"):
            yield

    def test_methods(self):
        p = nd.ClosedForm(GAMMA).at(jnp.array([2.0, -1.5]))
        found, x = p.to_numpyro(), jnp.array([[0.5, 2.0, 1.0]])
        assert (found.batch_shape, found.event_shape) == ((), ())
        reference = dist.Gamma(3.0, 1.5)
        assert_close(found.log_prob(x), np.asarray(reference.log_prob(x)), scale=10.0)
        assert found.sample(jax.random.key(0), (2, 3)).shape == (2, 3)
        assert found.support(jnp.array([0.5, -1.0])).tolist() == [True, False]
        assert jax.tree.leaves(found)[0] is p.eta

    def test_a_latent_site_has_the_density_of_its_coordinates(self):
        """Of Gamma's log x, with the Jacobian; and of two observed copies."""
        p, q = (
            nd.ClosedForm(GAMMA).at(jnp.array([2.0, -1.5])),
            QUARTIC.at(jnp.array([0.0, 1.0, -0.5])),
        )

        def model():
            numpyro.sample("x", p.to_numpyro())
            with numpyro.plate("n", 2):
                numpyro.sample("y", q.to_numpyro(), obs=jnp.array([0.1, 0.2]))

        u = jnp.array(0.4)
        energy = util.potential_energy(model, (), {}, {"x": u})
        expected = (
            p.log_prob(jnp.exp(u)) + u + q.log_prob(jnp.array(0.1)) + q.log_prob(jnp.array(0.2))
        )
        assert_close(-energy, np.asarray(expected), scale=10.0)

    def test_a_support_without_an_inverse(self):
        p = nd.Quadrature(nd.VonMisesHarmonic(1)).at(jnp.array([0.5, 0.2]))
        with pytest.raises(ValueError, match=r"flowjax bijection.*CircleProjection"):
            dist.biject_to(p.to_numpyro().support)

    def test_it_is_imported_on_use(self):
        code = "import sys, nnef_dists; assert 'numpyro' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True)


def test_the_dtype_is_carried():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        eta = jax.ShapeDtypeStruct((2,), "float32")
        for source in ("closed", "quadrature"):
            q = SOURCES[source]("GaussianNatural1D")
            for method in (q.mean, q.covariance, q.log_partition, q.entropy, q.natural_parameters):
                assert jax.eval_shape(method, eta).dtype == "float32"


class LogTail(nd.ExponentialFamily):
    """Student's t densities of unit scale, by the logarithm of 1 + x^2."""

    x_shape = ()
    natural_domain = nd.domain(log=nd.interval(-np.inf, -0.5))

    def compute_stats(self, x):
        return {"log": jnp.log1p(x**2)}


@pytest.mark.parametrize("eta", [-0.6, -0.55])
def test_calls_that_fail_in_single_precision_are_those_of_double_precision(eta):
    """With tails of infinite variance, whose integrals a float32 program does not reach."""
    q, a = nd.Quadrature(LogTail()), -eta
    exact = np.log(np.pi) / 2 + scipy.special.gammaln(a - 0.5) - scipy.special.gammaln(a)
    np.testing.assert_allclose(q.log_partition(jnp.array([eta])), exact, rtol=1e-3)
    exact = scipy.special.digamma(a) - scipy.special.digamma(a - 0.5)
    np.testing.assert_allclose(q.mean(jnp.array([eta])), exact, rtol=1e-2)
