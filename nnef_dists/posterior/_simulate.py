"""Simulation from a prior, in chunks of one compiled program, in memory or on disk."""

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from tqdm.auto import tqdm

from nnef_dists._checks import as_key
from nnef_dists._ranges import check_integer
from nnef_dists.posterior._prior import (
    Prior,
    check_densities,
    check_prior,
    check_simulator,
    log_density,
)
from nnef_dists.posterior._simulations import Simulations
from nnef_dists.storage import (
    Spec,
    Store,
    StoreKind,
    create_store,
    describe_environment,
    differences,
    exclusively,
    join_lines,
    pack_key,
)

Simulator = Callable[[PRNGKeyArray, Array], Array]

_OK, _FAILED = 1, 2
_SIMULATIONS = StoreKind(
    name="nnef_dists.simulations",
    version=1,
    content="simulations",
    rows="simulations",
    maker="simulate",
    count=lambda spec: spec["n"],
)


class _Rows(NamedTuple):
    """Some simulations: theta, x, whether both are finite, and log-densities of theta."""

    theta: Float[Array, "n theta_dim"]
    x: Float[Array, "n *x_shape"]
    finite: Bool[Array, " n"]
    log_prior: Float[Array, " n"]


def simulate(
    simulator: Simulator,
    prior: Prior,
    key: PRNGKeyArray,
    n: int,
    *,
    chunk_size: int = 1024,
    path: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Simulations:
    """Draws parameters from a prior, and an observation for each from a simulator.

    Simulation number i uses `fold_in(key, i)`. All chunks share one compiled program.

    With a path, chunks are stored in a folder, a Zarr group with crc32c checksums. An interrupted
    call loses at most the current chunk. Call it again with equal arguments to resume. Finished
    data are checked and returned, and damaged chunks are regenerated. If the stored data belong to
    other arguments, or to a simulator or prior with other values in the first chunk, the call
    raises. Data of another environment, such as another machine, may differ in half of the rows.

    Args:
        simulator: Function `(key, theta) -> x`, from one theta `(theta_dim,)` to one floating
            observation of fixed shape. JAX traces it, and `jax.vmap` batches it.
        prior: A flowjax distribution of vectors, or any object with `sample(key, shape)` and
            `log_prob`.
        key: PRNG key, a `jax.random.key`.
        n: Number of simulations, at least 1.
        chunk_size: Number of simulations per chunk, at least 1. Defaults to 1024.
        path: Folder of the chunks. By default, all simulations are kept in memory.
        progress: Whether to show a progress bar. Defaults to True.

    Returns:
        The simulations. Simulations with NaN or infinity are excluded and counted in `failed`. To
        keep observations with missing entries, return a `masked_observation`.

    Warns:
        UserWarning: If simulations failed.

    Raises:
        ValueError: If `key` is not one key, or a size is below 1. If the simulator does not take
            `(key, theta)` in this order, or an observation is not one array of theta's floating
            dtype. If points of the prior are not vectors, or `log_prob` has another shape than
            `()` or is not finite at more than 1% of the prior's draws. If all simulations failed,
            or the folder contains other data.
        OSError: If the folder cannot be written. Finished chunks are kept.
    """
    key, n = as_key(key), check_integer("n", n, 1)
    chunk_size = min(check_integer("chunk_size", chunk_size, 1), n)
    theta = check_prior(prior, key)
    check_simulator(simulator, theta, key)
    shapes = eqx.filter_eval_shape(_run, simulator, prior, key, jnp.arange(chunk_size))
    with tqdm(total=n, desc="simulations", unit="sim", disable=not progress) as bar:

        def run(first: int) -> dict[str, np.ndarray]:
            # The last chunk is padded, so that one program is compiled once.
            rows = _run(simulator, prior, key, jnp.arange(first, first + chunk_size))
            if first == 0:
                check_densities(np.asarray(rows.theta), np.asarray(rows.log_prior))
            bar.update(min(chunk_size, n - first))
            return _columns(rows, min(chunk_size, n - first))

        if path is None:
            return _gather([run(first) for first in range(0, n, chunk_size)])
        spec = {"key": pack_key(key), "n": n, "dtype": shapes.theta.dtype.name}
        spec["theta_dim"], spec["x_shape"] = shapes.theta.shape[1], list(shapes.x.shape[1:])
        store = _open_store(Path(path).absolute(), spec, chunk_size, shapes, run)
        return _gather(list(_read(store)))


def open_simulations(path: str | os.PathLike[str]) -> Simulations:
    """Opens simulations that `simulate` wrote.

    Args:
        path: Folder of the simulations.

    Returns:
        The simulations.

    Raises:
        FileNotFoundError: If `path` does not exist.
        ValueError: If `path` is not a store of simulations, or is unfinished or damaged.
    """
    store = Store(path, _SIMULATIONS)
    if missing := store.missing():
        raise ValueError(
            f"Expected finished simulations in {store.path}; {len(missing)} of {store.n_chunks} "
            "chunks are missing: simulate with the same arguments resumes"
        )
    return _gather(list(_read(store)))


@eqx.filter_jit
def _run(simulator: Simulator, prior: Prior, key: PRNGKeyArray, numbers: Int[Array, " n"]) -> _Rows:
    def one(number: Int[Array, ""]) -> _Rows:
        key_theta, key_x = jax.random.split(jax.random.fold_in(key, number))
        theta = prior.sample(key_theta, ())
        x = simulator(key_x, theta)
        finite = jnp.all(jnp.isfinite(theta)) & jnp.all(jnp.isfinite(x))
        return _Rows(theta, x, finite, log_density(prior, theta))

    return jax.vmap(one)(numbers)


def _columns(rows: _Rows, n: int) -> dict[str, np.ndarray]:
    theta, x, finite, _ = (np.asarray(array[:n]) for array in rows)
    return {"theta": theta, "x": x, "status": np.where(finite, _OK, _FAILED).astype(np.int8)}


def _gather(chunks: list[dict[str, np.ndarray]]) -> Simulations:
    theta, x, status = (np.concatenate([c[name] for c in chunks]) for name in chunks[0])
    good = status == _OK
    failed = int((~good).sum())
    if not good.any():
        raise ValueError(f"Expected simulations that are finite; all {failed} are not")
    if failed:
        warnings.warn(
            f"{failed} of {len(good)} simulations are not finite, and are left out: what is "
            "learned is the posterior given that a simulation succeeds. Missing entries need a "
            "mask: return nnef_dists.posterior.masked_observation(values, observed)",
            UserWarning,
            stacklevel=3,
        )
    return Simulations(theta[good], x[good], failed=failed)


def _open_store(
    path: Path,
    spec: Spec,
    chunk: int,
    shapes: _Rows,
    run: Callable[[int], dict[str, np.ndarray]],
) -> Store:
    """Opens or creates a store, and generates its missing chunks."""
    first = run(0)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        status = jax.ShapeDtypeStruct((chunk,), np.int8)
        columns = {"theta": shapes.theta, "x": shapes.x, "status": status}
        create_store(path, _SIMULATIONS, spec, describe_environment(), chunk, columns)
    store = Store(path, _SIMULATIONS, writable=True)
    stored = {name: value for name, value in store.spec.items() if name != "columns"}
    found = differences({**stored, "chunk_size": store.chunk}, {**spec, "chunk_size": chunk})
    if found:
        raise ValueError(
            f"Expected the simulations in {path} to be what is asked for; they differ in\n"
            f"{join_lines(found)}\nChoose another path, or delete that folder first"
        )
    with exclusively(path):
        store.remove_partial_files()
        environment = describe_environment()
        is_alone = store.environments == [environment]
        if environment not in store.environments:
            store.add_environment(environment)
        missing = store.to_do()
        if 0 not in missing:
            _refuse_other_values(store, first, exact=is_alone)
        for number in missing:
            store.write(number, first if number == 0 else run(number * chunk))
    return store


def _refuse_other_values(store: Store, first: dict[str, np.ndarray], *, exact: bool) -> None:
    """Checks that simulator and prior reproduce the first chunk, up to rounding.

    Args:
        store: Store with the first chunk.
        first: First chunk of the simulator and prior at hand.
        exact: Whether all rows must be equal, because this environment made all that is stored.

    Raises:
        ValueError: If they differ.
    """
    for name, values in first.items():
        stored = store.read(name, 0)
        # In another environment, chaotic simulators may amplify rounding. Half of the rows suffice.
        relative, absolute, share = _tolerances(stored) if exact else (1e-2, 1e-3, 0.5)
        near = np.isclose(values, stored, relative, absolute, equal_nan=True)
        rows = near.reshape(len(values), -1).all(1)
        if rows.mean() < share:
            raise ValueError(
                f"Expected the simulations in {store.path} to be what is asked for; {name} of the "
                f"first chunk differ in {np.sum(~rows)} of {len(values)} rows: the simulator or "
                "the prior is another. Choose another path, or delete that folder first"
            )


def _tolerances(stored: np.ndarray) -> tuple[float, float, float]:
    """Returns the relative and absolute tolerance of rounding, and the share of rows, all."""
    if stored.dtype.kind != "f":
        return 0.0, 0.0, 1.0
    relative = 1e2 * float(np.finfo(stored.dtype).eps)
    size = np.abs(stored[np.isfinite(stored)])
    return relative, relative * float(np.median(size)) if size.size else 0.0, 1.0


def _read(store: Store) -> Iterator[dict[str, np.ndarray]]:
    for number in range(store.n_chunks):
        yield {name: store.read(name, number) for name in ("theta", "x", "status")}
