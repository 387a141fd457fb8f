"""The front door: reads `rsedge VERB ...`, imports that verb's folder, turns every foreseen error into one line.

A verb function below only reads its options and returns the job; `run_command` runs the job outside of typer. So one
place answers for errors, whichever typer version is installed, and `rsedge --help` imports neither torch nor NumPy.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

__version__ = "0.1.0"

Job = Callable[[], int | None]  # the exit code; None: 0

app = typer.Typer(
    name="rsedge",
    help=(
        "Train a YOLOv8 detector on annotated aerial images, convert it to INT8 for the RK3588 NPU, detect with it."
        "\n\nExamples:\n\n"
        "$ rsedge demo\n"
        "$ rsedge train vhr10_yolov8n --out runs/vhr10 --set data.root=data/vhr10\n"
        "$ rsedge detect runs/vhr10 pictures/ --out runs/found\n\n"
        "Every verb explains itself: rsedge VERB --help. Set RSEDGE_DEBUG=1 to see the traceback of an error."
    ),
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe; may be repeated."),
]
DataRecipe = Annotated[
    str, typer.Option("--data", metavar="RECIPE", help="Recipe that names the images: a path or a shipped name.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rsedge {__version__}")
        raise typer.Exit


@app.callback()
def rsedge(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Carry the options that stand before the verb; the help text is given to `typer.Typer` above."""


@app.command("train")
def train_verb(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A TOML file, or the name of a shipped recipe.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for checkpoints, logs, plots and the bundle.")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in DIR.")] = False,
) -> Job:
    """Train a detector on a recipe's images and export it: annotations in, bundle and report out.

    A recipe with distillation trains its teacher first, unless it names one.

    Examples:

    $ rsedge train vhr10_yolov8n --out runs/vhr10 --set data.root=data/vhr10
    $ rsedge train my.toml --out runs/my --set train.epochs=50 --set train.batch=8
    $ rsedge train distill_vhr10 --out runs/small --set data.root=data/vhr10
    $ rsedge train my.toml --out runs/my --resume
    $ torchrun --nproc-per-node 2 -m rsedge train my.toml --out runs/my
    """

    def job() -> None:
        from train.walk import walk

        walk(recipe, out, overrides or [], resume)

    return job


@app.command("compare")
def compare_verb(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE", help="TOML files, or names of shipped recipes.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the runs and the table; continues what is there.")
    ],
    rows: Annotated[
        str | None, typer.Option(metavar="FILE", help="Rows that vary each recipe: a TOML file, or distillation.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Trainings of each row, with seeds 0 to N-1.")] = 3,
    folds: Annotated[int, typer.Option(min=0, help="Score on K parts of the train split in turn; 0: on val.")] = 0,
    reference: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Row that the others are compared with; default: the file's, or the first."),
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples of the intervals.")] = 1000,
    cache_teacher: Annotated[
        bool,
        typer.Option(
            "--cache-teacher", help="Keep what the teacher said on disk (about 1 MB an image and epoch at 320)."
        ),
    ] = False,
    overrides: Overrides = None,
) -> Job:
    """Train several recipes with several seeds and say what differs, with intervals.

    Every row has the same start and images. The table (Markdown, JSON, plot) gives
    mean, spread, paired bootstrap interval and p-value; the same command goes on
    where it stopped. The shipped rows at 300 epochs take days without a GPU.

    Examples:

    $ rsedge compare plain.toml distilled.toml --seeds 3 --out runs/table
    $ rsedge compare distill_vhr10 --rows distillation --folds 5 --out runs/cv
    """

    def job() -> None:
        from train.compare_command import run

        run(recipes, rows, seeds, folds, reference or [], resamples, cache_teacher, overrides or [], out)

    return job


