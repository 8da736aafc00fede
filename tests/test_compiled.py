"""No public callable calls back to the host from a compiled program.

Every public function and method is traced, and its jaxpr searched. What takes no arrays, or runs on
the host by design, is listed as such: a public callable that is in neither list fails the test.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from flowjax.bijections import AbstractBijection
from jax.extend.core import ClosedJaxpr, Jaxpr

import nnef_dists as nd
from tests.families.test_base_measure import HalfNormal
from tests.networks.data import GAUSSIAN, gaussian_data
from tests.networks.exact import family_of
from tests.posterior.exact import LinearGaussian
from tests.posterior.simulators import box, linear, normal_prior, simulations
from tests.registry import BIJECTIONS, CONSTRAINTS, DISCRETE, DOMAINS, FAMILIES, HEADS, NETWORKS

ROOMS = (
    *(nd.families, nd.storage, nd.bayes, nd.diagnostics, nd.sampling, nd.saving, nd.moments),
    *(nd.networks, nd.generation, nd.distributions, nd.inference, nd.flows, nd.posterior),
)

HOST = {
    "takes no arrays": """
        Distribution.to_numpyro domain edge half_space interval drawing_key
        AbstractParameter.law_name
        CoupledDomain.check_statistics CoupledDomain.expectation CoupledDomain.unconstrained_dim
        ClosedDomain.check_statistics ClosedDomain.expectation ClosedDomain.unconstrained_dim
        Polyhedron.check_statistics Polyhedron.expectation Polyhedron.unconstrained_dim
        ProductDomain.check_statistics ProductDomain.expectation ProductDomain.unconstrained_dim
        IntervalConstraint.unconstrained_dim DefiniteConstraint.unconstrained_dim conditioner_size
        AbstractDiscreteSupport.dtype Categories.dtype
    """,
    "looks at the structure of a pytree alone": """
        AbstractMomentNetwork.unused_features AbstractDirectNetwork.unused_features
        LogPartitionNetwork.unused_features AbstractMomentNetwork.near LogPartitionNetwork.near
        LogPartitionNetwork.coordinates_near
        TaylorBase.check_source
        check_whole freeze_means freeze_params freeze_stdvs get_parameter_count
        get_parameter_groups get_parameters is_parameter partition_trainable unfreeze_all
        Module.get_parameters
    """,
    "makes a model, before training": """
        AbstractParameter.from_value DeterministicParameter.from_value bayesianize make_parameter
        GaussianParameter.from_stdv LaplacianParameter.from_scale CubicConjugation.random
        CubicRational.random SinhConjugation.random FlowPosterior.autoregressive
        FlowPosterior.coupling EnsemblePosterior.of_draws ResidualProcess.of_arrays
        Trunk.with_last_bias
    """,
    "reads or writes files, or holds NumPy arrays": """
        save load read_job open_simulations generate_moments verify_moments MomentDataset.batch
        MomentDataset.concatenate MomentDataset.only_ok MomentDataset.open MomentDataset.save
        MomentDataset.split to_xarray MomentBatch.batches Simulations.arrays Simulations.concatenate
        Simulations.split Standardization.fit QuadraticPotential.fit keep_compiled
        LinearCorrection.fit TrainingRegion.around AbstractMomentNetwork.batch
        LogPartitionNetwork.batch choose_base fit_residual AbstractRandomGraph.from_adjacency
    """,
    "chooses what to compile by values": """
        acquire estimate_log_partition estimate_moments sample_natural_posterior
        mean_or_oracle simulate check_family check_symmetry orbit validate
        ObservationRegion.concrete_scores
        ValidationReport.summary ValidationReport.complaint check_energy
    """,
    "declares where etas come from, before any is drawn": """
        ellipsoid_etas nearby_etas posterior_etas
    """,
    "is a protocol": """
        PosteriorDensity.log_prob PosteriorSampler.sample Prior.log_prob Prior.sample
    """,
}
ON_HOST = {name for names in HOST.values() for name in names.split()}

KEY = jax.random.key(0)
CONFIG = nd.HMCConfig(warmup=24, draws=8)


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    """An array to trace with, of which the shape is enough."""
    return jax.ShapeDtypeStruct(shape, jnp.result_type(float))


def owner_function(cls: type, name: str) -> Callable | None:
    """The function of ours that a public name of a class stands for."""
    thing = inspect.getattr_static(cls, name)
    if (name.startswith("_") and name != "__call__") or getattr(thing, "__isabstractmethod__", 0):
        return None
    thing = getattr(thing, "__func__", thing)
    thing = inspect.unwrap(getattr(thing, "function", thing))
    ours = inspect.isfunction(thing) and thing.__module__.startswith("nnef_dists.")
    return thing if ours else None


def methods_of(cls: type) -> dict[str, Callable]:
    """The public methods that a class has from us, by name."""
    found = {name: owner_function(cls, name) for name in dir(cls)}
    return {name: function for name, function in found.items() if function is not None}


def public_callables(rooms=ROOMS) -> set[str]:
    """Qualified names: a method goes by the class that defines it."""
    found = set()
    for thing in (getattr(room, name) for room in rooms for name in room.__all__):
        if isinstance(thing, type):
            found |= {function.__qualname__ for function in methods_of(thing).values()}
        elif inspect.isfunction(inspect.unwrap(thing)):
            found.add(thing.__name__)
    return found


def primitives(jaxpr: Any) -> Iterator[str]:
    """The names of all primitives, those of inner programs included."""
    if isinstance(jaxpr, ClosedJaxpr):
        jaxpr = jaxpr.jaxpr
    if isinstance(jaxpr, Jaxpr):
        for equation in jaxpr.eqns:
            yield equation.primitive.name
            for value in equation.params.values():
                yield from primitives(value)
    elif isinstance(jaxpr, list | tuple):
        for part in jaxpr:
            yield from primitives(part)


def is_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def trace(call: Callable, *args: Any) -> Any:
    """The jaxpr of a call, in all arrays of its arguments."""
    arrays, rest = eqx.partition(args, is_array)

    def run(arrays):
        return eqx.filter(call(*eqx.combine(arrays, rest)), eqx.is_array)

    return jax.make_jaxpr(run)(arrays)


def callbacks(call: Callable, *args: Any) -> set[str]:
    return {name for name in primitives(trace(call, *args)) if "callback" in name}


Call = tuple[str, Callable, tuple]


def every_method(instance: Any, **values: Any) -> Iterator[Call]:
    """The calls of all public methods of an instance, with arguments by the parameter's name."""
    # flowjax renames their parameters, and unwraps them.
    is_bijection = isinstance(instance, AbstractBijection)
    for name, function in methods_of(type(instance)).items():
        if function.__qualname__ in ON_HOST:
            continue
        parameters = inspect.signature(function).parameters.values()
        wanted = [p for p in parameters if p.name not in ("self", "cls")]
        missing = [p.name for p in wanted if p.default is p.empty and p.name not in values]
        assert not missing, f"{function.__qualname__} takes {missing}: add a value for it"
        taken = {p.name: values[p.name] for p in wanted if p.name in values}

        def call(instance, taken, name=name, order=tuple(taken), by_position=is_bijection):
            if by_position:
                return getattr(paramax.unwrap(instance), name)(*(taken[key] for key in order))
            return getattr(instance, name)(**taken)

        yield function.__qualname__, call, (instance, taken)


