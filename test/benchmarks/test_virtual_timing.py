"""The virtual clock gives the published timing model, strategy by strategy, and the same run for the same seed.

T_halt is T_o + H step in turns, T_o + step for the action flow, max(0, T_o + step - m T_e) with m actions left;
T_action = T_e + T_halt / h (StreamingVLA, arXiv 2603.28565, its table of latencies).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from runtime_cases import ACTS, LAYOUT, PLAYS
from strategies import STRATEGIES, Setup, changed, find_strategy
from world import JPEG, Straw, Timing, World, make_engine

from streaming_vla.engine.latency_profile import LatencyProfile, Spread, find_profile
from streaming_vla.engine.values import EncodedObservation
from streaming_vla.machines.events import GeneratedAction, GenerateRequest, ObserveRequest, Reason, SaliencyQuestion
from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.machines.monitor_options import MonitorOptions
from streaming_vla.workbench.virtual.clock import Clock
from streaming_vla.workbench.virtual.network import Network
from streaming_vla.workbench.virtual.world import Told

PAPER = find_profile("paper")
TRAINED = 16
LEARNING_S = 2.0  # the monitor leaves out the first latencies


def world_of(
    setup: Setup, profile: LatencyProfile = PAPER, seed: int = 0, seconds: float = 8.0, trained: int = TRAINED
) -> World:
    """Run a strategy against a model and a robot of straw."""
    period_s = profile.control_period_s
    timing = Timing(period_s, trained=trained)
    executor = ExecutorOptions(**PLAYS, control_period_s=period_s, robot_timeout_s=1.0)
    monitor = setup.monitor_options(period_s, LAYOUT, trained)
    if setup.generator is not None:
        generator = setup.generator.changed(control_period_s=period_s, **ACTS)
        made = World(timing, monitor, generator, executor, profile=profile, seed=seed)
    else:
        strategy, source, decides = setup.machines(period_s, LAYOUT, trained, lambda: math.inf)
        chunks = replace(strategy.denoising, seed=seed)
        made = World(timing, monitor, lambda: source, executor, profile=profile, seed=seed, chunks=chunks)
        made.monitor = decides
    made.start("go")
    made.run(seconds)
    return made


def early(left: int) -> Setup:
    """Return the action flow observing with `left` actions left, without overrun."""
    return replace(STRATEGIES["afm_naive_early"], monitor=MonitorOptions(mode="always", early_actions=left))


@pytest.mark.parametrize(
    ("setup", "t_halt_ms", "executed"),
    [
        (STRATEGIES["synchronous_10"], 59.0 + 10 * 17.2, 10),
        (STRATEGIES["synchronous_5"], 59.0 + 10 * 17.2, 5),
        (STRATEGIES["temporal_ensembling"], 59.0 + 10 * 17.2, 1),
        (STRATEGIES["afm"], 59.0 + 17.2, 10),
        (early(2), 59.0 + 17.2 - 2 * 27.0, 10),
        (early(3), 0.0, 10),
    ],
    ids=["synchronous 10", "synchronous 5", "ensembling", "action flow", "m = 2", "m = 3"],
)
def test_the_timing_model_to_a_millisecond(setup: Setup, t_halt_ms: float, executed: int) -> None:
    halting = world_of(setup, seconds=20.0).halting()
    assert halting.hand_overs > 20
    assert halting.t_halt_ms == pytest.approx(t_halt_ms, abs=1.0)
    assert halting.longest_ms == pytest.approx(t_halt_ms, abs=1.0)
    first = t_halt_ms / halting.executed  # the first context of an episode follows no halt
    assert halting.t_action_ms == pytest.approx(27.0 + t_halt_ms / executed, abs=1.0 + first)


def test_the_published_order() -> None:
    names = ("synchronous_10", "afm", "afm_naive_early", "ours")
    halts_ms = {name: world_of(STRATEGIES[name]).halting().t_halt_ms for name in names}
    assert sorted(names, key=lambda name: -halts_ms[name]) == list(names)
    assert halts_ms["ours"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["ours", "ours_random", "ours_action_norm"])
def test_ours_does_not_halt_with_the_papers_latencies(name: str) -> None:
    halting = world_of(STRATEGIES[name]).halting()
    assert halting.hand_overs > 10
    assert halting.longest_ms == pytest.approx(0.0, abs=1e-6)
    assert halting.t_action_ms == pytest.approx(27.0, abs=1e-6)


def starved_s(name: str, profile: str) -> float:
    """Return the starved seconds of two runs of 6 s, in which the latencies are known already."""
    found = 0.0
    for seed in (1, 2):
        states = world_of(STRATEGIES[name], find_profile(profile), seed, 6.0 + LEARNING_S).states
        learnt = max(state.starved_s for time_s, state in states if time_s < LEARNING_S)
        found += states[-1][1].starved_s - learnt
    return found


@pytest.mark.parametrize("profile", ["measured", "jetson"])
def test_ours_starves_least_where_the_model_is_on_the_robot(profile: str) -> None:
    others = ("synchronous_10", "afm", "afm_naive_early", "lerobot_weighted_average", "rtc", "vlash", "chunk_from_m")
    assert starved_s("ours", profile) <= min(starved_s(name, profile) for name in others) + 1e-9


@pytest.mark.parametrize(("profile", "most_s"), [("paper", 0.0), ("measured", 0.0), ("jetson", 0.05)])
def test_while_the_latencies_are_learnt_an_action_is_missing_at_most(profile: str, most_s: float) -> None:
    for seed in (1, 2):
        made = world_of(STRATEGIES["ours"], find_profile(profile), seed, LEARNING_S)
        assert made.states[-1][1].starved_s <= most_s + 1e-9


def test_ours_hardly_starves_behind_a_network_that_loses_messages() -> None:
    """One way there and back for every action: a queue of a whole chunk is out of reach of such a network."""
    ours = starved_s("ours", "remote_wifi")
    assert ours < 0.005 * 12.0
    assert ours < 0.1 * min(starved_s(name, "remote_wifi") for name in ("synchronous_10", "afm", "afm_naive_early"))


@pytest.mark.parametrize("profile", ["paper", "measured", "jetson", "remote_wifi"])
def test_no_shipped_latencies_make_a_context_too_old(profile: str) -> None:
    made = world_of(STRATEGIES["ours"], find_profile(profile), seed=1)
    assert made.halting().hand_overs > 8 and made.generator.counters["context_too_old"] == 0


def trace_of(seed: int) -> list[Told]:
    """Return what the machines were told in a run with jitter and loss."""
    setup, profile = STRATEGIES["ours"], find_profile("remote_wifi")
    made = world_of(setup, profile, seed, seconds=0.0)
    made.trace = []
    made.run(2.0)
    return made.trace


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    first, second, other = trace_of(5), trace_of(5), trace_of(6)
    assert [(told.machine, told.handler, told.now) for told in first] == [
        (told.machine, told.handler, told.now) for told in second
    ]
    assert [told.now for told in first] != [told.now for told in other]


def test_an_unknown_strategy_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown strategy 'our': choose one of .*ours"):
        find_strategy("our")


def finished(profile: LatencyProfile) -> list[tuple[str, float, float]]:
    """Prefill for 60 ms and ask for two flow steps of 10 ms, after 5 and 6 ms; return begin and end of each."""
    engine, found = make_engine(Straw(Timing()), profile), []
    nowhere = LAYOUT.start()

    def look(sequence: int, now: float) -> None:
        engine.observe(EncodedObservation("/", 1, sequence, "go", (JPEG,), np.zeros(3, np.float32)), now)

    def run(until_s: float) -> None:
        while (due_s := engine.deadline()) < until_s:
            now = max(due_s, clock.now)
            clock.now = now
            for reply in engine.poll(now):
                value = reply.value
                if isinstance(value, GeneratedAction):
                    found.append(("flow", now - value.compute_s, now))
                else:
                    found.append(("prefill", now - value.prefill_s - value.queued_s, now))
        clock.now = until_s

    clock = Clock()
    look(0, 0.0)
    run(1.0)
    found.clear()
    look(1, 1.0)
    for until, at_s in ((1, 1.005), (2, 1.006)):
        run(at_s)
        engine.generate("/", GenerateRequest(1, 0, 0, 0, nowhere, until), at_s)
    run(2.0)
    return [(name, begin_s - 1.0, end_s - 1.0) for name, begin_s, end_s in found]


def constant(slices: int) -> LatencyProfile:
    """Return a profile of 60 ms to observe and 10 ms for a flow step."""
    return LatencyProfile(
        "test", "a test", 20.0, Spread(60.0, 60.0), Spread(10.0, 10.0), Spread(0.0, 0.0), prefill_slices=slices
    )


def test_shared_hardware_does_flow_steps_before_the_next_slice_of_a_prefill() -> None:
    found = finished(constant(slices=6))
    assert [name for name, _, _ in found] == ["flow", "flow", "prefill"]
    assert [value for _, *times in found for value in times] == pytest.approx([0.01, 0.02, 0.02, 0.03, 0.0, 0.08])


def test_hardware_that_is_not_shared_runs_both_beside_each_other() -> None:
    found = finished(constant(slices=0))
    assert [value for _, *times in found for value in times] == pytest.approx([0.005, 0.015, 0.015, 0.025, 0.0, 0.06])


def arrivals(profile: LatencyProfile, send: Callable[[Network, Clock, list[int]], None]) -> list[tuple[int, float]]:
    """Return what arrives in which order, and when."""
    clock, arrived, times = Clock(), [], []
    send(Network(profile, clock, 3), clock, arrived)
    while clock.due_s() < float("inf"):
        clock.now = clock.due_s()
        known = len(arrived)
        clock.happen()
        times += [clock.now] * (len(arrived) - known)
    return list(zip(arrived, times, strict=True))


def question(number: int) -> SaliencyQuestion:
    """Return something that travels."""
    return SaliencyQuestion(1, number, 0, np.zeros(3), "plan")


def test_a_channel_keeps_its_order() -> None:
    def send(network: Network, clock: Clock, arrived: list[int]) -> None:
        for number in range(200):
            arrive = partial(arrived.append, number)
            clock.after(0.001 * number, partial(network.send, question(number), "engine", arrive))

    found = arrivals(replace(find_profile("remote_wifi"), loss=0.3), send)
    assert [number for number, _ in found] == list(range(200))


def test_what_is_sent_at_one_instant_travels_together_and_on_the_robot_nothing_travels() -> None:
    def send(network: Network, clock: Clock, arrived: list[int]) -> None:
        for number in range(20):
            network.send(question(number), "engine", partial(arrived.append, number))
        network.send(ObserveRequest(1, 99, Reason.EARLY), "observer", partial(arrived.append, 99))

    found = arrivals(find_profile("remote_wifi"), send)
    assert [number for number, _ in found] == [99, *range(20)]
    assert found[0][1] == 0.0 and len({time_s for _, time_s in found[1:]}) == 1 and found[1][1] > 0.001


SERVED_S = 0.002  # there and back, beside the chunk


@pytest.mark.parametrize(
    ("threshold", "chunk_s", "starved", "per_action"),
    [
        (0.0, 0.1, 0.102, None),
        (0.05, 0.1, 0.059, None),
        (0.5, 0.1, None, 0.18),
        (0.5, 0.6, 0.21, None),
        (0.7, 0.1, None, 0.29),
    ],
)
def test_the_queue_is_as_lerobots_own_server_and_client_are(
    threshold: float, chunk_s: float, starved: float | None, per_action: float | None
) -> None:
    """Both were run, of lerobot 0.6.1: chunks of 20 actions at 20 Hz; measured shares within 2 points."""
    latency = Spread(1000 * (chunk_s + SERVED_S), 1000 * (chunk_s + SERVED_S))
    profile = LatencyProfile("served", "a server", 50.0, latency, Spread(0.0, 0.0), Spread(0.0, 0.0))
    setup = changed(find_strategy("lerobot_latest_only"), {"chunks": {"threshold": threshold}})
    made = world_of(setup, profile, seconds=60.0, trained=20)
    ended = made.states[-1][1]
    if starved is not None:
        assert ended.starved_s / 60.0 == pytest.approx(starved, abs=0.02)
    if per_action is not None:
        assert len(made.record.contexts) / ended.executed == pytest.approx(per_action, abs=0.02)
