"""Messages byte for byte as openpi-client 0.1.2 and GR00T's serializer write them, both ways, and what is refused."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from types import ModuleType
from typing import Any

import msgpack
import numpy as np
import pytest

from streaming_vla.policies.remote import groot_wire, wire
from streaming_vla.policies.remote.messages import WireError

FOLDER = Path(__file__).parent / "wire"
TRUTH = json.loads((FOLDER / "truth.json").read_text())
ARRAYS = np.load(FOLDER / "truth.npz", allow_pickle=False)
WIRES = {"openpi": wire, "groot": groot_wire}
MESSAGES = [(part, path.stem) for part in WIRES for path in sorted((FOLDER / part).glob("*.bin"))]


def compare(found: Any, told: Any) -> None:
    """Compare a value with its description in truth.json."""
    if isinstance(told, dict) and "array" in told:
        truth = ARRAYS[told["array"].replace("/", "|")]
        assert isinstance(found, np.ndarray)
        assert found.dtype.str == told["dtype"] == truth.dtype.str and list(found.shape) == told["shape"]
        np.testing.assert_array_equal(found, truth)
    elif isinstance(told, dict) and "scalar" in told:  # msgpack writes numpy's float64 as its own kind of number
        assert found == told["scalar"] and type(found) is float
    elif isinstance(told, dict):
        assert list(found) == list(told)
        for name, value in told.items():
            compare(found[name], value)
    elif isinstance(told, list):
        assert len(found) == len(told)
        for one, other in zip(found, told, strict=True):
            compare(one, other)
    else:
        assert found == told and type(found) is type(told)


def test_there_are_messages() -> None:
    assert len(MESSAGES) == 16


@pytest.mark.parametrize(("part", "name"), MESSAGES)
def test_golden_messages_are_read_and_written(part: str, name: str) -> None:
    data = (FOLDER / part / f"{name}.bin").read_bytes()
    found = WIRES[part].unpack(data, len(data))
    compare(found, TRUTH[part][name]["decoded"])
    assert WIRES[part].pack(found) == data


@pytest.mark.parametrize("part", WIRES)
@pytest.mark.parametrize(
    "value",
    [
        np.zeros((0, 3), np.float32),
        np.full((), 1.5, np.float32),
        np.arange(6, dtype=">i2").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(12.0)[::3],
        np.array([True, False]),
    ],
    ids=str,
)
def test_every_kind_of_numbers_survives(part: str, value: Any) -> None:
    found = WIRES[part].unpack(WIRES[part].pack({"a": value}), 10_000)["a"]
    np.testing.assert_array_equal(found, value)
    assert found.dtype == value.dtype and found.shape == value.shape
    assert not found.flags.writeable


@pytest.mark.parametrize("number", [np.float32(1.5), np.int8(-3), np.uint64(2**63), np.bool_(True)])
def test_numpy_scalars_survive_on_openpi(number: Any) -> None:
    found = wire.unpack(wire.pack({"a": number}), 1000)["a"]
    assert found == number and type(found) is type(number)


@pytest.mark.parametrize("kind", WIRES.values(), ids=WIRES)
@pytest.mark.parametrize(
    "value",
    [np.array([None]), np.array(["a"]), np.zeros(2, "f4,f4"), np.zeros(2, complex), {1, 2}, 1 << 70, object()],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_form_is_not_written(kind: ModuleType, value: Any) -> None:
    with pytest.raises(WireError):
        kind.pack({"a": value})


@pytest.mark.parametrize("kind", WIRES.values(), ids=WIRES)
def test_cut_and_changed_messages_are_read_or_refused(kind: ModuleType) -> None:
    random = np.random.default_rng(0)
    whole = (FOLDER / ("openpi/reply.bin" if kind is wire else "groot/get_action_reply.bin")).read_bytes()
    for end in range(len(whole)):
        with pytest.raises(WireError, match="the message"):
            kind.unpack(whole[:end], 1 << 20)
    for _ in range(3000):
        changed = bytearray(whole)
        for _ in range(int(random.integers(1, 4))):
            changed[random.integers(len(changed))] = random.integers(256)
        try:
            kind.unpack(bytes(changed), 1 << 20)
        except WireError as error:
            assert "\n" not in str(error) and len(str(error)) < 300


def test_a_message_of_claims_takes_no_memory() -> None:
    claims = [
        b"\xdd\xff\xff\xff\xff" * 200,
        b"\xdf\x7f\xff\xff\xff" * 200,
        b"\x91" * 100_000,
        b"\xdc\xff\xff" + b"\x80" * 0xFFFF,
        b"\xc6\xff\xff\xff\xff",
        msgpack.packb({b"__ndarray__": True, b"data": b"", b"dtype": "<f8", b"shape": [1 << 40]}),
        msgpack.packb({b"__ndarray__": True, b"data": b"", b"dtype": "<f8", b"shape": [0, 1 << 62, 1 << 62]}),
        msgpack.packb({b"__npgeneric__": True, b"data": 1 << 60, b"dtype": "|i1"}),
        msgpack.packb({b"__npgeneric__": True, b"data": [1], b"dtype": "<f4"}),
    ]
    tracemalloc.start()
    try:
        for claim in claims:
            with pytest.raises(WireError):
                wire.unpack(claim, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_message_is_no_longer_than_allowed() -> None:
    data = wire.pack({"a": np.zeros(100)})
    wire.unpack(data, len(data))
    with pytest.raises(WireError, match=f"has {len(data)} bytes, at most {len(data) - 1} are taken"):
        wire.unpack(data, len(data) - 1)