def families() -> Iterator[Call]:
    normal = {"mean": floats(3), "covariance": floats(3, 3)}
    natural = {
        nd.GaussianNatural1D: {"mean": floats(), "variance": floats()},
        nd.MultivariateNormal: normal,
        nd.families.MinimalMultivariateNormal: normal,
        nd.Gamma: {"shape": floats(), "rate": floats()},
        nd.Beta: {"a": floats(), "b": floats()},
        nd.Dirichlet: {"alpha": floats(3)},
        nd.families.GeneralizedInverseGaussian: {"order": floats(), "a": floats(), "b": floats()},
        nd.families.VonMisesFisher: {"direction": floats(3), "kappa": floats()},
        nd.FisherBingham: {"b": floats(3), "matrix": floats(3, 3)},
        nd.families.ConwayMaxwellPoisson: {"rate": floats(), "dispersion": floats()},
        nd.families.Categorical: {"probabilities": floats(4)},
        nd.families.ExponentialRandomGraph: {"adjacency": floats(5, 5)},
    }
    measured = nd.families.BaseMeasureAsStatistic(HalfNormal(), 0.5, 2.0)
    cases = [(case.make(), case.ranges) for case in (*FAMILIES, *DISCRETE)]
    cases.append((measured, {"x": (0, 1), "log_h": (0.9, 1.1)}))
    for family, ranges in cases:
        eta, x = floats(family.eta_dim), floats(*family.x_shape)
        # The u of stein_functions is a point: as many numbers as eta has, here.
        values = {"eta": eta, "flat": eta, "x": x, "u": floats(family.unconstrained_dim)}
        values["parts"] = {name: floats(*shape) for name, shape in family.stat_shapes.items()}
        values |= {"key": KEY, "n": 3, "ranges": ranges}
        for name, call, args in every_method(family, **values, **natural.get(type(family), {})):
            if name.endswith(".logdensity_fn"):
                yield name, lambda f, eta, x: f.logdensity_fn(eta)(x), (family, eta, x)
            elif name == "BaseMeasureAsStatistic.to_natural":
                yield name, call, (family, {"eta": floats(1)})
            else:
                yield name, call, args


