"""Posteriors of masked observations and of discrete parameters, against exact posteriors.

    python tests/benchmarks/bench_structured.py

Posterior heads of sets of 1 to 50 trials, of vectors and series with missing entries, of digits and
of models with a parameter each; the effect of padding; beside them a head that sees zeros for what
is missing, and no mask.
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.posterior import structured as models


def main():
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    heads = {}
    for model, steps, batch in (
        (models.Trials(), 12_000, 256),
        (models.Sensors(), 12_000, 256),
        (models.Lines(), 12_000, 256),
        (models.Digits(), 24_000, 512),
        (models.Models(), 12_000, 256),
    ):
        head = models.head_of(model, models.data_of(model))
        clock = time.process_time(), time.time()
        head = jax.block_until_ready(models.fit(head, model, jax.random.key(2), steps, batch))
        title = type(model).__name__
        seconds = time.process_time() - clock[0]
        print(
            f"  {title}: trained in {seconds:.0f} s of processor time, "
            f"{time.time() - clock[1]:.0f} s of wall time"
        )
        heads[title] = model, head
    trials(*heads["Trials"])
    padding(*heads["Trials"])
    key, repeats = jax.random.key(3), 4000
    for title in ("Sensors", "Lines"):
        nats = models.errors_of_gaussians(*heads[title][::-1], key, repeats)
        print(f"  {title}: KL from the exact posterior, nats: {summary(nats)}")
    model, head = heads["Digits"]
    print(
        f"  Digits: total variation {summary(models.errors_of_digits(head, model, key, repeats))}"
    )
    model, head = heads["Models"]
    names = "total variation of k", "means of phi given k, sd", "log sd of phi given k"
    for name, found in zip(names, models.errors_of_models(head, model, key, repeats), strict=True):
        print(f"  Models: {name}: {summary(found)}")


def summary(errors):
    errors = np.asarray(errors)
    return f"mean {errors.mean():.4f}, 95% {np.quantile(errors, 0.95):.4f}, max {errors.max():.4f}"


def trials(model, head):
    """Errors at every size, and those of a head to which padding is data: zeros, without a mask."""
    data = models.data_of(model)
    values = type(data)(data.theta, data.x[..., 0])
    embedding = nd.posterior.SetEmbedding(values.x_shape, 32, width=32, key=jax.random.key(0))
    plain = nd.GaussianPosterior(
        values, embedding=embedding, width=32, depth=2, key=jax.random.key(1)
    )
    plain = models.fit(plain, Unmasked(model), jax.random.key(2), 12_000)
    for title, one, source in (("masked", head, model), ("zeros", plain, Unmasked(model))):
        sizes, repeats = jnp.arange(1, model.rows + 1), 1000
        found = [models.errors_of_trials(one, source, jax.random.key(9), n, repeats) for n in sizes]
        means, logs = (np.array([pair[i] for pair in found]) for i in (0, 1))
        of_means, of_logs = (np.sqrt(np.mean(part**2, 1)) for part in (means, logs))
        print(
            f"  Trials ({title}): errors of the mean, in exact sd: rms by size "
            f"{' '.join(f'{n}: {of_means[n - 1]:.3f}' for n in (1, 2, 5, 10, 20, 50))}; worst size "
            f"{of_means.argmax() + 1} with {of_means.max():.3f}; 99% of all sets below "
            f"{np.quantile(np.abs(means), 0.99):.3f}, largest {np.abs(means).max():.3f}\n"
            f"    log of the ratio of sds: rms at most {of_logs.max():.3f}, at size "
            f"{of_logs.argmax() + 1}",
            flush=True,
        )


class Unmasked:
    """Trials of which the mask is left out, and zeros are left."""

    def __init__(self, model):
        self.model = model

    def draw(self, key):
        theta, x = self.model.draw(key)
        return theta, x[..., 0]

    def draw_of_size(self, key, n):
        theta, x = self.model.draw_of_size(key, n)
        return theta, x[..., 0]

    def exact(self, x):
        """No trial is exactly zero."""
        return self.model.exact(jnp.stack([x, (x != 0).astype(x.dtype)], -1))


def padding(model, head):
    """Bits that the content of the padding changes, and what its length changes."""
    _, x = models.draw_many(model, jax.random.key(4), 200)
    theta = jnp.zeros((200, 1))
    log_prob = jax.jit(jax.vmap(head.log_prob))
    given, changed = log_prob(theta, x), 0
    for content in (jnp.nan, jnp.inf, -jnp.inf, 3e38, -1.0):
        other = x.at[..., 0].set(jnp.where(x[..., 1] == 1, x[..., 0], content))
        changed += int(jnp.sum(log_prob(theta, other) != given))
    off = []
    for rows in (1, 14, 150):
        more = jnp.full((200, rows, 1, 2), jnp.nan).at[..., 1].set(0)
        off.append(jnp.max(jnp.abs(log_prob(theta, jnp.concatenate([x, more], 1)) - given)))
    print(
        f"  padding: {changed} of 1,000 log-densities change a bit with its content; 1, 14 and 150 "
        f"rows more change them by at most {float(max(off)):.1e} nats"
    )


if __name__ == "__main__":
    main()
