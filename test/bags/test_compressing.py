"""Raw pictures that are stored as JPEG: the same picture, on the topic of image_transport, found by the same option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from making import (
    BEGIN_NS,
    CAMERAS,
    STATE,
    STEPS,
    STORE,
    content,
    header,
    image,
    make,
    picture,
    topic,
    write_own,
)
from rosbags.highlevel import AnyReader

from streaming_vla.bags.compressing import compress
from streaming_vla.bags.errors import MissingTopic
from streaming_vla.bags.ingest import Frame, Ingest, IngestOptions
from streaming_vla.bags.reader import Bag
from streaming_vla.bags.writer import BagWriter
from streaming_vla.bags.writing_thread import WritingThread
from streaming_vla.images.decode import COMPRESSED, IMAGE, check_message, pixels_of

SAID = content()
QUALITY = 95


def scene() -> np.ndarray:
    """Return [24, 32, 3] uint8 RGB with soft colours."""
    return cv2.resize(np.random.default_rng(0).integers(0, 255, (4, 5, 3)).astype(np.uint8), (32, 24))


def stored(message: Any) -> tuple[str, str, Any]:
    """Return name, type and message of what is stored of a picture."""
    described, data = compress(topic(CAMERAS[0]), bytes(STORE.serialize_cdr(message, IMAGE)), QUALITY)
    return described.name, described.type, STORE.deserialize_cdr(data, described.type)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8", "rgba8", "bayer_rggb8", "yuv422_yuy2"])
def test_a_raw_picture_becomes_the_same_as_jpeg(encoding: str) -> None:
    rgb = scene()
    rows = {
        "rgb8": rgb,
        "bgr8": rgb[..., ::-1],
        "mono8": rgb[..., 0],
        "rgba8": np.dstack((rgb, rgb[..., :1])),
        "bayer_rggb8": rgb[..., 0],
        "yuv422_yuy2": rgb[..., :2],
    }[encoding]
    raw = image(rows, BEGIN_NS + 7, encoding)
    raw.width = 32
    name, kind, message = stored(raw)
    assert (name, kind) == (f"{CAMERAS[0]}/compressed", COMPRESSED)
    assert message.header == raw.header
    expected = pixels_of(check_message(raw, IMAGE))
    assert np.abs(pixels_of(check_message(message, COMPRESSED), COMPRESSED).astype(int) - expected).mean() < 6
    assert message.format == ("mono8; jpeg compressed " if encoding == "mono8" else "bgr8; jpeg compressed bgr8")


def test_what_a_jpeg_cannot_hold_is_stored_as_it_is() -> None:
    depth = image(np.full((4, 4), 1250, np.uint16), BEGIN_NS, "16UC1")
    metres = image(np.full((4, 4), 1.25, np.float32), BEGIN_NS, "32FC1")
    wide = image(np.full((4, 4), 40_000, np.uint16), BEGIN_NS, "mono16")
    odd = image(np.zeros((4, 4), np.uint8), BEGIN_NS, "nonsense")
    short = image(np.zeros((4, 12), np.uint8), BEGIN_NS, "rgb8")
    for message in (depth, metres, wide, odd, short):
        message.width = 4
    short.step = 99
    for message in (depth, metres, wide, odd, short):
        name, kind, found = stored(message)
        assert (name, kind) == (CAMERAS[0], IMAGE) and np.array_equal(found.data, message.data)
    for name, data in ((CAMERAS[0], b"no message"), (STATE, SAID[2][2]), (CAMERAS[1], SAID[1][2])):
        assert compress(topic(name), data, QUALITY) == (topic(name), data)


def test_a_recording_of_jpeg_is_read_with_the_same_options(tmp_path: Path) -> None:
    thread = WritingThread(BagWriter(tmp_path / "bag"), 1 << 30, lambda each, data: compress(each, data, QUALITY))
    for name, time_ns, data in SAID:
        thread.take(topic(name), data, time_ns, time_ns)
    thread.close()
    assert thread.failure == "" and thread.written == len(SAID)
    options = IngestOptions({"left": CAMERAS[0], "right": CAMERAS[1]}, STATE)
    with Bag(tmp_path / "bag") as bag:
        assert bag.topics[f"{CAMERAS[0]}/compressed"].count == STEPS and CAMERAS[0] not in bag.topics
        frames = [event for event in Ingest(bag, options).events() if isinstance(event, Frame)]
        assert sum(frame.camera == "left" for frame in frames) == STEPS
        left = [frame for frame in frames if frame.camera == "left"][10]
        assert np.abs(pixels_of(left.message, left.kind)[..., ::-1].astype(int) - picture(10)).mean() < 3
        with pytest.raises(MissingTopic, match="no topic /camera/top for camera top"):
            Ingest(bag, IngestOptions({"top": "/camera/top"}, STATE))
    with AnyReader([tmp_path / "bag"]) as reader:
        connection = next(each for each in reader.connections if each.topic == f"{CAMERAS[0]}/compressed")
        assert connection.digest == STORE.hash_rihs01(COMPRESSED)
        assert {
            reader.deserialize(data, connection.msgtype).format for _, _, data in reader.messages([connection])
        } == {"bgr8; jpeg compressed bgr8"}


def test_a_damaged_jpeg_of_a_bag_is_counted_when_it_is_needed(tmp_path: Path) -> None:
    whole = cv2.imencode(".jpg", cv2.resize(scene(), (320, 240)))[1]
    part = make(COMPRESSED, header=header(BEGIN_NS), format="jpeg", data=whole.reshape(-1)[: len(whole) // 2].copy())
    damaged = bytes(STORE.serialize_cdr(part, COMPRESSED))
    said = [(name, time_ns, damaged if name == CAMERAS[1] else data) for name, time_ns, data in SAID]
    with Bag(write_own(tmp_path / "bag", said)) as bag:
        ingest = Ingest(bag, IngestOptions({"right": CAMERAS[1]}, STATE))
        frame = next(event for event in ingest.events() if isinstance(event, Frame))
        with pytest.raises(ValueError, match=r"cannot be read: .*[Pp]remature end") as damage:
            pixels_of(frame.message, frame.kind)
        ingest.refuse("right", damage.value)
        assert ingest.refused == {f"unreadable.{CAMERAS[1]}": 1}
