"""Recording in parallel processes: a killed one ends the command with a sentence, and the next command goes on."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from streaming_vla.cli import app
from streaming_vla.training.shard import Shard

PLAN = """
recordings:
  - {episodes: {reach: 2}, frame_every: 10, maximum_steps: 20}
sources:
  - {tasks: {reach: 1.0}}
"""


def kill_first_worker(others: set[int]) -> None:
    """Kill the first worker process of this process as soon as there is one; `others` are those of other tests."""
    while True:
        for child in psutil.Process().children():
            if child.pid not in others and "spawn_main" in " ".join(child.cmdline()):
                child.kill()
                return
        time.sleep(0.05)


@pytest.mark.timeout(200)
def test_a_killed_worker_is_one_sentence_and_the_next_command_goes_on(tmp_path: Path) -> None:
    plan, folder = tmp_path / "plan.yaml", tmp_path / "episodes"
    plan.write_text(PLAN)
    command = ["train", "demos", "--plan", str(plan), "--folder", str(folder), "--processes", "1"]
    others = {child.pid for child in psutil.Process().children()}
    killer = threading.Thread(target=kill_first_worker, args=(others,), daemon=True)
    killer.start()
    result = CliRunner().invoke(app, command)
    killer.join()
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    said = result.stderr.splitlines()[-1]
    assert said.startswith("streaming-vla: a worker process ended") and said.endswith("what is finished is kept")

    there = Shard(folder, "reach", 0).path
    there.write_bytes(b"recorded before")
    assert CliRunner().invoke(app, command).exit_code == 0
    assert there.read_bytes() == b"recorded before", "what exists is not recorded again"
    assert sorted(folder.iterdir()) == [there, Shard(folder, "reach", 1).path]
