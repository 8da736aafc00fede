"""Tasks of workers: labeling and writing one chunk of moment data."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from nnef_dists.families import ExponentialFamily
from nnef_dists.generation._etas import GivenSource, RandomSource
from nnef_dists.moments import MOMENT_DATA, label_etas
from nnef_dists.sampling import HMCConfig
from nnef_dists.saving import Description, build_family
from nnef_dists.storage import (
    Environment,
    Store,
    describe_environment,
    differences,
    join_lines,
    unpack_key,
)


@dataclasses.dataclass(frozen=True)
class ChunkTask:
    """Plain data that a worker needs to label and write one chunk.

    Attributes:
        path: Path of the store, on a file system that all workers share.
        number: Number of the chunk.
        family: Import path and arguments of the family.
        config: Fields of `HMCConfig`.
        key: PRNG key of all labels, as plain data.
        source: Source of the etas.
        environments: Accepted environments of the worker. None accepts any environment.
    """

    path: str
    number: int
    family: Description
    config: dict[str, Any]
    key: dict[str, Any]
    source: GivenSource | RandomSource
    environments: list[Environment] | None


def run_task(task: ChunkTask) -> Environment:
    """Labels and writes a chunk in a worker process.

    Args:
        task: The task.

    Returns:
        The environment of the worker.

    Raises:
        ValueError: If the task does not accept this environment. Nothing is sampled in this case.
        OSError: If the chunk cannot be written.
    """
    environment = describe_environment()
    if task.environments is not None:
        refuse_environment(task.environments, environment, f"worker {os.getpid()}")
    store = Store(task.path, MOMENT_DATA, writable=True)
    family, config = build_family(task.family), HMCConfig(**task.config)
    write_chunk(store, task.number, family, task.source, unpack_key(task.key), config)
    return environment


def write_chunk(
    store: Store,
    number: int,
    family: ExponentialFamily,
    source: GivenSource | RandomSource,
    key: PRNGKeyArray,
    config: HMCConfig,
    on_tile: Callable[[int], object] = lambda n: None,
) -> None:
    """Labels the etas of a chunk, and writes the labels.

    Args:
        store: The store.
        number: Number of the chunk.
        family: The exponential family.
        source: Source of the etas.
        key: PRNG key of all labels.
        config: Configuration of the sampler.
        on_tile: Function that is called after each tile, with the number of its etas.
    """
    start, stop = store.bounds(number)
    etas = source.part(family, config.tile, start, stop)
    labels = label_etas(family, etas, key, config, first=start, on_tile=on_tile)
    store.write(number, {"eta": np.asarray(etas), **labels._asdict()})


def refuse_environment(known: list[Environment], environment: Environment, who: str) -> None:
    """Checks that an environment reproduces the labels of a store bitwise.

    Args:
        known: Environments of the store.
        environment: Environment of the new labels.
        who: Name of the process in the message.

    Raises:
        ValueError: If `environment` is not among `known`.
    """
    if environment in known:
        return
    found = differences(known[0], environment)
    raise ValueError(
        f"Expected the environment that the moment data were begun in; got another ({who}):\n"
        f"{join_lines(found)}\nLabels would agree statistically, but not bit for bit: finish where "
        "it was begun (pin versions and visible CPUs), or pass mix_environments=True"
    )
