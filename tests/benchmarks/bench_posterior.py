"""Posterior heads beside exact posteriors and sbi.

    python tests/benchmarks/bench_posterior.py [tutorial] [speed] [tasks] [calibration]
        [--tasks NAME ...] [--seeds 3] [--steps 1.0] [--sbi-python PYTHON] [--quick]

The simulator is that of `examples/npe_from_scratch.py`, and training that of `examples/npe.py`.
`--sbi-python` is the interpreter of an environment with sbi, which then runs on the same
simulations. Otherwise its rows are not measured. Seconds of training include tracing and
compilation.

tutorial  1,000 simulations, 20,000 held-out pairs: excess NLL over the exact posterior, seconds
speed     densities and draws after compilation, for one and for many observations
tasks     four standard tasks at 1,000 and 10,000 simulations: C2ST against exact posteriors
calibration  the same heads: ranks, expected coverage and TARP on fresh simulations
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import npe
import npe_from_scratch as tutorial_example

from tests.benchmarks.results import Table, main
from tests.benchmarks.task_posteriors import PUBLISHED, calibration, tasks

SIMULATIONS = 1000
SUPPORT = tutorial_example.SUPPORT
HEADS = {
    "Gaussian": lambda data, key, q: nd.GaussianPosterior(data, support=SUPPORT, key=key),
    "mixture": lambda data, key, q: nd.MixturePosterior(data, 8, depth=2, support=SUPPORT, key=key),
    "flow": lambda data, key, q: nd.FlowPosterior.autoregressive(
        data, layers=1, flow_width=64, depth=2, support=SUPPORT, key=key
    ),
    "exponential family": lambda data, key, q: nd.ExponentialFamilyPosterior(
        q, data, support=SUPPORT, key=key
    ),
}

# Runs in the environment of --sbi-python; reads and writes NumPy files and JSON.
SBI = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import numpy as np, torch
from sbi.inference import NPE
from sbi.utils import BoxUniform
torch.manual_seed(int(sys.argv[3]))
data = {k: torch.as_tensor(v) for k, v in np.load(sys.argv[1]).items()}
start = time.perf_counter()
prior = BoxUniform(torch.zeros(1), torch.ones(1))
inference = NPE(prior, density_estimator=sys.argv[2], show_progress_bars=False)
inference.append_simulations(data["theta"], data["x"]).train()
found = {"training": time.perf_counter() - start}
posterior = inference.build_posterior()
found["nll"] = -float(posterior.log_prob_batched(
    data["held_theta"][:, None].swapaxes(0, 1), data["held_x"], norm_posterior=False).mean())
start = time.perf_counter()
posterior.sample_batched((100,), data["held_x"][:1000], show_progress_bars=False)
found["draws per second"] = 1e5 / (time.perf_counter() - start)
start = time.perf_counter()
for theta, x in zip(data["held_theta"][:100], data["held_x"][:100]):
    posterior.log_prob(theta[None], x=x[None])
found["seconds of 100 log_prob"] = time.perf_counter() - start
print(json.dumps(found))
"""


def simulations(seed, n):
    key = jax.random.key(seed)
    return nd.simulate(tutorial_example.simulator, tutorial_example.PRIOR, key, n, progress=False)


def fit(name, data, seed, steps, q):
    """A trained ensemble, and the seconds that took."""
    start = time.perf_counter()
    posterior, _ = npe.fit_posterior(
        lambda key: HEADS[name](data, key, q),
        data,
        jax.random.key(100 + seed),
        steps=max(50, round(1500 * steps / 50) * 50),
    )
    jax.block_until_ready(eqx.filter(posterior, eqx.is_array))
    return posterior, time.perf_counter() - start


