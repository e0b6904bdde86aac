"""One bag into a part of a data set (`datasets/parts.py`): its episodes, at the robot's control rate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from streaming_vla.bags.reader import Bag
from streaming_vla.bags.robot_bag import RobotBag, RobotOptions
from streaming_vla.bags.steps import StepCutter, StepOptions
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.facts import DatasetFacts
from streaming_vla.datasets.parts import DONE, Part, PartWriter, read_part
from streaming_vla.datasets.storage import Storage
from streaming_vla.datasets.writer import Step, add_steps

TELL_EVERY = 100  # steps
FORMAT = 1  # of a part: one that an older version of this module made is made again


@dataclass(frozen=True)
class ExportOptions:
    """How bags become a data set.

    Args:
        robot: topics, commands and instruction.
        steps: rate, sizes and gaps.
        storage: of the pictures.
        robot_type: name of the robot's kind that the data set tells.
    """

    robot: RobotOptions
    steps: StepOptions
    storage: Storage = Storage.film
    robot_type: str = ""


def check_bag(path: Path, options: ExportOptions) -> float:
    """Return the duration of a bag that can be exported, as far as can be said before it is read, s.

    Raises:
        BagError: it cannot be used: topics are missing, or nothing says what the robot was asked to do.
    """
    with Bag(path) as bag:
        RobotBag(bag, options.robot).check_instruction()
        return bag.duration_s


def part_name(path: Path, options: ExportOptions) -> str:
    """Return the name of a bag's part: the same bag and options give the same one."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    told = {"format": FORMAT, "bag": str(path.resolve()), "files": stats, "options": _plain(options)}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return f"{path.name}-{digest[:16]}"


def export_bag(path: Path, options: ExportOptions, folder: Path, done: Callable[[float], None] | None = None) -> Part:
    """Write the episodes of a bag as a part, or return the one that is there already.

    Args:
        folder: of the part.
        done: told how many seconds of the bag have been read.

    Raises:
        BagError, DatasetError: the bag cannot be used.
    """
    if (folder / DONE).is_file():
        return read_part(folder)
    with (
        Bag(path) as bag,
        PartWriter(folder, options.steps.rate, tuple(options.robot.camera_topics), options.storage) as writer,
    ):
        source = RobotBag(bag, options.robot)
        source.check_instruction()
        cutter = StepCutter(source, options.steps)
        begin_s = (bag.begin_ns or 0) * 1e-9

        def steps() -> Iterator[Step]:
            for step in cutter.steps_of():
                if done is not None and cutter.steps % TELL_EVERY == 0:
                    done(cutter.now_s - begin_s)
                yield step

        try:
            add_steps(writer, steps())
        except DatasetError as error:
            raise DatasetError(f"{path}: {error}") from error
        problems = [*(str(problem) for problem in bag.problems), *source.said.values(), *_told(path, cutter)]
        known = cutter.steps > 0
        facts = DatasetFacts(
            rate=options.steps.rate,
            cameras=(),
            state_names=cutter.state_names if known else (),
            action_names=options.robot.actions.names if known else (),
            robot_type=options.robot_type,
            state_units=cutter.state_units if known and all(cutter.state_units) else (),
            action_absolute=options.robot.actions.absolute if known else (),
        )
        about = {"source": str(path), "seconds": bag.duration_s, "problems": problems,
                 "why_none": "" if known else f"{path} gives no step: {cutter.why_none()}"}  # fmt: skip
        return writer.finish(facts, about)


def _told(path: Path, cutter: StepCutter) -> list[str]:
    """Return what is to be known of the steps."""
    said = []
    if cutter.unasked:
        said.append(
            f"{path}: {cutter.unasked} episodes without an instruction are left out: give it with --instruction"
        )
    for camera, count in cutter.repeated.items():
        said.append(
            f"{path}: camera {camera} has no new picture for {count} of {cutter.steps} steps "
            f"({100 * count / cutter.steps:.0f} %), which show the one before"
        )
    return said


def _plain(options: ExportOptions) -> object:
    return json.loads(json.dumps(asdict(options), default=str, sort_keys=True))