@app.command()
def data(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A TOML file, or the name of a shipped recipe.")],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for a picture of sample images with their boxes.")
    ] = None,
) -> Job:
    """Show what a recipe's annotations hold, and each problem in them with file and line.

    Counts images, boxes by class and level, sizes, empty images, duplicates.

    Examples:

    $ rsedge data vhr10_yolov8n --set data.root=data/vhr10
    $ rsedge data my.toml --out runs/my-data
    """

    def job() -> None:
        from train.data_command import run

        run(recipe, overrides or [], out)

    return job


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint that `rsedge train` wrote.")],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder of the bundle to write.")],
    precision: Annotated[
        Literal["int8", "fp16"] | None, typer.Option(help="Of the .rknn; default: what the recipe says, which is int8.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="RECIPE", help="Recipe whose images calibrate and score; default: the checkpoint's own."
        ),
    ] = None,
    overrides: Overrides = None,
    half_weights: Annotated[
        bool, typer.Option("--half-weights", help="Store the weights in the ONNX file as float16: half the size.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Score only N images, for a quick look.")
    ] = None,
) -> Job:
    """Export a checkpoint to ONNX and RKNN and write the bundle that the board needs.

    Examples:

    $ rsedge export runs/my/checkpoint.pt --out bundles/my --data my.toml
    $ rsedge export runs/my/checkpoint.pt --out bundles/my-fp16 --precision fp16
    $ rsedge export runs/my/checkpoint.pt --out quick --data my.toml --limit 20
    """

    def job() -> None:
        from train.export import run

        run(checkpoint, out, precision, recipe, overrides or [], half_weights, limit)

    return job


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle whose integers were learnt in training.")],
    recipe: Annotated[
        str | None,
        typer.Option("--data", metavar="RECIPE", help="Recipe whose val images serve and are scored; default: drawn."),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Use only N images.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the new proof.json and proof.md.")] = None,
    overrides: Overrides = None,
) -> Job:
    """Prove again that the NPU will compute what was learnt: layers, scales, simulator, torch.

    Compiles the bundle's model, runs it in the vendor's simulator, and compares
    integers. Exit code 2 names the check and the layer that failed.

    Examples:

    $ rsedge verify deploy/zoo/procedural
    $ rsedge verify bundles/my --data my.toml --out runs/proof
    """

    def job() -> None:
        from train.verify_command import run

        run(bundle, recipe, overrides or [], limit, out)

    return job


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="CHECKPOINT|BUNDLE", help="A checkpoint file or a bundle folder.")],
    recipe: DataRecipe,
    split: Annotated[str, typer.Option(metavar="NAME", help="Split of the recipe's images, such as val.")] = "val",
    backend: Annotated[
        Literal["torch", "onnx", "rknn-sim"] | None,
        typer.Option(help="rknn-sim: the vendor's simulator. Default: torch for a checkpoint, onnx for a bundle."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the scores to FILE as JSON.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Score only N images.")] = None,
    overrides: Overrides = None,
) -> Job:
    """Score a checkpoint or a bundle: COCO mean average precision, per class and by object size.

    Examples:

    $ rsedge evaluate runs/my/checkpoint.pt --data my.toml
    $ rsedge evaluate bundles/my --data my.toml --backend onnx --json onnx.json
    $ rsedge evaluate bundles/my --data my.toml --backend rknn-sim --limit 20
    """

    def job() -> None:
        from train.evaluate_command import run

        run(model, recipe, split, backend, json_file, limit, overrides or [])

    return job


@app.command("bundle")
def bundle_verb(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx or .rknn file that others exported.")],
    classes: Annotated[
        Path, typer.Option(metavar="FILE", help="Class names: .txt with one a line, or names: in .json or .yaml.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the bundle.")],
    activation: Annotated[
        Literal["sigmoid", "none"] | None,
        typer.Option(help="Whether the scores went through a sigmoid, where the file does not tell."),
    ] = None,
    channel_order: Annotated[Literal["rgb", "bgr"], typer.Option(help="What the network was trained on.")] = "rgb",
    mean: Annotated[
        tuple[float, float, float], typer.Option(metavar="A B C", help="Taken from each channel's pixels, 0 to 255.")
    ] = (0.0, 0.0, 0.0),
    std: Annotated[
        tuple[float, float, float],
        typer.Option(metavar="A B C", help="What each channel's pixels are divided by then."),
    ] = (255.0, 255.0, 255.0),
    layout: Annotated[
        Literal["six", "nine", "one"] | None, typer.Option(help="Number of outputs of a .rknn, where no NPU is there.")
    ] = None,
    input_size: Annotated[
        tuple[int, int] | None, typer.Option(metavar="H W", help="Height and width of its input, the same.")
    ] = None,
    precision: Annotated[Literal["int8", "fp16"] | None, typer.Option(help="Its precision, the same.")] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Of the bundle; default: the file's.")] = None,
) -> Job:
    """Wrap a model that others exported into a bundle, and say what was found in it.

    Reads YOLOv8 and its kin: a box and a class output per level (six in all, or
    nine with score sums), with a sigmoid or without; or one decoded output,
    1 x (4 + classes) x boxes. Shapes decide, not names. A .rknn is closed: on the
    board its runtime tells what it gives, elsewhere the last options have to.

    Examples:

    $ rsedge bundle yolov8n.onnx --classes data.yaml --out bundles/others
    $ rsedge bundle best.onnx --classes n.txt --out bundles/b --channel-order bgr
    $ rsedge bundle zoo.rknn --classes n.txt --out bundles/z --activation none
    """

    def job() -> None:
        from deploy.bundle_command import run

        run(
            model,
            classes,
            out,
            layout=layout,
            input_size=input_size,
            activation=activation,
            precision=precision,
            channel_order=channel_order,
            mean=mean,
            std=std,
            name=name,
        )

    return job


@app.command()
def detect(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder with model files and manifest.json.")],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE", help="Images, folders, GeoTIFF scenes, videos, a camera (0), an RTSP address."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for what is found.")],
    formats: Annotated[
        str,
        typer.Option("--format", metavar="LIST", help="Of coco, csv, geojson, gpkg, overlay, video; with commas."),
    ] = "coco,overlay",
    backend: Annotated[
        str,
        typer.Option(metavar="NAME", help="auto (the best here), rknn-capi, rknn-lite, onnx, or emulated (for load)."),
    ] = "auto",
    score: Annotated[float, typer.Option(min=0.0, max=1.0, help="Keep boxes that score at least this.")] = 0.25,
    iou: Annotated[float, typer.Option(min=0.0, max=1.0, help="Overlap above which the weaker box is dropped.")] = 0.7,
    resume: Annotated[bool, typer.Option("--resume", help="Pass over what an earlier run into DIR has done.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run into DIR.")] = False,
    scene: Annotated[
        bool | None,
        typer.Option(
            "--scene/--no-scene", help="Cut images into tiles, or never. Default: georeferenced and large ones."
        ),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(metavar="PX", min=32, help="Side of a tile in scene pixels. Default: the model's input."),
    ] = None,
    overlap: Annotated[float, typer.Option(min=0.0, max=0.9, help="Of neighbouring tiles, as a share of one.")] = 0.2,
    bands: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Bands of a scene, from 1; one for grey. Default: by colour.")
    ] = None,
    stretch: Annotated[
        str | None,
        typer.Option(metavar="LOW,HIGH", help="Percentiles of a scene that become black and white, such as 2,98."),
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Subfolders too.")] = False,
    frames: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Stop a video or stream after N frames.")
    ] = None,
    every_frame: Annotated[
        bool, typer.Option("--every-frame", help="Of a camera or stream too, though it falls behind then.")
    ] = False,
    stall: Annotated[
        float, typer.Option(metavar="S", min=0.1, help="A live stream without a frame for so long is lost.")
    ] = 5.0,
    reconnect: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Give a live stream up after N tries in a row. Default: never."),
    ] = None,
    fps: Annotated[
        float | None, typer.Option(metavar="N", min=0.1, help="Of annotated videos. Default: the source's.")
    ] = None,
    contexts: Annotated[
        int, typer.Option(metavar="N", min=1, max=8, help="Contexts on each NPU core; on the CPU, in all.")
    ] = 2,
    workers: Annotated[
        Literal["threads", "processes"], typer.Option(help="processes: a crash of the runtime costs one image only.")
    ] = "threads",
    postprocess_batch: Annotated[
        int, typer.Option(metavar="N", min=1, max=64, help="Decode up to N images that are ready in one call.")
    ] = 1,
    timeout: Annotated[
        float, typer.Option(metavar="S", min=0.1, help="Replace an NPU context that hangs so long.")
    ] = 20.0,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="ray: spread images, scenes and videos over a Ray cluster.")
    ] = "local",
) -> Job:
    """Find objects in images, scenes, video and live streams; write boxes and maps.

    What is found is written as it comes: a stopped run leaves readable files, and
    --resume goes on. What cannot be read is named and passed over; the exit code
    is 2 then. Boxes of georeferenced scenes become polygons in longitude and
    latitude.

    Examples:

    $ rsedge detect bundles/my photos/ more.jpg --out runs/found --score 0.4
    $ rsedge detect bundles/my scene.tif --out runs/map --format geojson,gpkg
    $ rsedge detect bundles/my flight.mp4 --out runs/flight --format csv,video
    $ rsedge detect bundles/my rtsp://camera/1 --out runs/live --format csv
    $ rsedge detect bundles/my scenes/ --out runs/all --engine ray --resume
    """

    def job() -> None:
        from deploy.detect_command import command

        typed = {
            "scene": scene,
            "recursive": recursive,
            "tile_px": tile,
            "overlap": overlap,
            "bands": bands,
            "stretch": stretch,
            "frames": frames,
            "policy": "block" if every_frame else None,
            "stall_s": stall,
            "tries": reconnect,
            "postprocess_batch": postprocess_batch,
        }
        running = {
            "contexts_per_core": contexts,
            "workers": workers,
            "timeout_s": timeout,
            "resume": resume,
            "overwrite": overwrite,
            "fps": fps,
            "engine": engine,
        }
        command(bundle, sources, out, formats, backend, score, iou, typed, running)

    return job


