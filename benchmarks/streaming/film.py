"""Makes a film of one scene, synchronous and streaming side by side, each with its clock, its halts and its stages.

    tools/run python benchmarks/streaming/film.py docs/images/film.webp

Both episodes are run on the virtual clock with the latencies of a profile, so the film is the same wherever it is made
with the same weights. It plays in the time of that clock.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from streaming_vla.engine.latency_profile import find_profile
from streaming_vla.sim.metaworld import SUBSTEPS, MetaWorldRobot
from streaming_vla.sim.rendering import make_renderer
from streaming_vla.sim.tasks import HELD_OUT_SEED
from streaming_vla.workbench.demo.command import MODES
from streaming_vla.workbench.report.colours import ACTIONS, FAINT, HALT, INK, STAGES
from streaming_vla.workbench.report.filmstrip import BACKGROUND, GOOD, font
from streaming_vla.workbench.report.records import EpisodeRecord, Frame
from streaming_vla.workbench.report.results import halting, outcome
from streaming_vla.workbench.report.timeline import Stretch, stretches
from streaming_vla.workbench.virtual.episode import Disturbance, VirtualEpisode
from streaming_vla.workbench.virtual.robot import ROUNDING
from streaming_vla.workbench.virtual.runs import VirtualRun, robot_of_process
from streaming_vla.workbench.virtual.setup import ALWAYS, OVERRUN, StreamSetup

CAMERA = "corner2"
SIZE, GAP, TITLE, HEAD, LANE, LABEL, FOOT = 300, 8, 34, 26, 13, 78, 18  # pixels
LANES = {"observe": ("observe", "prefill"), "generate": ("flow_step",), "execute": ()}  # and the stages in each
STRIP = HEAD + len(LANES) * LANE + GAP
WIDTH = 2 * SIZE + 3 * GAP
HEIGHT = TITLE + HEAD + SIZE + 2 * STRIP + GAP + FOOT
FRAME_S = 0.05
LAST_S = 2.0  # that the last picture stays
QUALITY = 60


class FilmedRobot(MetaWorldRobot):
    """Keeps a picture of every control period, larger than the policy's; of one task only."""

    _shooting: Any = None

    def reset(self, task: str, seed: int, *arguments: object, **options: object) -> None:
        """See MetaWorldRobot; the film begins again."""
        super().reset(task, seed, *arguments, **options)  # type: ignore[arg-type]
        if self._shooting is None:
            self._shooting = make_renderer(self._current().environment.model, SIZE, SIZE)
        self._passed, self.pictures = 0, [self._shot()]

    def advance(self, substeps: int = SUBSTEPS) -> bool:
        """See MetaWorldRobot."""
        done = super().advance(substeps)
        self._passed += substeps
        if self._passed % SUBSTEPS == 0:
            self.pictures.append(self._shot())
        return done

    def close(self) -> None:
        """See MetaWorldRobot."""
        if self._shooting is not None:
            self._shooting.close()
        super().close()

    def _shot(self) -> npt.NDArray[np.uint8]:
        self._shooting.update_scene(self._current().environment.data, CAMERA)
        return np.ascontiguousarray(self._shooting.render()[::-1, ::-1])  # this camera hangs upside down


@dataclass(frozen=True)
class FilmedRun(VirtualRun):
    """An episode whose record holds a picture of every control period.

    Args:
        robots: that were filmed.
    """

    robots: list[FilmedRobot] = field(default_factory=list)

    def scene(self, image_size: int) -> tuple[MetaWorldRobot, Disturbance | None]:
        """See VirtualRun."""
        self.robots.append(robot_of_process(FilmedRobot, image_size))
        return self.robots[-1], None

    def run(self) -> VirtualEpisode:
        """See VirtualRun."""
        episode = super().run()
        record = episode.record
        record.frames = [
            Frame(record.begin_s + place * record.control_period_s, CAMERA, picture)
            for place, picture in enumerate(self.robots[-1].pictures)
        ]
        return episode


def run_of(mode: str, profile: str, task: str, seed: int, model: str) -> FilmedRun:
    """Return the run of an episode in a mode of the demo."""
    settings = MODES[mode]
    monitor, generator = ALWAYS.changed(**settings["saliency_monitor"]), OVERRUN.changed(**settings["generator"])
    return FilmedRun(mode, StreamSetup(monitor, generator), profile, task, seed, model)


