"""Which picture topic is which camera of the policy: by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streaming_vla.bringup.new_robot.asking import Ask, choose
from streaming_vla.bringup.new_robot.facts import PictureTopic, RobotFacts, UnclearError
from streaming_vla.images.decode import COMPRESSED, IMAGE, POINTS

TRANSPORT = {"image", "raw", "compressed", "rect", "color", "colour", "rgb", "camera", "cam", "images", "observation"}
"""Parts of a topic that say how a picture is sent, not of which camera it is."""
DEPTH = {"depth", "aligned", "compresseddepth", "points", "ir", "infra1", "infra2", "mask", "theora"}
ALIKE = {"overhead": "top", "above": "top", "hand": "wrist", "gripper": "wrist", "base": "front", "exterior": "side"}
KINDS = (IMAGE, COMPRESSED, POINTS)  # the first of them is preferred


@dataclass(frozen=True)
class CameraChoice:
    """The topic of a camera, and what it was chosen by.

    Args:
        guessed: the names do not say it alone.
    """

    camera: str
    topic: PictureTopic
    why: str
    guessed: bool


def parts(name: str) -> set[str]:
    """Return the words of a name, without those that every camera has."""
    words = {word for word in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) if word}
    return words - TRANSPORT


def choose_cameras(
    cameras: Sequence[str], robot: RobotFacts, said: Mapping[str, str], ask: Ask | None
) -> list[CameraChoice]:
    """Return the topic of each of the policy's cameras, in their order.

    Args:
        said: topic by camera, as the user has said it.
        ask: see `choose`.

    Raises:
        UnclearError: a camera or topic is said that is not there, or it is not clear which topic is a camera.
    """
    if strange := [camera for camera in said if camera not in cameras]:
        raise UnclearError(f"--camera names {', '.join(strange)}, the policy's cameras are {', '.join(cameras)}")
    depth = any(parts(camera) & DEPTH for camera in cameras)
    taken: dict[str, CameraChoice] = {}
    for camera, name in said.items():
        taken[camera] = CameraChoice(camera, _named(name, camera, robot), "as --camera says", False)
    for camera in cameras:
        if camera not in taken and (found := _by_name(camera, _left(robot, taken, depth))) is not None:
            taken[camera] = found
    for camera in cameras:
        if camera not in taken:
            open_cameras = [each for each in cameras if each not in taken]
            taken[camera] = _other(camera, len(open_cameras) == 1, _left(robot, taken, depth), robot, ask)
    return [taken[camera] for camera in cameras]


def _named(name: str, camera: str, robot: RobotFacts) -> PictureTopic:
    full = robot.absolute(name)
    found = next((topic for topic in robot.pictures if topic.name == full), None)
    if found is None:
        raise UnclearError(f"--camera {camera}={name}: nobody publishes pictures there; {_there(robot.pictures)}")
    return found


def _left(robot: RobotFacts, taken: Mapping[str, CameraChoice], depth: bool) -> list[PictureTopic]:
    """Return the best topic of each camera that is not taken; one camera may publish pictures in several ways.

    Args:
        depth: pictures of distances count too.
    """
    used = {_place(choice.topic) for choice in taken.values()}
    best: dict[frozenset[str], PictureTopic] = {}
    for topic in sorted(robot.pictures, key=lambda each: (KINDS.index(each.kind), "rect" in each.name, each.name)):
        if _place(topic) not in used and (depth or not _is_depth(topic)):
            best.setdefault(_place(topic), topic)
    return list(best.values())


def _place(topic: PictureTopic) -> frozenset[str]:
    return frozenset(parts(topic.name))


def _is_depth(topic: PictureTopic) -> bool:
    return topic.kind == POINTS or bool(set(re.split(r"[^a-z0-9]+", topic.name.lower())) & DEPTH)


def _by_name(camera: str, topics: Sequence[PictureTopic]) -> CameraChoice | None:
    """Return the only topic that fits best by name; None where none or several do."""
    for same, words in ((True, parts(camera)), (False, {ALIKE.get(word, word) for word in parts(camera)})):
        fits: dict[PictureTopic, int] = {}
        for topic in topics:
            there = parts(topic.name) if same else {ALIKE.get(word, word) for word in parts(topic.name)}
            fits[topic] = len(words & there)
        best = max(fits.values(), default=0)
        found = [topic for topic, score in fits.items() if score == best]
        if best > 0 and len(found) == 1:
            how = "the topic has its name" if same else "the names mean the same"
            return CameraChoice(camera, found[0], how, not same)
    return None


def _other(camera: str, last: bool, topics: Sequence[PictureTopic], robot: RobotFacts, ask: Ask | None) -> CameraChoice:
    if not topics:
        raise UnclearError(
            f"no picture topic is left for the policy's camera '{camera}'; {_there(robot.pictures)}: start its driver, "
            f"say which it is with --camera {camera}=TOPIC, or, where the policy allows it, leave it out with "
            f"--without {camera}"
        )
    if last and len(topics) == 1:
        return CameraChoice(camera, topics[0], "the only picture topic that is left", True)
    names = [topic.name for topic in topics]
    question = f"Which topic is the policy's camera '{camera}'?"
    answer = choose(question, names, f"--camera {camera}={names[0]}", ask)
    return CameraChoice(camera, topics[names.index(answer)], "as it was answered", False)


def _there(topics: Sequence[PictureTopic]) -> str:
    return f"picture topics are {', '.join(topic.name for topic in topics) or 'none'}"