@app.command()
def estimate(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|CHECKPOINT|ONNX|BUNDLE|yolov8n", help="What to estimate; yolov8n, s, m, l, x need no file."
        ),
    ],
    size: Annotated[
        int | None, typer.Option(metavar="N", help="Model input in pixels; default: the subject's own, or 512.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(metavar="N", help="How many classes; default: the subject's own, or 10.")
    ] = None,
    precision: Annotated[
        Literal["int8", "fp16"] | None, typer.Option(help="Of the .rknn; default: the bundle's, or int8.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the estimate to FILE as JSON.")
    ] = None,
) -> Job:
    """Say what a network will cost on an RK3588's NPU before it is trained or a board is bought.

    Cycles, milliseconds with an interval, traffic, energy, the dearest layers, and
    which channel counts the NPU pays for without using them. Needs no toolkit.

    Examples:

    $ rsedge estimate yolov8n
    $ rsedge estimate yolov8m --size 640 --classes 80 --precision fp16
    $ rsedge estimate deploy/zoo/vhr10 --json estimate.json
    """

    def job() -> None:
        from train.estimate_command import run

        run(subject, size, classes, precision, json_file)

    return job


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for bundle, report and pictures.")] = Path(
        "runs/demo"
    ),
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Start from random weights, not from the shipped checkpoint.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the drawn scenes and of the training.")] = 0,
) -> Job:
    """Walk the whole way on drawn aerial scenes: train, export, convert, score. Needs no data.

    Examples:

    $ rsedge demo
    $ rsedge demo --out runs/demo-1 --seed 1
    $ rsedge demo --from-scratch
    """

    def job() -> None:
        from train.demo import run

        run(out, from_scratch, seed)

    return job


