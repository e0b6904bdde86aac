"""The strip of the report: what a camera saw along an episode, how much was expected to change, and what was sent."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import cv2
import numpy as np

from streaming_vla.workbench.report.records import EpisodeRecord, Frame

PICTURES = 12
PIXELS = 96


def strips(
    record: EpisodeRecord, saliency: Sequence[Sequence[float]], threshold: float | None = None
) -> list[dict[str, Any]]:
    """Return one strip per camera as plain values; at most `PICTURES` moments, evenly spread.

    Args:
        saliency: [[s of the episode, value]], in the order of time.
        threshold: of the saliency.
    """
    found = []
    highest = max((value for _, value in saliency), default=0.0)
    for camera in dict.fromkeys(frame.camera for frame in record.frames):
        frames = [frame for frame in record.frames if frame.camera == camera]
        places = np.unique(np.linspace(0, len(frames) - 1, min(PICTURES, len(frames))).astype(int))
        ends_s = [frames[place].time_s for place in places[1:]] + [record.end_s]
        pictures = []
        begin_s = record.begin_s
        for place, end_s in zip(places, ends_s, strict=True):
            frame = frames[place]
            shown = _picture(frame, record.begin_s)
            newest = [value for at_s, value in saliency if at_s <= frame.time_s - record.begin_s]
            if newest:
                shown["saliency"] = newest[-1]
                shown["bar"] = round(100 * newest[-1] / highest) if highest > 0 else 0
                shown["high"] = threshold is not None and newest[-1] >= threshold
            sent = [at.reason.name.lower() for at in record.requests if begin_s <= at.time_s < end_s]
            begin_s = end_s
            shown["sent"] = [reason.replace("_", " ") for reason in dict.fromkeys(sent)]
            pictures.append(shown)
        found.append({"name": f"camera {camera}", "pictures": pictures})
    return found


def strip(name: str, pictures: Sequence[Mapping[str, Any]]) -> str:
    """Return the HTML of a strip: under each picture its time, the saliency, and why observations were sent."""
    drawn = []
    for picture in pictures:
        about = f"{name} at {picture['time']} s"
        notes = [f"<b>{escape(picture['time'])} s</b>"]
        if picture["saliency"] is not None:
            high = ' class="high"' if picture["high"] else ""
            notes.append(f'<i class="bar"><i{high} style="width:{picture["bar"]:d}%"></i></i>{picture["saliency"]:.2f}')
        notes += [f'<span class="sent">{escape(reason)}</span>' for reason in picture["sent"]]
        drawn.append(
            f'<figure><img src="data:image/jpeg;base64,{escape(picture["data"])}" width="{PIXELS}" height="{PIXELS}" '
            f'alt="{escape(about, quote=True)}"><figcaption>{"<br>".join(notes)}</figcaption></figure>'
        )
    label = escape(name, quote=True)
    return f'<div class="strip" tabindex="0" role="group" aria-label="{label}">{"".join(drawn)}</div>' if drawn else ""


def _picture(frame: Frame, begin_s: float) -> dict[str, Any]:
    small = cv2.resize(frame.picture, (PIXELS, PIXELS), interpolation=cv2.INTER_AREA)[..., ::-1]
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(small), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return {
        "data": base64.b64encode(data.tobytes()).decode(),
        "time": f"{frame.time_s - begin_s:.1f}",
        "saliency": None,
        "bar": 0,
        "high": False,
    }
