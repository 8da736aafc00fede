"""Parallel, resumable generation of moment data on disk."""

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from tqdm.auto import tqdm

from nnef_dists._checks import as_key, check_instance
from nnef_dists._ranges import check_integer
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
from nnef_dists.moments import MOMENT_DATA, MomentDataset, check_dtype, missing_labels
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
    """Estimates moments of many etas as `estimate_moments` does, and writes them to disk.

    The folder is a Zarr group of chunks with crc32c checksums. If the call is killed, a call with
    the same arguments resumes, and loses only the chunks in progress. Finished data are checked and
    returned without sampling. Damaged chunks are regenerated. If the folder holds data of other
    arguments, the call raises `ValueError`.

    Labels are bitwise identical to `estimate_moments` for the same tile, versions, backend and
    number of visible CPUs. They do not depend on `chunk`, the number of local devices or the number
    of workers.

    Args:
        family: The exponential family.
        etas: Natural parameters, `(n, eta_dim)`, or `RandomEtas(key, n, ranges)`. Random etas are
            drawn chunk by chunk, so that memory does not grow with n.
        path: Folder of the data. It is created if it does not exist.
        key: PRNG key. Eta number i uses `fold_in(key, i)`.
        config: Configuration of the sampler and of the checks. Defaults to `HMCConfig()`.
        executor: A `concurrent.futures.Executor` for the chunks, such as Dask's
            `client.get_executor()`, or a function without arguments that makes one. The function is
            called again if the executor breaks, and its executor is shut down at the end. By
            default, this process makes the chunks on all its local devices. Workers import the
            family by its path, and share the file system. Worker processes must not be forked from
            a process that runs JAX. Use
            `ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))`.
        chunk: Number of etas per chunk, a multiple of `config.tile`. Defaults to the chunk of the
            existing data, or 16 tiles for new data.
        progress: Whether to show a progress bar. Defaults to True.
        mix_environments: Whether unfinished data may be resumed with other versions, another
            backend or another number of CPUs. Labels then agree statistically, but are not bitwise
            identical. Defaults to False.

    Returns:
        The data, opened by `MomentDataset.open`.

    Raises:
        ValueError: If etas or ranges are invalid, or workers cannot import the family. Also if the
            folder holds other data, with a list of the differences.
        OSError: If the folder cannot be written. Completed chunks are kept.
        RuntimeError: If workers fail repeatedly. Completed chunks are kept.
    """
    check_instance(family, ExponentialFamily, "family")
    config, key = HMCConfig() if config is None else config, as_key(key)
    check_instance(config, HMCConfig, "config")
    path = Path(path).absolute()
    if chunk is not None:
        chunk = check_integer("chunk", chunk, 1)
        if chunk % config.tile:
            raise ValueError(
                f"Expected chunk to be a multiple of the tile, {config.tile}; got {chunk}"
            )
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
            check_dtype(source.dtype)
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
    """Checks that a store agrees with the arguments.

    Args:
        store: The store.
        spec: Description of the requested data.
        chunk: Number of etas per chunk. None accepts any number.

    Raises:
        ValueError: If they differ. The message lists the differences.
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