def parts_of_families() -> Iterator[Call]:
    for support in {case.make().support for case in DISCRETE}:
        yield from every_method(support, x=floats(*support.shape), u=floats(*support.shape))
    for case in CONSTRAINTS:
        u = floats(case.constraint.unconstrained_dim(case.shape))
        values = {"value": floats(*case.shape), "u": u, "shape": case.shape, "linear": floats(2)}
        values |= {"matrix": floats(3, 3) if case.shape == (3, 3) else floats(2, 2)}
        values |= {"key": KEY, "name": "x", "spec": case.range, "dtype": jnp.float32}
        yield from every_method(case.constraint, **values)
    for case in DOMAINS:
        values = {"shapes": case.shapes, "ranges": case.ranges, "key": KEY, "dtype": jnp.float32}
        values["parts"] = {name: floats(*shape) for name, shape in case.shapes.items()}
        values["u"] = floats(case.make().unconstrained_dim(case.shapes))
        yield from every_method(case.make(), **values)
    for support in (
        nd.families.CircleProjection(),
        nd.families.SphereProjection(3),
        nd.families.AdditiveLogRatio(3),
        nd.families.PositiveDefinite(2),
        nd.families.PositiveDefinite(2, inverse=True),
    ):
        size = max(1, math.prod(support.shape) - 1)
        values = {"coordinates": floats(size), "x": floats(2, 2)}
        yield from every_method(support, u=floats(*support.shape), **values)
    for symmetry, family, g, z in (
        (nd.families.Scaling(x2=2), GAUSSIAN, floats(), floats()),
        (nd.families.LocationScale(), GAUSSIAN, floats(2), floats()),
        (nd.families.SignFlip("x"), GAUSSIAN, floats(), floats()),
        (nd.families.Permutation("log_x", 2), nd.Dirichlet(2), jnp.arange(2), floats(2)),
    ):
        values = {"g": g, "z": z, "key": KEY, "dtype": jnp.float32, "eta": floats(2)}
        yield from every_method(symmetry, family=family, **values)
    functions = eqx.filter_eval_shape(nd.LatticePhi4(4).stein_functions, floats(4))
    yield from every_method(functions, score=floats(4))
    yield "log_gamma", nd.families.log_gamma, (floats(4),)


