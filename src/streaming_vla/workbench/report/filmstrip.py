"""Film strips: what the cameras saw along an episode, one row per camera, with the instruction and the outcome."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from streaming_vla.workbench.report.colours import FAINT, INK
from streaming_vla.workbench.report.records import EpisodeRecord, Frame
from streaming_vla.workbench.report.results import halting, outcome

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
BACKGROUND = "#ffffff"
GOOD, PLAIN, BAD = "#1a7f37", "#9a6700", "#d1242f"
GAP = 6  # pixels between pictures
MARGIN = 14
HEADER = 44
FOOTER = 26
STOP_LINE = 24


def draw_filmstrip(record: EpisodeRecord, path: Path, columns: int = 8, size: int = 176) -> None:
    """Write a picture of `columns` moments spread evenly from the start of the episode to its end.

    Args:
        size: width and height of one camera picture in pixels.

    Raises:
        ValueError: the record holds no frame.
    """
    if not record.frames:
        raise ValueError(f"film strip: no camera picture was recorded of the {record.mode} episode of {record.task}")
    cameras = list(dict.fromkeys(frame.camera for frame in record.frames))
    moments = [record.begin_s + record.duration_s * column / (columns - 1) for column in range(columns)]
    width = 2 * MARGIN + columns * size + (columns - 1) * GAP
    below = FOOTER + (STOP_LINE if halting(record).stopped else 0)
    height = HEADER + len(cameras) * (size + GAP) + below
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    _header(pen, record, width)
    for row, camera in enumerate(cameras):
        frames = [frame for frame in record.frames if frame.camera == camera]
        for column, moment in enumerate(moments):
            left, top = MARGIN + column * (size + GAP), HEADER + row * (size + GAP)
            picture = Image.fromarray(_nearest(frames, moment).picture)
            sheet.paste(picture.resize((size, size), Image.Resampling.LANCZOS), (left, top))
            if column == 0:
                _label(pen, camera, left, top)
    for column, moment in enumerate(moments):
        centre = MARGIN + column * (size + GAP) + size / 2
        text = f"{moment - record.begin_s:.1f} s"
        pen.text((centre, height - below + FOOTER / 2 - 2), text, fill=FAINT, font=font(13), anchor="mm")
    _footer(pen, record, height)
    sheet.save(path)


def _nearest(frames: list[Frame], moment: float) -> Frame:
    return min(frames, key=lambda frame: abs(frame.time_s - moment))


def _header(pen: ImageDraw.ImageDraw, record: EpisodeRecord, width: int) -> None:
    middle = HEADER / 2
    title = f"“{record.instruction}”"
    bold = font(18, bold=True)
    pen.text((MARGIN, middle), title, fill=INK, font=bold, anchor="lm")
    about = f"{record.task}, seed {record.seed}, {record.mode}"
    pen.text((MARGIN + pen.textlength(title, font=bold) + 14, middle), about, fill=FAINT, font=font(14), anchor="lm")
    word = outcome(record)
    colour = {"success": GOOD, "stopped": BAD}.get(word, PLAIN)
    text = f"{word} {'in' if word == 'no success' else 'after'} {record.duration_s:.1f} s"
    pen.text((width - MARGIN, middle), text, fill=colour, font=bold, anchor="rm")
    dot = width - MARGIN - pen.textlength(text, font=bold) - 16
    pen.ellipse((dot - 6, middle - 6, dot + 6, middle + 6), fill=colour)


def _footer(pen: ImageDraw.ImageDraw, record: EpisodeRecord, height: int) -> None:
    """Say below the pictures why the robot was stopped, where it was."""
    if why := halting(record).stopped:
        pen.text((MARGIN, height - STOP_LINE / 2 - 2), why, fill=BAD, font=font(13), anchor="lm")


def _label(pen: ImageDraw.ImageDraw, camera: str, left: int, top: int) -> None:
    bold = font(12, bold=True)
    pen.rectangle((left, top, left + pen.textlength(camera, font=bold) + 10, top + 19), fill=INK)
    pen.text((left + 5, top + 10), camera, fill=BACKGROUND, font=bold, anchor="lm")


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the font of pictures that Pillow draws, `size` pixels high."""
    return ImageFont.truetype(FONTS / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)
