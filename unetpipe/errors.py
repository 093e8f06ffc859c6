"""Every error a person can meet, drawn as an outline.

UnetpipeError               anything that ends a stage with one line and exit code 2
├── ConfigError             config.yaml, samples.tsv or a command-line value     (ValueError)
├── GeometryError           a size or position that the network cannot take      (ValueError)
├── SourceError             an image file that cannot be read, or is not usable  (ValueError)
├── AnnotationError         annotations that do not fit their image or classes   (ValueError)
├── StoreError              a result on disk that is missing, damaged or foreign (OSError)
└── ModelError              a network that does not fit its data or its file     (ValueError)
Interrupted                 a stop was asked for; work is saved; exit code 75    (KeyboardInterrupt)

A message says what is wrong, where, what was expected, what came, and what to do, in one line.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "AnnotationError",
    "ConfigError",
    "GeometryError",
    "Interrupted",
    "ModelError",
    "SourceError",
    "StoreError",
    "UnetpipeError",
    "in_one_line",
    "one_line",
]


class UnetpipeError(Exception):
    """Anything that ends a stage with one line on stderr and exit code 2."""


class ConfigError(UnetpipeError, ValueError):
    """A value in `config.yaml`, in `samples.tsv` or on the command line is not usable."""


class GeometryError(UnetpipeError, ValueError):
    """A size or a position that the network cannot take; the message names the nearest legal ones."""


class SourceError(UnetpipeError, ValueError):
    """An image file cannot be read, or holds what unetpipe cannot use."""


class AnnotationError(UnetpipeError, ValueError):
    """An annotation does not fit its image or the configured classes."""


class StoreError(UnetpipeError, OSError):
    """A result on disk is missing, damaged, or belongs to something else.

    Attributes
    ----------
    files : sequence of Path
        Shards, where the content of one of them is damaged.
    """

    files: Sequence[Path] = ()


class ModelError(UnetpipeError, ValueError):
    """A network does not fit the data or the file that it is given."""


class Interrupted(KeyboardInterrupt):
    """A stop was asked for by a signal; finished units are saved and the same command goes on."""


# With what stands before it, a line has at most 300 characters.
MAX_LINE = 290


def one_line(message: str) -> str:
    """A message as the one line that is said: without its middle where it is longer than 290 characters.

    Examples
    --------
    >>> line = one_line("what is wrong " + 400 * "x" + ";\\n what to do")
    >>> len(line), line[:20], line[-20:]
    (285, 'what is wrong xxxxxx', 'xxxxxxxx; what to do')
    """
    line = " ".join(message.split())
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE // 2 - 5]} ... {line[-MAX_LINE // 2 + 5 :]}"


@contextmanager
def in_one_line() -> Iterator[None]:
    """End the process as a stage would, with one line and exit code 2; for what Snakemake calls."""
    try:
        yield
    except UnetpipeError as error:
        sys.stderr.write(f"unetpipe: {one_line(str(error))}\n")
        sys.exit(2)
