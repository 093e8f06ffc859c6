"""The doctor without a workflow: every sample is read as the workflow would read it, past the bad ones."""

import csv
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unetpipe.config import STAGE_SPECS, Config, read_config
from unetpipe.documents import is_there
from unetpipe.errors import ConfigError, UnetpipeError
from unetpipe.fingerprint import fingerprint
from unetpipe.parsing import spec_from_json
from unetpipe.samples import Sample
from unetpipe.steps.annotate import annotate
from unetpipe.steps.doctor import doctor
from unetpipe.steps.ingest import ingest
from unetpipe.steps.simulate import simulate

__all__ = ["checkup", "shown"]

log = logging.getLogger(__name__)

RESULTS = Path("results")
# Wider cells are cut where a table is shown; the file has them whole.
WIDEST = 30


def checkup(path: Path, *, output: Path, tell: Callable[[str], object]) -> None:
    """Read every sample of a configuration, and look for faults.

    Images and labels are written where the workflow looks for them, so that nothing is done twice.

    Parameters
    ----------
    path : Path
        The configuration.
    output : Path
        The doctor's manifest.
    tell : callable
        Is called with the table, as people read it.

    Raises
    ------
    ConfigError
        If the configuration or the sample sheet is not usable.
    SourceError
        If there are errors; the table is told before.
    """
    config = read_config(path)
    refused, inputs = dict[str, str](), list[Path]()
    for number, sample in enumerate(config.samples.values(), start=1):
        log.info("sample %d of %d: %s", number, len(config.samples), sample.name)
        try:
            inputs += read_sample(config, sample)
        except UnetpipeError as error:
            refused[sample.name] = str(error)
        except OSError as error:
            refused[sample.name] = (
                f"{error.filename or sample.name}: {error.strerror or error}; check your rights there"
            )
    spec, code = spec_of(config, "doctor", "all"), fingerprint("unetpipe.steps.doctor")
    table = output.with_suffix("") / "table.tsv"
    try:
        doctor(inputs, output=output, spec=spec, code=code, refused=refused)
    finally:
        if table.is_file():
            tell(shown(table.read_text(encoding="utf-8")))


def read_sample(config: Config, sample: Sample) -> list[Path]:
    """Ingest and annotate one sample; the manifests."""
    draw(config, sample)
    for column, source in sample.sources.items():
        if not is_there(source, column):
            raise ConfigError(f"{column}: no such file: {source}; correct the sample sheet")
    image, labels = (RESULTS / folder / f"{sample.name}.json" for folder in ("images", "labels"))
    code = fingerprint("unetpipe.steps.ingest")
    ingest(Path(sample.image), output=image, spec=spec_of(config, "ingest", sample.name), code=code)
    if not sample.annotation:
        return [image]
    code = fingerprint("unetpipe.steps.annotate")
    annotate(Path(sample.annotation), image, output=labels, spec=spec_of(config, "annotate", sample.name), code=code)
    return [image, labels]


def draw(config: Config, sample: Sample) -> None:
    """Draw a simulated sample that is not there yet."""
    image, annotation = (Path(config.simulated) / folder / f"{sample.name}.tif" for folder in ("images", "labels"))
    if config.is_simulated(sample.image) and not Path(sample.image).exists():
        spec = spec_of(config, "simulate", sample.name)
        keys = {"seed": spec.seed, "diameter_px": spec.diameter_px, "pixel_size_um": spec.pixel_size_um}
        simulate(image, annotation, shape=(spec.side, spec.side), **keys)


def spec_of(config: Config, stage: str, name: str) -> Any:
    """A stage's settings, as the workflow hands them over."""
    return spec_from_json(STAGE_SPECS[stage], config.spec(stage, name), stage)


def shown(table: str) -> str:
    """The doctor's table for people.

    Parameters
    ----------
    table : str
        Rows of cells with tabs between them: a header, the samples, and what concerns several.

    Returns
    -------
    str
        What was seen, in columns, wide cells cut; below it the faults, which are in the last cell of each row.

    Examples
    --------
    >>> print(shown("sample\\tsplit\\tfaults\\na\\ttrain\\terror: no\\nb\\ttest\\t\\n(all)\\t\\twarning: odd\\n"))
    sample  split
    a       train
    b       test
    <BLANKLINE>
    a: error: no
    (all): warning: odd
    """
    rows = [row for row in csv.reader(io.StringIO(table), delimiter="\t") if row]
    samples = [[cell[:WIDEST] for cell in row[:-1]] for row in rows if row[1]]
    widths = [max(map(len, column)) for column in zip(*samples, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in samples]
    faults = [f"{row[0]}: {row[-1]}" for row in rows[1:] if row[-1]]
    return "\n".join([*lines, *([""] if faults else []), *faults])
