# %% [markdown]
"""A distribution in three dimensions, learned in about a minute.

    python examples/quickstart.py [--seed 0] [--out FOLDER] [--etas 320] [--steps 1500]

Counts c_i with exposures e_i at three neighboring places have the log-rates u_i, which are smooth
along the places. Their posterior is in the family

    p(u | eta) proportional to exp(c . u - e . exp(u) - r sum_i (u_(i+1) - u_i)^2)

with the natural parameters eta = (c, -e, -r) and no closed form. The script declares the family
and samples labels (estimates of E[T] at some eta). It trains a Bayesian network on them, and
validates it on other labels. Then it compares the network with sums over a grid of 48^3 points and
with Laplace's approximation, in accuracy and in time. It prints the seconds of each phase.
"""

# %%
import argparse
import functools
import time
from pathlib import Path

START = time.perf_counter()

import cells
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import nnef_dists as nd

# %% [markdown]
# ## The family: statistics and their domain


# %%
class LogRates(nd.ExponentialFamily):
    """exp(c . u - e . exp(u) - r sum_i (u_(i+1) - u_i)^2) on R^3, with positive c, e and r."""

    x_shape = (3,)
    natural_domain = nd.domain(u=nd.positive, rate=nd.negative, rough=nd.negative)

    def compute_stats(self, x):
        """Returns the log-rates, the rates and the roughness."""
        return {"u": x, "rate": jnp.exp(x), "rough": jnp.sum(jnp.diff(x) ** 2)}


# Fewer draws than by default, because these labels are already accurate enough.
QUICK = nd.HMCConfig(warmup=120, draws=80)
RANGES = {"u": (0.5, 10.0, "log"), "rate": (-3.0, -0.5), "rough": (-3.0, -0.3)}

# %% [markdown]
# ## A custom training loop


# %%
def train(network, labels, freeze, loss, key, *, steps, learning_rate):
    """Runs Adam on the parameters that `freeze` keeps trainable, with minibatches of labels."""
    dynamic, static = freeze(network)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def step(carry, key):
        dynamic, state = carry
        key_rows, key_loss = jax.random.split(key)
        batch = labels[jax.random.randint(key_rows, (128,), 0, len(labels))]
        value, gradient = jax.value_and_grad(
            lambda dynamic: loss(nd.unfreeze_all(dynamic, static), batch, key_loss)
        )(dynamic)
        updates, state = optimizer.update(gradient, state, dynamic)
        return (optax.apply_updates(dynamic, updates), state), value

    run = jax.jit(functools.partial(jax.lax.scan, step))
    (dynamic, _), _ = run((dynamic, optimizer.init(dynamic)), jax.random.split(key, steps))
    return nd.unfreeze_all(dynamic, static)


def predictive_loss(total, network, batch, key):
    """Returns the loss of stage 2, which fits the standard deviations of the weights."""
    return nd.negative_log_predictive(network, batch, key, total=total, samples=4)


@jax.jit
def calibrate(network, labels, key):
    """Scales the standard deviations so that the predictive ones match the errors at labels."""
    ratio = nd.networks.calibration_ratio(network, labels, key)
    raw, rest = nd.freeze_means(network)
    # By default, the standard deviation of a weight is the square of its raw parameter.
    return nd.unfreeze_all(jax.tree.map(lambda raw: raw * ratio**0.25, raw), rest)


# %% [markdown]
# ## Exact moments, and the alternatives


# %%
def by_grid(family, eta, points=48):
    """Returns E[T] and sd(T) by sums over a grid around the mode, scaled by the curvature."""
    log_density = family.logdensity_fn(eta)
    mode, factor = laplace(family, eta)
    line = jnp.linspace(-8.0, 8.0, points)
    axes = jnp.stack(jnp.meshgrid(line, line, line), -1).reshape(-1, 3)
    nodes = mode + axes @ factor.T
    weights = jax.nn.softmax(jax.vmap(log_density)(nodes))
    stats = jax.vmap(family.sufficient_statistics)(nodes)
    mean = weights @ stats
    return mean, jnp.sqrt(weights @ (stats - mean) ** 2)


def laplace(family, eta):
    """Returns the mode by Newton's method, and a Cholesky factor of the inverse curvature."""
    log_density = family.logdensity_fn(eta)

    def newton(u, _):
        return u - jnp.linalg.solve(jax.hessian(log_density)(u), jax.grad(log_density)(u)), None

    mode, _ = jax.lax.scan(newton, jnp.log(-eta[:3] / eta[3:6]), length=12)
    return mode, jnp.linalg.cholesky(jnp.linalg.inv(-jax.hessian(log_density)(mode)))


def by_laplace(family, eta):
    """Returns E[T] to second order under the normal density at the mode.

    `nd.networks.LaplaceBase`, which the network corrects, includes the next order of A.
    """
    mode, factor = laplace(family, eta)
    curvature = jax.hessian(family.sufficient_statistics)(mode)
    return (
        family.sufficient_statistics(mode)
        + jnp.trace(curvature @ factor @ factor.T, axis1=1, axis2=2) / 2
    )


