"""Command line: `python -m nnef_dists generate --config job.yaml`, and `inspect PATH`."""

import argparse
import contextlib
import functools
import multiprocessing
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeInt

from nnef_dists.families import ExponentialFamily
from nnef_dists.generation import (
    Job,
    StoreReport,
    explain,
    generate_moments,
    job_of,
    job_parser,
    keep_compiled,
    verify_moments,
)
from nnef_dists.moments import MomentDataset, Status
from nnef_dists.saving import as_code

FAULT, USAGE, NO_LABELS, INTERRUPTED = 1, 2, 3, 130
# Fraction of valid labels below which the command warns.
_FEW = 0.5
_INTERRUPTED = "interrupted. Completed chunks are saved. Run the same command to resume"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Command-line arguments. Defaults to the arguments of the process.

    Returns:
        The exit status. It is 0 for success, and 1 for data that are damaged, unfinished, of
        another job or not writable. It is 2 for mistakes in options and configuration, 3 for
        generated data without a valid label, and 130 for an interrupt.
    """
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return _fail(_INTERRUPTED, INTERRUPTED)


def _run(argv: Sequence[str] | None) -> int:
    generate, inspect = _generate_parser(), _inspect_parser()
    parser = ArgumentParser(
        prog="python -m nnef_dists",
        exit_on_error=False,
        allow_abbrev=False,
        description="Moments of exponential families, generated to disk.",
        # Parsers of commands take the mode of this one.
        parser_mode=generate.parser_mode,
    )
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")
    commands.add_subcommand("generate", generate, help="labels etas, and writes them to disk")
    commands.add_subcommand("inspect", inspect, help="checks data on disk, and sums them up")
    try:
        options = parser.parse_args(argv)
        command = options.command
        options = options[command]
        job = job_of(generate, options) if command == "generate" else None
    except argparse.ArgumentError as error:
        message = explain(error, parser, generate, inspect)
        if message.startswith("the following arguments are required"):
            message = re.sub(r"\b(generate|inspect)\.", "", message)
        return _fail(message, USAGE)
    except ValueError as error:
        return _fail(str(error), USAGE)
    try:
        return _inspect(inspect, options) if job is None else _generate(job, options)
    except (ValueError, OSError, RuntimeError) as error:
        return _fail(str(error), FAULT)


def _generate_parser() -> ArgumentParser:
    parser = job_parser(
        "Labels the etas of a job with their moments, to OUT/training.zarr and "
        "OUT/validation.zarr. Called again, it resumes, and reuses what is finished."
    )
    # Options without a default are not part of the printed configuration.
    for name, kind, meaning in (
        ("out", Path, "folder (default: data/ and the name of the configuration file)"),
        ("workers", NonNegativeInt, "processes that share the work (default: none but this one)"),
        ("progress", bool, "whether to show a progress bar (default: true)"),
        (
            "mix_environments",
            bool,
            "whether to resume data that other versions, backends or CPUs began (default: false)",
        ),
    ):
        parser.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS, help=meaning)
    return parser


def _inspect_parser() -> ArgumentParser:
    parser = ArgumentParser(
        exit_on_error=False,
        allow_abbrev=False,
        description="Verifies every checksum of moment data on disk, and sums the labels up.",
    )
    parser.add_argument("path", type=Path, nargs="+", help="what generate wrote: a .zarr folder")
    parser.add_argument(
        "--family",
        type=ExponentialFamily,
        default=None,
        help="the family, needed for the summary where it is none of nnef_dists",
    )
    return parser


def _generate(job: Job, options: Any) -> int:
    keep_compiled()
    out, workers = options.get("out"), options.get("workers", 0)
    if out is None and options.config:
        out = Path("data") / Path(options.config[-1]).stem
    if out is None:
        return _fail("Expected --out or --config; got neither", USAGE)
    executor = None
    if workers:
        spawn = multiprocessing.get_context("spawn")
        executor = functools.partial(ProcessPoolExecutor, workers, mp_context=spawn)
    status = 0
    # Generate the smaller part first, so that errors occur early.
    parts = {"training": job.training, "validation": job.validation}
    for name in sorted(parts, key=lambda name: parts[name].etas.n):
        request, path = parts[name], out / f"{name}.zarr"
        print(f"{path}: {request.etas.n} etas", flush=True)
        data = generate_moments(
            job.family,
            request.etas,
            path,
            request.key,
            request.config,
            executor=executor,
            chunk=job.chunk,
            progress=options.get("progress", True),
            mix_environments=options.get("mix_environments", False),
        )
        print(data, flush=True)
        _warn_of_rejected(path, Counter(map(Status, data.status)))
        if not data.ok.any():
            status = NO_LABELS
    return status


def _inspect(parser: ArgumentParser, options: Any) -> int:
    family = parser.instantiate(options).family
    finished = True
    for path in options.path:
        report = verify_moments(path)
        print(report)
        finished &= report.finished
        if report.faults:
            continue
        try:
            print(MomentDataset.open(path, family=family, partial=True))
        except ValueError as error:
            if family is not None:
                raise
            print(f"no summary: {_name_the_family(report) or error}")
        sys.stdout.flush()
        _warn_of_rejected(path, report.statuses)
    return 0 if finished else FAULT


def _warn_of_rejected(path: Path, counts: Mapping[Status, int]) -> None:
    """Warns if fewer than half of the labels are valid, with the most common reason."""
    counts = dict(counts)
    n, valid = sum(counts.values()), counts.pop(Status.OK, 0)
    if valid >= _FEW * n:
        return
    commonest = max(counts, key=counts.__getitem__)
    print(
        f"warning: Expected at least {_FEW:.0%} valid labels in {path}; got {valid} of {n}. The "
        f"most common reason ({counts[commonest]} labels): {commonest.reason}. Check the family "
        "with nd.check_family(family, ranges, key), with the ranges of the job.",
        file=sys.stderr,
    )


def _name_the_family(report: StoreReport) -> str | None:
    """Returns the option that the summary of a custom family needs, or None for other families."""
    found = report.attributes["spec"]["family"]
    if found["class"].startswith("nnef_dists."):
        return None
    path = as_code(found["class"])
    arguments = "".join(f" --family.{name}={value}" for name, value in found["fields"].items())
    return (
        f"{path} is not a family of nnef_dists, and nothing is imported because a file names it. "
        f"Give the family: --family {path}{arguments}"
    )


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Handles SIGINT: ends this process and its workers at once.

    A KeyboardInterrupt is lost if it is raised during garbage collection, in a callback of JAX.
    After a KeyboardInterrupt, threads of XLA may still compute, and abort the process during the
    shutdown of the interpreter. Data on disk stay valid if the process ends at any instant.
    """
    for worker in multiprocessing.active_children():
        worker.kill()
    # The interrupted code may be using the streams.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, RuntimeError):
            stream.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"\nerror: {_INTERRUPTED}\n".encode())
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    # A shell without job control starts background processes that ignore SIGINT.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    # Python's resource tracker frees the semaphores of killed workers, and warns about them.
    filters = [os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker"]
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, filters))
    sys.exit(main())
