"""What the server knows of its clients."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import ServerConnection

from streaming_vla.machines.latency import LatencyTracker


@dataclass(eq=False)
class Client:
    """One connection.

    Args:
        told: number of the episode that the client has told last.
        episode: number of the engine for it.
        sequence: of its newest observation.
        previous_s: what its request before took until the answer was sent, seconds.
    """

    connection: ServerConnection
    since_s: float = field(default_factory=time.monotonic)
    requests: int = 0
    told: int | None = None
    episode: int = 0
    sequence: int = 0
    previous_s: float | None = None

    @property
    def address(self) -> str:
        """Where it comes from."""
        found = self.connection.remote_address
        return f"{found[0]}:{found[1]}" if found else "unknown"


class Figures:
    """Counts and latencies since the start."""

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.refused: Counter[str] = Counter()  # by code
        self.infer = LatencyTracker(warm_up=1)
        self.clients: set[Client] = set()

    def report(self, model: str, sessions: dict[Client, str], engine: dict[str, int], stuck_s: float) -> dict[str, Any]:
        """Return all of it as plain values, for the page and for programs.

        Args:
            sessions: that are taken, by client.
            engine: what the engine has answered, by code.
            stuck_s: for how long the policy has been in one slice, seconds.
        """
        now, summary = time.monotonic(), self.infer.summary()
        figures: dict[str, Any] = {
            "model": model,
            "up_s": round(now - self.began_s, 1),
            "in_one_slice_s": round(stuck_s, 3),
            "requests": summary.count,
        }
        if summary.count:
            figures["infer_ms"] = {
                name: round(1000.0 * getattr(summary, f"{name}_s"), 2) for name in ("p50", "p95", "p99", "max")
            }
        return figures | {
            "clients": [
                {
                    "address": client.address,
                    "session": sessions.get(client, ""),
                    "connected_s": round(now - client.since_s, 1),
                    "requests": client.requests,
                }
                for client in sorted(self.clients, key=lambda client: client.since_s)
            ],
            "refused": dict(sorted(self.refused.items())),
            "engine": engine,
        }
