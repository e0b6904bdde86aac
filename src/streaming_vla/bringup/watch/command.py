"""The command `streaming-vla watch`: a robot live in the terminal, layouts for other viewers, a recording for Rerun."""

from __future__ import annotations

import sys
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streaming_vla.interrupts import ending_at_once
from streaming_vla.refusal import refuse

if TYPE_CHECKING:
    from streaming_vla.bringup.watch.rerun_sink import RerunSink

PERIOD_S = 0.25
ONCE_S = 15.0  # at most, where not everybody is heard


class Viewer(str, Enum):
    """Whose layout is written."""

    foxglove = "foxglove"
    plotjuggler = "plotjuggler"


def watch(
    namespace: Annotated[str, typer.Option(help="namespace of the robot")] = "/",
    once: Annotated[
        bool, typer.Option("--once", help="show one page when every node was heard, after 15 s at most")
    ] = False,
    layout: Annotated[Viewer | None, typer.Option(help="write a layout for this viewer instead")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="file of the layout")] = None,
    params_file: Annotated[
        Path | None, typer.Option("--params-file", "--params", help="names cameras and actions for the layout")
    ] = None,
    rerun: Annotated[
        str, typer.Option(help="also send what is heard to Rerun: a file FILE.rrd, or `viewer` to start one")
    ] = "",
    bag: Annotated[Path | None, typer.Option(help="with --rerun: send this bag instead of the live robot")] = None,
) -> None:
    """Show what a robot does: modes, queue, halts, observations, cache, latencies, cameras, warnings."""
    if (layout is None) != (out is None):
        refuse("--layout and --out belong together: --layout foxglove --out FILE")
    if bag is not None and not rerun:
        refuse("--bag is for --rerun: without it a bag is looked at by `streaming-vla replay`")
    from streaming_vla.bringup.starter import SuiteError

    try:
        if layout is not None and out is not None:
            _write_layout(layout, out, params_file, namespace)
        elif bag is not None:
            _send_bag(bag, rerun)
        else:
            _live(namespace, once or not sys.stdout.isatty(), rerun)
    except (ValueError, OSError, SuiteError) as error:
        refuse(error)


def _write_layout(layout: Viewer, out: Path, params_file: Path | None, namespace: str) -> None:
    from streaming_vla.bringup.starter import checked_namespace
    from streaming_vla.bringup.watch.layouts import LAYOUTS, subject
    from streaming_vla.parameters import load

    full = checked_namespace(namespace, params_file)
    out.write_text(LAYOUTS[layout.value](subject(load.read(params_file, full), full)), encoding="utf-8")
    print(out)


def _send_bag(path: Path, target: str) -> None:
    from streaming_vla.bags.reader import Bag
    from streaming_vla.bringup.watch.rerun_sink import TYPES, RerunSink

    sent = refused = 0
    with Bag(path) as bag:
        topics = [topic.name for topic in bag.descriptions if topic.type in TYPES]
        if not topics:
            refuse(f"{path} has no topic that Rerun can show: expected one of {', '.join(TYPES)}")
        sink = RerunSink(target, path.name)
        try:
            for message in bag.messages(dict.fromkeys(topics)):
                since_s = (message.time_ns - (bag.begin_ns or 0)) * 1e-9
                try:
                    sink.take(message.topic, bag.type_of(message), bag.decode(message), since_s)
                    sent += 1
                except ValueError:  # damaged: counted and told at the end
                    refused += 1
        finally:
            sink.close()
        damaged = [str(problem) for problem in bag.problems]
    print(f"{sent} messages sent to {target}" + (f", {refused} could not be read" if refused else ""))
    for problem in damaged:
        print(problem, file=sys.stderr)


def _live(namespace: str, once: bool, target: str) -> None:
    with ending_at_once():
        from rich.console import Console
        from rich.live import Live

        from streaming_vla.bringup.starter import checked_namespace
        from streaming_vla.bringup.watch.listen import listening
        from streaming_vla.bringup.watch.page import page
    full, console = checked_namespace(namespace, None), Console()
    sink, begin_s = _sink(target, full), time.monotonic()

    def take(topic: str, kind: str, message: Any) -> None:
        if sink is not None:
            sink.take(topic, kind, message, time.monotonic() - begin_s)

    try:
        with listening(full, take if sink is not None else None) as (listener, listen):
            if once:
                while not listener.seen.whole() and time.monotonic() < begin_s + ONCE_S:
                    listen(PERIOD_S)
                console.print(page(listener.seen, full, console.width, time.monotonic()))
                return
            with Live(console=console, screen=True, auto_refresh=False) as live:
                while True:
                    listen(PERIOD_S)
                    live.update(page(listener.seen, full, console.width, time.monotonic()), refresh=True)
    except KeyboardInterrupt:
        pass  # the way in which it ends
    finally:
        if sink is not None:
            sink.close()


def _sink(target: str, name: str) -> RerunSink | None:
    from streaming_vla.bringup.watch.rerun_sink import RerunSink

    return RerunSink(target, name) if target else None
