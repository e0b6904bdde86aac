"""A dry run against a person who moves the robot: what is compared, its figures, and its section in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robots import ACTIONS, ARRAY, JOINTS, TRAJECTORY, Message, commands, floats, in_time, joints, trajectory, write

from streaming_vla.bags.reader import Bag
from streaming_vla.options.shared import layout_values
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.policies.layout import ActionLayout
from streaming_vla.workbench.replay.shadow import Shadow, read_shadow, summarise_shadows
from streaming_vla.workbench.report.html import page

DEGREE = np.pi / 180.0
LAYOUT = ActionLayout(tuple(ACTIONS), (True,) * 3, (-180.0,) * 3, (180.0,) * 3, (0.0,) * 3)


def suite(**executor: Any) -> SuiteOptions:
    """Return the options of a robot in radians with a policy in degrees."""
    three: dict[str, Any] = {
        "scale": (DEGREE,) * 3,
        "offset": (0.0, 0.5, 0.0),
        "maximum_lead": (1.0,) * 3,
        "velocity_limit": (1e3,) * 3,
        "jump_limit": (1e3,) * 3,
        "keep_when_stopped": (False,) * 3,
        "command_type": "joints",
    }
    layout = layout_values(LAYOUT)
    made = SuiteOptions()
    for node in ("generator", "saliency_monitor"):
        made = made.changed(node, layout)
    return made.changed("executor", {**layout, **three, **executor})


def previews(ahead: float = 3.0, kind: str = JOINTS) -> list[Message]:
    """Return what a dry run says that is so many degrees ahead of the person in the first joint."""

    def one(time_s: float) -> Any:
        values = [(10.0 * time_s + ahead) * DEGREE, 0.5, 0.0]
        return joints(ACTIONS, values) if kind == JOINTS else trajectory(ACTIONS, [(0.05, values)])

    return commands(2.0, topic="/command_preview", kind=kind, make_one=one)


def person() -> list[Message]:
    """Return what a person tells the robot: the first joint goes 10 degrees a second."""

    def one(time_s: float) -> Any:
        return trajectory(ACTIONS, [(0.05, [10.0 * time_s * DEGREE, 0.5 - DEGREE, 0.0])])

    return commands(2.0, kind=TRAJECTORY, make_one=one)


def shadow(folder: Path, said: list[Message], options: SuiteOptions | None = None) -> tuple[Shadow | None, list[str]]:
    problems: list[str] = []
    with Bag(write(folder / "bag", said)) as bag:
        return read_shadow(bag, options or suite(), "/", "command", problems), problems


@pytest.mark.parametrize("kind", [JOINTS, TRAJECTORY])
def test_the_difference_is_in_the_units_of_the_policy(tmp_path: Path, kind: str) -> None:
    found, problems = shadow(tmp_path, in_time(previews(kind=kind), person()))
    assert found is not None and not problems
    assert len(found.times) > 30 and found.times[0] == 0.0 and (np.diff(found.times) > 0).all()
    assert found.names == tuple(ACTIONS)
    assert (np.abs(found.error[:, 0] - 3.0) < 0.51).all()  # the person's newest command is up to a period old
    assert np.allclose(found.error[:, 1], 1.0) and np.allclose(found.error[:, 2], 0.0)
    assert np.allclose(found.policy[:, 1], 0.0)
    numbers = summarise_shadows([found, found])
    assert numbers["steps"] == 2 * len(found.times)
    assert numbers["by_dimension"][ACTIONS[1]]["p50"] == pytest.approx(1.0)
    assert numbers["by_dimension"][ACTIONS[1]]["p95"] == pytest.approx(1.0)


def test_a_bag_without_a_dry_run_has_none(tmp_path: Path) -> None:
    assert shadow(tmp_path, person()) == (None, [])


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (previews(), "has a dry run on /command_preview, but nobody commanded the robot on /command: name the topic"),
        (
            in_time(previews(), commands(2.0, kind=ARRAY, make_one=lambda r: floats([0.0]))),
            "the dry run is not compared with the person: the command has 1 numbers",
        ),
        (in_time(previews(), commands(2.0, kind=JOINTS, make_one=lambda r: joints(("x",), [0.0]))), "at the same time"),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(tmp_path: Path, said: list[Message], sentence: str) -> None:
    found, problems = shadow(tmp_path, said)
    assert found is None and len(problems) == 1 and sentence in problems[0]


def test_the_report_has_a_section_with_median_and_p95(tmp_path: Path) -> None:
    found, _ = shadow(tmp_path, in_time(previews(), person()))
    assert found is not None
    run = {"name": "shadow <run>", "numbers": {"shadow": summarise_shadows([found])}, "parameters": "", "halts_ms": [],
           "timeline": [], "strips": [], "shadow": found.curves()}  # fmt: skip
    html = page("Replay", "A bag.", [run])
    assert "Shadow: the dry run against the person" in html and "shadow &lt;run&gt;" in html
    assert f"shadow &lt;run&gt;: {ACTIONS[1]}" in html
    assert "They are 1 apart at the median, 95 % of the time less than 1." in html
    without = {key: value for key, value in run.items() if key != "shadow"}
    assert "Shadow" not in page("Replay", "A bag.", [{**without, "numbers": {}}])
