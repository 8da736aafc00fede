"""Analytic bijections and flows, beside bijx and flowjax with equal depth, batch and steps.

    python tests/benchmarks/bench_flows.py [accuracy] [speed] [line] [spiral] [sampler]
        [--seeds 3] [--steps 1.0] [--quick]

accuracy  round trip and log-slope of each bijection, over 1,000 draws of its raw parameters
speed     steps a second on both tutorials: dispatched one by one, and in a scanned loop
line      the comb by reverse KL, 2,000 steps of batch 256: nats above the exact -log Z
spiral    maximum likelihood, 5,000 steps of batch 512: nats a point on 20,000 fresh ones
sampler   a flow conditioned on eta, for quartics and phi^4 chains, beside HMC and NumPyro's NUTS

Steps a second are medians of 5 runs after compilation, all in one process; compile time is apart.
"""

import dataclasses
import sys
import time
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flowjax.bijections import RationalQuadraticSpline
from flowjax.distributions import StandardNormal
from flowjax.flows import (
    coupling_flow,
    masked_autoregressive_flow,
    triangular_spline_flow,
)
from jax.flatten_util import ravel_pytree
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import amortized_sampler
import analytic_bijections as tutorials

from tests.benchmarks.jobs import JOBS
from tests.benchmarks.results import Table, main

try:
    import bijx
    from flax import nnx
except ImportError:
    bijx = None

SEED_CENTER = (-0.5, -1.0)  # of the seed's radial flow


# ------------------------------------------------------------------------- one way to train both


class Task:
    """A flow to train: parameters, `loss(parameters, key)`, and how to judge the result."""

    def __init__(self, parameters, loss, learning_rate, judge):
        self.parameters, self.loss, self.judge = parameters, loss, judge
        self.optimizer = optax.adam(learning_rate)

    def step(self, carry, key):
        parameters, state = carry
        value, gradient = jax.value_and_grad(self.loss)(parameters, key)
        updates, state = self.optimizer.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state), value

    @property
    def start(self):
        return self.parameters, self.optimizer.init(self.parameters)


def ours(flow, loss, learning_rate):
    """A task for an Equinox flow; `loss(flow, key)`."""
    parameters, static = nd.partition_trainable(flow)
    return Task(
        parameters,
        lambda parameters, key: loss(nd.unfreeze_all(parameters, static), key),
        learning_rate,
        lambda parameters, measure, *args: float(
            eqx.filter_jit(measure)(nd.unfreeze_all(parameters, static), *args)
        ),
    )


def likelihood(flow, key, batch=512):
    return tutorials.negative_log_likelihood(flow, tutorials.spiral(key, batch))


def line_task(make=nd.flows.CubicConjugation, seed=0, steps=2000):
    schedule = optax.cosine_decay_schedule(1e-2, steps)
    flow = tutorials.line_flow(make, jax.random.key(seed))
    return ours(flow, tutorials.free_energy, schedule)


def spiral_task(make=nd.flows.CubicConjugation, seed=0, steps=5000, center=(0.0, 0.0)):
    schedule = optax.cosine_decay_schedule(1e-2, steps)
    flow = tutorials.spiral_flow(make, jax.random.key(seed), center)
    return ours(flow, likelihood, schedule)


def theirs(model, loss, learning_rate):
    """A task for a bijx model, as pure functions of its parameters."""
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)
    return Task(
        parameters,
        lambda parameters, key: loss(nnx.merge(graph, parameters, rest), key),
        learning_rate,
        lambda parameters, measure, *args: float(
            jax.jit(lambda p: measure(nnx.merge(graph, p, rest), *args))(parameters)
        ),
    )


def bijx_layers(rngs, wrap):
    @nnx.split_rngs(splits=tutorials.DEPTH)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def layers(rngs):
        return wrap(bijx.ScanChain(bijx.CubicConjugation(rngs=rngs)))

    return layers(rngs)


