"""Jobs: what to label and to learn, as a YAML file and command-line options say it."""

import argparse
import dataclasses
import difflib
import functools
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray
from jsonargparse import ArgumentParser

from nnef_dists.families import ExponentialFamily
from nnef_dists.moments import HMCConfig, MomentDataset, RandomEtas
from nnef_dists.networks import AbstractMomentNetwork, LogPartitionNetwork


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


@runtime_checkable
class NetworkFactory(Protocol):
    """Makes a network: the class of one, or a `functools.partial` of that."""

    def __call__(
        self, family: ExponentialFamily, data: MomentDataset, *, key: PRNGKeyArray
    ) -> AbstractMomentNetwork:
        """Returns a network of the family: coordinates from the data, weights from the key."""
        ...


@dataclasses.dataclass(frozen=True)
class Optimisation:
    """How a network is trained. Nothing here trains: it is what a training script reads.

    Attributes:
        network: Makes the network: `how.network(family, data, key=key)`. In YAML the class of
            nnef_dists by its name, or one's own by its import path, with its arguments.
        epochs: Passes over the training labels, for the means of the weights.
        batch_size: Labels in a batch.
        learning_rate: Of the means.
        variational_epochs: Passes over the training labels, for the widths of the weights.
        variational_learning_rate: Of the widths.
        seed: Of initial weights, batches and draws.
    """

    network: NetworkFactory = LogPartitionNetwork
    epochs: int = 1500
    batch_size: int = 512
    learning_rate: float = 3e-3
    variational_epochs: int = 250
    variational_learning_rate: float = 4e-3
    seed: int = 0

    def __post_init__(self):
        for name in ("epochs", "batch_size", "variational_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected optimisation.{name} >= 1; got {getattr(self, name)}")
        for name in ("learning_rate", "variational_learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Expected optimisation.{name} > 0; got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Job:
    """A family, what of it is to be labelled, and how a network is to be trained with it.

    Attributes:
        family: The exponential family.
        training: The labels to train on.
        validation: The labels to judge by.
        chunk: Etas in a chunk of a store; None is `generate_moments`'s choice.
        optimisation: How a network is trained.
    """

    family: ExponentialFamily
    training: MomentRequest
    validation: MomentRequest
    chunk: int | None
    optimisation: Optimisation


def read_job(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Job:
    """Reads a job from a YAML file with the sections family, grid, sampling and optimisation.

    The class that `family` names is imported, so a file is to be trusted like a program.

    Args:
        path: The file.
        overrides: Options as on the command line, such as `["--sampling.draws=500"]`.

    Returns:
        The job.

    Raises:
        ValueError: For a file that is none, unknown keys (with the closest known one), values of
            another type or out of range, and ranges outside the natural domain.
    """
    parser = job_parser()
    try:
        return job_of(parser, parser.parse_args(["--config", os.fspath(path), *overrides]))
    except argparse.ArgumentError as error:
        raise ValueError(explain(error, parser)) from None


def job_parser(description: str | None = None) -> ArgumentParser:
    """Returns a parser with the options of a job, which raises instead of exiting."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, description=description)
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_class_arguments(_Sections)
    return parser


def job_of(parser: ArgumentParser, options: Any) -> Job:
    """Returns the job that options say, parsed by `job_parser`, before anything is sampled.

    Raises:
        ValueError: If a value is out of its range.
    """
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
        sections.optimisation,
    )


def explain(error: Exception, *parsers: ArgumentParser) -> str:
    """Returns the message of an error in options, with advice where there is any.

    The advice is the closest name of the kind that is wrong: a module beside a module, a class
    beside a class, a command beside a command, an option beside an option.
    """
    message = str(error)
    wrong = [
        (r"No module named '([\w.]+)'", _advise_module),
        (r"module '([\w.]+)' has no attribute '(\w+)'", _advise_attribute),
        (r"Expected a dot import path string: (\w+)", _advise_class),
        (r"invalid choice: '(\w*)' \(choose from ([^)]*)\)", _advise_choice),
    ]
    for pattern, advise in wrong:
        match = re.search(pattern, message)
        if match:
            advice = advise(message, *match.groups())
            return f"{message}\n{advice}" if advice else message
    close = _close_option(message, parsers)
    return f"{message}\n{_did_you_mean(close)}" if close else message


def _advise_module(message: str, missing: str) -> str | None:
    asked = re.search(r"(?:class_path '|Got value: )([\w.]+)", message)
    if asked is None or not f"{asked[1]}.".startswith(f"{missing}."):
        return None  # A module that a user's own module imports.
    parent, _, name = missing.rpartition(".")
    close = _closest(name, _modules_in(parent))
    if close:
        return _did_you_mean(f"{parent}.{close}" if parent else close)
    return "Run the command where Python finds the module, or add its folder to PYTHONPATH."


def _advise_attribute(message: str, owner: str, missing: str) -> str | None:
    modules = _modules_in(owner)
    public = {name for name in dir(sys.modules.get(owner)) if not name.startswith("_")}
    close = _closest(missing, public | modules)
    if close is None:
        return None
    return _did_you_mean(f"{owner}.{close}" if close in modules else close)


def _advise_class(message: str, missing: str) -> str:
    # Only classes of the kind that the key takes: a network is no advice for a family.
    if '"family' in message:
        classes = _concrete_classes(ExponentialFamily)
    elif 'network"' in message:
        classes = _concrete_classes(AbstractMomentNetwork)
    else:
        classes = _selectable_classes()
    close = _closest(missing, {cls.__name__ for cls in classes})
    own = "A class of your own goes by its import path, such as my_module.MyFamily."
    return _did_you_mean(close) if close else own


def _advise_choice(message: str, missing: str, choices: str) -> str | None:
    close = _closest(missing, set(re.findall(r"\w+", choices)))
    return _did_you_mean(close) if close else None


def _did_you_mean(name: str) -> str:
    return f"Did you mean {name!r}?"


def _closest(word: str, known: set[str]) -> str | None:
    """Returns the known name that comes closest, whatever its case; None if none is close."""
    lower = {name.lower(): name for name in sorted(known, reverse=True)}
    close = difflib.get_close_matches(word.lower(), sorted(lower), 1)
    return lower[close[0]] if close else None


def _modules_in(package: str) -> set[str]:
    """Returns the names of the modules of a package; of the search path if it is empty."""
    path = None
    if package:
        path = getattr(sys.modules.get(package), "__path__", [])
    return {module.name for module in pkgutil.iter_modules(path)}


def _close_option(message: str, parsers: Sequence[ArgumentParser]) -> str | None:
    classes = _selectable_classes()
    known = {name for cls in classes for name in list(inspect.signature(cls.__init__).parameters)}
    known -= {"self"}
    for parser in parsers:
        known |= _option_names(parser)
    names = {cls.__name__ for cls in classes} | {"ExponentialFamily", "AbstractMomentNetwork"}
    quoted = r"(?:--|(?<!Subcommand )(?<!<class )['\"])([A-Za-z_][\w.]*)"
    for word in re.findall(quoted, message):
        if word not in known and word.rpartition(".")[2] not in names:
            close = difflib.get_close_matches(word, sorted(known), 1)
            if close:
                return close[0]
    return None


def _selectable_classes() -> list[type[eqx.Module]]:
    bases = (ExponentialFamily, AbstractMomentNetwork)
    return [cls for base in bases for cls in _concrete_classes(base)]


def _concrete_classes(base: type[eqx.Module]) -> list[type[eqx.Module]]:
    classes = [base]
    for cls in classes:
        classes += cls.__subclasses__()
    return [cls for cls in classes if not cls.__abstractmethods__ | cls.__abstractvars__]


def _option_names(parser: ArgumentParser) -> set[str]:
    """Returns what an option may be called in messages: with or without its sections."""
    found = set()
    for option in re.findall(r"--([\w.]+)", parser.format_help()):
        parts = option.split(".")
        starts = range(len(parts))
        found |= {".".join(parts[i:j]) for i in starts for j in range(i + 1, len(parts) + 1)}
    return found


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
    """Which etas are labelled.

    Attributes:
        training: To train on.
        validation: To judge by.
    """

    training: _Points
    validation: _Points


@dataclasses.dataclass(frozen=True)
class _Sampling(HMCConfig):
    """How they are labelled.

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
        grid: Which etas are labelled.
        sampling: How they are labelled.
        optimisation: How a network is trained; read by training scripts.
    """

    family: ExponentialFamily
    grid: _Grid
    sampling: _Sampling = dataclasses.field(default_factory=_Sampling)
    optimisation: Optimisation = dataclasses.field(default_factory=Optimisation)
