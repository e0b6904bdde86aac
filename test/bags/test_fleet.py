"""Bags replayed on a Ray cluster of two machines, both of which are this one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from making import BEGIN_NS, STEP_NS, STORE, TYPES, floats, image, picture, write_own

from streaming_vla.workbench.replay.compare import played
from streaming_vla.workbench.replay.fleet import map_on_cluster
from streaming_vla.workbench.replay.replay import Replayed
from streaming_vla.workbench.replay.run import ReplayJob, replay_all

CAMERAS = ("/camera/corner2/image", "/camera/gripperPOV/image")


def test_without_ray_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="--ray needs the package ray: pip install"):
        list(map_on_cluster(str, [1], "auto"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two nodes of one core each."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'ray>=2.50'")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100_000_000}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    made.add_node(**node)
    yield made.address
    made.shutdown()


def bag(folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> Path:
    for name in CAMERAS:
        monkeypatch.setitem(TYPES, name, TYPES["/camera/left/image"])
    said = []
    for step in range(steps):
        now_ns = BEGIN_NS + step * STEP_NS
        messages: list[tuple[str, Any]] = [(name, image(picture(step), now_ns)) for name in CAMERAS]
        messages.append(("/robot_state", floats([0.0, 0.6, 0.2, 1.0])))
        said += [(name, now_ns, bytes(STORE.serialize_cdr(each, TYPES[name]))) for name, each in messages]
    return write_own(folder, said)


def told(replayed: Replayed) -> list[list[Any]]:
    return [[(time_s, index, values.tolist()) for time_s, index, values in played(e)] for e in replayed.episodes]


def node_of() -> Callable[[int], str]:
    """Return a function that tells where it runs; a closure, because the workers cannot import this module."""

    def where(_: int) -> str:
        import ray

        time.sleep(1.0)
        return str(ray.get_runtime_context().get_node_id())

    return where


@pytest.mark.timeout(300)
def test_both_machines_work(cluster: str) -> None:
    found = dict(map_on_cluster(node_of(), list(range(4)), cluster))
    assert set(found) == {0, 1, 2, 3}
    assert len(set(found.values())) == 2


@pytest.mark.timeout(300)
def test_a_cluster_replays_as_this_machine_does(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bags = [bag(tmp_path / "one", monkeypatch, 40), tmp_path / "missing", bag(tmp_path / "two", monkeypatch, 60)]
    job = ReplayJob(profile="paper", instruction="open the drawer")
    through: list[Path] = []
    far = replay_all(bags, job, done=lambda path, _: through.append(path), ray=cluster)
    near = replay_all(bags, job)
    assert sorted(through) == sorted(bags)
    assert far[1].problems == near[1].problems != []
    for ours, theirs in zip(near, far, strict=True):
        assert [len(each.record.requests) for each in ours.episodes] == [
            len(e.record.requests) for e in theirs.episodes
        ]
        for mine, other in zip(ours.episodes, theirs.episodes, strict=True):
            assert [(t, i, v.tolist()) for t, i, v in played(mine)] == [(t, i, v.tolist()) for t, i, v in played(other)]


@pytest.mark.timeout(300)
def test_what_goes_wrong_is_told(cluster: str) -> None:
    def fail(_: int) -> None:
        raise LookupError("no such bag")

    def kill(_: int) -> None:
        os._exit(1)

    with pytest.raises(LookupError, match="no such bag"):
        list(map_on_cluster(fail, [1], cluster))
    with pytest.raises(ValueError, match="a task on the Ray cluster was lost"):
        list(map_on_cluster(kill, [1], cluster))
    with pytest.raises(ValueError, match="no Ray cluster answers at"):
        list(map_on_cluster(node_of(), [1], "nowhere"))
