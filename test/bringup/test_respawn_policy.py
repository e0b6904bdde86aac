"""How often, and how soon, a crashed node is started again."""

from __future__ import annotations

from streaming_vla.bringup.processes import RespawnPolicy


def test_delay_doubles_up_to_the_longest_and_then_gives_up() -> None:
    policy = RespawnPolicy(first_delay_s=0.5, longest_delay_s=1.5, limit=4, window_s=100.0)
    assert [policy.delay_s(now) for now in (0.0, 1.0, 2.0, 3.0, 4.0)] == [0.5, 1.0, 1.5, 1.5, None]


def test_old_crashes_are_forgotten() -> None:
    policy = RespawnPolicy(first_delay_s=0.5, limit=2, window_s=10.0)
    assert [policy.delay_s(now) for now in (0.0, 20.0, 40.0, 41.0)] == [0.5, 0.5, 0.5, 1.0]