def bayes() -> Iterator[Call]:
    ones = jnp.ones(3)
    laws = [law.from_value(ones, 0.1) for law in (nd.GaussianParameter, nd.LaplacianParameter)]
    for law in (*laws, nd.DeterministicParameter(ones)):
        values = {"q": laws[0], "value": ones, "center": ones, "mean": ones, "noise": ones}
        yield from every_method(law, **values, key=KEY, u=ones / 2, v=ones / 2)
    for positivity in (
        nd.bayes.ExponentialPositivity(),
        nd.bayes.SoftplusPositivity(),
        nd.bayes.SquaredPositivity(),
    ):
        yield from every_method(positivity, raw=ones, scale=ones)
    foreign = nd.bayesianize(eqx.nn.MLP(3, 2, 4, 1, key=KEY))
    mlp = nd.BayesianMLP(3, 2, 4, 1, key=KEY)
    for model in (nd.BayesianLinear(3, 2, key=KEY), mlp):
        yield from every_method(model, x=ones, key=KEY)
    yield "Bayesianized.__call__", lambda m, x, k: m(x, key=k), (foreign, ones, KEY)
    yield "Bayesianized.realize", lambda m, k: m.realize(key=k), (foreign, KEY)
    for function in (nd.bayes.entropy, nd.gaussian_entropy, nd.laplacian_entropy, nd.flatten_means):
        yield function.__name__, function, (mlp,)
    for function in (nd.flatten_stdvs, nd.bayes.flatten_raw_stdvs):
        yield function.__name__, function, (mlp,)
    for function in (nd.kl_divergence, nd.bayes.log_prior):
        yield function.__name__, function, (mlp, nd.GaussianParameter.from_stdv(jnp.zeros(()), 1.0))
    yield "sample_all_parameters", nd.sample_all_parameters, (mlp, KEY)
    yield "draw_or_mean", lambda m, k: nd.bayes.draw_or_mean(m, key=k), (mlp, KEY)

    def predict(model):
        return model(jnp.ones(3))

    yield "predictive_draws", nd.bayes.predictive_draws, (mlp, predict, KEY, 4)
    yield "predictive_moments", nd.bayes.predictive_moments, (mlp, predict, KEY, 4)
    yield "predictive_quantiles", nd.bayes.predictive_quantiles, (mlp, predict, KEY, 4, [0.1, 0.9])
    draws = jnp.ones((8, 3))
    yield "crps", nd.bayes.crps, (draws, ones)
    yield "gaussian_crps", nd.bayes.gaussian_crps, (ones, ones, ones)
    yield "central_interval", nd.bayes.central_interval, (draws, 0.9)
    yield "interval_coverage", nd.bayes.interval_coverage, (ones, ones, ones)


def moments() -> Iterator[Call]:
    eta = jnp.array([0.5, -1.0])
    yield "pareto_k", nd.sampling.pareto_k, (jnp.ones(50),)
    yield "quadrature_moments", nd.quadrature_moments, (GAUSSIAN, eta)
    yield "sample_hmc", nd.moments.sample_hmc, (KEY, GAUSSIAN, eta, 16, CONFIG)
    grid = nd.families.Ising((2, 2))
    yield "sample_gibbs", nd.moments.sample_gibbs, (KEY, grid, jnp.zeros(2), 16, CONFIG)


