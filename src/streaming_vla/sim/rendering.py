"""Makes what draws the pictures of a MuJoCo scene, set up so that a CPU can do it."""

from __future__ import annotations

import os
from typing import Any


class RenderError(RuntimeError):
    """The cameras cannot be rendered on this machine."""


def make_renderer(model: Any, width: int, height: int) -> Any:
    """Return a `mujoco.Renderer` of pictures of `width` x `height` pixels, without shadows and reflections.

    It belongs to the thread that makes it.

    Raises:
        RenderError: no OpenGL for the cameras.
    """
    import mujoco

    try:
        renderer = mujoco.Renderer(model, height, width)
    except Exception as error:
        raise RenderError(
            f"cannot render the cameras with MUJOCO_GL={os.environ.get('MUJOCO_GL')}: {error}; "
            "install 'libegl1 libgl1-mesa-dri' (or 'libosmesa6' and set MUJOCO_GL=osmesa)"
        ) from error
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    return renderer
