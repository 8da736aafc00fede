"""Message passing beside its peers: seconds, errors, and the calibration of intervals.

    python tests/benchmarks/bench_inference.py [groups] [nuts] [plates] [network] [chain]

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

import argparse
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

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "inference"))
import double_well_chain as wells
import hierarchical_gamma as gamma
import training

GROUPS, OBSERVATIONS, SWEEPS, PLATE = 1000, 20, 40, 10_000
STEPS = 5000  # of SVI


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


def print_errors(title, found, exact):
    line = []
    for name, (mean, sd) in found.items():
        z = np.max(np.abs(mean - exact[name][0]) / exact[name][1])
        ratio = np.asarray(sd) / exact[name][1]
        line.append(f"{name} {z:.4f} ({np.min(ratio):.3f}-{np.max(ratio):.3f})")
    print(f"  {title:22s} {', '.join(line)}", flush=True)


def truth(data):
    """Exact moments of the shapes, a and u, around those of message passing."""
    nodes = gamma.make_pair_nodes(GROUPS)
    eta, _ = jax.jit(lambda eta: gamma.infer(nodes, eta, data, 10))(gamma.start_pairs(GROUPS))
    found = gamma.posterior_moments(nodes, eta)
    return *gamma.brute_force(*data, found), found


def groups(options):
    data = gamma.simulate(GROUPS, OBSERVATIONS, 0)
    exact, log_evidence, _ = truth(data)
    print("  largest error of a mean in sd, and ratio of standard deviations")
    for title, nodes, start in (
        ("pair", gamma.make_pair_nodes(GROUPS), gamma.start_pairs(GROUPS)),
        ("mean field", gamma.make_nodes(GROUPS), gamma.start(GROUPS)),
    ):
        program, compilation = compiled(lambda e, n=nodes: gamma.infer(n, e, data, SWEEPS), start)
        (eta, bounds), seconds = measure(program, start)
        print_errors(title, gamma.posterior_moments(nodes, eta), exact)
        print(
            f"  {title:22s} compilation {compilation:.1f} s, {SWEEPS} sweeps {seconds:.3f} s, "
            f"log evidence - ELBO {log_evidence - float(bounds[-1]):.2f} nats",
            flush=True,
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
    data = gamma.simulate(GROUPS, OBSERVATIONS, 0)
    exact, _, found = truth(data)
    error = abs(found["a"][0] - exact["a"][0]) / exact["a"][1]
    print("  largest error of a mean in sd, and ratio of standard deviations")

    def moments(draws):
        return {name: (draws[name].mean(0), draws[name].std(0)) for name in ("alpha", "a", "u")}

    sampler = MCMC(NUTS(model), num_warmup=500, num_samples=options.draws, progress_bar=False)
    seconds = []
    for key in (0, 1):
        clock = time.process_time()
        sampler.run(jax.random.key(key), *data)
        draws = jax.tree.map(np.asarray, sampler.get_samples())
        seconds.append(time.process_time() - clock)
    effective = {
        name: float(np.min(numpyro.diagnostics.effective_sample_size(draws[name][None])))
        for name in ("alpha", "a", "u")
    }
    print_errors("NUTS", moments(draws), exact)
    sizes = ", ".join(f"{name} {size:.0f}" for name, size in effective.items())
    print(
        f"  {'NUTS':22s} 500 + {options.draws} draws: {seconds[0]:.1f} s with compilation, "
        f"{seconds[1]:.1f} s without; smallest effective sizes: {sizes}",
        flush=True,
    )
    print(
        f"  {'NUTS':22s} at an error of {error:.4f} sd of a, that of message passing: "
        f"{seconds[1] / (error**2 * effective['a']):.0f} s",
        flush=True,
    )
    for title, guide in (
        ("SVI, normal", autoguide.AutoNormal(model)),
        ("Laplace", autoguide.AutoLaplaceApproximation(model)),
    ):
        svi = SVI(model, guide, numpyro.optim.Adam(0.01), Trace_ELBO())
        clock = time.process_time()
        result = svi.run(jax.random.key(2), STEPS, *data, progress_bar=False)
        draws = guide.sample_posterior(
            jax.random.key(3), result.params, *data, sample_shape=(4000,)
        )
        draws = jax.tree.map(np.asarray, draws)
        seconds = time.process_time() - clock
        print_errors(title, moments(draws), exact)
        print(f"  {title:22s} {STEPS} steps {seconds:.1f} s with compilation", flush=True)


def learn(key, labels=1024):
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
        network, data, keys[6], loss=nd.sobolev_loss, steps=2000, learning_rate=1e-3
    )
    batches = network.batch(data), network.batch(unseen)
    network = nd.networks.fit_residual(network, *batches, keys[7])
    print(
        f"  {len(data)} labels {labeled - clock:.0f} s, training "
        f"{time.process_time() - labeled:.0f} s",
        flush=True,
    )
    return nd.AmortizedFamily(family, network), law


def plates(options):
    q, _ = learn(jax.random.key(0), 256)
    data = gamma.simulate(PLATE, OBSERVATIONS, 0)
    for title, source in (
        ("quadrature", nd.Quadrature(gamma.GammaShape(), points=gamma.POINTS)),
        ("fixed grid, 201 points", gamma.SummedShape(points=201)),
        ("network", q),
    ):
        nodes = gamma.make_nodes(PLATE) | {"alpha": nd.inference.Node(source, (PLATE,))}
        nodes["a"] = nd.inference.Node(gamma.SummedShape())
        eta = gamma.start(PLATE)
        eta = jax.jit(lambda e, n=nodes: nd.inference.step(gamma.energy, n, e, "alpha", *data))(eta)

        def update(eta, nodes=nodes):
            """The step of w, which takes the means of all shapes."""
            return nd.inference.step(gamma.energy, nodes, eta, "w", *data)["w"]

        program, compilation = compiled(update, eta)
        _, seconds = measure(program, eta)
        alone, _ = compiled(jax.vmap(source.mean), eta["alpha"])
        _, share = measure(alone, eta["alpha"])
        print(
            f"  {title:22s} {1e3 * seconds:.0f} ms, of these mu {1e3 * share:.0f} ms; compilation "
            f"{compilation:.1f} s",
            flush=True,
        )


def with_network(nodes, q, network):
    """Nodes with another network in place of that of q."""
    family = eqx.tree_at(lambda q: q.network, q, network)
    return {
        name: nd.inference.Node(family, node.plate) if name in ("alpha", "a") else node
        for name, node in nodes.items()
    }


def network(options):
    with jax.enable_x64(True):
        q, law = learn(jax.random.key(0))
        exact = nd.Quadrature(q.family)
        etas = q.family.sample_eta(jax.random.key(5), 256, law)
        both = jax.jit(jax.vmap(lambda q, eta: (q.mean(eta), q.covariance(eta)), (None, 0)))
        mean, covariance = both(exact, etas)
        sd = jnp.sqrt(jnp.diagonal(covariance, axis1=1, axis2=2))
        z = (jax.vmap(q.mean)(etas) - mean) / sd
        print(f"  fresh etas: z rms {jnp.sqrt(jnp.mean(z**2)):.1e}, largest {jnp.abs(z).max():.1e}")

        data = gamma.simulate(GROUPS, OBSERVATIONS, 0)
        nodes, start = gamma.make_nodes(GROUPS), gamma.start(GROUPS)

        def infer(nodes):
            return gamma.infer(nodes, start, data, SWEEPS)

        eta, bounds = jax.jit(lambda: infer(nodes))()
        right = gamma.posterior_moments(nodes, eta)
        learned = with_network(nodes, q, q.network)
        program, compilation = compiled(lambda: infer(learned))
        (eta, learned_bounds), seconds = measure(program)
        print(f"  compilation {compilation:.1f} s, {SWEEPS} sweeps {seconds:.2f} s")
        for name in ("alpha", "a"):
            mean = jax.vmap(q.mean)(eta[name].reshape(-1, 2))[:, 0]
            off = np.max(np.abs(mean - right[name][0]) / right[name][1])
            print(f"  network beside quadrature, {name}: within {off:.1e} sd")
        off = float(learned_bounds[-1] - bounds[-1])
        print(f"  network beside quadrature, ELBO: {off:.1e} nats")

        few, sums = 200, (data[0][:200], data[1][:200], data[2])
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
        for level in (0.5, 0.9):
            low, high = nd.bayes.central_interval(drawn, level)
            held = (low <= right) & (right <= high)
            print(
                f"  {level:.0%} intervals over the weights, {few} groups: shapes "
                f"{jnp.mean(held[:few]):.0%}, a {bool(held[few])}, evidence {bool(held[-1])}"
            )

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
        for level in (0.5, 0.9):
            low, high = nd.bayes.central_interval(drawn, level)
            held = jnp.mean((low <= right) & (right <= high), 0)
            print(
                f"  {level:.0%} intervals over the weights, {len(etas)} conjugate posteriors: "
                f"means {held[0]:.0%} and {held[1]:.0%}, evidence {held[2]:.0%}"
            )


# Around the sites' own etas; a message adds to them, and J y to the first.
CHAIN = {"x": (-4.5, 4.5), "x2": (1.6, 3.2), "x3": (-0.3, 0.3), "x4": (-1.4, -0.9)}


def chain(options):
    sites = wells.make_sites(64, 0)
    exact, log_evidence = wells.transfer(sites)
    mean, sd = wells.moments(exact)
    with jax.enable_x64(True):
        family, clock = wells.Q.family, time.process_time()
        etas = family.sample_eta(jax.random.key(0), 1024, CHAIN)
        data = nd.estimate_moments(family, etas, jax.random.key(1)).only_ok()
        labeled = time.process_time()
        network = nd.LogPartitionNetwork(family, data, width=64, depth=2, key=jax.random.key(2))
        network, _ = training.fit_means(
            network, data, jax.random.key(3), loss=nd.sobolev_loss, steps=6000
        )
        fresh = family.sample_eta(jax.random.key(4), 256, CHAIN)
        unseen = nd.estimate_moments(family, fresh, jax.random.key(5)).only_ok()
        network = nd.networks.fit_residual(
            network, network.batch(data), network.batch(unseen), jax.random.key(6)
        )
        q = nd.AmortizedFamily(family, network)
        print(
            f"  {len(data)} labels {labeled - clock:.0f} s, training "
            f"{time.process_time() - labeled:.0f} s",
            flush=True,
        )

        def learned(q):
            return lambda eta, y: q.log_partition(eta.at[0].add(wells.COUPLING * y))

        for title, log_message in (("sums", wells.log_message), ("learned A", learned(q))):
            eta, found, changes = wells.propagate(jnp.asarray(sites), 4, log_message)
            means, sds = wells.moments(wells.density_of(eta))
            ratio = sds**2 / sd**2
            print(
                f"  {title:22s} means within {np.max(np.abs(means - mean) / sd):.1e} sd, variance "
                f"ratios {np.min(ratio):.4f} to {np.max(ratio):.4f}, evidence off by "
                f"{found - log_evidence:.1e} nats; last change of a message {changes[-1]:.0e}",
                flush=True,
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
        for level in (0.5, 0.9):
            low, high = nd.bayes.central_interval(drawn, level)
            held = (low <= right) & (right <= high)
            print(
                f"  {level:.0%} intervals over the weights: means {jnp.mean(held[:-1]):.0%}, "
                f"evidence {bool(held[-1])}; sd of the evidence {jnp.std(drawn[:, -1]):.1e} nats"
            )


PARTS = {"groups": groups, "nuts": nuts, "plates": plates, "network": network, "chain": chain}


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--draws", type=int, default=1000, help="of NUTS")
    options = parser.parse_args()
    for name in options.parts or PARTS:
        print(f"== {name}", flush=True)
        PARTS[name](options)


if __name__ == "__main__":
    main()
