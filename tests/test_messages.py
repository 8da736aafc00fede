"""Likely mistakes: each message says what was expected, what came and what to do."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.networks.data import GAUSSIAN, gaussian_data

# As users see them, without runtime type checks.
pytestmark = pytest.mark.usefixtures("without_type_checks")

KEY = jax.random.key(0)
ETA = (0.5, -1.0)
RANGES = {"x": (0, 1), "x2": (-1, -0.5)}
PARTS = {"x": 0.5, "x2": -1.0}


@functools.cache
def network():
    return nd.LogPartitionNetwork(GAUSSIAN, gaussian_data(), width=4, depth=1, key=KEY)


@functools.cache
def q():
    return nd.AmortizedFamily(GAUSSIAN, network(), sampler=nd.distributions.QuadratureSampler())


@functools.cache
def batch():
    return gaussian_data().batch()


def declared(statistics, **members):
    """A family on the real line, with these statistics."""
    fields = {"x_shape": (), "natural_domain": nd.domain(x2=nd.negative), **members}
    return type("Mine", (nd.ExponentialFamily,), {"compute_stats": statistics, **fields})()


def quadratic(self, x):
    return {"x": x, "x2": x**2}


# Methods that take eta, by name: each is given whatever stands for eta.
TAKES_ETA = {
    "check_eta": GAUSSIAN.check_eta,
    "is_valid_eta": GAUSSIAN.is_valid_eta,
    "unflatten": GAUSSIAN.unflatten_stats_or_eta,
    "unconstrain_eta": GAUSSIAN.unconstrain_eta,
    "convex_features": GAUSSIAN.convex_features,
    "log_partition": GAUSSIAN.log_partition,
    "mean": GAUSSIAN.mean,
    "covariance": GAUSSIAN.covariance,
    "to_mean_variance": GAUSSIAN.to_mean_variance,
    "logdensity_fn": lambda eta: GAUSSIAN.logdensity_fn(eta)(jnp.array(0.3)),
    "quadrature_moments": lambda eta: nd.quadrature_moments(GAUSSIAN, eta),
    "exact_log_partition": lambda eta: nd.moments.exact_log_partition(GAUSSIAN, eta).value,
    "estimate_log_partition": lambda eta: nd.moments.estimate_log_partition(GAUSSIAN, eta).value,
    "q.accuracy": lambda eta: q().accuracy(eta),
    "q.mean": lambda eta: q().mean(eta),
    "q.covariance": lambda eta: q().covariance(eta),
    "q.is_positive_definite": lambda eta: q().is_positive_definite(eta),
    "q.log_partition": lambda eta: q().log_partition(eta),
    "q.entropy": lambda eta: q().entropy(eta),
    "q.kl": lambda eta: q().kl(eta, eta),
    "q.log_prob": lambda eta: q().log_prob(0.3, eta),
    "q.natural_parameters": lambda eta: q().natural_parameters(eta, throw=False),
    "q.predictive": lambda eta: q().predictive(eta, KEY, 4),
    "q.sample": lambda eta: q().sample(KEY, eta, 3),
}


@pytest.mark.parametrize("name", TAKES_ETA)
class TestEta:
    def test_a_list_is_an_array(self, name):
        call = TAKES_ETA[name]
        expected = jax.tree.leaves(call(jnp.array(ETA)))
        # Numbers, those of NumPy and integers too, and arrays in a list.
        for eta in (list(ETA), ETA, np.array(ETA), [jnp.array(0.5), -1]):
            found = jax.tree.leaves(call(eta))
            pairs = zip(found, expected, strict=True)
            assert all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)

    def test_a_dict_is_refused_with_what_flattens_it(self, name):
        with pytest.raises(ValueError, match=r"got a dict\. Use family\.flatten_stats_or_eta"):
            TAKES_ETA[name](PARTS)

    def test_a_batch_is_refused_with_what_batches(self, name):
        with pytest.raises(ValueError, match=r"of shape \(2,\) .*; got \(3, 2\)\. .*jax\.vmap"):
            TAKES_ETA[name](jnp.ones((3, 2)))

    def test_a_key_is_refused_with_its_place(self, name):
        for key in (KEY, jax.random.PRNGKey(0)):
            with pytest.raises(ValueError, match=r"got a PRNG key\. Check the order"):
                TAKES_ETA[name](key)


class TestEtas:
    ETAS = ((0.5, -1.0), (1, -2))

    def test_nested_lists_are_an_array(self):
        expected = jnp.array(self.ETAS)
        for etas in (self.ETAS, [list(eta) for eta in self.ETAS], [*expected]):
            found = nd.moments.check_etas(GAUSSIAN, etas)
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)

    @pytest.mark.parametrize(
        ("etas", "message"),
        [
            (PARTS, "got a dict. Use family.flatten_stats_or_eta(parts), with jax.vmap"),
            ([PARTS, PARTS], "got a dict. Use family.flatten_stats_or_eta(parts), with jax.vmap"),
            (ETA, "Expected etas of shape (n, 2), n >= 1, for GaussianNatural1D(); got (2,). "
                  "Use etas[None]"),
            (np.zeros((2, 2), np.int32), "floating-point dtype for GaussianNatural1D(); got dtype "
                                         "int32. Convert it with .astype(float)"),
            ([[0, -1], [1]], "Expected etas as an array or a list of numbers"),
            (KEY, "got a PRNG key. Check the order of the arguments"),
            ([ETA, (0, 1)], "etas[1]: Expected natural parameter 'x2' of GaussianNatural1D() to be "
                            "negative; got 1.0. Test eta with family.is_valid_eta"),
        ],
        ids=["dict", "dicts", "one", "integers", "ragged", "key", "invalid"],
    )  # fmt: skip
    def test_others_are_refused_wherever_labels_are_made(self, etas, message, tmp_path):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            nd.moments.check_etas(GAUSSIAN, etas)
        assert message in str(error.value)
        with pytest.raises(type(error.value)) as other:
            nd.estimate_moments(GAUSSIAN, etas, KEY)
        assert str(other.value) == str(error.value)
        with pytest.raises(type(error.value)) as other:
            nd.generate_moments(GAUSSIAN, etas, tmp_path / "data.zarr", KEY)
        assert str(other.value) == str(error.value)


FAMILY = "Expected family to be an instance of ExponentialFamily; got the class Polynomial1D. Call "
CLASS = nd.Polynomial1D
TAKES_FAMILY = {
    "estimate_moments": lambda: nd.estimate_moments(CLASS, [ETA], KEY),
    "check_etas": lambda: nd.moments.check_etas(CLASS, [ETA]),
    "sample_hmc": lambda: nd.moments.sample_hmc(KEY, CLASS, ETA, 8),
    "quadrature_moments": lambda: nd.quadrature_moments(CLASS, ETA),
    "estimate_log_partition": lambda: nd.moments.estimate_log_partition(CLASS, ETA),
    "exact_log_partition": lambda: nd.moments.exact_log_partition(CLASS, ETA),
    "generate_moments": lambda: nd.generate_moments(CLASS, [ETA], "nowhere.zarr", KEY),
    "BaseMeasureAsStatistic": lambda: nd.families.BaseMeasureAsStatistic(CLASS, 0.5, 2.0),
    "AmortizedFamily": lambda: nd.AmortizedFamily(CLASS, network()),
    **{
        cls.__name__: functools.partial(cls, CLASS, gaussian_data(), key=KEY)
        for cls in (nd.LogPartitionNetwork, nd.ConvexLogPartitionNetwork, nd.MLPMomentNetwork)
    },
}


@pytest.mark.parametrize("name", TAKES_FAMILY)
def test_the_class_is_not_the_instance(name):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        TAKES_FAMILY[name]()
    assert str(error.value) == FAMILY + "the class with its arguments: Polynomial1D(...)."


class TestSplitModels:
    """One part of a split is neither saved nor called."""

    MESSAGE = r"Expected a whole model; got one part of a split .*nd\.unfreeze_all\(dynamic, static"

    @pytest.mark.parametrize("split", [nd.freeze_stdvs, nd.freeze_means, nd.partition_trainable])
    @pytest.mark.parametrize("part", [0, 1], ids=["dynamic", "static"])
    def test_networks(self, split, part, tmp_path):
        frozen = split(network())[part]
        for call in (
            lambda: nd.save(tmp_path / "part.safetensors", frozen),
            lambda: nd.sobolev_loss(frozen, batch(), KEY),
            lambda: nd.moment_loss(frozen, batch()),
            lambda: nd.moment_loss(frozen, batch(), KEY),
            lambda: nd.negative_elbo(frozen, batch(), KEY, total=64),
            lambda: nd.negative_log_predictive(frozen, batch(), KEY, total=64),
            lambda: nd.bayes.predictive_moments(frozen, lambda n: n(jnp.array(ETA)), KEY, 4),
            lambda: nd.AmortizedFamily(GAUSSIAN, frozen),
            lambda: frozen(jnp.array(ETA)),
        ):
            with pytest.raises(ValueError, match=self.MESSAGE):
                call()
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("make", [nd.BayesianMLP, nd.BayesianLinear])
    @pytest.mark.parametrize("part", [0, 1], ids=["dynamic", "static"])
    def test_layers(self, make, part):
        sizes = (3, 2, 4, 1) if make is nd.BayesianMLP else (3, 2)
        frozen = nd.freeze_stdvs(make(*sizes, key=KEY))[part]
        for key in (None, KEY):
            with pytest.raises(ValueError, match=self.MESSAGE):
                frozen(jnp.ones(3), key=key)

    def test_whole_ones_pass(self, tmp_path):
        whole = nd.unfreeze_all(*nd.freeze_means(network()))
        nd.bayes.check_whole(whole)
        nd.save(tmp_path / "whole.safetensors", whole)
        # Fields that may be None are not missing.
        nd.bayes.check_whole([nd.BayesianLinear(3, 2, use_bias=False, key=KEY), None, {"a": None}])
        nd.bayes.check_whole(jax.tree.map(lambda leaf: leaf, dataclasses.replace(q(), anchor=None)))


X = "Expected compute_stats of Mine to "
# The dtypes that JAX gives Python numbers, by its mode.
FLOAT, INTEGER = jnp.result_type(float).name, jnp.result_type(int).name

MISTAKES = {
    "seed for a key": (lambda: nd.estimate_moments(GAUSSIAN, [ETA], 0), "Expected one "
                       "jax.random.key; got 0. Use jax.random.key(seed) with an integer seed."),
    "float for a key": (lambda: GAUSSIAN.sample_eta(0.5, 3, RANGES), "got 0.5. Use jax.random.key"),
    "seed to draw with": (lambda: q().sample(7, ETA, 3), "got 7. Use jax.random.key(seed)"),
    "keys for a key": (lambda: q().predictive(ETA, jax.random.split(KEY)), "Use one of the keys."),
    "key and eta": (lambda: q().sample(jnp.array(ETA), KEY, 3), "Expected one jax.random.key; got "
                    f"{FLOAT} of shape (2,). Check the order of the arguments."),
    "ranges and key": (lambda: nd.check_family(GAUSSIAN, KEY, RANGES), "Expected one "
                       "jax.random.key; got dict. Check the order of the arguments."),
    "options for a config": (lambda: nd.estimate_moments(GAUSSIAN, [ETA], KEY, {"draws": 9}),
                             "Expected config to be an instance of HMCConfig; got dict."),
    "etas and family": (lambda: nd.estimate_moments([ETA], GAUSSIAN, KEY), "Expected family to be "
                        "an instance of ExponentialFamily; got list. Check the type, and the "),
    "q for a family": (lambda: nd.estimate_moments(q(), [ETA], KEY), "Use its attribute .family."),
    "family for a network": (lambda: nd.AmortizedFamily(GAUSSIAN, GAUSSIAN), "Expected network to "
                             "be an instance of AbstractMomentNetwork; got GaussianNatural1D."),
    "shape of x": (lambda: q().log_prob(jnp.ones(4), ETA), "Expected x of shape () for "
                   "GaussianNatural1D(); got (4,). Methods take one point. Use jax.vmap"),
    "text for x": (lambda: q().log_prob("0.3", ETA), "Expected x as an array of numbers"),
    "text for eta": (lambda: q().mean("0.3"), "Expected eta as an array or a list of numbers"),
    "short eta": (lambda: q().mean([1.0]), "got (1,). The entries are those of family.stat_names."),
    "flat to flatten": (lambda: GAUSSIAN.flatten_stats_or_eta(ETA), "Expected a dict with the "
                        "parts ['x', 'x2'] for GaussianNatural1D(); got tuple."),
    "u of another size": (lambda: GAUSSIAN.constrain_eta([1.0]), "Expected u of shape (2,)"),
    "an array of statistics": (lambda: declared(lambda self, x: jnp.stack([x, x**2])), X +
                               "return a non-empty dict of arrays; got an array. Return for"),
    "a tuple of statistics": (lambda: declared(lambda self, x: (x, x**2)), "; got tuple. Return"),
    "no return": (lambda: declared(lambda self, x: None), "; got NoneType. Return for example"),
    "integer statistics": (lambda: declared(lambda self, x: {"x": x, "x2": (x > 0).astype(int)}),
                           "Expected statistic 'x2' of Mine to be floating-point; got dtype "
                           f"{INTEGER}. Convert it with .astype(x.dtype)."),
    "NumPy in statistics": (lambda: declared(lambda self, x: {"x2": np.sin(x)}), X + "be traceable "
                            "by JAX; got a use of the value of x, by NumPy"),
    "if in statistics": (lambda: declared(lambda self, x: {"x2": x if x > 0 else -x}), "jnp.where"),
    "unknown statistic": (lambda: declared(quadratic, natural_domain=nd.domain(y=nd.negative)),
                          "Expected natural_domain to name statistics among ['x', 'x2']; got 'y'. "
                          "Use the names that compute_stats returns."),
    "dict for a domain": (lambda: declared(quadratic, natural_domain={"x2": nd.negative}),
                          "Expected natural_domain of Mine to be a domain; got {'x2': "),
    "constraint for a domain": (lambda: declared(quadratic, natural_domain=nd.negative),
                                "Use nnef_dists.domain with constraints by statistic"),
    "word for a constraint": (lambda: nd.domain(x2="negative"), "Use real, positive, negative,"),
    "number for a shape": (lambda: declared(quadratic, x_shape=2), "Expected x_shape of Mine to be "
                           "a tuple of integers; got 2. Use () for a number and (d,) for a "),
    "list for a shape": (lambda: declared(quadratic, x_shape=[2]), "integers; got [2]. Use ()"),
    "word for a support": (lambda: declared(quadratic, support="positive"), "Expected support of "
                           "Mine to be a flowjax bijection, an AbstractSupport or an "
                           "AbstractDiscreteSupport; got 'positive'."),
    "covariance": (lambda: nd.MultivariateNormal(2).to_natural(jnp.ones(2), -jnp.eye(2)),
                   "Expected a positive definite covariance; got [[-1."),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_likely_mistakes(name):
    call, message = MISTAKES[name]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call()
    assert message in str(error.value)
    assert "equinox" not in str(error.value).lower()


def test_the_older_kind_of_key_is_a_key():
    old, new = jax.random.PRNGKey(3), jax.random.key(3)
    for draw in (
        lambda key: GAUSSIAN.sample_eta(key, 3, RANGES),
        lambda key: q().sample(key, ETA, 3),
        lambda key: nd.moments.sample_hmc(key, GAUSSIAN, ETA, 8, nd.HMCConfig(warmup=24, draws=8))[
            0
        ],
    ):
        assert np.array_equal(draw(old), draw(new))


def test_numbers_and_integers_are_points():
    log_density, eta = GAUSSIAN.logdensity_fn(ETA), jnp.array(ETA)
    expected = GAUSSIAN.logdensity_fn(eta)(jnp.array(2.0))
    for x in (2, 2.0, np.float64(2.0), jnp.array(2), np.array(2)):
        assert log_density(x) == expected
        assert q().log_prob(x, ETA) == q().log_prob(jnp.array(2.0), eta)
    logs = nd.Gamma().logdensity_fn([1, -1])
    assert logs(3) == logs(jnp.array(3.0))


def test_wide_etas_take_the_default_dtype():
    assert q().mean(np.array(ETA, np.float64)).dtype == jnp.result_type(float)
    with jax.enable_x64(True):
        assert GAUSSIAN.check_eta(list(ETA)).dtype == "float64"
        assert GAUSSIAN.check_eta(np.array(ETA, np.float32)).dtype == "float32"


def test_errors_of_eager_samplers_are_plain():
    config = nd.HMCConfig(chains=4, warmup=24, draws=8, global_moves=False, max_rhat=1.0001)
    with pytest.raises(RuntimeError, match=r"pass the sampler's checks; got status [A-Z_]+: ") as e:
        nd.distributions.HMCSampler(config).sample(KEY, GAUSSIAN, jnp.array(ETA), 3)
    assert not isinstance(e.value, eqx.EquinoxRuntimeError)
    message = r"in the training region; got \[1\. +0\.5\]\. Check .*throw="
    with pytest.raises(RuntimeError, match=message) as e:
        q().natural_parameters([1.0, 0.5])
    assert not isinstance(e.value, eqx.EquinoxRuntimeError)
