"""Servers of policies: how many bad ones end in one sentence, and what a round trip to a good one costs."""

from __future__ import annotations

import multiprocessing
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kv_cache.cache import CacheView
from streaming_vla.policies.contract import PolicyObservation, PolicySpec, prefill_whole
from streaming_vla.policies.layout import ActionLayout
from streaming_vla.policies.remote import openpi, wire
from streaming_vla.policies.remote.options import RemoteOptions
from streaming_vla.policies.remote.spec_metadata import SPEC_KEY, spec_to_metadata

TESTS = Path(__file__).resolve().parents[2] / "test" / "policies" / "remote"
ROUNDS, WARM_UP = 300, 20
LAYOUT = ActionLayout(tuple(f"joint_{number}" for number in range(7)), (True,) * 7, (-1.0,) * 7, (1.0,) * 7, (0.0,) * 7)
SPEC = PolicySpec("idle", ("front", "wrist"), 224, 8, LAYOUT, 10, 50)


def hostile_servers() -> dict[str, Any]:
    """Return how many of the tests' bad servers end in the sentence that is meant, and how many otherwise."""
    sys.path.insert(0, str(TESTS))
    from hostile_groot import GROOT
    from hostile_openpi import OPENPI
    from meeting import meet_groot, meet_openpi

    refused = otherwise = 0
    for meet, every in ((meet_openpi, OPENPI), (meet_groot, GROOT)):
        for bad in every:
            try:
                said = meet(bad)
            except Exception:
                otherwise += 1
            else:
                refused += bad.says in said and "\n" not in said
    return {"hostile_servers": refused, "hostile_server_tracebacks": otherwise}


def round_trip() -> dict[str, Any]:
    """Return the median time from an observation of two pictures to its chunk, to a server that computes nothing."""
    ours, its = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=idle_server, args=(its,), daemon=True)
    process.start()
    try:
        policy = openpi.connect(f"127.0.0.1:{ours.recv()}", RemoteOptions(timeout_s=30.0))
        empty = CacheView(torch.zeros(1, 1, 0, 2), torch.zeros(1, 1, 0, 2), 0)
        pictures = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
        observation = PolicyObservation(pictures, np.zeros(8, np.float32), "pick up the cube")
        taken = []
        for number in range(WARM_UP + ROUNDS):
            begin_s = time.perf_counter()
            prefill_whole(policy, replace(observation, instruction=f"cube {number}"), empty)
            taken.append(1000.0 * (time.perf_counter() - begin_s))
    finally:
        process.terminate()
        process.join()
    return {"openpi_round_trip_p50_ms": float(np.median(taken[WARM_UP:]))}


def idle_server(where: Connection) -> None:
    """Serve as openpi does, with a chunk that is always the same."""
    from websockets.sync.server import ServerConnection, serve

    answer = wire.pack({"actions": np.zeros((50, 7), np.float32), "server_timing": {"infer_ms": 0.0}})

    def handler(connection: ServerConnection) -> None:
        connection.send(wire.pack({SPEC_KEY: spec_to_metadata(SPEC)}))
        for message in connection:
            assert isinstance(message, bytes)
            wire.unpack(message, 1 << 24)
            connection.send(answer)

    with serve(handler, "127.0.0.1", 0, compression=None, max_size=None) as server:
        where.send(server.socket.getsockname()[1])
        server.serve_forever()
