"""Jobs: what to label and to learn, as a YAML file and command-line options say it."""

import argparse
import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from jaxtyping import PRNGKeyArray

from nnef_dists.families import ExponentialFamily
from nnef_dists.generation._advice import explain
from nnef_dists.generation._etas import RandomEtas
from nnef_dists.sampling import HMCConfig

if TYPE_CHECKING:
    import jsonargparse


class MomentRequest(NamedTuple):
    """The arguments that make one set of moment data, as `generate_moments` takes them.

    Attributes:
        etas: Random etas: their key, number and ranges.
        key: The key of the labels.
        config: How to sample, and when a label is good.
    """

    etas: RandomEtas
    key: PRNGKeyArray
    config: HMCConfig


@dataclasses.dataclass(frozen=True)
class Job:
    """A family, what of it is to be labeled, and what a training script reads.

    Attributes:
        family: The exponential family.
        training: The labels to train on.
        validation: The labels to judge by.
        chunk: Etas in a chunk of a store; None is `generate_moments`'s choice.
        optimization: What the section of that name says, for the script that trains: an instance of
            the class that it gave to `read_job`, or else a dict.
    """

    family: ExponentialFamily
    training: MomentRequest
    validation: MomentRequest
    chunk: int | None
    optimization: Any


def read_job(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), optimization: type | None = None
) -> Job:
    """Reads a job from a YAML file with the sections family, grid, sampling and optimization.

    The class that `family` names is imported, so a file is to be trusted like a program.

    Args:
        path: The file.
        overrides: Options as on the command line, such as `["--sampling.draws=500"]`.
        optimization: A dataclass of the training script's own, whose fields that section may set;
            all have defaults. None takes the section as a dict, unchecked.

    Returns:
        The job.

    Raises:
        ValueError: For a file that is none, unknown keys (with the closest known one), values of
            another type or out of range, and ranges outside the natural domain.
    """
    parser = job_parser(optimization=optimization)
    try:
        return job_of(parser, parser.parse_args(["--config", os.fspath(path), *overrides]))
    except argparse.ArgumentError as error:
        raise ValueError(explain(error, parser)) from None


def job_parser(
    description: str | None = None, optimization: type | None = None
) -> "jsonargparse.ArgumentParser":
    """Returns a parser with the options of a job, which raises instead of exiting."""
    # Few programs read jobs.
    import jsonargparse

    parser = jsonargparse.ArgumentParser(
        exit_on_error=False, allow_abbrev=False, description=description
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_class_arguments(_Sections)
    if optimization is None:
        meaning = "how a network is trained; read by training scripts"
        # Not Any: that would make the objects that the section names.
        value = bool | int | float | str | list | dict | None
        parser.add_argument("--optimization", type=dict[str, value], default={}, help=meaning)
    else:
        parser.add_class_arguments(optimization, "optimization")
    return parser


def job_of(parser: "jsonargparse.ArgumentParser", options: Any) -> Job:
    """Returns the job that options say, parsed by `job_parser`, before anything is sampled.

    Raises:
        ValueError: If a value is out of its range.
    """
    for name in ("grid", "grid.training", "grid.validation", "sampling", "optimization"):
        section = options.get(name)
        if not hasattr(section, "items"):
            raise ValueError(
                f"Expected {name} to be a mapping of options; got {section!r}. Write its options "
                "below it, or leave it out"
            )
    sections = parser.instantiate(options)
    sampling = sections.sampling
    config = HMCConfig(
        **{field.name: getattr(sampling, field.name) for field in dataclasses.fields(HMCConfig)}
    )
    if sampling.chunk is not None and (sampling.chunk < 1 or sampling.chunk % config.tile):
        raise ValueError(
            f"Expected sampling.chunk to be a multiple of the tile, {config.tile}; "
            f"got {sampling.chunk}"
        )
    longer = config
    if sampling.validation_draws is not None:
        longer = dataclasses.replace(config, draws=sampling.validation_draws)
    k_etas, k_labels, k_other_etas, k_other_labels = jax.random.split(
        jax.random.key(sampling.seed), 4
    )
    grid = sections.grid
    return Job(
        sections.family,
        MomentRequest(_etas(sections.family, "training", grid, k_etas), k_labels, config),
        MomentRequest(
            _etas(sections.family, "validation", grid, k_other_etas), k_other_labels, longer
        ),
        sampling.chunk,
        sections.optimization,
    )


def _etas(family: ExponentialFamily, part: str, grid: "_Grid", key: PRNGKeyArray) -> RandomEtas:
    points = getattr(grid, part)
    if points.n < 1:
        raise ValueError(f"Expected grid.{part}.n >= 1; got {points.n}")
    ranges: Mapping[str, Any] = {name: tuple(spec) for name, spec in points.ranges.items()}
    try:
        jax.eval_shape(functools.partial(family.sample_eta, n=1, ranges=ranges), key)
    except ValueError as error:
        raise ValueError(f"grid.{part}.ranges: {error}") from None
    return RandomEtas(key, points.n, ranges)


@dataclasses.dataclass(frozen=True)
class _Points:
    """How many etas, and from where.

    Attributes:
        n: How many etas.
        ranges: By statistic, [low, high] or [low, high, log]; of a matrix the range of eigenvalues.
    """

    n: int
    ranges: dict[str, list[Any]]


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Which etas are labeled.

    Attributes:
        training: To train on.
        validation: To judge by.
    """

    training: _Points
    validation: _Points


@dataclasses.dataclass(frozen=True)
class _Sampling(HMCConfig):
    """How they are labeled.

    Attributes:
        validation_draws: What draws is for the etas to judge by; null is the same.
        chunk: Etas in a chunk on disk, a multiple of tile; null is 16 tiles.
        seed: Of etas and labels.
    """

    validation_draws: int | None = None
    chunk: int | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class _Sections:
    """A job.

    Attributes:
        family: By class name (one of nnef_dists) or import path, with its arguments.
        grid: Which etas are labeled.
        sampling: How they are labeled.
    """

    family: ExponentialFamily
    grid: _Grid
    sampling: _Sampling = dataclasses.field(default_factory=_Sampling)
