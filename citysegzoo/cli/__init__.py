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
    args = argparse.Namespace(debug=False)
    warnings.showwarning = lambda message, *_: say(f"warning: {message}")
    try:
        _parser().parse_args(arguments, args)
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader of our output went away (`citysegzoo models | head`): nothing is wrong.
        silence_stdout()
        return 0
    except KeyboardInterrupt:
        say("interrupted.")
        return 130
    except _EXPECTED as error:
        if args.debug:
            raise
        say(f"error: {sentence(error)}")
        return 2


def _parser() -> argparse.ArgumentParser:
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
