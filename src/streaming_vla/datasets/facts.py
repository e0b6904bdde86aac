"""What is the same for all episodes of a data set, from its description (meta/info.json) and into it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from streaming_vla.datasets import layout
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.layout import ACTION, CAMERA, COLUMNS, STATE
from streaming_vla.datasets.rates import rate_of_fps

LARGEST_TEXT_BYTES = 1 << 26  # of a JSON file
LARGEST_PICTURE = 1 << 26  # pixels
LARGEST_VECTOR = 4096
FILM, PNG = "video", "image"  # as features call their type


@dataclass(frozen=True)
class Camera:
    """A camera's pictures.

    Args:
        stored: FILM (a frame of a video file) or PNG (a picture in the table).
        key: of the feature; in the data sets of others not always that of `CAMERA`.
    """

    name: str
    height: int
    width: int
    stored: str = FILM
    key: str = ""

    @property
    def feature(self) -> str:
        """Name of the feature."""
        return self.key or CAMERA + self.name


@dataclass(frozen=True)
class DatasetFacts:
    """What is the same for all episodes.

    Args:
        rate: steps per second.
        state_units, action_units: of each number, empty where nobody says.
        action_absolute: of each action whether it is the command itself; else it is a change that adds up. Empty where
            nobody says: the format has no place for it.
        unused: features that nothing here reads, with their type.
    """

    rate: Fraction
    cameras: tuple[Camera, ...]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    robot_type: str = ""
    version: str = layout.VERSION
    state_units: tuple[str, ...] = ()
    action_units: tuple[str, ...] = ()
    action_absolute: tuple[bool, ...] = ()
    unused: Mapping[str, str] = field(default_factory=dict)

    @property
    def fps(self) -> float:
        """Steps per second."""
        return float(self.rate)

    def camera(self, name: str) -> Camera:
        """Return a camera by its name; DatasetError when there is none of it."""
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise DatasetError(f"the data set has no camera {name}; it has {', '.join(each.name for each in self.cameras)}")


def read_json(path: Path, what: str) -> Any:
    """Return what a JSON file holds; DatasetError when it cannot be read or is too large to be one."""
    try:
        if path.stat().st_size > LARGEST_TEXT_BYTES:
            raise DatasetError(f"'{path}' has {path.stat().st_size} bytes, which {what} never has")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"'{path}' cannot be read ({error}): expected {what}") from error


def read_information(folder: Path) -> dict[str, Any]:
    """Return meta/info.json of a data set of a version that is known.

    Raises:
        DatasetError: it is no data set, or one of another version.
    """
    path = folder / layout.INFO
    if not path.is_file():
        raise DatasetError(f"'{folder}' is no LeRobot data set: it has no {layout.INFO}")
    information = read_json(path, "the description of a LeRobot data set")
    if not isinstance(information, dict) or not isinstance(information.get("features"), dict):
        raise DatasetError(f"'{path}' holds no features: expected the description of a LeRobot data set")
    version = information.get("codebase_version")
    if version not in (layout.VERSION, layout.OLD_VERSION):
        raise DatasetError(
            f"data set '{folder}' is of version {version}, expected {layout.VERSION} or {layout.OLD_VERSION}: convert "
            "it with lerobot's own scripts"
        )
    return information


def read_facts(folder: Path) -> DatasetFacts:
    """Return what is the same for all episodes of a data set.

    Raises:
        DatasetError: it is no data set of a known version, or it lacks what a policy learns from.
    """
    information = read_information(folder)
    features: dict[str, Any] = information["features"]
    own = read_json(folder / layout.OWN, "the facts of an export") if (folder / layout.OWN).is_file() else {}
    try:
        cameras = tuple(_camera(key, each) for key, each in features.items() if each["dtype"] in (FILM, PNG))
        state, action = features[STATE], features[ACTION]
        unused = {key: str(each["dtype"]) for key, each in features.items()}
        for key in (STATE, ACTION, *COLUMNS, *(camera.feature for camera in cameras)):
            unused.pop(key, None)
        facts = DatasetFacts(
            rate_of_fps(information.get("fps", 0), f"'{folder}'"),
            cameras,
            _names(state, "state"),
            _names(action, "action"),
            str(information.get("robot_type") or ""),
            information["codebase_version"],
            _own(own, "state_units", len(_names(state, "state")), str),
            _own(own, "action_units", len(_names(action, "action")), str),
            _own(own, "action_absolute", len(_names(action, "action")), bool),
            unused,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"data set '{folder}' lacks what a policy learns from ({error!r}): expected pictures of a camera, and "
            f"{STATE} and {ACTION} with their names in {layout.INFO}"
        ) from error
    if not cameras:
        raise DatasetError(f"data set '{folder}' has no camera: expected a feature of type video or image")
    return facts


def _camera(key: str, feature: Mapping[str, Any]) -> Camera:
    """Return a camera; its shape is [H, W, 3], or [3, H, W] where the names say so."""
    shape = [int(size) for size in feature["shape"]]
    if len(shape) != 3:
        raise DatasetError(f"feature {key} has shape {shape}, expected height, width and 3 colours")
    names = [str(name) for name in feature.get("names") or ()]
    if names[:1] in (["channels"], ["channel"]) or (not names and shape[0] == 3 and shape[2] != 3):
        shape = [*shape[1:], shape[0]]
    about = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    if about.get("is_depth_map") or about.get("video.is_depth_map"):
        raise DatasetError(f"feature {key} is a depth map, which is not read: remove it from the data set")
    height, width, channels = shape
    if channels != 3 or height < 1 or width < 1 or height * width > LARGEST_PICTURE:
        raise DatasetError(f"feature {key} has shape {shape}, expected height, width and 3 colours")
    return Camera(key.removeprefix(CAMERA), height, width, str(feature["dtype"]), key)


def _names(feature: Mapping[str, Any], what: str) -> tuple[str, ...]:
    """Return the names of a vector's numbers.

    They are a list, lists by what they are of ({"motors": [...]}), or places by name ({"x": 0, "y": 1}). Nameless
    numbers are called by their place.
    """
    shape = [int(size) for size in feature["shape"]]
    if len(shape) != 1 or not 1 <= shape[0] <= LARGEST_VECTOR:
        raise ValueError(f"the {what} has shape {shape}, expected one number of numbers")
    names = feature.get("names")
    if names is None:
        return tuple(f"{what}_{place}" for place in range(shape[0]))
    if isinstance(names, Mapping):
        if all(isinstance(place, int) for place in names.values()):
            listed = sorted(names, key=lambda name: names[name])
        else:
            listed = [name for group in names.values() for name in ([group] if isinstance(group, str) else group)]
    else:
        listed = list(names)
    if len(listed) != shape[0]:
        raise ValueError(f"{len(listed)} names of {shape[0]} numbers")
    return tuple(map(str, listed))


def _own(own: Any, key: str, count: int, kind: type) -> tuple[Any, ...]:
    """Return a list of our own facts; () where it is not there."""
    values = own.get(key, []) if isinstance(own, dict) else None
    if not isinstance(values, list) or len(values) not in (0, count) or not all(type(each) is kind for each in values):
        raise DatasetError(f"{key} in {layout.OWN} is {values!r}, expected {count} of type {kind.__name__}, or none")
    return tuple(values)
