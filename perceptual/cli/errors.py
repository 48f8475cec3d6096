"""Errors of users: one line on stderr and a non-zero exit, never a traceback."""

import codecs
import io
import os
import re
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any
from unittest.mock import patch

from perceptual.files.messages import first_line, install

# packages that only some commands need, and the extra that installs each
EXTRAS = {
    "av": "video",
    "pyarrow": "parquet",
    **dict.fromkeys(("sqlalchemy", "starlette", "uvicorn", "jinja2", "markdown_it"), "collect"),
}
FULL, OURS = "HYDRA_FULL_ERROR", "PERCEPTUAL_ONE_LINE"
# kinds of data that have a key, of those that are mostly meant
OF_DATA = {"path": "data=manifest, or data=opinions", "root": "data=bapps, data=jnd or the name of a set"}


@contextmanager
def one_line_errors(*also: type[Exception]) -> Iterator[None]:
    """Turn the errors that a user can cause, ValueError, OSError and `also`, into one line and exit status 1.

    So is a missing package, if an extra installs it. An error that has `problems`, a complete list, prints
    them before the line that counts them. `HYDRA_FULL_ERROR=1`, Hydra's own switch, shows the traceback
    instead.
    """
    caught: tuple[type[Exception], ...] = (ValueError, OSError, *also)
    try:
        yield
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains as it flushes
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        sys.exit(f"error: {error.name} is not installed: {install(EXTRAS[error.name])}")
    except caught as error:
        if os.environ.get(FULL) == "1" and OURS not in os.environ:
            raise
        for problem in getattr(error, "problems", []):
            print(problem, file=sys.stderr)
        sys.exit(f"error: {explain(error)}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def start(
    main: Callable[[], object], prepare: Callable[[Sequence[str]], Sequence[str]] | None = None
) -> None:
    """Run a program that Hydra configures; what it, Hydra or OmegaConf refuses is one line.

    Args:
        main: decorated by `hydra.main`.
        prepare: makes the words that Hydra reads of those of the command line, paths as they were typed.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    from perceptual.cli.words import as_typed
    from perceptual.config import register

    register()
    write_anything()
    outlive_readers()
    if os.environ.get(FULL) != "1":
        # Hydra raises instead of printing in its own words; processes that this one starts do likewise
        os.environ |= {FULL: "1", OURS: "1"}
    with one_line_errors(HydraException, OmegaConfBaseException, MisconfigurationException):
        words = as_typed(sys.argv[1:])
        sys.argv[1:] = with_arguments(prepare(words) if prepare else words)
        try:
            # Hydra's help of one option is no text, which Python 3.14 refuses as the option is defined
            with patch.object(ArgumentParser, "_check_help", lambda *_: None, create=True):
                main()
        except OSError as error:  # of Hydra, as it makes the run's folder: `main` reports its own
            if error.filename is None:
                raise
            raise ValueError(
                f"the folder of this run cannot be made: {explain(error)}; runs=… names another place"
            ) from error


class _Pipe(io.FileIO):
    """Pipe that can be written to after its reader, such as `head`, has left."""

    def write(self, data: Any, /) -> int:
        """Write, or do nothing."""
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            return len(data)


def write_anything() -> None:
    """Let stdout write names of files that are no UTF-8 as they are, and `?` for what a console lacks.

    stderr escapes both already.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        is_utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf8 else "replace")


def outlive_readers() -> None:
    """Let a program go on when nobody reads what it prints, such as `train.py … | head`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            stream.flush()
            pipe = io.BufferedWriter(_Pipe(stream.fileno(), "w", closefd=False))
            print_to = io.TextIOWrapper(pipe, stream.encoding, stream.errors, line_buffering=True)
            setattr(sys, name, print_to)


def with_arguments(words: Sequence[str]) -> list[str]:
    """Overrides with `++` before the keys that no schema can know.

    Those are `backbone.options.aa_layer=…`, `data.columns.ref=…`, and with `backbone._target_=…` the
    arguments of that network.
    """
    from perceptual.config import BackboneConfig

    known = {f"backbone.{one.name}" for one in fields(BackboneConfig)}
    custom = any(word.startswith("backbone._target_=") for word in words)

    def is_new(key: str) -> bool:
        return key.startswith(("backbone.options.", "data.columns.")) or (
            custom and key.startswith("backbone.") and key not in known
        )

    return [f"++{word}" if is_new(word.partition("=")[0]) else word for word in words]


def explain(error: BaseException) -> str:
    """Explain an error in one line."""
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None:
        return f"{str(error.filename)!r}: {error.strerror}"
    if match := re.match(r"Could not override 'data\.(\w+)'\.", said):
        from perceptual.data import settings

        sets = (settings.BAPPS, settings.Manifest, settings.Pairs, settings.Opinions)
        known = match[1] in {one.name for each in sets for one in fields(each)}
        if known and not any(word.startswith("data=") for word in sys.argv):
            kinds = OF_DATA.get(match[1], "data=manifest or another")
            return f"data.{match[1]}=… is of a kind of data that was not said: add {kinds}"
    cause = error.__cause__
    if cause is not None and type(cause).__module__.startswith("omegaconf"):
        # Hydra's line has the key and advice to add it; OmegaConf's first line says what is wrong
        return f"{first_line(error).rstrip('.')}: {first_line(cause)}"
    if type(error).__module__.startswith("omegaconf"):
        key = getattr(error, "full_key", None)
        first = first_line(error)
        return f"{key}: {first}" if key and key not in first else first
    return said.partition(" Config search path:")[0]
