"""`streaming-vla demo`: the same episodes synchronous and streaming on the simulated robot."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from streaming_vla.engine.latency_profile import find_profile
from streaming_vla.workbench.demo.display import Display
from streaming_vla.workbench.demo.options import DemoOptions
from streaming_vla.workbench.report.filmstrip import draw_filmstrip
from streaming_vla.workbench.report.html import make_run, write_report
from streaming_vla.workbench.report.markdown import comparison_table, summary_sentences
from streaming_vla.workbench.report.memory_series import memory_series
from streaming_vla.workbench.report.records import EpisodeRecord, Scene
from streaming_vla.workbench.report.results import compare, halting, write_json
from streaming_vla.workbench.report.terms import T_ACTION, T_HALT
from streaming_vla.workbench.report.timeline import draw_timeline

if TYPE_CHECKING:
    from streaming_vla.workbench.demo.driver import Driver

PLAIN_WIDTH = 100  # columns where the output is no terminal
Settings = dict[str, dict[str, bool | float | int | str]]  # parameters per node
MODES: dict[str, Settings] = {
    "synchronous": {"generator": {"release": "chunk", "overrun": False}, "saliency_monitor": {"mode": "off"}},
    "streaming": {"generator": {"release": "stream", "overrun": True}, "saliency_monitor": {"mode": "always"}},
}


def run(options: DemoOptions) -> int:
    """Run the demo and return the exit code: 0 when every episode was run, whatever came out of it."""
    # the middleware is loaded here, so that `--help` and a wrong option answer at once
    from streaming_vla.workbench.demo.driver import DriverError
    from streaming_vla.workbench.demo.simulation import driven_simulation

    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    tasks = options.tasks or options.shown.tasks
    scenes = [Scene(task, options.seed + index) for task in tasks for index in range(options.episodes)]
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        console.print(f"Starting the nodes and the simulated robot; their logs go to {options.out / 'logs'}")
        console.print(f"{T_HALT} {T_ACTION}")
        if options.profile:
            console.print(f"Latency profile: {find_profile(options.profile).description}")
        with driven_simulation(
            options.out / "logs",
            profile=options.profile,
            params_file=options.file,
            simulated_clock=options.simulated_clock,
            robot=options.shown,
            model=options.model,
        ) as simulation:
            records = _run_episodes(simulation.driver, console, scenes, options)
        _present(records, console, options)
    except DriverError as error:
        print(f"streaming-vla demo: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        reason = error.strerror or error
        sentence = f"cannot write into folder '{options.out}': {reason}; choose another with --out"
        print(f"streaming-vla demo: {sentence}", file=sys.stderr)
        return 1
    return 0


def _run_episodes(
    driver: Driver, console: Console, scenes: Sequence[Scene], options: DemoOptions
) -> list[EpisodeRecord]:
    records: list[EpisodeRecord] = []
    with Display(console, scenes, tuple(MODES)) as display:
        for scene in scenes:
            for mode, settings in MODES.items():
                display.say(f"{mode}: the robot resets to {scene.task}, seed {scene.seed}")
                for node, values in settings.items():
                    driver.set_parameters(node, values)
                record = driver.run(mode, scene, options.limit_s(scene.task), display.update)
                records.append(record)
                display.finish(record)
    return records


def _present(records: Sequence[EpisodeRecord], console: Console, options: DemoOptions) -> None:
    """Write the numbers and the pictures, print the table and say where everything is."""
    out = options.out
    results = compare(records)
    console.print(comparison_table(results))
    for sentence in summary_sentences(results):
        console.print(sentence)
    for record in records:
        if record.problem:
            console.print(f"{record.mode} {record.task}, seed {record.seed}: {record.problem}")
    write_json(results, out / "results.json")
    inference = options.suite.inference
    runs = []
    for mode in results:
        of_mode = [record for record in records if record.mode == mode]
        longest = max(of_mode, key=lambda record: record.duration_s)
        runs.append(make_run(mode, of_mode, results[mode], **memory_series(longest, inference)))
    about = f"{len(records)} episodes on the simulated robot, each scene once in every mode."
    written = [out / "results.json", write_report(out, "Demo: " + " and ".join(results), about, runs)]
    pair = representative_pair(records)
    if pair is not None:
        draw_timeline(*pair, out / "timeline.png")
        written.append(out / "timeline.png")
    strips = out / "filmstrips"
    strips.mkdir(exist_ok=True)
    for record in records:
        if record.frames:
            draw_filmstrip(record, strips / f"{record.task}_{record.seed}_{record.mode}.png")
    written.append(strips)
    console.print("Written: " + ", ".join(str(path) for path in written), soft_wrap=True)


def representative_pair(records: Sequence[EpisodeRecord]) -> tuple[EpisodeRecord, EpisodeRecord] | None:
    """Return the synchronous and the streaming episode of the scene with the median synchronous T_halt.

    Scenes that both modes solved come first; None when no scene has actions and a hand-over in both.
    """
    by_scene: dict[tuple[str, int], dict[str, EpisodeRecord]] = {}
    for record in records:
        if halting(record).hand_overs:
            by_scene.setdefault((record.task, record.seed), {})[record.mode] = record
    pairs = [(found["synchronous"], found["streaming"]) for found in by_scene.values() if len(found) == len(MODES)]
    solved = [pair for pair in pairs if pair[0].success and pair[1].success] or pairs
    ordered = sorted(solved, key=lambda pair: halting(pair[0]).t_halt_ms)
    return ordered[len(ordered) // 2] if ordered else None