class Panel:
    """What is drawn of one episode: its picture with clock and halts, and the stages so far on the axis of the film.

    Args:
        left: of its picture, pixels.
        top: of its strip, pixels.
        longest_s: of the two episodes.
    """

    def __init__(self, record: EpisodeRecord, left: int, top: int, longest_s: float) -> None:
        self._record, self._left, self._top = record, left, top
        self._pixels_s = (WIDTH - LABEL - 2 * GAP) / longest_s
        self._parts = stretches(record)
        halts_ms = halting(record).halts_ms
        mean_ms = sum(halts_ms) / len(halts_ms) if halts_ms else 0.0
        self._about = f"T_halt, without an action at a hand-over: {mean_ms:.0f} ms (mean of {len(halts_ms)})"

    def draw(self, sheet: Image.Image, at_s: float) -> None:
        """Draw what there is `at_s` seconds after the start."""
        pen, record = ImageDraw.Draw(sheet), self._record
        now_s = min(at_s, record.duration_s)
        self._picture(sheet, pen, now_s)
        pen.text((GAP, self._top + HEAD / 2), record.mode, fill=INK, font=font(14, bold=True), anchor="lm")
        pen.text((WIDTH - GAP, self._top + HEAD / 2), self._about, fill=FAINT, font=font(13), anchor="rm")
        for place, lane in enumerate(LANES):
            top = self._top + HEAD + place * LANE
            pen.text((GAP, top + LANE / 2 - 1), lane, fill=FAINT, font=font(11), anchor="lm")
            self._bar(pen, top, 0.0, record.duration_s, "#f3f5f7", record.duration_s)
            for span in record.spans:
                if span.stage in LANES[lane]:
                    self._bar(pen, top, span.begin_s, span.end_s, STAGES[span.stage], now_s)
        contexts = list(dict.fromkeys(part.context for part in self._parts if not part.halted))
        for part in self._parts:
            colour = HALT if part.halted else ACTIONS[contexts.index(part.context) % 2]
            self._bar(pen, top, part.begin_s, part.end_s, colour, now_s)

    def _picture(self, sheet: Image.Image, pen: ImageDraw.ImageDraw, now_s: float) -> None:
        record, left, top = self._record, self._left, TITLE + HEAD
        frame = record.frames[min(int(now_s / record.control_period_s + ROUNDING), len(record.frames) - 1)]
        sheet.paste(Image.fromarray(frame.picture), (left, top))
        over = now_s >= record.duration_s
        if (
            any(part.halted and part.begin_s <= record.begin_s + now_s < part.end_s for part in self._parts)
            and not over
        ):
            pen.rectangle((left, top, left + SIZE - 1, top + SIZE - 1), outline=HALT, width=5)
        halted_s = sum(self._seconds(part, now_s) for part in self._parts if part.halted)
        middle = TITLE + HEAD / 2 - 2
        pen.text((left, middle), f"{record.mode}  {now_s:4.1f} s", fill=INK, font=font(14, bold=True), anchor="lm")
        told = f"{outcome(record)}, halted {halted_s:.1f} s" if over else f"halted {halted_s:.1f} s"
        colour = GOOD if over and record.success else HALT if halted_s else FAINT
        pen.text((left + SIZE, middle), told, fill=colour, font=font(13), anchor="rm")

    def _seconds(self, part: Stretch, now_s: float) -> float:
        return max(0.0, min(part.end_s - self._record.begin_s, now_s) - (part.begin_s - self._record.begin_s))

    def _bar(
        self, pen: ImageDraw.ImageDraw, top: float, begin_s: float, end_s: float, colour: str, now_s: float
    ) -> None:
        """Draw a bar from `begin_s` to `end_s`, as far as it lies before `now_s` seconds after the start."""
        begin_s, end_s = begin_s - self._record.begin_s, min(end_s - self._record.begin_s, now_s)
        if begin_s <= end_s:
            left = LABEL + GAP + begin_s * self._pixels_s
            right = max(left + 1, LABEL + GAP + end_s * self._pixels_s)
            pen.rectangle((left, top, right, top + LANE - 3), fill=colour)


def draw_film(records: Sequence[EpisodeRecord], about: str, path: Path) -> None:
    """Write the film of two episodes of one scene, a WebP file.

    Args:
        records: left and right, with a picture of every control period.
        about: said below.
    """
    longest_s = max(record.duration_s for record in records)
    strips = TITLE + HEAD + SIZE + GAP
    panels = [
        Panel(record, GAP + place * (SIZE + GAP), strips + place * STRIP, longest_s)
        for place, record in enumerate(records)
    ]
    sheets = []
    for place in range(math.ceil(longest_s / FRAME_S) + 1):
        sheet = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
        pen = ImageDraw.Draw(sheet)
        title = f"“{records[0].instruction}”"
        pen.text((GAP, TITLE / 2), title, fill=INK, font=font(16, bold=True), anchor="lm")
        pen.text((GAP, HEIGHT - FOOT / 2 - 2), about, fill=FAINT, font=font(11), anchor="lm")
        for panel in panels:
            panel.draw(sheet, place * FRAME_S)
        sheets.append(sheet)
    durations_ms = [round(1000 * FRAME_S)] * (len(sheets) - 1) + [round(1000 * LAST_S)]
    sheets[0].save(
        path, save_all=True, append_images=sheets[1:], duration=durations_ms, loop=0, quality=QUALITY, method=6
    )


def main() -> None:
    """Entry point of the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the film, a .webp file")
    parser.add_argument("--task", default="drawer-open")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED)
    parser.add_argument("--profile", default="jetson", help="latencies of model and network, a name or a file")
    parser.add_argument("--model", default="compact_mt10", help="name or file of the policy")
    options = parser.parse_args()
    runs = [run_of(mode, options.profile, options.task, options.seed, options.model) for mode in MODES]
    records = [run.run().record for run in runs]
    for robot in {robot for run in runs for robot in run.robots}:
        robot.close()  # OpenGL must not be put away by the interpreter's end
    draw_film(records, find_profile(options.profile).description, options.out)
    for record in records:
        print(f"{record.mode}: {outcome(record)} after {record.duration_s:.2f} s")
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
