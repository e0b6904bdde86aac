"""Sends what a robot says to Rerun: a run while it goes on, or a bag. Needs the package rerun-sdk."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.bringup.watch.signals import PLOTS
from streaming_vla.images.decode import COMPRESSED, IMAGE, check_message, pixels_of

INSTALL = "the package rerun-sdk is missing: pip install 'rerun-sdk>=0.24' (extra `rerun`, 160 MB)"
VIEWER = "viewer"
OWN = "streaming_vla_interfaces/msg/"
OBSERVATION, ACTION = f"{OWN}Observation", f"{OWN}Action"
DIAGNOSTICS, LOG = "diagnostic_msgs/msg/DiagnosticArray", "rcl_interfaces/msg/Log"
ARRAY, JOINTS = "std_msgs/msg/Float64MultiArray", "sensor_msgs/msg/JointState"
LOG_LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARN", 40: "ERROR", 50: "CRITICAL"}
TYPES = (
    *sorted({f"{OWN}{plot.kind}" for plot in PLOTS}),
    OBSERVATION,
    IMAGE,
    COMPRESSED,
    DIAGNOSTICS,
    LOG,
    ARRAY,
    JOINTS,
)


class RerunSink:
    """Takes messages, those of rclpy and those of a bag alike.

    Args:
        target: file that gets the recording (.rrd), or "viewer" for one that is started.
        name: of the recording.

    Raises:
        ValueError: rerun-sdk is missing, or the file cannot be written.
    """

    def __init__(self, target: str, name: str) -> None:
        try:
            self._rerun = importlib.import_module("rerun")
        except ImportError as error:
            raise ValueError(INSTALL) from error
        self._stream = self._rerun.RecordingStream("streaming_vla")
        self._stream.send_recording_name(name)
        self._levels: dict[str, int] = {}  # newest of each node
        if target == VIEWER:
            self._stream.spawn()
            return
        path = Path(target)
        if path.suffix != ".rrd":
            raise ValueError(f"'{target}' is no recording of Rerun: expected a name with .rrd at its end, or {VIEWER}")
        if path.exists():
            raise ValueError(f"'{target}' exists already: choose another name, or remove it")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream.save(path)

    def take(self, topic: str, kind: str, message: Any, time_s: float) -> None:
        """Take one message; what is of another type than `TYPES` is left out.

        Args:
            topic: its full name, which becomes the entity.
            kind: type of the message.
            time_s: seconds since the recording began.

        Raises:
            ValueError: a picture cannot be decoded.
        """
        self._stream.set_time("time", duration=time_s)
        if kind == OBSERVATION:
            for camera, image in zip(message.cameras, message.images, strict=False):
                self._encoded(f"{topic}/{camera}", image)
        elif kind == COMPRESSED and "jpeg" in message.format.lower():
            self._encoded(topic, message)
        elif kind in (IMAGE, COMPRESSED):
            pixels = pixels_of(check_message(message, kind), kind)
            self._log(topic, self._rerun.Image(pixels, "BGR"))
        elif kind == DIAGNOSTICS:
            self._diagnostics(message)
        elif kind == LOG:
            level = LOG_LEVELS.get(int(message.level), "INFO")
            self._log(f"/log/{message.name}", self._rerun.TextLog(message.msg, level=level))
        elif kind == ARRAY:
            self._scalars(topic, message.data)
        elif kind == JOINTS:
            self._scalars(topic, message.position)
        else:
            for plot in PLOTS:
                if kind == OWN + plot.kind:
                    for field in plot.fields:
                        self._scalars(f"{topic}/{field}", np.atleast_1d(getattr(message, field)))

    def close(self) -> None:
        """Write what is not written yet."""
        self._stream.flush()
        self._stream.disconnect()

    def _log(self, entity: str, value: Any) -> None:
        self._stream.log(entity, value)

    def _encoded(self, entity: str, image: Any) -> None:
        self._log(entity, self._rerun.EncodedImage(contents=bytes(image.data), media_type="image/jpeg"))

    def _scalars(self, entity: str, values: npt.ArrayLike) -> None:
        numbers = np.asarray(values, dtype=np.float64)
        if numbers.size:
            self._log(entity, self._rerun.Scalars(numbers))

    def _diagnostics(self, message: Any) -> None:
        """Log what has changed: the same is told every second."""
        for status in message.status:
            level = int(status.level[0]) if isinstance(status.level, bytes) else int(status.level)
            if self._levels.get(status.name) != level:
                self._levels[status.name] = level
                worst = ("INFO", "WARN", "ERROR")[min(level, 2)]
                self._log(f"/nodes{status.name}", self._rerun.TextLog(status.message, level=worst))
