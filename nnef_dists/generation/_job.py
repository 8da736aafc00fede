"""Jobs of labeling and training, from YAML files and command-line options."""

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
from nnef_dists.generation._yaml import YAML_MODE, register_yaml_loader
from nnef_dists.sampling import HMCConfig

if TYPE_CHECKING:
    import jsonargparse


class MomentRequest(NamedTuple):
    """Arguments of `generate_moments` for one set of moment data.

    Attributes:
        etas: Random etas, with their key, number and ranges.
        key: PRNG key of the labels.
        config: Configuration of the sampler and of the checks.
    """

    etas: RandomEtas
    key: PRNGKeyArray
    config: HMCConfig


@dataclasses.dataclass(frozen=True)
class Job:
    """A family, its labels to generate, and the options of a training script.

    Attributes:
        family: The exponential family.
        training: Labels for training.
        validation: Labels for validation.
        chunk: Number of etas per chunk of a store. None uses the default of `generate_moments`.
        optimization: Contents of the section of that name, for the training script. An instance of
            the class that is passed to `read_job`, or otherwise a dict.
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

    The class that `family` names is imported, so the file must be trusted like a program.

    Args:
        path: YAML file.
        overrides: Options as on the command line, such as `["--sampling.draws=500"]`.
        optimization: Dataclass of the training script, whose fields that section may set. All
            fields must have defaults. By default, the section is an unchecked dict.

    Returns:
        The job.

    Raises:
        ValueError: If the file cannot be read, or has a key twice. If a key is unknown (the message
            suggests the closest known key). Also if a value has another type or is out of range, or
            a range is outside of the natural domain.
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
    # This import is local, since few programs read jobs.
    import jsonargparse

    register_yaml_loader()
    parser = jsonargparse.ArgumentParser(
        exit_on_error=False, allow_abbrev=False, description=description, parser_mode=YAML_MODE
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_class_arguments(_Sections)
    if optimization is None:
        meaning = "how a network is trained; read by training scripts"
        # With Any, the parser would create the objects that the section names.
        value = bool | int | float | str | list | dict | None
        parser.add_argument("--optimization", type=dict[str, value], default={}, help=meaning)
    else:
        parser.add_class_arguments(optimization, "optimization")
    return parser


def job_of(parser: "jsonargparse.ArgumentParser", options: Any) -> Job:
    """Returns the job of options that `job_parser` has parsed, without any sampling.

    Raises:
        ValueError: If a section is not a mapping, or a value is out of its range.
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
    """Number and distribution of etas.

    Attributes:
        n: Number of etas.
        ranges: By statistic, [low, high] or [low, high, log]. For a matrix, the range of its
            eigenvalues.
    """

    n: int
    ranges: dict[str, list[Any]]


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Etas to label.

    Attributes:
        training: Etas for training.
        validation: Etas for validation.
    """

    training: _Points
    validation: _Points


@dataclasses.dataclass(frozen=True)
class _Sampling(HMCConfig):
    """Configuration of the labels.

    Attributes:
        validation_draws: Number of draws for validation labels. Null uses the value of draws.
        chunk: Number of etas per chunk on disk, a multiple of tile. Null uses 16 tiles.
        seed: Seed of etas and labels.
    """

    validation_draws: int | None = None
    chunk: int | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class _Sections:
    """A job.

    Attributes:
        family: Class name (in nnef_dists) or import path of the family, with its arguments.
        grid: Etas to label.
        sampling: Configuration of the labels.
    """

    family: ExponentialFamily
    grid: _Grid
    sampling: _Sampling = dataclasses.field(default_factory=_Sampling)
