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
        ValueError: a size that the model has no memory for.
    """
    import mujoco

    largest = model.vis.global_.offwidth, model.vis.global_.offheight
    if not (0 < width <= largest[0] and 0 < height <= largest[1]):
        raise ValueError(f"a picture of {width} x {height} pixels: expected 1 x 1 to {largest[0]} x {largest[1]}")
    wanted, backend = os.environ.get("MUJOCO_GL", ""), mujoco.gl_context.GLContext.__module__
    if wanted in ("egl", "osmesa") and not backend.endswith(wanted):  # it would abort the process
        raise RenderError(
            f"mujoco was imported before streaming_vla.sim and took {backend}: import streaming_vla.sim first, or set "
            f"MUJOCO_GL={wanted} before the start"
        )
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
