"""Message passing beside its peers: seconds, errors, and the calibration of intervals.

    python tests/benchmarks/bench_inference.py [groups] [nuts] [plates] [network] [chain]
        [--quick]

groups    the hierarchical gamma model of `examples/hierarchical_gamma.py`, 1,000 groups of 20:
          seconds of compilation and of 40 sweeps, errors of means and ratios of standard deviations
nuts      the same data by NumPyro: NUTS, and SVI with normal and with Laplace guides in
          unconstrained coordinates
plates    one update of 10,000 shapes by quadrature, by a fixed grid and by a network, and the share
          of A and mu
network   the model with a learned A instead of quadrature, and intervals of posterior means and of
          the evidence over draws of the network's weights
chain     the 64 double wells of `examples/inference/double_well_chain.py`, with a learned A in all
          messages

Errors are those of posterior means in exact standard deviations, by integration. Seconds are
processor time of one core or two. Medians of five runs, after compilation, unless they are stated.
"""

import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, autoguide

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "inference"))
import double_well_chain as wells
import hierarchical_gamma as gamma
import training

from tests.benchmarks.results import Table, main

OBSERVATIONS, SWEEPS = 20, 40


def compiled(function, *args):
    """A compiled program, and seconds of tracing and compilation."""
    clock = time.process_time()
    program = jax.jit(function).lower(*args).compile()
    return program, time.process_time() - clock


def measure(program, *args, repeats=5):
    """The result of a program, and the median of its seconds."""
    seconds = []
    result = jax.block_until_ready(program(*args))
    for _ in range(repeats):
        clock = time.process_time()
        result = jax.block_until_ready(program(*args))
        seconds.append(time.process_time() - clock)
    return result, float(np.median(seconds))


NAMES = "alpha", "a", "u"
ERRORS = [
    f"{kind} {name}" for name in NAMES for kind in ("error of", "least sd ratio,", "largest,")
]


def errors_of(found, exact):
    """Largest errors of means in exact sd, and ranges of sd / exact sd, of `NAMES`."""
    cells = []
    for name in NAMES:
        mean, sd = found[name]
        ratio = np.asarray(sd) / exact[name][1]
        error = np.max(np.abs(mean - exact[name][0]) / exact[name][1])
        cells += [error, np.min(ratio), np.max(ratio)]
    return cells


def truth(data):
    """Exact moments of the shapes, a and u, around those of message passing."""
    n = len(data[0])
    nodes = gamma.make_pair_nodes(n)
    eta, _ = jax.jit(lambda eta: gamma.infer(nodes, eta, data, 10))(gamma.start_pairs(n))
    found = gamma.posterior_moments(nodes, eta)
    return *gamma.brute_force(*data, found), found


def groups(options):
    n = options.groups
    data = gamma.simulate(n, OBSERVATIONS, 0)
    exact, log_evidence, _ = truth(data)
    table = Table(
        f"Message passing, {n:,} groups of {OBSERVATIONS}: errors in exact sd",
        ["factors", *ERRORS, "compilation [s]", f"{SWEEPS} sweeps [s]", "log-evidence - ELBO"],
    )
    for title, nodes, start in (
        ("pair", gamma.make_pair_nodes(n), gamma.start_pairs(n)),
        ("mean field", gamma.make_nodes(n), gamma.start(n)),
    ):
        program, compilation = compiled(lambda e, n=nodes: gamma.infer(n, e, data, SWEEPS), start)
        (eta, bounds), seconds = measure(program, start)
        table.add(
            *(title, *errors_of(gamma.posterior_moments(nodes, eta), exact), compilation),
            *(seconds, log_evidence - float(bounds[-1])),
        )


def model(total, total_log, n):
    """The model for NumPyro, up to a constant."""

    def log_prior(a):
        return a * jnp.log(a) - a - jax.scipy.special.gammaln(a) - a / 2

    positive = dist.ImproperUniform(dist.constraints.positive, (), ())
    a, u = numpyro.sample("a", positive), numpyro.sample("u", dist.Exponential())
    numpyro.factor("prior of a", log_prior(a))
    with numpyro.plate("groups", len(total)):
        w = numpyro.sample("w", dist.Gamma(a, a * u))
        alpha = numpyro.sample("alpha", positive)
        rate = alpha * w
        likelihood = n * (alpha * jnp.log(rate) - jax.scipy.special.gammaln(alpha))
        likelihood = likelihood + alpha * total_log - rate * total
        numpyro.factor("likelihood", likelihood + log_prior(alpha))


