"""What a run tells: progress bars on a screen, plain lines in a file, JSON lines and TensorBoard events on disk."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_NAME = "log.jsonl"


class RunLog:
    """Write one JSON line per epoch to `out/log.jsonl` and the same figures as TensorBoard events.

    Only the first process of several writes (`active`). Without a terminal one plain line per epoch is printed.
    """

    def __init__(
        self, out: Path, console: Console | None = None, *, active: bool = True, tensorboard: bool = True
    ) -> None:
        self.path = out / LOG_NAME
        self.console = console or Console()
        self.active = active
        self._events: Any = None
        self._started = time.perf_counter()
        if active:
            out.mkdir(parents=True, exist_ok=True)
            if tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self._events = SummaryWriter(str(out / "events"))
                threading.excepthook = _leave_disk_errors_to_the_run

    def say(self, text: str) -> None:
        """Print one line."""
        if self.active:
            self.console.print(text, highlight=False, soft_wrap=True)

    @contextmanager
    def steps(self, epoch: int, epochs: int, count: int) -> Iterator[Callable[[dict[str, float]], None]]:
        """Show the steps of one epoch; call what is yielded after each step with the mean losses so far."""
        if not (self.active and self.console.is_terminal):
            yield lambda _losses: None
            return
        columns = (
            "epoch",
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeRemainingColumn(),
        )
        texts = [TextColumn(f"epoch {epoch + 1}/{epochs}") if c == "epoch" else c for c in columns]
        with Progress(*texts, console=self.console, transient=True) as bar:  # type: ignore[arg-type]
            task = bar.add_task("", total=count, losses="")

            def tick(losses: dict[str, float]) -> None:
                bar.update(task, advance=1, losses="  ".join(f"{k} {v:.3f}" for k, v in losses.items()))

            yield tick

    def epoch(self, row: dict[str, float]) -> None:
        """Record one epoch: a flat dict of figures with an "epoch" among them."""
        if not self.active:
            return
        try:
            with open(self.path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps({k: round(v, 6) for k, v in row.items()}) + "\n")
            if self._events is not None:
                for name, value in row.items():
                    if name != "epoch":
                        self._events.add_scalar(name, value, int(row["epoch"]))
                self._events.flush()
        except OSError as error:
            raise OSError(error.errno, f"{self.path.parent}: the log cannot be written ({error.strerror})") from error
        losses = "  ".join(f"{k.removeprefix('loss/')} {v:.3f}" for k, v in row.items() if k.startswith("loss/"))
        scores = "  ".join(f"{k.removeprefix('val/')} {v:.4f}" for k, v in row.items() if k.startswith("val/"))
        minutes = (time.perf_counter() - self._started) / 60
        self.say(f"epoch {int(row['epoch']):4d}  {losses}  {scores}  {row['seconds']:.1f} s  ({minutes:.1f} min)")

    def truncate(self, epochs: int) -> None:
        """Drop the lines of epochs after `epochs`: a resumed run writes them again."""
        if not self.active or not self.path.is_file():
            return
        kept = [row for row in read_log(self.path) if row["epoch"] <= epochs]
        self.path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")

    def close(self) -> None:
        """Flush and close the event file."""
        if self._events is not None:
            self._events.close()


def _leave_disk_errors_to_the_run(failure: threading.ExceptHookArgs) -> None:
    """Keep TensorBoard's writer thread from printing a traceback: the run meets the same full disk and says it once."""
    if not (failure.exc_type and issubclass(failure.exc_type, OSError)):
        threading.__excepthook__(failure)


def read_log(path: Path) -> list[dict[str, float]]:
    """Read the JSON lines of a run; a torn last line (the machine went away) is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