@app.command()
def bench(
    bundles: Annotated[list[Path] | None, typer.Argument(metavar="BUNDLE", help="One bundle or several.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for report and plots.")] = None,
    backend: Annotated[str, typer.Option(metavar="NAME", help="As of rsedge detect.")] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Half a minute instead of several.")] = False,
    seconds: Annotated[float | None, typer.Option(metavar="S", help="Of each measurement.")] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Your own images. Default: drawn scenes.")] = None,
    rate: Annotated[float | None, typer.Option(metavar="N", help="Offer so many images a second.")] = None,
    contexts: Annotated[str | None, typer.Option(metavar="LIST", help="Numbers of contexts, such as 1,3,6.")] = None,
    power_csv: Annotated[Path | None, typer.Option(metavar="FILE", help="What a power meter recorded.")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit the estimates to this board and keep it.")
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="OLD NEW", help="Say what changed between two reports.")
    ] = None,
    plots_of: Annotated[
        Path | None, typer.Option("--plots", metavar="FILE", help="Draw the plots of a report that a board wrote.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare reports of different machines too.")] = False,
) -> Job:
    """Measure latency and throughput of bundles, each figure with its interval.

    Examples:

    $ rsedge bench deploy/zoo/vhr10 --out runs/bench
    $ rsedge bench bundles/my --out runs/quick --backend emulated --quick
    $ rsedge bench --compare old/bench.json new/bench.json
    """

    def job() -> None:
        from benchmarks.bench_command import run

        run(
            bundles or [],
            out,
            backend=backend,
            quick=quick,
            seconds=seconds,
            images=images,
            rate=rate,
            contexts=contexts,
            power_csv=power_csv,
            calibrating=calibrate,
            comparing=compare,
            plots_of=plots_of,
            force=force,
        )

    return job


