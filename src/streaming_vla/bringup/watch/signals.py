"""What is worth a curve: declared once for Foxglove, PlotJuggler and Rerun."""

from __future__ import annotations

from dataclasses import dataclass

STATE = "execution_state"
VALUES = "values"  # of an action, one curve for each dimension


@dataclass(frozen=True)
class Plot:
    """Curves that belong into one plot.

    Args:
        tab: where it stands.
        title: of the plot.
        topic: of the message, relative to the robot's namespace.
        kind: type of the message, without its package.
        fields: of the message, one curve each.
    """

    tab: str
    title: str
    topic: str
    kind: str
    fields: tuple[str, ...]


PLOTS = (
    Plot("Execution", "Queue and halting", STATE, "ExecutionState", ("queue_depth", "starved_s", "held_s")),
    Plot("Execution", "Mode", STATE, "ExecutionState", ("mode",)),
    Plot("Execution", "Actions", "action", "Action", (VALUES,)),
    Plot("Observations", "Reason", "observe_request", "ObserveRequest", ("reason",)),
    Plot("Observations", "Saliency", "observe_request", "ObserveRequest", ("saliency",)),
    Plot("Observations", "Latency", "context", "Context", ("prefill_s", "queued_s", "flow_step_s")),
    Plot("KV cache", "Bytes", "kv_cache_stats", "KvCacheStats", ("bytes", "full_bytes")),
    Plot("KV cache", "Chunks", "kv_cache_stats", "KvCacheStats", ("chunks_kept", "chunks_dropped", "chunks_evicted")),
)


def curves(plot: Plot, dimensions: int) -> list[str]:
    """Return the fields of a plot, each number of a list for itself.

    Args:
        dimensions: of an action.
    """
    return [
        name
        for field in plot.fields
        for name in ([f"{field}[{place}]" for place in range(dimensions)] if field == VALUES else [field])
    ]
