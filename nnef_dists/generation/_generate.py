"""Moment data made to disk: in parts, in parallel, and resumed after any interruption."""

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from tqdm.auto import tqdm

from nnef_dists._checks import as_key, check_instance
from nnef_dists.families import ExponentialFamily
from nnef_dists.generation._chunk_task import ChunkTask, refuse_environment, write_chunk
from nnef_dists.generation._etas import (
    GivenSource,
    RandomEtas,
    RandomSource,
    check_law_importable,
    eta_source,
    law_differences,
)
from nnef_dists.generation._pool import opened_pool
from nnef_dists.moments import MOMENT_DATA, MomentDataset, missing_labels
from nnef_dists.sampling import HMCConfig
from nnef_dists.saving import Description, check_importable, describe_family, family_differences
from nnef_dists.storage import (
    Environment,
    Spec,
    Store,
    create_store,
    describe_environment,
    differences,
    exclusively,
    join_lines,
    pack_key,
)


def generate_moments(
    family: ExponentialFamily,
    etas: Float[Array, "n eta_dim"] | np.ndarray | RandomEtas | tuple,
    path: str | os.PathLike[str],
    key: PRNGKeyArray,
    config: HMCConfig | None = None,
    *,
    executor: Executor | Callable[[], Executor] | None = None,
    chunk: int | None = None,
    progress: bool = True,
    mix_environments: bool = False,
) -> MomentDataset:
    """Estimates moments of many etas as `estimate_moments` does, to a folder on disk.

    The folder is a Zarr group of crc32c-checked chunks. The call can be killed at any instant:
    called again with the same arguments it resumes, at a loss of the chunks in flight at most.
    Finished data are checked and returned without sampling; damaged chunks are made again. Data of
    other arguments are refused. Labels are those of `estimate_moments`, bit for bit, whatever the
    chunk, the number of local devices and the number of workers, given the same tile, versions,
    backend and number of visible CPUs.

    Args:
        family: The exponential family.
        etas: Natural parameters, `(n, eta_dim)`; or `RandomEtas(key, n, ranges)`, drawn chunk by
            chunk, so that memory does not grow with n.
        path: The folder; made if there is none.
        key: A `jax.random.key`; eta number i uses `fold_in(key, i)`.
        config: How to sample, and when a label is good; None is `HMCConfig()`.
        executor: Where chunks are made: None for this process, on all its local devices; or a
            `concurrent.futures.Executor` such as Dask's `client.get_executor()`; or a function of
            no arguments that makes one, which is called again if it breaks and is shut down at the
            end. Workers import the family by its path, and share the file system. Processes must
            not be forked from one that runs JAX: use
            `ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))`.
        chunk: Etas in a chunk, a multiple of `config.tile`; None is what the folder has, or 16
            tiles.
        progress: Whether to show a progress bar.
        mix_environments: Whether unfinished data may be resumed with other versions, another
            backend or another number of CPUs than they were begun with. Their labels then agree
            statistically, not bit for bit.

    Returns:
        The data, opened as `MomentDataset.open` does.

    Raises:
        ValueError: For invalid etas or ranges; for a folder that holds anything else, with the
            differences; for a family that workers cannot import.
        OSError: If the folder cannot be written; what is done is kept.
        RuntimeError: If workers fail again and again; what is done is kept.
    """
    check_instance(family, ExponentialFamily, "family")
    config, key = HMCConfig() if config is None else config, as_key(key)
    check_instance(config, HMCConfig, "config")
    path = Path(path).absolute()
    if chunk is not None and (chunk < 1 or chunk % config.tile):
        raise ValueError(f"Expected chunk to be a multiple of the tile, {config.tile}; got {chunk}")
    if executor is not None:
        check_importable(family)
    source = eta_source(family, etas)
    if executor is not None:
        check_law_importable(source)
    spec = {
        "family": describe_family(family),
        "config": dataclasses.asdict(config),
        "key": pack_key(key),
        "etas": source.describe(),
        "dtype": source.dtype,
    }
    with opened_pool(executor) as pool:
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            labels = missing_labels(1, family.eta_dim, source.dtype)
            columns = {"eta": labels.mean, **labels._asdict()}
            environment = describe_environment() if pool is None else pool.environment()
            create_store(
                path,
                MOMENT_DATA,
                spec,
                environment,
                chunk or 16 * config.tile,
                columns,
            )
        store = Store(path, MOMENT_DATA, writable=True)
        _refuse_differences(store, spec, chunk)
        with exclusively(path):
            store.remove_partial_files()
            numbers = store.to_do()
            left = sum(store.size(number) for number in numbers)
            with tqdm(
                total=store.n,
                initial=store.n - left,
                desc="moments",
                unit="eta",
                disable=not progress,
            ) as bar:
                if numbers and pool is None:
                    _admit(store, describe_environment(), mix_environments)
                    for number in numbers:
                        write_chunk(store, number, family, source, key, config, bar.update)
                elif pool is not None:
                    tasks = [
                        _task(store, number, spec["family"], source, mix_environments)
                        for number in numbers
                    ]
                    pool.run(store, tasks, lambda number: bar.update(store.size(number)))
    return MomentDataset.open(path, family=family)


def _refuse_differences(store: Store, spec: Spec, chunk: int | None) -> None:
    """Checks that a store is what is asked for.

    Args:
        store: The store.
        spec: What is asked for.
        chunk: Etas in a chunk; None if it does not matter.

    Raises:
        ValueError: If it is not; with the differences.
    """
    found = family_differences(store.spec["family"], spec["family"])
    compared = ("config", "key", "etas", "dtype")
    stored, asked = ({name: s[name] for name in compared} for s in (store.spec, spec))
    if chunk is not None:
        stored["chunk"], asked["chunk"] = store.chunk, chunk
    found += law_differences(stored["etas"], asked["etas"])
    for etas in (stored, asked):
        etas["etas"] = {name: v for name, v in etas["etas"].items() if name != "probe"}
    found += differences(stored, asked)
    if found:
        raise ValueError(
            f"Expected the moment data in {store.path} to be what is asked for; they differ in\n"
            f"{join_lines(found)}\nChoose another path, or delete that folder first"
        )


def _admit(store: Store, environment: Environment, mix: bool) -> None:
    if not mix:
        refuse_environment(store.environments, environment, "this process")
    elif environment not in store.environments:
        store.add_environment(environment)


def _task(
    store: Store,
    number: int,
    family: Description,
    source: GivenSource | RandomSource,
    mix: bool,
) -> ChunkTask:
    return ChunkTask(
        path=str(store.path),
        number=number,
        family=family,
        config=store.spec["config"],
        key=store.spec["key"],
        source=source.restricted(*store.bounds(number)),
        environments=None if mix else store.environments,
    )