@app.command("gui")
def gui_verb(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="Default: the one that ships with drawn scenes.")
    ] = None,
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="Image, folder, scene, video, camera or RTSP address.")
    ] = None,
    backend: Annotated[str, typer.Option(metavar="NAME", help="As of rsedge detect.")] = "auto",
    workers: Annotated[
        Literal["threads", "processes"], typer.Option(help="processes: keep the runtime out of the window's process.")
    ] = "threads",
) -> Job:
    """Open the desktop app: watch detections arrive, look closely, filter, export.

    Examples:

    $ rsedge gui
    $ rsedge gui deploy/zoo/vhr10 scene.tif
    $ rsedge gui deploy/zoo/vhr10 rtsp://camera/1 --workers processes
    """

    def job() -> int:
        from gui.gui_command import run

        return run(bundle, source, backend=backend, workers=workers)

    return job


@app.command()
def doctor(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="Check this bundle too; on a board, run its model once.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of the list.")] = False,
    root: Annotated[
        Path, typer.Option(metavar="DIR", help="Examine another machine's /proc, /sys, /dev and /usr, copied to DIR.")
    ] = Path("/"),
) -> Job:
    """Say what this machine can run, what is wrong with it and how to mend it. Changes nothing.

    Exit code 0: no errors (warnings do not count). 1: at least one error.

    Examples:

    $ rsedge doctor
    $ rsedge doctor bundles/my
    $ rsedge doctor --json
    """

    def job() -> int:
        from deploy.doctor_command import run

        return run(bundle, as_json, root)

    return job


VERBS = tuple(command.name or command.callback.__name__ for command in app.registered_commands if command.callback)


def _run(arguments: list[str]) -> int:
    """Read the arguments, run the job. Returns the exit code: 0 done, 2 the user can mend it."""
    first = next((a for a in arguments if not a.startswith("-")), "")
    name = f"rsedge {first}" if first in VERBS else "rsedge"
    try:
        result = app(args=arguments or ["--help"], prog_name="rsedge", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's usage errors moved between modules; the method did not
            raise
        from deploy.told_errors import usage_line

        print(f"{name}: {usage_line(error)}", file=sys.stderr)
        return 2
    if not callable(result):  # --help and --version return their exit code
        return int(result or 0)
    try:
        code = result()
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except Exception as error:
        from deploy.told_errors import told_in_one_line

        line = told_in_one_line(error)
        if line is None or os.environ.get("RSEDGE_DEBUG"):
            raise
        print(f"{name}: {line}", file=sys.stderr)
        return 2
    return int(code or 0)


# Verb -> what is kept when it is stopped, and how it goes on.
AFTER_STOP = {
    "train": "what was finished is kept; after the first epoch, train goes on with --resume",
    "compare": "what was finished is kept; the same command goes on",
    "detect": "finished images, frames and tiles are kept; the same command with --resume goes on",
    "bundle": "no bundle was written",
    "doctor": "nothing was changed",
}


class Terminated(SystemExit):
    """SIGTERM, as an exception: temporary folders and child processes go with the command."""


def run_command(arguments: Sequence[str]) -> int:
    """Run `rsedge` with these arguments and return its exit code.

    0: done. 1: `doctor` found errors. 2: wrong usage or an error that the user can mend, told in one line on standard
    error. 130: stopped by Ctrl-C. 141: the reader of a pipe went away. 143: stopped by SIGTERM. A bug raises.
    RSEDGE_DEBUG=1 raises errors of the second kind too.
    """
    try:
        return _run(list(arguments))
    except (KeyboardInterrupt, Terminated) as stop:
        if os.environ.get("RSEDGE_DEBUG"):
            raise
        terminated = isinstance(stop, Terminated)
        verb = next((a for a in arguments if not a.startswith("-")), "")
        how = "stopped by SIGTERM" if terminated else "stopped"
        begin = "" if terminated else "\n"  # behind the terminal's ^C
        print(f"{begin}rsedge: {how}; {AFTER_STOP.get(verb, 'what was finished is kept')}", file=sys.stderr)
        return 143 if terminated else 130
    except BrokenPipeError:
        # `rsedge data ... | head`: the reader has seen enough. Python flushes stdout once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _terminate(*_: object) -> NoReturn:
    raise Terminated(143)


def main() -> NoReturn:
    """Run `rsedge` with the process's arguments and exit: the entry point of the console script and of `-m`."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
