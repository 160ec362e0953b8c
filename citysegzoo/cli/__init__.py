"""The ``citysegzoo`` command. Each module here adds its commands and runs them."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from citysegzoo.cli import (
    benchmark,
    compare,
    completion,
    data,
    errors,
    evaluate,
    export,
    models,
    segment,
    weights,
)
from citysegzoo.cli.common import say, sentence, silence_stdout
from citysegzoo.memory import is_out_of_memory

# What bad input raises: said in one sentence, without a traceback.
_EXPECTED = (ValueError, TypeError, OSError, MemoryError, OverflowError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for bad input, 130 when interrupted."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by the caller: say nothing there
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(getattr(sys, stream), io.TextIOWrapper):
            # A name that the terminal's encoding cannot show stops nothing.
            getattr(sys, stream).reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():  # who calls this from Python keeps their own
        warnings.showwarning = lambda message, *_: say(f"warning: {message}")
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    args = argparse.Namespace(debug=False)
    status = 0
    try:
        build_parser().parse_args(arguments, args)
        status = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output went away (`citysegzoo models | head`): nothing is wrong.
        silence_stdout()
    except KeyboardInterrupt:
        say("interrupted.")
        status = 130
    except Exception as error:
        if args.debug or not (isinstance(error, _EXPECTED) or is_out_of_memory(error)):
            raise
        say(f"error: {sentence(error)}")
        status = 2
    try:
        sys.stdout.flush()
    except OSError:  # said above, or its reader went away: Python need not say it again
        silence_stdout()
    return status


def build_parser() -> argparse.ArgumentParser:
    """The commands of ``citysegzoo`` and their options."""
    parser = argparse.ArgumentParser(
        prog="citysegzoo", description="A model zoo for semantic segmentation of city streets."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    modules = (
        models,
        segment,
        compare,
        evaluate,
        errors,
        data,
        weights,
        export,
        benchmark,
        completion,
    )
    for module in modules:
        module.add_parsers(commands)
    return parser


class _Version(argparse.Action):
    """Prints the version when asked to, and looks it up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import citysegzoo

        print(f"citysegzoo {citysegzoo.__version__}", flush=True)
        parser.exit()