def networks() -> Iterator[Call]:
    data = gaussian_data()
    batch = data.batch()
    eta = batch.eta[0]
    yield from every_method(batch, key=KEY, batch_size=8)
    for case in NETWORKS:
        network = case.make(GAUSSIAN, data, KEY)
        yield from every_method(network, eta=eta, key=KEY, label=batch[0])
    for function in (
        nd.moment_loss,
        nd.networks.entropy_loss,
        nd.sobolev_loss,
        nd.networks.calibration_ratio,
    ):
        yield function.__name__, function, (network, batch, KEY)
    for function in (nd.negative_elbo, nd.negative_log_predictive):
        call = functools.partial(function, total=64, samples=2)
        yield function.__name__, call, (network, batch, KEY)
        yield function.__name__, eqx.filter_grad(call), (network, batch, KEY)
    yield "sobolev_loss", eqx.filter_grad(nd.sobolev_loss), (network, batch, KEY)
    coordinates, inputs = nd.networks.Standardization.fit(data), jnp.zeros(2)
    yield from every_method(coordinates, eta=eta, inputs=inputs, y=inputs)
    yield from every_method(coordinates.region, inputs=inputs)
    potential = nd.networks.QuadraticPotential.fit(data, coordinates)
    features = GAUSSIAN.convex_features(eta)
    yield from every_method(potential, eta=eta, inputs=inputs, features=features)
    network = nd.LogPartitionNetwork(
        GAUSSIAN, data, base=nd.networks.LaplaceBase(GAUSSIAN), width=4, key=KEY
    )
    yield from every_method(network, eta=eta, key=KEY, label=batch[0])
    yield from every_method(network.base, eta=eta)
    yield from every_method(nd.networks.VariationalBase(GAUSSIAN), eta=eta)
    label = network.batch(data)[0]
    yield from every_method(label.base, eta=eta)
    terms = network.base(eta)
    values = {"x": terms.inputs, "inputs": terms.inputs, "scale": terms.scale}
    yield from every_method(network.correction, **values)
    dim = len(terms.inputs)
    arrays = (np.ones((2, dim)), np.ones(4), np.eye(4))
    process = nd.networks.ResidualProcess.of_arrays(*arrays, eta.dtype)
    yield "ResidualProcess.__call__", process, (terms.inputs,)
    yield "sobolev_loss", eqx.filter_grad(nd.sobolev_loss), (network, network.batch(data), KEY)


def distributions() -> Iterator[Call]:
    q = family_of("GaussianNatural1D")
    eta = jnp.array([0.5, -1.0])
    values = {"eta": eta, "eta_p": eta, "eta_q": eta, "mu": q.mean(eta), "x": jnp.ones(())}
    values |= {"u": eta}
    drawn = nd.families.VonMisesFisher(2)
    at = {"family": drawn, "eta": floats(2), "key": KEY, "n": 3}
    yield from every_method(nd.distributions.DirectSampler(), **at)
    for sampler in (nd.distributions.HMCSampler(CONFIG), nd.distributions.QuadratureSampler()):
        q = dataclasses.replace(q, sampler=sampler)
        yield from every_method(q, **values, key=KEY, n=4)
        yield from every_method(sampler, family=GAUSSIAN, eta=eta, key=KEY, n=4)
    spins, counts = nd.families.Ising((2, 2)), nd.families.ConwayMaxwellPoisson()
    for source in (nd.Enumeration(spins), nd.Summation(counts)):
        at = {"family": source.family, "eta": -jnp.ones(2), "key": KEY, "n": 4}
        yield from every_method(source.sampler, **at)
        yield from ((m.func.__qualname__, m, (at["eta"],)) for m in (source.mean, source.accuracy))
    at = {"family": spins, "eta": jnp.zeros(2), "key": KEY, "n": 4}
    yield from every_method(nd.distributions.GibbsSampler(CONFIG), **at)
    symmetric = nd.Symmetric(nd.ClosedForm(GAUSSIAN), nd.families.LocationScale())
    for source in (q, nd.ClosedForm(GAUSSIAN), nd.Quadrature(GAUSSIAN), symmetric):
        yield from every_method(source, **values, key=KEY, n=4)
        for method in (source.log_partition, source.entropy, source.mean):
            yield method.func.__qualname__, jax.jacrev(method), (eta,)
    p = q.at(eta)
    yield from every_method(p, other=p, x=jnp.ones(()), key=KEY, sample_shape=(3,))