def nuts(options):
    data = gamma.simulate(options.groups, OBSERVATIONS, 0)
    exact, _, found = truth(data)
    error = abs(found["a"][0] - exact["a"][0]) / exact["a"][1]
    table = Table(
        f"NumPyro, {options.groups:,} groups of {OBSERVATIONS}: errors in exact sd",
        ["method", *ERRORS, "s", "s with compilation"],
    )

    def moments(draws):
        return {name: (draws[name].mean(0), draws[name].std(0)) for name in NAMES}

    sizes = {"num_warmup": options.draws // 2, "num_samples": options.draws}
    sampler = MCMC(NUTS(model), **sizes, progress_bar=False)
    seconds = []
    for key in (0, 1):
        clock = time.process_time()
        sampler.run(jax.random.key(key), *data)
        draws = jax.tree.map(np.asarray, sampler.get_samples())
        seconds.append(time.process_time() - clock)
    effective = {
        name: float(np.min(numpyro.diagnostics.effective_sample_size(draws[name][None])))
        for name in NAMES
    }
    table.add(
        f"NUTS, {options.draws // 2} + {options.draws} draws",
        *(*errors_of(moments(draws), exact), seconds[1], seconds[0]),
    )
    sizes = ", ".join(f"{name} {size:.0f}" for name, size in effective.items())
    table.note = (
        f"Smallest effective sizes of NUTS: {sizes}. At {error:.4f} sd of a, which is the error of "
        f"message passing, NUTS takes {seconds[1] / (error**2 * effective['a']):.0f} s."
    )
    for title, guide in (
        ("SVI, normal", autoguide.AutoNormal(model)),
        ("SVI, Laplace", autoguide.AutoLaplaceApproximation(model)),
    ):
        svi = SVI(model, guide, numpyro.optim.Adam(0.01), Trace_ELBO())
        clock = time.process_time()
        result = svi.run(jax.random.key(2), options.svi_steps, *data, progress_bar=False)
        draws = guide.sample_posterior(
            jax.random.key(3), result.params, *data, sample_shape=(4000,)
        )
        draws = jax.tree.map(np.asarray, draws)
        seconds = time.process_time() - clock
        title = f"{title}, {options.svi_steps} steps"
        table.add(title, *errors_of(moments(draws), exact), None, seconds)


def learn(key, labels, steps):
    """A Bayesian network as the source of A of `GammaShape`, from labels at posteriors."""
    family, keys = gamma.GammaShape(), jax.random.split(key, 8)
    shapes = jnp.exp(jax.random.uniform(keys[0], (512,), minval=-2.0, maxval=3.0))
    # Of observations with the shape a, the mean of g + 1 is digamma(a) - log(a).
    rows = jnp.stack([jax.scipy.special.digamma(shapes) - jnp.log(shapes), jnp.ones(512)], 1)
    law = nd.posterior_etas(jnp.array([-0.5, 0.5]), rows, (0.5, 3000.0))
    clock = time.process_time()
    data, unseen = (
        nd.estimate_moments(family, family.sample_eta(keys[i], size, law), keys[i + 1]).only_ok()
        for i, size in ((1, labels), (3, labels // 4))
    )
    labeled = time.process_time()
    network = nd.LogPartitionNetwork(family, data, width=32, depth=2, key=keys[5])
    network, _ = training.fit_means(
        network, data, keys[6], loss=nd.sobolev_loss, steps=steps, learning_rate=1e-3
    )
    batches = network.batch(data), network.batch(unseen)
    network = nd.networks.fit_residual(network, *batches, keys[7])
    table = Table("Network of gamma shapes", ["labels", "labels [s]", "training [s]"])
    table.add(len(data), labeled - clock, time.process_time() - labeled)
    return nd.AmortizedFamily(family, network), law


def plates(options):
    plate = options.plate
    q, _ = learn(jax.random.key(0), options.labels // 4, options.steps)
    data = gamma.simulate(plate, OBSERVATIONS, 0)
    table = Table(
        f"One update of {plate:,} shapes",
        ["source", "update [ms]", "of which mu [ms]", "compilation [s]"],
    )
    for title, source in (
        ("quadrature", nd.Quadrature(gamma.GammaShape(), points=gamma.POINTS)),
        ("fixed grid, 201 points", gamma.SummedShape(points=201)),
        ("network", q),
    ):
        nodes = gamma.make_nodes(plate) | {"alpha": nd.inference.Node(source, (plate,))}
        nodes["a"] = nd.inference.Node(gamma.SummedShape())
        eta = gamma.start(plate)
        eta = jax.jit(lambda e, n=nodes: nd.inference.step(gamma.energy, n, e, "alpha", *data))(eta)

        def update(eta, nodes=nodes):
            """The step of w, which takes the means of all shapes."""
            return nd.inference.step(gamma.energy, nodes, eta, "w", *data)["w"]

        program, compilation = compiled(update, eta)
        _, seconds = measure(program, eta)
        alone, _ = compiled(jax.vmap(source.mean), eta["alpha"])
        _, share = measure(alone, eta["alpha"])
        table.add(title, 1e3 * seconds, 1e3 * share, compilation)


def with_network(nodes, q, network):
    """Nodes with another network in place of that of q."""
    family = eqx.tree_at(lambda q: q.network, q, network)
    return {
        name: nd.inference.Node(family, node.plate) if name in ("alpha", "a") else node
        for name, node in nodes.items()
    }


def network(options):
    with jax.enable_x64(True):
        q, law = learn(jax.random.key(0), options.labels, options.steps)
        exact = nd.Quadrature(q.family)
        etas = q.family.sample_eta(jax.random.key(5), 256, law)
        both = jax.jit(jax.vmap(lambda q, eta: (q.mean(eta), q.covariance(eta)), (None, 0)))
        mean, covariance = both(exact, etas)
        sd = jnp.sqrt(jnp.diagonal(covariance, axis1=1, axis2=2))
        z = (jax.vmap(q.mean)(etas) - mean) / sd
        table = Table(
            f"Message passing with a network, {options.groups:,} groups",
            ["compilation [s]", f"{SWEEPS} sweeps [s]", "shapes beside quadrature [sd]",
             "a beside quadrature [sd]", "ELBO beside quadrature [nats]"],
            f"At fresh etas, the RMS error of the network is {jnp.sqrt(jnp.mean(z**2)):.1e} "
            f"z units, the largest {jnp.abs(z).max():.1e}.",
        )  # fmt: skip

        data = gamma.simulate(options.groups, OBSERVATIONS, 0)
        nodes, start = gamma.make_nodes(options.groups), gamma.start(options.groups)

        def infer(nodes):
            return gamma.infer(nodes, start, data, SWEEPS)

        eta, bounds = jax.jit(lambda: infer(nodes))()
        right = gamma.posterior_moments(nodes, eta)
        learned = with_network(nodes, q, q.network)
        program, compilation = compiled(lambda: infer(learned))
        (eta, learned_bounds), seconds = measure(program)
        off = []
        for name in ("alpha", "a"):
            mean = jax.vmap(q.mean)(eta[name].reshape(-1, 2))[:, 0]
            off.append(np.max(np.abs(mean - right[name][0]) / right[name][1]))
        table.add(compilation, seconds, *off, learned_bounds[-1] - bounds[-1])

        few = min(200, options.groups)
        sums = data[0][:few], data[1][:few], data[2]
        small = gamma.make_nodes(few)

        def moments_of(nodes):
            eta, bounds = gamma.infer(nodes, gamma.start(few), sums, SWEEPS)
            stats = nd.inference.expected_statistics(nodes, eta)
            return jnp.concatenate(
                [stats["alpha"]["alpha"], stats["a"]["alpha"][None], bounds[-1:]]
            )

        right = jax.jit(lambda: moments_of(small))()
        drawn = jax.jit(
            lambda net, key: nd.bayes.predictive_draws(
                net, lambda net: moments_of(with_network(small, q, net)), key, 64
            )
        )(q.network, jax.random.key(6))
        intervals = Table(
            f"Intervals over 64 draws of the weights, {few} groups",
            ["level", "of shapes, inside [%]", "holds a", "holds the evidence"],
        )
        for level in (0.5, 0.9):
            low, high = nd.bayes.central_interval(drawn, level)
            held = (low <= right) & (right <= high)
            intervals.add(*(level, 100 * jnp.mean(held[:few]), bool(held[few]), bool(held[-1])))

        # Conjugate updates: evidence and means of posteriors, from a common prior.
        prior = jnp.array([-0.5, 0.5])

        def conjugate(q):
            evidence = jax.vmap(lambda eta: nd.inference.evidence(q, prior, eta))(etas)
            return jnp.concatenate([jax.vmap(q.mean)(etas), evidence[:, None]], 1)

        right = jax.jit(conjugate)(exact)
        drawn = jax.jit(
            lambda net, key: nd.bayes.predictive_draws(
                net, lambda net: conjugate(eqx.tree_at(lambda q: q.network, q, net)), key, 256
            )
        )(q.network, jax.random.key(7))
        conjugates = Table(
            f"Intervals over 256 draws of the weights, {len(etas)} conjugate posteriors",
            ["level", *(f"of means of {name}, inside [%]" for name in q.family.stat_names),
             "of the evidence [%]"],
        )  # fmt: skip
        for level in (0.5, 0.9):
            low, high = nd.bayes.central_interval(drawn, level)
            held = jnp.mean((low <= right) & (right <= high), 0)
            conjugates.add(level, *(100 * held))


# Around the sites' own etas; a message adds to them, and J y to the first.
CHAIN = {"x": (-4.5, 4.5), "x2": (1.6, 3.2), "x3": (-0.3, 0.3), "x4": (-1.4, -0.9)}


def chain(options):
    sites = wells.make_sites(options.sites, 0)
    exact, log_evidence = wells.transfer(sites)
    mean, sd = wells.moments(exact)
    with jax.enable_x64(True):
        family, clock = wells.Q.family, time.process_time()
        etas = family.sample_eta(jax.random.key(0), options.labels, CHAIN)
        data = nd.estimate_moments(family, etas, jax.random.key(1)).only_ok()
        labeled = time.process_time()
        # A base would find modes in each step of each projection, and takes minutes to compile.
        network = nd.LogPartitionNetwork(
            family, data, base=None, width=64, depth=2, key=jax.random.key(2)
        )
        network, _ = training.fit_means(
            network, data, jax.random.key(3), loss=nd.sobolev_loss, steps=3 * options.steps
        )
        fresh = family.sample_eta(jax.random.key(4), 256, CHAIN)
        unseen = nd.estimate_moments(family, fresh, jax.random.key(5)).only_ok()
        network = nd.networks.fit_residual(
            network, network.batch(data), network.batch(unseen), jax.random.key(6)
        )
        q = nd.AmortizedFamily(family, network)
        table = Table(
            f"Message passing in a chain of {options.sites} double wells",
            ["messages", "largest error of means [sd]", "least variance ratio", "largest",
             "error of the log-evidence [nats]", "last change of a message"],
            f"{len(data)} labels took {labeled - clock:.0f} s, training "
            f"{time.process_time() - labeled:.0f} s.",
        )  # fmt: skip

        def learned(q):
            return lambda eta, y: q.log_partition(eta.at[0].add(wells.COUPLING * y))

        for title, log_message in (("sums", wells.log_message), ("learned A", learned(q))):
            eta, found, changes = wells.propagate(jnp.asarray(sites), 4, log_message)
            means, sds = wells.moments(wells.density_of(eta))
            ratio = sds**2 / sd**2
            table.add(
                *(title, np.max(np.abs(means - mean) / sd), np.min(ratio), np.max(ratio)),
                *(found - log_evidence, changes[-1]),
            )

        def results(log_message):
            eta, found, _ = wells.propagate(jnp.asarray(sites), 4, log_message)
            return jnp.append(jax.vmap(wells.Q.mean)(eta)[:, 0], found)

        def results_of(key):
            return results(learned(nd.sample_all_parameters(q, key)))

        right = results(wells.log_message)
        # One draw after the other: a batch of them takes minutes to compile.
        keys = jax.random.split(jax.random.key(7), 64)
        drawn = jax.jit(lambda keys: jax.lax.map(results_of, keys))(keys)
        table = Table(
            "Intervals over the weights of a learned A, in the chain",
            ["level", "covered means", "covers the log-evidence", "sd of the log-evidence [nats]"],
        )
        for level in (0.5, 0.9):
            low, high = nd.bayes.central_interval(drawn, level)
            held = (low <= right) & (right <= high)
            table.add(level, jnp.mean(held[:-1]), bool(held[-1]), jnp.std(drawn[:, -1]))


PARTS = {"groups": groups, "nuts": nuts, "plates": plates, "network": network, "chain": chain}


def arguments(parser):
    parser.add_argument("--groups", type=int, default=1000)
    parser.add_argument("--plate", type=int, default=10_000, help="shapes of plates")
    parser.add_argument("--sites", type=int, default=64, help="of chain")
    parser.add_argument("--draws", type=int, default=1000, help="of NUTS")
    parser.add_argument("--svi-steps", type=int, default=5000)
    parser.add_argument("--labels", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=2000, help="of training, thrice for chain")


QUICK = {"groups": 50, "plate": 500, "sites": 8, "draws": 400, "svi_steps": 2000, "labels": 128,
         "steps": 100}  # fmt: skip


if __name__ == "__main__":
    main(__doc__, PARTS, arguments, QUICK)
