"""A tiny SmolVLA flies in the whole graph with 300 ms for each chunk: in the inference node, and through `serve`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flight import Flight, flying
from lerobot_flight import PERIOD_S, STATE, Server, checkpoint, parameters, spec_of
from robot_stand_in import RobotStandIn
from stalls import StallWitness
from streaming_vla_interfaces.msg import ExecutionState

from streaming_vla.policies.contract import PolicySpec

pytestmark = [pytest.mark.ros, pytest.mark.timeout(400)]
HAND_OVERS = 6
HOLD_SEEN_S = 1.0  # starved for so long: it holds


@pytest.fixture
def robot(domain: int) -> Iterator[RobotStandIn]:
    made = RobotStandIn(domain, STATE, absolute=True)
    yield made
    made.close()


@pytest.fixture(scope="module")
def smolvla(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path | None, PolicySpec]:
    made, assets = checkpoint("smolvla", tmp_path_factory.mktemp("tiny") / "smolvla")
    return made, assets, spec_of(made, assets)


def check_not_starving(flight: Flight, hand_overs: int) -> None:
    """Fly on, and see that there is always an action."""
    witness, before_s, begin_s = StallWitness(), flight.starved_s(), time.time()
    try:
        flight.run(flight.newest().hand_overs + hand_overs)
        starved_s = flight.starved_s() - before_s
        assert max(0.0, starved_s - witness.stalled_s(begin_s, time.time())) == 0.0, starved_s
    finally:
        witness.close()


def test_it_flies_in_the_inference_node(
    probe: Any, robot: RobotStandIn, tmp_path: Path, domain: int, smolvla: tuple[Path, Path | None, PolicySpec]
) -> None:
    made, assets, spec = smolvla
    text = parameters(f"lerobot:{made}", spec, tmp_path, model_assets=str(assets))
    with flying(probe, robot, tmp_path, domain, text) as flight:
        flight.begin()
        flight.run(1)
        check_not_starving(flight, HAND_OVERS)
        contexts = list(flight.indices())
    times_s = [time_s for time_s, _ in robot.commands]
    assert np.median(np.diff(times_s)) == pytest.approx(PERIOD_S, rel=0.1)
    assert len(contexts) > HAND_OVERS


def test_it_flies_through_a_server_that_is_killed_and_started_again(
    probe: Any, robot: RobotStandIn, tmp_path: Path, domain: int, smolvla: tuple[Path, Path | None, PolicySpec]
) -> None:
    made, assets, spec = smolvla
    server = Server(made, assets, tmp_path / "server.log")
    try:
        text = parameters(f"openpi://127.0.0.1:{server.port}", spec, tmp_path)
        with flying(probe, robot, tmp_path, domain, text) as flight:
            flight.begin()
            flight.run(1)
            check_not_starving(flight, HAND_OVERS)
            server.kill()
            starved_s = flight.starved_s()  # a pause of this machine may starve it for a moment too: it goes on then
            probe.wait(lambda: flight.starved_s() - starved_s > HOLD_SEEN_S, "it does not hold", 20.0)
            assert flight.newest().starved and flight.newest().held
            count = len(robot.commands)
            probe.spin(1.0)
            held = np.array([values for _, values in robot.commands[count:]])
            assert len(held) > 10 and np.ptp(held, axis=0).max() == 0.0, "it holds the last target"
            assert flight.newest().mode == ExecutionState.MODE_HOLD
            server.start()
            probe.wait(lambda: not flight.newest().starved, "it does not go on", 60.0)
            check_not_starving(flight, HAND_OVERS)
            before = flight.number
            flight.begin()
            sent = len(flight.actions)
            flight.run(2)
            assert flight.number > before
            assert {action.episode for _, action in flight.actions[sent:]} == {flight.number}
    finally:
        server.kill()
