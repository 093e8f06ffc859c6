"""The command line: one command per stage. An error becomes one line on stderr and exit code 2."""

import errno
import gc
import importlib
import keyword
import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from unetpipe import __version__
from unetpipe.errors import Interrupted, UnetpipeError, one_line
from unetpipe.specs import PhantomSpec, TrainSpec

__all__ = ["main"]

# A file that may not be read is refused by its stage, in one line, and not with words on the usage.
argument = partial(typer.Argument, readable=False)
option = partial(typer.Option, readable=False)

app = typer.Typer(
    name="unetpipe",
    help="U-Net segmentation of microscopy, from a sample sheet to segmented slides and a report.\n\n"
    "Each command is one stage of the workflow, and runs alone just as Snakemake runs it; export and import bring "
    "networks out and in.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Output = Annotated[Path, option(help="Manifest to write; the result's store lies beside it.")]
Spec = Annotated[
    str, option(help="The stage's settings as JSON, or @FILE that holds it; what is left out has its default.")
]
Code = Annotated[str, option(help="Fingerprint of the stage's code; computed if empty.")]
Log = Annotated[Path | None, option(help="File for progress messages; stderr if none.")]
Threads = Annotated[int, option(help="Processors to use at most.", min=1)]
Manifests = Annotated[
    list[Path], argument(help="Manifests of earlier stages, in any order; @FILE stands for the lines of a file.")
]


def main() -> NoReturn:
    """Run the command line and end the process."""
    logging.basicConfig(format="unetpipe: %(message)s", level=logging.WARNING)
    for name in ("asyncio", "zarr.core.sync"):
        logging.getLogger(name).addFilter(is_heard)
    try:
        app(standalone_mode=True)
    except UnetpipeError as error:
        end(str(error), 2)
    except MemoryError:
        end("out of memory; lower predict.memory_gb or augment.input_px, or run fewer jobs at once", 2)
    except OSError as error:
        reasons = {
            errno.ENOSPC: "no space left on the disk; make room and give the same command again",
            errno.ENOENT: "no such file; check the path",
            errno.ENOTDIR: "part of its path is a file and no folder; check the path",
        }
        reason = f"{error.strerror or error}; check the disk and your rights there, then give the same command again"
        end(f"{error.filename or 'a file'}: {reasons.get(error.errno or 0, reason)}", 2)
    sys.exit(0)


def is_heard(record: logging.LogRecord) -> bool:
    """Whether a message is more than that reads end with the process, which zarr leaves behind a damaged chunk."""
    return not record.getMessage().startswith(("Task was destroyed", "Thread did not finish cleanly"))


def end(message: str, code: int) -> NoReturn:
    """Say one line and leave."""
    logging.getLogger(__name__).error(one_line(message))
    sys.exit(code)


def run(
    verb: str, spec: str, code: str, log: Path | None, call: Callable[..., None], manifests: Sequence[Path] = ()
) -> None:
    """Set up a stage, parse its settings, and call it with them; some of what it reads may tell what code it runs."""
    # Modules stay to the end: searching them for garbage takes a tenth of the time before a stage begins.
    gc.disable()
    from unetpipe import config, fingerprint, heap, parsing, signals

    heap.use_one_heap()
    set_up_logging(log)
    signals.listen()
    text = Path(spec[1:]).read_text(encoding="utf-8") if spec.startswith("@") else spec
    parsed: Any = parsing.spec_from_json(config.STAGE_SPECS[verb], text, f"{verb} --spec")
    name = verb + "_" * keyword.iskeyword(verb)
    module = f"unetpipe.steps.{name}"
    step = getattr(importlib.import_module(module), name)
    gc.freeze()
    gc.enable()
    try:
        call(step, spec=parsed, code=code or fingerprint.fingerprint(module, *chosen(parsed, manifests)))
    # Here, for typer would end with 130 and without a word.
    except Interrupted as stop:
        end(str(stop), 75)
    except KeyboardInterrupt:
        end("interrupted; finished work is saved, the same command goes on", 130)


def chosen(spec: Any, paths: Sequence[Path]) -> list[str]:
    """Modules that a stage chooses at run time, by its settings and manifests; `Config` tells the workflow the same."""
    from unetpipe.manifests import read_manifest

    manifests = [read_manifest(path, whole=False) for path in paths]
    families = {manifest.facts["network"]["family"] for manifest in manifests if manifest.stage == "train"}
    if isinstance(spec, TrainSpec):
        families = {spec.network.family}
    drawn = any(manifest.stage == "augment" and not manifest.facts["count"] for manifest in manifests)
    return sorted(f"unetpipe.networks.{family}" for family in families) + ["unetpipe.draws"] * drawn


def listed(paths: list[Path]) -> list[Path]:
    """The paths, with the lines of a file in the place of each @FILE."""
    found = []
    for path in paths:
        if str(path).startswith("@"):
            found += [Path(line) for line in Path(str(path)[1:]).read_text(encoding="utf-8").splitlines()]
        else:
            found.append(path)
    return found


def set_up_logging(path: Path | None) -> None:
    """Progress goes to the log file, or to stderr if there is none; warnings and errors always go to stderr."""
    logging.getLogger("unetpipe").setLevel(logging.INFO)
    # A log that cannot be written, as on a full disk, must not drown the line that says why.
    logging.raiseExceptions = False
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(path, mode="w", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root = logging.getLogger()
        root.handlers[0].setLevel(logging.WARNING)
        root.addHandler(file)


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, option("--version", callback=show_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Options before the command."""


@app.command()
def simulate(
    image: Annotated[Path, argument(help="TIFF file to write.")],
    annotation: Annotated[Path | None, option(help="TIFF file for the exact instance labels.")] = None,
    spec: Spec = "{}",
    code: Code = "",
    log: Log = None,
) -> None:
    """Draw an image of touching cells with its exact labels, of any size, e.g. --spec '{"side": 4096}'."""

    def call(step: Callable[..., None], *, spec: PhantomSpec, code: str) -> None:
        keys = {"seed": spec.seed, "diameter_px": spec.diameter_px, "pixel_size_um": spec.pixel_size_um}
        step(image, annotation, shape=(spec.side, spec.side), **keys)

    run("simulate", spec, code, log, call)


@app.command()
def ingest(
    image: Annotated[
        Path, argument(help="Image file, or the folder of a Zarr image; docs/formats.md lists what is read.")
    ],
    output: Output,
    spec: Spec = "{}",
    code: Code = "",
    log: Log = None,
) -> None:
    """Read a source image and store it as an OME-Zarr pyramid."""
    run("ingest", spec, code, log, lambda step, **rest: step(image, output=output, **rest))


@app.command()
def annotate(
    annotation: Annotated[Path, argument(help="Labels, mask, classes or colours; COCO, GeoJSON, ImageJ ROIs.")],
    image: Annotated[Path, argument(help="Manifest of the ingested image.")],
    output: Output,
    spec: Spec = "{}",
    code: Code = "",
    log: Log = None,
) -> None:
    """Read an annotation as instances and classes, with a background ridge between touching instances."""
    run("annotate", spec, code, log, lambda step, **rest: step(annotation, image, output=output, **rest))


@app.command()
def doctor(
    inputs: Annotated[
        list[Path] | None,
        argument(
            help="A configuration, by default config/config.yaml; or manifests of images and labels, or @FILE "
            "that lists them."
        ),
    ] = None,
    output: Output = Path("results/doctor/all.json"),
    spec: Spec = "{}",
    code: Code = "",
    log: Log = None,
) -> None:
    """List every sample and every fault; with a configuration, reads all samples first, past the bad ones."""
    path, *_ = inputs = inputs or [Path("config/config.yaml")]
    if path.suffix not in (".yaml", ".yml"):
        run("doctor", spec, code, log, lambda step, **rest: step(listed(inputs), output=output, **rest))
        return
    from unetpipe import signals
    from unetpipe.checkup import checkup

    set_up_logging(log)
    # Stages that have nothing to do need not say so, and the faults stand below the table.
    for name in ("unetpipe.manifests", "unetpipe.steps.doctor"):
        logging.getLogger(name).setLevel(logging.WARNING)
    signals.listen()
    checkup(path, output=output, tell=typer.echo)


@app.command()
def sheet(
    folder: Annotated[Path, argument(help="Folder with images and annotations in one of the usual layouts.")],
    output: Annotated[Path, option(help="Sample sheet to write.")] = Path("config/samples.tsv"),
    split: Annotated[
        str, option(help="Percent of train, val and test, where the names of folders do not tell.")
    ] = "70,15,15",
    overwrite: Annotated[bool, option("--overwrite", help="Replace a sheet that is there.")] = False,
) -> None:
    """Write the sample sheet of a folder, and say what was recognised."""
    from unetpipe.steps.sheet import sheet as step

    for line in step(folder, output=output, split=split, overwrite=overwrite):
        typer.echo(line)


@app.command()
def weigh(
    labels: Annotated[Path, argument(help="Manifest of the annotated labels.")],
    output: Output,
    spec: Spec = "{}",
    code: Code = "",
    log: Log = None,
) -> None:
    """Compute the loss weights that separate touching objects."""
    run("weigh", spec, code, log, lambda step, **rest: step(labels, output=output, **rest))


@app.command()
def augment(
    image: Annotated[Path, argument(help="Manifest of the ingested image.")],
    labels: Annotated[Path, argument(help="Manifest of its labels.")],
    weights: Annotated[Path, argument(help="Manifest of its weights.")],
    output: Output,
    spec: Spec = "{}",
    code: Code = "",
    log: Log = None,
) -> None:
    """Draw training patches: shifted, rotated, mirrored, elastically deformed."""
    run("augment", spec, code, log, lambda step, **rest: step(image, labels, weights, output=output, **rest))


@app.command()
def train(
    manifests: Manifests,
    output: Output,
    spec: Spec = "{}",
    code: Code = "",
    log: Log = None,
    threads: Threads = 8,
    gpus: Annotated[
        int, option(help="GPUs that share the patches of each step; 0: none, 1: one if there is one.", min=0)
    ] = 1,
) -> None:
    """Train a network on patches; goes on where a killed run stopped."""
    keys, inputs = {"output": output, "threads": threads, "gpus": gpus}, listed(manifests)
    run("train", spec, code, log, lambda step, **rest: step(inputs, **keys, **rest), inputs)


@app.command()
def predict(
    image: Annotated[Path, argument(help="Manifest of the ingested image.")],
    models: Annotated[list[Path], argument(help="Manifests of trained models; several are averaged.")],
    output: Output,
    region: Annotated[
        Path | None, option(help="Areas that are predicted: QuPath's GeoJSON or ImageJ's ROIs; by default all.")
    ] = None,
    spec: Spec = "{}",
    code: Code = "",
    log: Log = None,
    threads: Threads = 8,
    gpus: Annotated[int, option(help="GPUs that share the tiles; below 2: one if there is one.", min=0)] = 1,
    cluster: Annotated[str, option(help="Workers that share the tiles, as predict.cluster in JSON.")] = "{}",
) -> None:
    """Apply a network, or several, to an image or slide by seamless overlap-tile inference."""
    from unetpipe.clusterspecs import ClusterSpec
    from unetpipe.parsing import spec_from_json

    workers = spec_from_json(ClusterSpec, cluster, "predict --cluster")
    keys = {"output": output, "threads": threads, "gpus": gpus, "cluster": workers}
    run("predict", spec, code, log, lambda step, **rest: step(image, models, region, **keys, **rest), models)


@app.command()
def plan(
    config: Annotated[Path, argument(help="The configuration.")] = Path("config/config.yaml"),
    images: Annotated[Path, option(help="Folder with the manifests of ingested images.")] = Path("results/images"),
) -> None:
    """Show the tiles that predict would take: memory, and arithmetic per pixel beside that of an infinite tile."""
    from unetpipe.steps.plan import plan as step

    for line in step(config, images=images):
        typer.echo(line)


@app.command()
def tune(
    manifests: Annotated[list[Path], argument(help="Manifests of probabilities and labels of each sample.")],
    output: Output,
    spec: Spec = "{}",
    code: Code = "",
    log: Log = None,
) -> None:
    """Choose the thresholds of a model's classes on the validation images."""
    run("tune", spec, code, log, lambda step, **rest: step(manifests, output=output, **rest))


@app.command()
def segment(
    probabilities: Annotated[Path, argument(help="Manifest of the predicted probabilities.")],
    image: Annotated[Path, argument(help="Manifest of the image that they were predicted from.")],
    output: Output,
    thresholds: Annotated[Path | None, argument(help="Manifest of tuned thresholds.")] = None,
    spec: Spec = "{}",
    code: Code = "",
    log: Log = None,
) -> None:
    """Turn probabilities into classes and instances, stitched over the whole slide, measured and outlined."""
    run("segment", spec, code, log, lambda step, **rest: step(probabilities, image, thresholds, output=output, **rest))


@app.command()
def evaluate(
    segmentation: Annotated[Path, argument(help="Manifest of the segmentation.")],
    probabilities: Annotated[Path, argument(help="Manifest of the probabilities.")],
    labels: Annotated[Path, argument(help="Manifest of the true labels.")],
    output: Output,
    spec: Spec = "{}",
    code: Code = "",
    log: Log = None,
) -> None:
    """Hold a segmentation against the truth."""
    inputs = (segmentation, probabilities, labels)
    run("evaluate", spec, code, log, lambda step, **rest: step(*inputs, output=output, **rest))


@app.command()
def report(
    manifests: Manifests,
    output: Output,
    spec: Spec = "{}",
    code: Code = "",
    log: Log = None,
) -> None:
    """Write one page with settings, curves, scores and pictures."""
    run("report", spec, code, log, lambda step, **rest: step(listed(manifests), output=output, **rest))


@app.command()
def export(
    result: Annotated[
        Path,
        argument(help="Manifest of a model; for ome-zarr, of labels; for ome-zarr-0.4, of images or labels."),
    ],
    output: Annotated[Path, option(help="Folder to write to; made if there is none.")],
    form: Annotated[
        Literal["safetensors", "torch", "onnx", "ome-zarr", "ome-zarr-0.4"],
        option(
            "--format",
            help="Parameters, or a program that needs no unetpipe: torch.export (.pt2) or ONNX; "
            "ome-zarr: an image with its labels in one, as links; ome-zarr-0.4: images for older viewers.",
        ),
    ] = "safetensors",
    side: Annotated[
        int | None,
        option(help="Side in px of the window that a program takes; by default the smallest with a 512 px core."),
    ] = None,
    log: Log = None,
) -> None:
    """Write a trained network for other software, with the rule for tiling, and check it; or images for old viewers."""
    from unetpipe.steps import export as step

    set_up_logging(log)
    if form == "ome-zarr":
        step.export_combined(result, output=output)
    elif form == "ome-zarr-0.4":
        step.export_pyramids(result, output=output)
    else:
        step.export(result, output=output, form=form, side=side)


@app.command("import")
def import_(
    weights: Annotated[
        Path,
        argument(help="State dict of a padded U-Net with batch norm: .pt or .pth (tensors only), .safetensors."),
    ],
    output: Annotated[Path, option(help="Manifest to write: results/models/NAME.json.")],
    spec: Spec = "{}",
    code: Code = "",
    log: Log = None,
) -> None:
    """Take public weights as a model that predicts like a trained one."""
    run("import", spec, code, log, lambda step, **keys: step(weights, output=output, **keys))


@app.command("several", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def several_(
    context: typer.Context,
    stage: Annotated[
        Literal["simulate", "ingest", "annotate", "weigh", "augment", "segment", "evaluate"],
        argument(help="The stage, and behind it its paths and options, each as a list with one value per sample."),
    ],
) -> None:
    """Run a stage for several samples, one behind the other: what many small ones cost least."""
    from unetpipe import config, parsing, several

    # What is loaded, made and parsed here is not once more for each sample.
    importlib.import_module(f"unetpipe.steps.{stage}")
    parsing.adapter(config.STAGE_SPECS[stage])
    group: Any = typer.main.get_command(app)
    command = group.commands[stage]
    calls = []
    for name, *words in several.commands(stage, context.args):
        what = f"{name} {words[words.index('--log') + 1]}"
        calls.append((what, partial(command.invoke, command.make_context(name, words))))
    sys.exit(several.each(calls))


@app.command()
def verify(
    results: Annotated[Path, argument(help="Folder of results.")] = Path("results"),
    mend: Annotated[
        bool,
        option("--mend", help="Take back damaged shards of probabilities and segmentations, to be made again."),
    ] = False,
    log: Log = None,
) -> None:
    """Hold every result against its manifest, and the chain of digests from the report back to the sources."""
    from unetpipe.steps.verify import verify as step

    set_up_logging(log)
    step(results, tell=typer.echo, mend=mend)


@app.command()
def record(
    config: Annotated[Path, argument(help="The whole configuration.")] = Path("config/config.yaml"),
    results: Annotated[Path, option(help="Folder of results.")] = Path("results"),
) -> None:
    """Write results/run.json: versions, locks, host, commit, configuration; the workflow does so by itself."""
    from unetpipe.steps.record import record as step

    set_up_logging(None)
    step(config, results=results)
