"""Posteriors of masked observations and of discrete parameters, against exact posteriors.

    python tests/benchmarks/bench_structured.py [--quick]

Posterior heads of sets of 1 to 50 trials, of vectors and series with missing entries, of digits and
of models with a parameter each; the effect of padding; beside them a head that sees zeros for what
is missing, and no mask.
"""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.results import Table, main
from tests.posterior import structured as models


def structured(options):
    heads = {}
    training = Table("Training", ["model", "steps", "processor time [s]", "wall time [s]"])
    for model, steps, batch in (
        (models.Trials(), 12_000, 256),
        (models.Sensors(), 12_000, 256),
        (models.Lines(), 12_000, 256),
        (models.Digits(), 24_000, 512),
        (models.Models(), 12_000, 256),
    ):
        head, steps = models.head_of(model, models.data_of(model)), round(steps * options.steps)
        clock = time.process_time(), time.time()
        head = jax.block_until_ready(models.fit(head, model, jax.random.key(2), steps, batch))
        title = type(model).__name__
        training.add(title, steps, time.process_time() - clock[0], time.time() - clock[1])
        heads[title] = model, head
    trials(*heads["Trials"], options)
    padding(*heads["Trials"])
    key, repeats = jax.random.key(3), options.repeats
    errors = Table("Errors of posteriors", ["model", "error", "mean", "95% below", "largest"])
    for title in ("Sensors", "Lines"):
        nats = models.errors_of_gaussians(*heads[title][::-1], key, repeats)
        errors.add(title, "KL from the exact posterior [nats]", *summary(nats))
    model, head = heads["Digits"]
    found = models.errors_of_digits(head, model, key, repeats)
    errors.add("Digits", "total variation", *summary(found))
    model, head = heads["Models"]
    names = "total variation of k", "means of phi given k [sd]", "log sd of phi given k"
    for name, found in zip(names, models.errors_of_models(head, model, key, repeats), strict=True):
        errors.add("Models", name, *summary(found))


def summary(errors):
    errors = np.asarray(errors)
    return errors.mean(), np.quantile(errors, 0.95), errors.max()


def trials(model, head, options):
    """Errors at every size, and those of a head to which padding is data: zeros, without a mask."""
    data = models.data_of(model)
    values = type(data)(data.theta, data.x[..., 0])
    embedding = nd.posterior.SetEmbedding(values.x_shape, 32, width=32, key=jax.random.key(0))
    plain = nd.GaussianPosterior(
        values, embedding=embedding, width=32, depth=2, key=jax.random.key(1)
    )
    plain = models.fit(plain, Unmasked(model), jax.random.key(2), round(12_000 * options.steps))
    shown = [n for n in (1, 2, 5, 10, 20, 50) if n <= model.rows]
    table = Table(
        "Trials: RMS errors of the posterior mean by the number of trials, in exact sd",
        ["padding", *(f"{n}" for n in shown), "worst number", "its error", "99% of sets below",
         "largest", "largest RMS of log(sd / exact sd)", "at number"],
    )  # fmt: skip
    for title, one, source in (
        ("masked", head, model),
        ("zeros without a mask", plain, Unmasked(model)),
    ):
        sizes, repeats = jnp.arange(1, model.rows + 1), options.repeats // 4
        found = [models.errors_of_trials(one, source, jax.random.key(9), n, repeats) for n in sizes]
        means, logs = (np.array([pair[i] for pair in found]) for i in (0, 1))
        of_means, of_logs = (np.sqrt(np.mean(part**2, 1)) for part in (means, logs))
        table.add(
            *(title, *(of_means[n - 1] for n in shown), int(of_means.argmax()) + 1),
            *(of_means.max(), np.quantile(np.abs(means), 0.99), np.abs(means).max()),
            *(of_logs.max(), int(of_logs.argmax()) + 1),
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
    table = Table(
        "Trials: changes of 1,000 log-densities by the padding",
        ["changed by other content", "largest change by 1, 14 or 150 rows more [nats]"],
    )
    table.add(changed, max(off))


def arguments(parser):
    parser.add_argument("--steps", type=float, default=1.0, help="scales the number of steps")
    parser.add_argument("--repeats", type=int, default=4000, help="observations per error")


if __name__ == "__main__":
    main(__doc__, {"structured": structured}, arguments, {"steps": 0.03, "repeats": 200})
