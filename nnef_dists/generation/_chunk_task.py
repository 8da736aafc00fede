"""A chunk of moment data as a task: what a worker is sent, and what it does."""

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
    """All that another process needs to label a chunk and to write it: plain data.

    Attributes:
        path: The store, on a file system that workers share.
        number: The number of the chunk.
        family: Import path and arguments of the family.
        config: The fields of `HMCConfig`.
        key: The key of all labels, as plain data.
        source: Where the etas come from.
        environments: What the worker's environment has to be one of; None if it may be any.
    """

    path: str
    number: int
    family: Description
    config: dict[str, Any]
    key: dict[str, Any]
    source: GivenSource | RandomSource
    environments: list[Environment] | None


def run_task(task: ChunkTask) -> Environment:
    """Labels and writes a chunk in a process of its own.

    Args:
        task: The task.

    Returns:
        The environment in which it ran.

    Raises:
        ValueError: If that differs from what the task asks for; nothing is sampled then.
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
    """Labels the etas of a chunk, and writes them.

    Args:
        store: The store.
        number: The number of the chunk.
        family: The exponential family.
        source: Where the etas come from.
        key: The key of all labels.
        config: How to sample.
        on_tile: Called after each tile with the number of etas in it.
    """
    start, stop = store.bounds(number)
    etas = source.part(family, config.tile, start, stop)
    labels = label_etas(family, etas, key, config, first=start, on_tile=on_tile)
    store.write(number, {"eta": np.asarray(etas), **labels._asdict()})


def refuse_environment(known: list[Environment], environment: Environment, who: str) -> None:
    """Checks that labels made here would be those that the store began with, bit for bit.

    Args:
        known: The environments of the store.
        environment: This one.
        who: Whose it is, for the message.

    Raises:
        ValueError: If it is not among them.
    """
    if environment in known:
        return
    found = differences(known[0], environment)
    raise ValueError(
        f"Expected the environment that the moment data were begun in; got another ({who}):\n"
        f"{join_lines(found)}\nLabels would agree statistically, but not bit for bit: finish where "
        "it was begun (pin versions and visible CPUs), or pass mix_environments=True"
    )