def bijx_line(seed=0, learning_rate=1e-3):
    rngs = nnx.Rngs(seed)
    model = bijx.Transformed(
        bijx.IndependentNormal((), rngs=rngs), bijx_layers(rngs, lambda stack: stack)
    )

    def loss(model, key, batch=256):
        x, log_q = model.sample((batch,), rng=key)
        return jnp.mean(log_q - tutorials.comb(x))

    return theirs(model, loss, learning_rate), loss


class BijxFourier(nnx.Module if bijx else object):
    """Offsets that are linear in damped Fourier features, as ours."""

    def __init__(self, out_size, count, *, rngs):
        self.count = count
        self.output = nnx.Linear(
            count, out_size, use_bias=False, rngs=rngs, kernel_init=nnx.initializers.normal(0.01)
        )

    def __call__(self, u):
        angle = jnp.atan2(u[..., 1], u[..., 0])[..., None]
        k = jnp.arange(1, (self.count + 1) // 2)
        features = [jnp.sin(k * angle) / k, jnp.cos(k * angle) / k, jnp.ones_like(angle)]
        return self.output(jnp.concatenate(features, -1))


def bijx_spiral(seed=0, learning_rate=1e-2, center=SEED_CENTER):
    rngs = nnx.Rngs(seed)
    base = bijx_layers(rngs, bijx.RayTransform)
    size = bijx.ModuleReconstructor(base).params_total_size
    radial = bijx.RadialConditional(
        scalar_bijection=base,
        cond_net=BijxFourier(size, 7, rngs=rngs),
        center=jnp.array(center),
        scale=jnp.zeros(2),
        rngs=rngs,
    )
    model = bijx.Transformed(bijx.IndependentNormal((2,), rngs=rngs), radial)

    def negative_log_likelihood(model, points):
        return -jnp.mean(model.log_density(points))

    def loss(model, key):
        return negative_log_likelihood(model, tutorials.spiral(key, 512))

    return theirs(model, loss, learning_rate), negative_log_likelihood


def train(task, steps, key):
    """Trains in one compiled loop; the parameters, and seconds after compilation."""
    keys = jax.random.split(key, steps)
    run = jax.jit(lambda carry, keys: jax.lax.scan(task.step, carry, keys))
    compiled = run.lower(task.start, keys).compile()
    start = time.perf_counter()
    (parameters, _), _ = jax.block_until_ready(compiled(task.start, keys))
    return parameters, time.perf_counter() - start


# ------------------------------------------------------------------------------------- sections


def accuracy(options):
    """Round trip within 1e-5 relative, absolute below 1; log-slope within 1e-5 of autodiff."""
    points = jnp.concatenate([jnp.linspace(-100, 100, 801), jnp.linspace(-3, 3, 401)])

    def errors(bijection):
        def slope_error(method, found):
            return jnp.abs(found - jnp.log(jax.vmap(jax.grad(method))(points)))

        y, log_slope = jax.vmap(bijection.transform_and_log_det)(points)
        x, inverse_log_slope = jax.vmap(bijection.inverse_and_log_det)(points)
        size = jnp.maximum(1, jnp.abs(points))
        trips = [
            jnp.abs(jax.vmap(bijection.inverse)(y) - points) / size,
            jnp.abs(jax.vmap(bijection.transform)(x) - points) / size,
        ]
        slopes = [
            slope_error(bijection.transform, log_slope),
            slope_error(bijection.inverse, inverse_log_slope),
        ]
        return jnp.max(jnp.stack(trips)), jnp.max(jnp.stack(slopes))

    table = Table(
        f"Bijections, {options.draws:,} draws of their raw parameters",
        ["bijection", "dtype", "round trip", "log-slope"],
        "Largest errors. Of round trips, relative to max(1, |x|). Of log-slopes, against autodiff.",
    )
    for name, make in tutorials.BIJECTIONS.items():
        for x64 in (False, True):
            with jax.enable_x64(x64):
                flat, unravel = ravel_pytree(make())
                draws = jax.random.normal(jax.random.key(0), (options.draws, flat.size))
                points = jnp.asarray(points, flat.dtype)
                trip, slope = jax.jit(jax.vmap(lambda raw, u=unravel: errors(u(raw))))(draws)
                table.add(name, str(flat.dtype), trip.max(), slope.max())


def speed(options):
    """Steps a second, at least twice bijx's; compiling takes no longer."""
    tasks = {"line": (line_task, bijx_line), "spiral": (spiral_task, bijx_spiral)}
    table = Table(
        "Training, one by one and in a scanned loop",
        ["task", "package", "compilation [s]", "steps per s", "steps per s, scanned"],
    )
    for name, (mine, other) in tasks.items():
        rows = {"nnef_dists": mine()}
        if bijx is not None:
            rows["bijx"] = other()[0]
        found = {title: measure(task, options.timed_steps) for title, task in rows.items()}
        for title, (compiling, dispatched, scanned) in found.items():
            table.add(name, title, compiling, dispatched, scanned)
        if bijx is None:
            table.add(name, "bijx", None, None, None)


def measure(task, steps, repeats=5):
    """Seconds to compile one step, and steps a second both ways."""
    keys = jax.random.split(jax.random.key(1), steps)
    each = list(keys)
    start = time.perf_counter()
    step = jax.jit(task.step).lower(task.start, each[0]).compile()
    compiling = time.perf_counter() - start
    jitted = jax.jit(task.step)  # as users call it
    jax.block_until_ready(jitted(task.start, each[0]))

    def dispatched():
        carry = task.start
        for key in each:
            carry, _ = jitted(carry, key)
        return carry

    loop = jax.jit(lambda carry, keys: jax.lax.scan(task.step, carry, keys)[0])
    del step
    return compiling, *(
        steps / seconds_of(run, repeats) for run in (dispatched, lambda: loop(task.start, keys))
    )


def seconds_of(run, repeats):
    jax.block_until_ready(run())  # a MomentDataset has been waited for when it is returned
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def line(options):
    """At most 0.02 nats above the exact -log Z after 2,000 steps of batch 256."""
    steps, exact = round(2000 * options.steps), tutorials.comb_log_partition()
    test_key = jax.random.key(10)
    table = new_table(f"Comb after {steps:,} steps of batch 256", "nats above -log Z", options)
    for name, make in tutorials.BIJECTIONS.items():
        gaps = []
        for seed in range(options.seeds):
            task = line_task(make, seed, steps)
            parameters, _ = train(task, steps, jax.random.key(100 + seed))
            gaps.append(task.judge(parameters, tutorials.free_energy, test_key, 100_000) + exact)
        add_row(table, f"nnef_dists, {name}", gaps)
    if bijx is None:
        add_row(table, "bijx, cubic", [None] * options.seeds)
        return
    for title, rate in (("1e-3", 1e-3), ("1e-2, cosine", optax.cosine_decay_schedule(1e-2, steps))):
        gaps = []
        for seed in range(options.seeds):
            task, loss = bijx_line(seed, rate)
            parameters, _ = train(task, steps, jax.random.key(100 + seed))
            gaps.append(task.judge(parameters, loss, test_key, 100_000) + exact)
        add_row(table, f"bijx, cubic, learning rate {title}", gaps)


def spiral(options):
    """At most -0.75 nats a point after 5,000 steps, better than the others in equal time too."""
    steps = round(5000 * options.steps)
    points = tutorials.spiral(jax.random.key(10), 20_000)
    measure_nll = tutorials.negative_log_likelihood
    schedule = optax.cosine_decay_schedule(1e-2, steps)
    table = new_table(
        f"Spiral after {steps:,} steps of batch 512", "-log p [nats]", options, "training [s]"
    )
    for name, make in tutorials.BIJECTIONS.items():
        run_spiral(table, f"nnef_dists, {name}", options.seeds, steps, points, measure_nll,
                   lambda seed, make=make: spiral_task(make, seed, steps))  # fmt: skip
    run_spiral(table, "nnef_dists, cubic, seed's center", options.seeds, steps, points, measure_nll,
               lambda seed: spiral_task(seed=seed, steps=steps, center=SEED_CENTER))  # fmt: skip
    if bijx is not None:
        for title, center in (("seed's center", SEED_CENTER), ("center 0", (0.0, 0.0))):
            _, measure_theirs = bijx_spiral()
            run_spiral(table, f"bijx, cubic, {title}", options.seeds, steps, points, measure_theirs,
                       lambda seed, c=center: bijx_spiral(seed, schedule, c)[0])  # fmt: skip
    spline = RationalQuadraticSpline(knots=8, interval=4)
    base = StandardNormal((2,))
    flows = {
        "affine MAF": lambda key: masked_autoregressive_flow(key, base_dist=base),
        "spline MAF": lambda key: masked_autoregressive_flow(
            key, base_dist=base, transformer=spline
        ),
        "triangular spline": lambda key: triangular_spline_flow(key, base_dist=base),
        "spline coupling": lambda key: coupling_flow(key, base_dist=base, transformer=spline),
    }
    for name, make in flows.items():

        def task_of(seed, make=make):
            return ours(make(jax.random.key(seed)), likelihood, 1e-3)

        run_spiral(table, f"flowjax, {name}", options.seeds, steps, points, measure_nll, task_of)


def run_spiral(table, title, seeds, steps, points, measure_nll, task_of):
    found, seconds = [], []
    for seed in range(seeds):
        task = task_of(seed)
        parameters, took = train(task, steps, jax.random.key(100 + seed))
        found.append(task.judge(parameters, measure_nll, points))
        seconds.append(took)
    add_row(table, title, found, np.median(seconds))


def new_table(title, value, options, *more):
    seeds = [f"seed {seed}" for seed in range(options.seeds)]
    return Table(title, ["flow", f"{value}, median", *seeds, *more])


def add_row(table, title, values, *more):
    median = None if None in values else float(np.median(values))
    table.add(title, median, *values, *more)


def sampler(options):
    """KL <= 0.01 nats on quartics; half the draws effective on phi^4 chains, 100 times faster."""
    table = Table(
        "Flows conditioned on eta",
        ["family", "seed", "training [s]", "effective fraction, median", "lowest",
         "A - bound, median [nats]", "KL to exact, median [nats]", "90% below", "largest"],
    )  # fmt: skip
    costs = []
    for name, n in (("quartic", 512), ("lattice10", 128)):
        job = JOBS[name]
        etas = job.family.sample_eta(jax.random.key(20), n, job.ranges)
        for seed in range(options.seeds):
            start = time.perf_counter()
            flow, _ = amortized_sampler.train(
                job.family, job.ranges, jax.random.key(seed), steps=round(4000 * options.steps)
            )
            seconds = time.perf_counter() - start
            found = amortized_sampler.weigh(flow, etas, jax.random.key(30 + seed), 4096)
            kl = []
            if name == "quartic":
                exact = jax.jit(
                    lambda etas, family=job.family: jax.lax.map(
                        lambda eta: nd.quadrature_moments(family, eta).log_partition, etas
                    )
                )(etas)
                kl = np.asarray(exact - found.bound)
                kl = [np.median(kl), np.quantile(kl, 0.9), kl.max()]
            table.add(
                *(name, seed, seconds, np.median(found.efficiency), found.efficiency.min()),
                *(np.median(found.log_partition - found.bound), *(kl or ["no reference"] * 3)),
            )
        costs += against_hmc(name, flow, job.family, etas[:64], found, options)
    table = Table(
        "Time of an effective draw",
        ["family", "etas", "sampler", "us", "times the flow"],
        'The row "normal samples" is the part of the flow\'s time that draws normal samples.',
    )
    for row in costs:
        table.add(*row)


def against_hmc(name, flow, family, etas, found, options):
    """Microseconds for each effective draw: of many etas at once, and of one as a user asks."""
    parameters, static = nd.partition_trainable(flow)

    @partial(jax.jit, static_argnums=3)
    def draw(parameters, key, etas, n):
        flow = nd.unfreeze_all(parameters, static)
        keys = jax.random.split(key, len(etas))
        return jax.vmap(lambda key, eta: flow.sample(key, eta, n))(keys, etas)

    def flow_cost(etas, n):
        seconds = seconds_of(lambda: draw(parameters, jax.random.key(0), etas, n), 9)
        return 1e6 * seconds / (n * float(np.sum(found.efficiency[: len(etas)])))

    @partial(jax.jit, static_argnums=1)
    def normals(key, shape):
        return jax.random.normal(key, shape)

    def normals_cost(etas, n):
        shape = (len(etas), *family.support.shape, n)
        return 1e6 * seconds_of(lambda: normals(jax.random.key(0), shape), 9) / (n * len(etas))

    def hmc_cost(etas, config):
        def sample():
            return nd.estimate_moments(family, etas, jax.random.key(1), config)

        effective = np.median(np.nan_to_num(sample().ess), 1)
        return 1e6 * seconds_of(sample, 5) / float(np.sum(effective))

    def one_cost(eta, n, config):
        run = jax.jit(lambda eta: nd.moments.sample_hmc(jax.random.key(1), family, eta, n, config))
        effective = np.median(np.asarray(run(eta)[1].ess))
        return 1e6 * seconds_of(lambda: run(eta), 5) / float(effective)

    jumping = nd.HMCConfig(control_variates=False, ladder=False)
    plain = dataclasses.replace(jumping, global_moves=False)
    n = options.effective
    costs = {
        "64 etas at once": (
            flow_cost(etas, n // 64),
            normals_cost(etas, n // 64),
            {"HMC": hmc_cost(etas, jumping), "HMC, no global moves": hmc_cost(etas, plain)},
        ),
        "one eta": (
            flow_cost(etas[:1], n),
            normals_cost(etas[:1], n),
            {
                "HMC": one_cost(etas[0], n, jumping),
                "HMC, no global moves": one_cost(etas[0], n, plain),
                "NUTS of NumPyro": nuts_cost(family, etas[0], n // 4),
            },
        ),
    }
    return [
        (name, title, sampler, cost, cost / mine)
        for title, (mine, least, others) in costs.items()
        for sampler, cost in [("flow", mine), ("normal samples", least), *others.items()]
    ]


def nuts_cost(family, eta, n, chains=16):
    """The same of NumPyro's NUTS, its chains vectorized; warm-up of 240 steps counts, as ours."""
    support, shape = family.support, family.support.shape

    def potential(u):
        x, log_det = support.transform_and_log_det(u)
        return -family.unnormalized_logdensity(eta, x) - log_det

    start = jax.random.normal(jax.random.key(1), (chains, *shape))

    @jax.jit  # By itself `run` compiles anew in every call.
    def run(key):
        sampler = MCMC(
            NUTS(potential_fn=potential),
            num_warmup=240,
            num_samples=n // chains,
            num_chains=chains,
            chain_method="vectorized",
            progress_bar=False,
        )
        sampler.run(key, init_params=start)
        return sampler.get_samples(group_by_chain=True)

    key = jax.random.key(2)
    x = jax.vmap(jax.vmap(lambda u: support.transform_and_log_det(u)[0]))(run(key))
    stats = np.asarray(jax.vmap(jax.vmap(family.sufficient_statistics))(x))
    effective = np.median([effective_sample_size(stats[..., i]) for i in range(family.eta_dim)])
    return 1e6 * seconds_of(lambda: run(key), 5) / float(effective)


SECTIONS = {part.__name__: part for part in (accuracy, speed, line, spiral, sampler)}


def arguments(parser):
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=float, default=1.0, help="scales the number of steps")
    parser.add_argument("--draws", type=int, default=1000, help="of accuracy")
    parser.add_argument("--timed-steps", type=int, default=300, help="of speed")
    parser.add_argument("--effective", type=int, default=65_536, help="draws of sampler's costs")


QUICK = {"seeds": 1, "steps": 0.02, "draws": 50, "timed_steps": 30, "effective": 4096}


if __name__ == "__main__":
    main(__doc__, SECTIONS, arguments, QUICK)
