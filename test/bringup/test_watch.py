"""The page of `streaming-vla watch`: the figures that it makes of what is heard, and that it fits its terminal."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from streaming_vla.bringup.watch.page import page
from streaming_vla.bringup.watch.seen import Cache, Context, NodeSeen, SaidLine, Seen
from streaming_vla.machines.events import ExecutionState, Mode, ObserveRequest, Reason

NOW = 100.0
LONG = "no joint states on '/arm/joint_states': the robot is not moved; look at the driver of the arm and its topic"


def state(
    mode: Mode = Mode.PLAYING, executed: int = 0, hand_overs: int = 0, starved_s: float = 0.0, **fields: Any
) -> ExecutionState:
    values = {
        "episode": 7,
        "context": hand_overs,
        "index": 0,
        "queue_depth": 2,
        "cumulative_action": np.zeros(4),
        "held": False,
        "starved": False,
        "held_s": 0.0,
        "rejected": 1,
        "instruction": "open the drawer",
    }
    values |= fields
    return ExecutionState(mode=mode, executed=executed, hand_overs=hand_overs, starved_s=starved_s, **values)


def node(heard_s: float = NOW, level: int = 0, message: str = "active", **figures: Any) -> NodeSeen:
    return NodeSeen(heard_s, level, message, {name: str(value) for name, value in figures.items()})


def busy() -> Seen:
    """Return what is seen of a robot in the middle of an episode."""
    seen = Seen()
    seen.parameters = {
        "executor": {"control_period_s": 0.05},
        "saliency_monitor": {"mode": "adaptive", "saliency_threshold": 1.0},
        "sim_robot": {"real_time_factor": 0.25},
    }
    for sequence in range(3):
        seen.on_request(ObserveRequest(7, sequence, Reason.EARLY, 0.4 + sequence), NOW - 3 + sequence)
    for executed, hand_overs, starved_s in ((1, 0, 0.0), (2, 1, 0.02), (3, 2, 0.06)):
        seen.on_state(state(Mode.PLAYING, executed, hand_overs, starved_s), NOW - 0.7 + 0.1 * executed)
    seen.context = Context(0.0123, 0.0004, 0.0021, 25)
    seen.cache = Cache("gated", 82, 1_200_000, 4_800_000, 30, 12, 3)
    for name in ("inference", "generator", "executor", "saliency_monitor"):
        seen.on_node(name, node())
    seen.on_node("sim_robot", node(achieved_real_time_factor=0.11))
    for second in range(4):
        seen.on_node("observer", node(NOW - 3 + second, **{"pictures.top": 100 + 20 * second, "pictures.hand": 9}))
    seen.said.append(SaidLine(-math.inf, "executor", False, LONG))
    seen.said.append(SaidLine(NOW - 4, "inference", True, "the model has not answered for 2 s: restart this node"))
    return seen


def told(seen: Seen, width: int = 100, now: float = NOW) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(page(seen, "/arm", width, now))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 100, 139, 140, 200])
def test_the_page_fits_its_terminal_and_loses_no_word(width: int) -> None:
    lines = told(busy(), width)
    assert lines and max(map(len, lines)) == width
    words = " ".join("".join(lines).replace("│", " ").split())
    wanted = [*LONG.split(), "82", "tokens,", "27", "held,", "20.0", "Hz,", "0.11", "of", "0.25", "early"]
    assert not [word for word in wanted if word not in words.split()]
    if width < 140:
        assert LONG in words


def test_every_figure_stands_on_the_page() -> None:
    text = " ".join(" ".join(told(busy(), 120)).replace("│", " ").split())
    for wanted in (
        "/arm playing episode 7",
        "instruction open the drawer",
        "action 0 of context 2; 3 begun, 2 hand-overs, 1 refused",
        "2 at the executor, - ahead",
        "T_halt 30.0 ms mean, 40 ms longest, of 2; an action takes 80.0 ms",
        "observation 600 ms old; the newest asked for: early",
        "2.4 of 1 ",
        "mode adaptive",
        "gated: 82 tokens, 1.20 of 4.80 MB; summaries 27 held, 3 evicted, 12 dropped",
        "prefill 12.3 (+0.4 waiting), flow step 2.1 ms",
        "top 20.0 Hz, hand 0.0 Hz",
        "real time 0.11 of 0.25",
        "4 s inference: the model has not answered",
        "before executor: no joint states",
    ):
        assert wanted in text, (wanted, text)


def test_a_watcher_that_comes_late_counts_from_there() -> None:
    seen = busy()
    late = Seen(parameters=seen.parameters)
    for executed, hand_overs, starved_s in ((500, 90, 70.0), (501, 91, 70.01), (502, 92, 70.01)):
        late.on_state(state(Mode.PLAYING, executed, hand_overs, starved_s), NOW + executed)
    halting = late.halting()
    assert halting is not None and halting.halts_ms == pytest.approx((10.0, 0.0))


def test_halts_of_a_long_episode_are_those_of_the_whole() -> None:
    seen, starved_s = Seen(parameters={"executor": {"control_period_s": 0.05}}), 0.0
    for executed in range(1, 3000):
        starved_s += 0.004 * (executed % 10 == 0)
        seen.on_state(state(Mode.PLAYING, executed, executed // 10, starved_s), 0.05 * executed)
    halting = seen.halting()
    assert halting is not None and halting.hand_overs == 299 and halting.executed == 2998
    assert halting.t_halt_ms == pytest.approx(4.0) and halting.t_action_ms == pytest.approx(50.0 + 4.0 * 299 / 2998)


def test_a_new_episode_begins_anew() -> None:
    seen = busy()
    seen.on_request(ObserveRequest(8, 0, Reason.START, math.nan), NOW)
    seen.on_state(state(Mode.WAITING, episode=8, context=-1, index=-1), NOW + 0.1)
    halting = seen.halting()
    assert halting is not None and halting.executed == 0 and math.isnan(seen.age_s)
    assert seen.saliency == 2.4 and seen.reason() == "start"


def test_what_is_silent_or_missing_is_told() -> None:
    text = "\n".join(told(busy(), now=NOW + 30.0))
    assert "not heard for 30 s" in text and "silent for 30 s; last: active" in text
    text = "\n".join(told(Seen()))
    assert "no executor is heard" in text and text.count("not heard") == 5 and "sim_robot" not in text


def test_without_a_threshold_the_mode_is_told() -> None:
    seen = busy()
    seen.parameters["saliency_monitor"]["mode"] = "always"
    assert "mode always, which has no threshold" in "\n".join(told(seen))


def test_an_observer_that_was_started_again_has_its_own_rate() -> None:
    seen = busy()
    seen.on_node("observer", node(NOW + 1, **{"pictures.top": 0}))
    assert math.isnan(seen.camera_rates()["top"])
    seen.on_node("observer", node(NOW + 2, **{"pictures.top": 15}))
    assert seen.camera_rates()["top"] == pytest.approx(15.0)
