"""The options of the observer."""

from __future__ import annotations

from typing import Literal, TypeVar

from pydantic import model_validator

from streaming_vla.options.option import option
from streaming_vla.options.shared import NodeOptions, RobotStateOptions, realtime_priority
from streaming_vla.policies.image_fit import ImageFit

T = TypeVar("T")
CameraType = Literal["sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/PointCloud2"]


class ObserverOptions(RobotStateOptions, NodeOptions):
    """How frames are put together; ages and skews are of reception."""

    cameras: tuple[str, ...] = option(("corner2", "gripperPOV"), "Names of the cameras, in the policy's order.")
    camera_topics: tuple[str, ...] = option(
        ("camera/corner2/image", "camera/gripperPOV/image"), "Picture topic of each camera."
    )
    camera_types: tuple[CameraType, ...] = option(
        ("sensor_msgs/msg/Image",),
        "Message type of each camera, or one for all: Image (rgb8, bgr8, mono8, bayer, yuv, 16UC1, 32FC1), "
        "CompressedImage (jpeg, png, compressedDepth), or PointCloud2, which becomes a picture of distances.",
    )
    camera_rotations: tuple[Literal[0, 90, 180, 270], ...] = option(
        (0,), "How far each camera's picture is turned clockwise to stand upright, or one for all.", "degrees"
    )
    image_size: int = option(96, "Width and height of the policy's pictures.", "px", ge=16, le=1024)
    image_fit: ImageFit = option(
        "crop",
        "How a camera's picture becomes square, as the policy was trained: crop keeps the middle, letterbox pads both "
        "sides, letterbox_left_top the left and the top.",
    )
    image_pad_value: int = option(0, "Grey of that padding.", ge=0, le=255)
    jpeg_quality: int = option(92, "Quality of the encoded pictures.", live=True, ge=1, le=100)
    max_skew_s: float = option(
        0.08,
        "Largest time between the oldest and the newest picture of one observation.",
        "s",
        live=True,
        ge=0.0,
        le=10.0,
    )
    max_frame_age_s: float = option(
        0.15,
        "A picture or robot state received longer ago is not used; the request waits for a newer one.",
        "s",
        live=True,
        guards=True,
        ge=0.001,
        le=10.0,
    )
    frame_timeout_s: float = option(
        1.0, "A request that has waited this long for pictures is dropped.", "s", live=True, ge=0.01, le=60.0
    )

    def of_cameras(self, entries: tuple[T, ...]) -> dict[str, T]:
        """Return the entry of each camera, of a list that has one for each or one for all."""
        return dict(zip(self.cameras, entries * len(self.cameras) if len(entries) == 1 else entries, strict=True))

    realtime_priority: int = realtime_priority(35)

    @model_validator(mode="after")
    def _check_cameras(self) -> ObserverOptions:
        names = ", ".join(self.cameras)
        if len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"cameras is {list(self.cameras)}: name every camera once, and at least one")
        if len(self.cameras) != len(self.camera_topics):
            raise ValueError(f"camera_topics has {len(self.camera_topics)} topics, expected one for each of {names}")
        for name in ("camera_types", "camera_rotations"):
            count = len(getattr(self, name))
            if count not in (1, len(self.cameras)):
                raise ValueError(f"{name} has {count} entries, expected one for all or one for each of {names}")
        return self