def measure(function, etas):
    """Returns the results for all etas, and microseconds per eta after compilation."""
    program = jax.jit(lambda etas: jax.lax.map(function, etas, batch_size=16)).lower(etas).compile()
    jax.block_until_ready(program(etas))
    start = time.perf_counter()
    found = jax.block_until_ready(program(etas))
    return found, 1e6 * (time.perf_counter() - start) / len(etas)


# %% [markdown]
# ## Errors and their prediction


# %%
def draw(errors, deviations):
    """Plots errors of three methods, and errors of the network by standard deviation."""
    figure = Figure(figsize=(9, 3.4), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, z in errors.items():
        each = np.sort(np.sqrt(np.mean(z**2, 1)))
        left.plot(each, np.linspace(0, 1, len(each)), label=name)
    left.set(xscale="log", ylim=(0, 1), title="Errors of E[T] at new eta")
    left.set(xlabel="RMS error (z units)", ylabel="fraction of new eta")
    left.legend(frameon=False)
    error = np.maximum(np.abs(errors["network"]).ravel(), 1e-6)
    right.loglog(deviations.ravel(), error, ".", markersize=2)
    line = np.array([deviations.min(), deviations.max()])
    right.loglog(line, line, "k--", linewidth=1, label="error = standard deviation")
    right.set(title="Errors and their prediction", xlabel="predictive standard deviation (z units)")
    right.set(ylabel="error of the network (z units)")
    right.legend(frameon=False)
    return figure


# %% [markdown]
# ## Main program


# %%
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("artifacts/quickstart"))
    parser.add_argument("--etas", type=int, default=320, help="number of training labels")
    parser.add_argument("--steps", type=int, default=1500, help="of the first stage of training")
    options = cells.parse(parser)
    keys = jax.random.split(jax.random.key(options.seed), 9)
    clock = [START]

    def phase(name):
        clock.append(time.perf_counter())
        print(f"[{clock[-1] - clock[-2]:5.1f} s] {name}", flush=True)

    family = LogRates()  # pyright: ignore[reportCallIssue]
    phase("imports")
    etas = family.sample_eta(keys[0], options.etas, RANGES)
    data = nd.estimate_moments(family, etas, keys[1], QUICK, progress=True)
    print(data)
    phase(f"{len(data)} labels, by Hamiltonian Monte Carlo")

    network = nd.LogPartitionNetwork(family, data, width=32, depth=2, key=keys[2])
    labels = network.batch(data)
    split = len(labels) - len(labels) // 5
    phase("Laplace's approximation at the labels, which the network corrects")
    network = train(
        network,
        labels[:split],
        nd.freeze_stdvs,
        nd.sobolev_loss,
        keys[3],
        steps=options.steps,
        learning_rate=1e-3,
    )
    phase(f"training, stage 1: means of the weights, on {split} labels")
    network = train(
        network,
        labels[split:],
        nd.freeze_means,
        functools.partial(predictive_loss, len(labels) - split),
        keys[4],
        steps=200,
        learning_rate=1e-2,
    )
    network = calibrate(network, labels[split:], keys[4])
    phase("training, stage 2: standard deviations of the weights, on the other labels")

    fresh = family.sample_eta(keys[5], 64, RANGES)
    held_out = nd.estimate_moments(family, fresh, keys[6], QUICK)
    q = nd.validate(nd.AmortizedFamily(family, network), held_out)
    print(q)
    phase("validation on 64 other labels")

    # Posteriors at new eta. The first one is for counts 3, 7 and 2 with exposures 1, 2 and 1.
    new = family.sample_eta(keys[8], 256, RANGES)
    new = new.at[0].set(jnp.array([3.0, 7.0, 2.0, -1.0, -2.0, -1.0, -1.5]))
    mean, deviations = jax.vmap(q.predictive, (0, None))(new, keys[7])
    phase("256 posteriors")

    (exact, scale), grid_time = measure(functools.partial(by_grid, family), new)
    approximate, laplace_time = measure(functools.partial(by_laplace, family), new)
    _, network_time = measure(network, new)
    print(f"at eta = {new[0]}")
    print(f"  E[T]       {mean[0]}")
    print(f"  +/-        {deviations[0]}")
    print(f"  exactly    {exact[0]}")
    z = {"network": (mean - exact) / scale, "Laplace": (approximate - exact) / scale}
    for name, microseconds in (("network", network_time), ("Laplace", laplace_time)):
        rms, largest = jnp.sqrt(jnp.mean(z[name] ** 2)), jnp.max(jnp.abs(z[name]))
        print(
            f"{name:8s} RMS error {rms:.4f}, largest {largest:.3f} z; {microseconds:.0f} us per eta"
        )
    print(f"grid     48^3 points, the reference; {grid_time:.0f} us per eta")
    figure = draw(jax.tree.map(np.asarray, z), np.asarray(deviations / scale))
    cells.save(figure, options.out / "errors.png")
    nd.save(options.out / "log_rates.safetensors", q)
    phase("comparison, picture and file")
    print(f"{clock[-1] - START:.0f} s in total")


# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
