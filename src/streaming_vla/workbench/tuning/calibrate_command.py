"""`streaming-vla calibrate`: the monitor's threshold from bags or from simulated episodes, as a parameter file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from streaming_vla.refusal import refuse

CALIBRATION_SEED = 9_000  # of the first episode: neither of the demonstrations nor of an evaluation


def calibrate(
    bags: Annotated[
        list[Path] | None, typer.Argument(help="folders of rosbag2, or .mcap / .db3 files; none: simulated episodes")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="wanted share of the contexts that are observed early")] = None,
    fewer: Annotated[
        float | None, typer.Option(help="wanted share of the observations that is saved against mode always")
    ] = None,
    within: Annotated[
        float | None, typer.Option(help="fewest observations at a success at most this share below mode always")
    ] = None,
    mode: Annotated[str, typer.Option(help="adaptive or action_norm")] = "adaptive",
    of: Annotated[
        str, typer.Option(help="of mode adaptive: plan, pictures or doubt (the parameter saliency_of)")
    ] = "plan",
    when: Annotated[str, typer.Option(help="salient observes where the change is high, calm where it is not")] = (
        "salient"
    ),
    out: Annotated[Path, typer.Option(help="the parameter file")] = Path("out/saliency.yaml"),
    model: Annotated[
        str | None, typer.Option(help="shipped model or path; none: compact_mt10, with bags the parameter file's")
    ] = None,
    saliency_model: Annotated[
        str | None, typer.Option(help="its predictor; none: the one of its name, with bags the parameter file's")
    ] = None,
    tasks: Annotated[str, typer.Option(help="of simulated episodes: names with commas between, or mt10, all")] = "mt10",
    episodes: Annotated[int, typer.Option(min=1, help="of each task")] = 6,
    profile: Annotated[str, typer.Option(help="latencies: a shipped profile, or a YAML file")] = "measured",
    params: Annotated[
        Path | None, typer.Option("--params", "--params-file", help="ROS parameter file of the suite, for bags")
    ] = None,
    namespace: Annotated[str, typer.Option(help="namespace of the robot in the bags")] = "/",
    processes: Annotated[int, typer.Option(min=1, help="one core each")] = 2,
) -> None:
    """Find the saliency threshold that gives a wanted rate, a wanted saving, or the same success."""
    from streaming_vla.policies.models import AUTO
    from streaming_vla.saliency import calibration
    from streaming_vla.sim.tasks import select_tasks
    from streaming_vla.workbench.replay.run import ReplayJob
    from streaming_vla.workbench.tuning import calibrating
    from streaming_vla.workbench.virtual.runs import VirtualRun
    from streaming_vla.workbench.virtual.setup import StreamSetup

    try:
        _check(rate, fewer, within, bool(bags), mode)
        always = StreamSetup()
        setup = always.asking(mode, of, when)
        own = AUTO if model is not None and saliency_model is None else saliency_model
        named = {"model": model, "saliency_model": own}
        models: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        scenes = [
            VirtualRun(mode, setup, profile, task, CALIBRATION_SEED + number, **models)
            for task in select_tasks(tasks)
            for number in range(episodes)
        ]
        if bags:
            changes = tuple(("inference", name, value) for name, value in models.items())
            job = ReplayJob(params, changes, profile, namespace)
            judged = calibrating.judged_bags(bags, job, mode, of, when, processes)
        else:
            judged = calibrating.judged_episodes(calibrating.recording(setup, when), scenes, processes)
        values = calibration.extremes(judged, when)
        if rate is not None:
            found = calibration.calibrate(values, rate, when)
        else:
            tried = calibrating.trying(setup, scenes, values, when, processes)
            reference = calibrating.outcome(always, scenes, calibration.calibrate(values, 1.0, when), processes)
            print(reference)

            def told(rate: float) -> calibrating.Outcome:
                outcome = tried(rate)
                saved = 1 - outcome.observations / reference.observations
                print(f"{outcome}, {100 * saved:.0f} % fewer observations per action")
                return outcome

            outcomes = (
                calibrating.by_saving(told, reference, fewer)
                if fewer is not None
                else calibrating.by_success(told, reference, within or 0.0)
            )
            found = outcomes[-1].calibration
        out.parent.mkdir(parents=True, exist_ok=True)
        calibration.write_parameters(out, mode, of, when, found)
    except (ValueError, OSError) as error:
        refuse(error)
    print(
        f"threshold {found.threshold:.4g}: {100 * found.rate:.1f} % of {found.contexts} contexts are observed early\n"
        f"Written: {out}"
    )


def _check(rate: float | None, fewer: float | None, within: float | None, bags: bool, mode: str) -> None:
    """Refuse what cannot be asked for.

    Raises:
        ValueError: not exactly one goal, or one that bags cannot tell.
    """
    from streaming_vla.saliency.calibration import MODES

    goals = {"--rate": rate, "--fewer": fewer, "--within": within}
    given = [name for name, value in goals.items() if value is not None]
    if len(given) != 1:
        raise ValueError(f"calibrate: give one of {', '.join(goals)}, got {', '.join(given) or 'none'}")
    for name, value in goals.items():
        if value is not None and not 0.0 <= value <= 1.0:
            raise ValueError(f"calibrate: {name} is {value}, expected a share from 0 to 1")
    if bags and rate is None:
        raise ValueError(f"calibrate: {given[0]} needs episodes that can be run again, bags know --rate only")
    if mode not in MODES:
        raise ValueError(f"mode '{mode}' has no saliency threshold: choose one of {', '.join(MODES)}")