def inference() -> Iterator[Call]:
    nodes = {"x": nd.inference.Node(nd.Quadrature(GAUSSIAN), (3,))}
    eta = {"x": jnp.tile(jnp.array([0.5, -1.0]), (3, 1))}

    def energy(t):
        return jnp.sum(t["x"]["x"] - t["x"]["x2"])

    for room, arguments in ((nd.inference.elbo, ()), (nd.inference.step, ("x",))):
        yield room.__name__, lambda eta, f=room, a=arguments: f(energy, nodes, eta, *a), (eta,)
    yield "expected_statistics", lambda eta: nd.inference.expected_statistics(nodes, eta), (eta,)
    statistics = nd.inference.expected_statistics(nodes, eta)
    yield "message", lambda t: nd.inference.message(energy, t, "x"), (statistics,)
    yield "status", lambda eta: nd.inference.status(nodes, eta), (eta,)
    one, q = eta["x"][0], nodes["x"].q
    yield "conjugate_update", nd.inference.conjugate_update, (one, one)
    yield "evidence", lambda eta: nd.inference.evidence(q, eta, 2 * eta), (one,)
    yield "project", lambda eta: nd.inference.project(q, lambda x: -(x**4), eta), (one,)
    yield "cvi_message", lambda x: nd.inference.cvi_message(jnp.cos, q, x), (floats(5),)
    yield "StatisticsSum.zeros", lambda x: nd.inference.StatisticsSum.zeros(2).add(x), (one,)
    yield "StatisticsSum.add", nd.inference.StatisticsSum.zeros(2).add, (one,)


def flows() -> Iterator[Call]:
    cases = {case.name: eqx.filter_eval_shape(case.make, KEY) for case in BIJECTIONS}
    for bijection in cases.values():
        x = floats(*bijection.shape)
        condition = None if bijection.cond_shape is None else floats(*bijection.cond_shape)
        yield from every_method(bijection, x=x, y=x, z=x, v=x, condition=condition)
    eta = jnp.array([0.5, -1.0])
    flow = nd.flows.ConditionalFlow(
        GAUSSIAN, cases["ConditionedBijection"], jnp.stack([eta, 2 * eta])
    )
    yield from every_method(flow, eta=eta, key=KEY, n=32, x=floats())
    sampler = nd.flows.FlowSampler(flow, 2)
    yield from every_method(sampler, family=GAUSSIAN, eta=eta, key=KEY, n=4)
    yield "free_energy", nd.flows.free_energy, (flow, eta[None], KEY)
    features = nd.flows.FourierFeatures(5)
    yield from every_method(features, u=jnp.array([0.6, 0.8]))
    conditioner = nd.flows.DirectionConditioner(features, 7, width=6, key=KEY)
    yield from every_method(conditioner, u=jnp.array([0.6, 0.8]))
    yield from every_method(nd.flows.BoundedScale(jnp.ones(3)))
    dropout = nd.flows.DropoutConditioner(eqx.nn.MLP(2, 3, 4, 1, key=KEY), 0.5)
    yield from every_method(eqx.nn.inference_mode(dropout), x=floats(2))
    yield "draw_dropout", nd.flows.draw_dropout, (dropout, KEY)


