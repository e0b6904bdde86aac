"""Camera pictures as the vision towers want them: letterboxed, from -1 to 1."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

Picture = npt.NDArray[np.uint8]


def as_tensor(picture: Picture, device: torch.device) -> Tensor:
    """Return an RGB picture [h, w, 3] as float32 [1, 3, h, w] from 0 to 1."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"a picture has shape {picture.shape} of {picture.dtype}, expected [h, w, 3] of uint8")
    rows = torch.from_numpy(np.ascontiguousarray(picture)).to(device)
    return rows.permute(2, 0, 1).unsqueeze(0).float() / 255.0


def letterbox(picture: Tensor, height: int, width: int, centred: bool) -> Tensor:
    """Fit a picture into height x width without changing its proportions; the rest is 0.

    Bilinear without antialiasing, sizes rounded down, as LeRobot does.

    Args:
        picture: [1, 3, h, w].
        centred: padding on both sides, an odd pixel right or below (pi0, pi0.5); otherwise left and above (SmolVLA).

    Returns:
        [1, 3, height, width].
    """
    old_height, old_width = picture.shape[2:]
    if (old_height, old_width) == (height, width):
        return picture
    ratio = max(old_width / width, old_height / height)
    new = max(1, int(old_height / ratio)), max(1, int(old_width / ratio))
    resized = functional.interpolate(picture, size=new, mode="bilinear", align_corners=False)
    rows, columns = height - new[0], width - new[1]
    left, above = (columns // 2, rows // 2) if centred else (columns, rows)
    return functional.pad(resized, (left, columns - left, above, rows - above))


def without_letterbox(picture: Picture, height: int, width: int) -> Picture:
    """Return the part of a square, centred letterbox that shows a picture of height x width.

    Args:
        picture: [S, S, 3]; anything else, and one that is height x width already, is returned as it is.
    """
    side = picture.shape[0]
    if picture.shape[1] != side or (height, width) == (side, side):
        return picture
    ratio = max(height, width) / side
    rows, columns = int(height / ratio), int(width / ratio)
    above, left = (side - rows) // 2, (side - columns) // 2
    return picture[above : above + rows, left : left + columns]