def fit_alone(name, seed, steps):
    """Seconds of training in a fresh process, where nothing is compiled yet."""
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parent)]!r}; "
        f"import bench_posterior as b; data = b.simulations({seed}, b.SIMULATIONS); "
        f"print(b.fit({name!r}, data, {seed}, {steps}, None)[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def tutorial(options):
    """Excess <= 0.06 nats for the best of mixture, flow and exponential family."""
    q = tutorial_example.learn_family(options.labels, options.steps, jax.random.key(7))
    table = Table(
        f"{SIMULATIONS:,} simulations, {options.held_out:,} held-out pairs",
        ["seed", "estimator", "-log q less that of the exact posterior [nats]",
         "first member alone [nats]", "training [s]", "least mass", "largest mass"],
        "Ensembles of six members. Mass: the integral of q in the prior's support.",
    )  # fmt: skip
    rows = {name: [] for name in HEADS}
    theirs = {"nsf": [], "maf": []}
    for seed in range(options.seeds):
        data = simulations(seed, SIMULATIONS)
        held = npe.batch_of(simulations(1000 + seed, options.held_out))
        exact = -float(jnp.mean(tutorial_example.exact_log_prob(*held)))
        for name, row in rows.items():
            posterior, seconds = fit(name, data, seed, options.steps, q)
            total = np.asarray(tutorial_example.mass(posterior, held.x[:500]))
            # As if it were normalized, which a learned log-partition is but nearly.
            excess = float(npe.mean_nll(posterior, held)) + np.mean(np.log(total)) - exact
            one = jax.tree.map(lambda leaf: leaf[:1] if eqx.is_array(leaf) else leaf, posterior)
            single = float(npe.mean_nll(one, held)) - exact
            row.append((excess, single, seconds, total.min(), total.max()))
            table.add(seed, name, *row[-1])
        for name, row in theirs.items():
            if found := sbi(options, name, data, held, seed):
                row.append((found["nll"] - exact, found["training"], found["draws per second"],
                            found["seconds of 100 log_prob"]))  # fmt: skip
                table.add(seed, f"sbi {name}", row[-1][0], None, row[-1][1], None, None)
    alone = [fit_alone("mixture", seed, options.steps) for seed in range(options.seeds)]
    medians = Table(
        f"Medians of {options.seeds} seeds",
        ["estimator", "excess of -log q [nats]", "training [s]", "training alone [s]",
         "draws per s", "100 log-densities [s]"],
        "Training alone: in a fresh process, with compilation.",
    )  # fmt: skip
    for name, row in rows.items():
        excess, _, seconds, _, _ = np.median(np.array(row), 0)
        fresh = np.median(alone) if name == "mixture" else None
        medians.add(name, excess, seconds, fresh, None, None)
    for name, row in theirs.items():
        excess, seconds, rate, slow = np.median(np.array(row), 0) if row else [None] * 4
        medians.add(f"sbi {name}", excess, seconds, None, rate, slow)


def sbi(options, estimator, data, held, seed):
    """What sbi does with the same simulations; None without an environment of it."""
    if options.sbi_python is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, theta=data.theta, x=data.x, held_theta=held.theta, held_x=held.x)
        done = subprocess.run(
            [options.sbi_python, "-c", SBI, str(path), estimator, str(seed)],
            capture_output=True,
            text=True,
            cwd=folder,  # It leaves logs where it runs.
        )
    if done.returncode:
        raise SystemExit(f"sbi failed:\n{done.stderr}")
    return json.loads(done.stdout[done.stdout.index("{") :])


def speed(options):
    """1,000 observations x 1,000 draws < 1 s for Gaussian and mixture; 100 log_prob, 1e5 draws."""
    data = simulations(0, SIMULATIONS)
    theta, x = jnp.asarray(data.theta), jnp.asarray(data.x)
    q = tutorial_example.learn_family(options.labels // 4, 0.1 * options.steps, jax.random.key(7))
    table = Table(
        "After compilation",
        ["head", "100 log-densities [ms]", "draws per s, 100 per observation",
         "1,000 draws for 1,000 observations [s]"],
    )  # fmt: skip
    for name, make in HEADS.items():
        head = make(data, jax.random.key(0), q)
        heads = {"": head}
        if name != "flow":
            heads[", ensemble of 6"] = nd.posterior.EnsemblePosterior.of_draws(
                head, jax.random.key(1), 6
            )
        for title, posterior in heads.items():
            keys = jax.random.split(jax.random.key(2), len(x))
            times = (
                timed(densities, posterior, theta[:100], x[:100]),
                timed(draws, posterior, keys, x, 100),
                timed(draws, posterior, keys, x, 1000),
            )
            table.add(name + title, 1e3 * times[0], 100 * len(x) / times[1], times[2])


@eqx.filter_jit
def densities(posterior, theta, x):
    return jax.vmap(posterior.log_prob)(theta, x)


@eqx.filter_jit
def draws(posterior, keys, x, n):
    return jax.vmap(lambda key, x: posterior.sample(key, x, n))(keys, x)


def timed(run, *arguments, repeats=5):
    """The median of seconds after compilation."""
    jax.block_until_ready(run(*arguments))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


SECTIONS = {part.__name__: part for part in (tutorial, speed, tasks, calibration)}


def arguments(parser):
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=float, default=1.0, help="scales the number of steps")
    parser.add_argument("--labels", type=int, default=1024, help="of the exponential family")
    parser.add_argument("--held-out", type=int, default=20_000, help="pairs")
    parser.add_argument("--tasks", nargs="+", choices=[*PUBLISHED], help="of tasks and calibration")
    parser.add_argument("--draws", type=int, default=10_000, help="for C2ST")
    parser.add_argument("--checked", type=int, default=2000, help="simulations of calibration")
    parser.add_argument("--sbi-python", type=Path, help="interpreter of an environment with sbi")


QUICK = {"seeds": 1, "steps": 0.05, "labels": 256, "held_out": 2000, "tasks": ["gaussian_linear"],
         "draws": 1000, "checked": 100}  # fmt: skip


if __name__ == "__main__":
    main(__doc__, SECTIONS, arguments, QUICK)