def posterior() -> Iterator[Call]:
    for case in HEADS:
        data = case.data(uniform=True)
        support = case.box()
        if case.name == "ExponentialFamilyPosterior":
            case.make(data, support, KEY)  # Keeps its family in a cache, which must hold no tracer.
        head = eqx.filter_eval_shape(lambda key: case.make(data, support, key), KEY)  # noqa: B023
        batch = jax.tree.map(jnp.asarray, data.arrays())
        x, theta = batch.x[0], batch.theta[0]
        values = {"theta": theta, "x": x, "inputs": x, "key": KEY, "n": 4}
        yield from every_method(head, **values)
        values |= {"z": theta, "shift": theta, "scale": theta}
        yield from every_method(eqx.filter_eval_shape(head.law_at, x), **values)
        yield "nll_loss", nd.nll_loss, (head, batch, KEY)
        call = functools.partial(nd.posterior.nll_elbo_loss, total=64)
        yield "nll_elbo_loss", call, (head, batch, KEY)
    data = simulations(uniform=True)
    theta, x = jnp.asarray(data.theta), jnp.asarray(data.x)
    support = box()
    head = eqx.filter_eval_shape(lambda key: HEADS[0].make(data, support, key), KEY)
    yield from every_method(nd.posterior.ObservationRegion(np.asarray(data.x)), x=x[0])
    yield from every_method(support, x=theta[0], y=theta[0], dtype=theta.dtype)
    values = {"z": theta[0], "x": x[0], "theta": theta[0]}
    yield from every_method(nd.posterior.PosteriorCoordinates(data, box()), **values)
    yield from every_method(nd.posterior.Trunk(data, 3, width=4, depth=1, key=KEY), inputs=x[0])
    series = jnp.ones((12, 2))
    for embedding in (nd.posterior.SeriesEmbedding, nd.posterior.SetEmbedding):
        yield from every_method(embedding((12, 2), 4, key=KEY), x=series)
        masked = nd.posterior.masked_observation(series)
        yield from every_method(embedding((12, 2, 2), 4, masked=True, key=KEY), x=masked)
    yield from every_method(nd.posterior.MaskedVectorEmbedding((12, 2)), x=series)
    yield "masked_observation", nd.posterior.masked_observation, (series, series > 0)
    prior = nd.posterior.TruncatedPrior(normal_prior(), head, x[0], jnp.array(-9.0), jnp.ones(()))
    yield from every_method(prior, theta=theta[0], key=KEY, shape=(3,))
    exact = LinearGaussian()
    for function in (
        nd.diagnostics.sbc_ranks,
        nd.diagnostics.highest_density_levels,
        nd.diagnostics.tarp_levels,
    ):
        yield function.__name__, function, (exact, theta, x, KEY, 4)
    call = functools.partial(nd.diagnostics.local_c2st, n=4, n_null=2, n_features=8)
    yield "local_c2st", call, (exact, theta, x, x[:2], KEY)
    yield "posterior_predictive", nd.diagnostics.posterior_predictive, (exact, linear, x[0], KEY, 4)
    yield (
        "truncate_prior",
        lambda *a: nd.posterior.truncate_prior(*a, n=8),
        (normal_prior(), head, x[0], KEY),
    )
    levels = jnp.linspace(0.1, 0.9, 20)
    yield "central_levels", nd.diagnostics.central_levels, (levels,)
    yield "uniformity_p_value", nd.diagnostics.uniformity_p_value, (levels,)
    yield "expected_coverage", nd.diagnostics.expected_coverage, (levels, levels[:3])
    yield "predictive_p_value", nd.diagnostics.predictive_p_value, (theta, theta[0])
    logs = jnp.ones(len(theta))
    yield "importance_weights", nd.posterior.importance_weights, (theta, logs, logs)


CALLS = (
    *(families, parts_of_families, bayes, moments, networks, distributions, inference, flows),
    posterior,
)


def test_no_public_callable_calls_back_to_the_host():
    """One test, since its parts share models; another one would build them again elsewhere."""
    calls = [call for part in CALLS for call in part()]
    public, traced = public_callables(), {name for name, *_ in calls}
    missing = public - traced - ON_HOST
    assert not missing, f"trace these, or list them in HOST: {sorted(missing)}"
    assert not ON_HOST - public, f"not public: {sorted(ON_HOST - public)}"
    found = {name: callbacks(call, *args) for name, call, args in calls}
    assert not {name: primitives for name, primitives in found.items() if primitives}


def test_the_search_sees_callbacks_in_inner_programs():
    def fault(x):
        return eqx.error_if(x, x > 0, "no")

    @jax.custom_vjp
    def custom(x):
        return fault(x)

    custom.defvjp(lambda x: (x, None), lambda _, g: (g,))
    programs = [
        fault,
        jax.jit(fault),
        jax.vmap(fault),
        custom,
        lambda x: jax.lax.scan(lambda c, _: (fault(c), None), x, None, 2)[0],
        lambda x: jax.lax.while_loop(lambda c: c < 3, fault, x),
        lambda x: jax.lax.cond(x > 0, fault, lambda x: x, x),
        lambda x: jax.pure_callback(np.sin, x, x),
        lambda x: jax.debug.callback(print, x),
    ]
    for program in programs:
        x = jnp.ones(1) if program is programs[2] else jnp.ones(())
        assert callbacks(program, x)
    family = nd.GaussianNatural1D()
    assert callbacks(lambda eta: family.check_eta(eta, strict=True), jnp.array([0.0, -1.0]))
