"""The page of `streaming-vla watch`: what has been seen of a robot, for a terminal of 80 columns or more."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from streaming_vla.bringup import graph
from streaming_vla.bringup.watch.seen import NodeSeen, Seen
from streaming_vla.machines.events import Mode

WIDE = 140  # columns from which on nodes stand beside the stream
SILENT_S = 3.0  # nodes tell their diagnostics once a second, the executor its state twice
SAID_SHOWN = 5
BAR = 20
COLOURS = {
    Mode.IDLE: "dim",
    Mode.WAITING: "cyan",
    Mode.PLAYING: "green",
    Mode.HOLD: "yellow",
    Mode.DECELERATE: "dark_orange",
    Mode.ERROR: "bold red",
}
LEVELS = ("green", "yellow", "bold red")


def page(seen: Seen, namespace: str, width: int, now: float) -> RenderableType:
    """Return the page.

    Args:
        namespace: of the robot.
        width: columns of the terminal.
        now: monotonic seconds.
    """
    stream = Panel(_stream(seen, now), title=_title(seen, namespace, now), title_align="left")
    rest = [Panel(_nodes(seen, now), title="nodes", title_align="left")]
    rest.append(Panel(_said(seen, now), title="last warnings and refusals", title_align="left"))
    if width < WIDE:
        return Group(stream, *rest)
    table = Table.grid(expand=True)
    table.add_column(ratio=1)
    table.add_column(ratio=1)
    table.add_row(stream, Group(*rest))
    return table


def _title(seen: Seen, namespace: str, now: float) -> Text:
    title = Text(namespace, style="bold")
    state = seen.state
    if state is None:
        return title.append("  no executor is heard", style="yellow")
    title.append("  ").append(state.mode.name.lower(), style=COLOURS[state.mode])
    if now > seen.state_s + SILENT_S:
        title.append(f"  not heard for {now - seen.state_s:.0f} s", style="bold red")
    if state.episode:
        title.append(f"  episode {state.episode}", style="dim")
    if state.dry_run:
        title.append("  dry run", style="cyan")
    return title


def _stream(seen: Seen, now: float) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, told in _rows(seen):
        table.add_row(name, told if told is not None else Text("not known yet", style="dim"))
    return table


def _rows(seen: Seen) -> Sequence[tuple[str, str | Text | None]]:
    return [
        ("instruction", seen.state.instruction or None if seen.state else None),
        ("playing", _playing(seen)),
        ("queue", _queue(seen)),
        ("T_halt", _halting(seen)),
        ("observation", _observation(seen)),
        ("saliency", _saliency(seen)),
        ("cache", _cache(seen)),
        ("latencies", _latencies(seen)),
        ("cameras", _cameras(seen)),
        ("real time", _real_time(seen)),
    ]


def _playing(seen: Seen) -> str | None:
    state = seen.state
    if state is None or state.index < 0:
        return None
    return (
        f"action {state.index} of context {state.context}; {state.executed} begun, {state.hand_overs} hand-overs, "
        f"{state.rejected} refused"
    )


def _queue(seen: Seen) -> str | None:
    if seen.state is None:
        return None
    return (
        f"{seen.state.queue_depth} at the executor, {_number(seen.figure('generator', 'actions_ahead'), '.0f')} ahead"
    )


def _halting(seen: Seen) -> str | Text | None:
    halting = seen.halting()
    if halting is None or not halting.executed:
        return None
    text = Text(
        f"{_number(halting.t_halt_ms, '.1f')} ms mean, {_number(halting.longest_ms, '.0f')} ms longest, of "
        f"{len(halting.halts_ms)}"
    )
    if not math.isnan(halting.t_action_ms):
        text.append(f"; an action takes {halting.t_action_ms:.1f} ms")
    if seen.state is not None and seen.state.held_s:
        text.append(f"; held for {seen.state.held_s:.1f} s", style="yellow")
    return text


def _observation(seen: Seen) -> str | None:
    if seen.request is None:
        return None
    return f"{_number(1e3 * seen.age_s, '.0f')} ms old; the newest asked for: {seen.reason()}"


def _saliency(seen: Seen) -> str | Text | None:
    mode = seen.parameters.get("saliency_monitor", {}).get("mode")
    threshold = seen.threshold()
    if mode is None:
        return None
    if threshold is None:
        return f"mode {mode}, which has no threshold"
    high = seen.saliency >= threshold
    share = 0.0 if math.isnan(seen.saliency) or not threshold else min(1.0, seen.saliency / (2.0 * threshold))
    filled = round(BAR * share)
    text = Text(f"{_number(seen.saliency, '.3g')} of {threshold:.3g} ")
    bar = f"{'█' * filled}{'·' * (BAR - filled)}"
    text.append(bar[: BAR // 2] + "|" + bar[BAR // 2 :], style="yellow" if high else "green")
    return text.append(f" mode {mode}")


def _cache(seen: Seen) -> str | None:
    cache = seen.cache
    if cache is None:
        return None
    held = cache.chunks_kept - cache.chunks_evicted
    return (
        f"{cache.policy}: {cache.tokens} tokens, {cache.bytes / 1e6:.2f} of {cache.full_bytes / 1e6:.2f} MB; "
        f"summaries {held} held, {cache.chunks_evicted} evicted, {cache.chunks_dropped} dropped"
    )


def _latencies(seen: Seen) -> str | None:
    context = seen.context
    told = [] if context is None else [
        f"prefill {1e3 * context.prefill_s:.1f} (+{1e3 * context.queued_s:.1f} waiting)",
        f"flow step {1e3 * context.flow_step_s:.1f}",
    ]  # fmt: skip
    for name, node, figure in (
        ("request", "saliency_monitor", "request_p95_ms"),
        ("action", "generator", "generate_p95_ms"),
        ("tick late", "executor", "tick_late_p99_ms"),
    ):
        if not math.isnan(value := seen.figure(node, figure)):
            told.append(f"{name} {figure.split('_')[-2]} {value:.1f}")
    return f"{', '.join(told)} ms" if told else None


def _cameras(seen: Seen) -> str | None:
    rates = seen.camera_rates()
    return ", ".join(f"{name} {_number(rate, '.1f')} Hz" for name, rate in rates.items()) or None


def _real_time(seen: Seen) -> str | Text:
    achieved = seen.figure("sim_robot", "achieved_real_time_factor")
    if math.isnan(achieved):
        return "no simulated robot is heard" if "sim_robot" not in seen.nodes else "not known yet"
    wanted = seen.parameters.get("sim_robot", {}).get("real_time_factor")
    slow = wanted is not None and achieved < 0.95 * wanted
    return Text(f"{achieved:.3g}{f' of {wanted:.3g}' if wanted else ''}", style="yellow" if slow else "")


def _nodes(seen: Seen, now: float) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name in (node.name for node in graph.NODES):
        node = seen.nodes.get(name)
        if node is not None or name != "sim_robot":
            table.add_row(name, _node(node, now))
    return table


def _node(node: NodeSeen | None, now: float) -> Text:
    if node is None:
        return Text("not heard", style="yellow")
    if now > node.heard_s + SILENT_S:
        return Text(f"silent for {now - node.heard_s:.0f} s; last: {node.message}", style="bold red")
    return Text(node.message, style=LEVELS[min(node.level, 2)])


def _said(seen: Seen, now: float) -> RenderableType:
    if not seen.said:
        return Text("none", style="dim")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, justify="right")
    table.add_column(overflow="fold")
    for line in list(seen.said)[-SAID_SHOWN:][::-1]:
        text = Text(f"{line.node}: ").append(line.text, style="red" if line.error else "")
        table.add_row("before" if math.isinf(line.heard_s) else f"{now - line.heard_s:.0f} s", text)
    return table


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
