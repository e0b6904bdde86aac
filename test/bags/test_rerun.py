"""A bag becomes a recording of Rerun: every message that has a curve, a picture or a sentence."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from making import CAMERAS, STEPS, content, picture, write_own
from typer.testing import CliRunner

from streaming_vla.cli import app


class Stream:
    """In place of Rerun's: keeps what is logged."""

    kept: list[tuple[float, str, Any]]

    def __init__(self, name: str) -> None:
        type(self).kept = []
        self._time_s = 0.0

    def send_recording_name(self, name: str) -> None: ...
    def save(self, path: Path) -> None:
        path.write_bytes(b"")

    def set_time(self, timeline: str, duration: float) -> None:
        self._time_s = duration

    def log(self, entity: str, value: Any) -> None:
        self.kept.append((self._time_s, entity, value))

    def flush(self) -> None: ...
    def disconnect(self) -> None: ...


def send(bag: Path, target: Path) -> Any:
    return CliRunner().invoke(app, ["watch", "--bag", str(bag), "--rerun", str(target)])


def test_every_message_becomes_a_curve_or_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(RecordingStream=Stream, Scalars=lambda values: values, Image=lambda pixels, model: pixels)
    monkeypatch.setitem(sys.modules, "rerun", fake)
    bag = write_own(tmp_path / "bag", content())
    done = send(bag, tmp_path / "run.rrd")
    assert done.exit_code == 0 and f"{5 * STEPS} messages sent" in done.output, done.output
    counts = Counter(entity for _, entity, _ in Stream.kept)
    wanted = dict.fromkeys((*CAMERAS, "/robot_state", "/joint_states", "/action/values"), STEPS)
    assert counts == wanted
    times = {entity: [time_s for time_s, each, _ in Stream.kept if each == entity] for entity in counts}
    assert times["/action/values"] == pytest.approx(0.05 * np.arange(STEPS), abs=1e-6)
    values = [value for _, entity, value in Stream.kept if entity == "/action/values"]
    assert values[-1] == pytest.approx(np.full(4, 0.01 * (STEPS - 1)))
    for camera in CAMERAS:
        pixels = [value for _, entity, value in Stream.kept if entity == camera]
        assert np.array_equal(pixels[3], picture(3)[..., ::-1])


@pytest.mark.skipif(importlib.util.find_spec("rerun") is None, reason="rerun-sdk is not installed (160 MB)")
def test_rerun_itself_takes_it(tmp_path: Path) -> None:
    target = tmp_path / "run.rrd"
    done = send(write_own(tmp_path / "bag", content()), target)
    assert done.exit_code == 0, done.output
    assert target.read_bytes()[:3] == b"RRF" and target.stat().st_size > 10_000


@pytest.mark.skipif(importlib.util.find_spec("rerun") is not None, reason="rerun-sdk is installed")
def test_without_rerun_the_package_is_named(tmp_path: Path) -> None:
    done = send(write_own(tmp_path / "bag", content(3)), tmp_path / "run.rrd")
    assert done.exit_code == 1 and "pip install 'rerun-sdk" in done.output and "Traceback" not in done.output


@pytest.mark.parametrize("target", ["run.mcap", "there.rrd"])
def test_a_target_that_is_none(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", SimpleNamespace(RecordingStream=Stream))
    (tmp_path / "there.rrd").write_bytes(b"mine")
    done = send(write_own(tmp_path / "bag", content(3)), tmp_path / target)
    assert done.exit_code == 1 and target in done.output
    assert (tmp_path / "there.rrd").read_bytes() == b"mine"
