"""What the demo shows while it runs: every episode with its outcome, and the current one live."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from streaming_vla.machines.halting import Halting
from streaming_vla.workbench.report.records import EpisodeRecord, Scene
from streaming_vla.workbench.report.results import halting, outcome
from streaming_vla.workbench.table import Cell, FittedTable


class Display:
    """A live table on a terminal; one line per episode where the output is a file or a pipe.

    Args:
        scenes: rows of the table.
        modes: columns of the table.
    """

    def __init__(self, console: Console, scenes: Sequence[Scene], modes: Sequence[str]) -> None:
        self._console = console
        self._scenes = scenes
        self._modes = modes
        self._done: dict[tuple[Scene, str], EpisodeRecord] = {}
        self._now = Text()
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("episodes"),
            TimeElapsedColumn(), console=console,
        )  # fmt: skip
        self._bar = self._progress.add_task("", total=len(scenes) * len(modes))
        self._live = Live(console=console, get_renderable=self.__rich__, refresh_per_second=5, transient=True)

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, sentence: str) -> None:
        """Show what is happening outside of episodes."""
        self._now = Text(sentence, style="dim")
        if not self._console.is_terminal:
            self._console.print(sentence)

    def update(self, record: EpisodeRecord) -> None:
        """Show the episode that is running."""
        self._now = Text.assemble(
            (record.mode, "bold"),
            f"  {record.task}  “{record.instruction}”  {record.duration_s:4.1f} s   {_smoothness(halting(record))}",
        )

    def finish(self, record: EpisodeRecord) -> None:
        """Add an episode that has ended."""
        self._done[Scene(record.task, record.seed), record.mode] = record
        self._progress.advance(self._bar)
        if not self._console.is_terminal:
            self._console.print(
                f"{record.mode:12} {record.task:22} {outcome(record):10} {record.duration_s:5.1f} s   "
                f"{_smoothness(halting(record))}   success so far {self._successes(record.mode)}"
                + (f"   {record.problem}" if record.problem else ""),
                soft_wrap=True,
            )

    def __rich__(self) -> RenderableType:
        """Return what the terminal shows now."""
        header = ["task", *(f"{mode}: {self._successes(mode)} succeeded" for mode in self._modes)]
        rows: list[list[Cell]] = [
            [f"{scene.task}, seed {scene.seed}", *(_cell(self._done.get((scene, mode))) for mode in self._modes)]
            for scene in self._scenes
        ]
        table = FittedTable(header, rows, right=False)
        return Group(self._progress, table, self._now)

    def _successes(self, mode: str) -> str:
        records = [record for (_, name), record in self._done.items() if name == mode]
        return f"{sum(record.success for record in records)} of {len(records)}"


def _cell(record: EpisodeRecord | None) -> Text:
    if record is None:
        return Text("")
    mark = ("✔", "green") if record.success else ("✘", "yellow")
    measured = halting(record)
    stopped = (" stopped", "red") if measured.stopped else ""
    return Text.assemble(mark, stopped, f" {record.duration_s:4.1f} s  {_smoothness(measured)}")


def _smoothness(measured: Halting) -> str:
    return f"T_action {_ms(measured.t_action_ms)}  T_halt {_ms(measured.t_halt_ms)}"


def _ms(value: float) -> str:
    return "   -" if math.isnan(value) else f"{value:.1f} ms"
