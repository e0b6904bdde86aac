"""The SO-101's table: three cubes, a square to push one into, lights and two cameras, compiled with the arm.

Lengths in metres; the arm stands at the origin and reaches along +x. The square is drawn only, nothing touches it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.sim.so101.arm import ARM_BIT, HAND_BODY, OBJECT_BIT, arm_spec

CUBES: dict[str, tuple[float, float, float]] = {  # colour and its red, green and blue
    "red": (0.85, 0.08, 0.08),
    "green": (0.10, 0.65, 0.15),
    "blue": (0.10, 0.25, 0.90),
}
CUBE_HALF_M = 0.015
CUBE_MASS_KG = 0.02
SQUARE = "square"
SQUARE_HALF_M = 0.04
CAMERAS = ("overhead", "wrist")
LARGEST_PICTURE = (1280, 960)  # width and height in pixels
SUBSTEP_S = 1.0 / 600.0  # divides both the action period (1/30 s) and the control period (1/100 s)

_TABLE_HALF_M = (0.40, 0.45, 0.02)
_TABLE_MIDDLE_X_M = 0.25
_FLOOR_Z_M = -0.75
# Where a camera is, what it looks at, which way is up in its picture, and its vertical field of view. The wrist camera
# is given in the frame of the hand: beside the jaws, about where printed holders for the SO-101 have it.
_OVERHEAD = ((0.46, 0.0, 0.50), (0.20, 0.0, 0.0), (-1.0, 0.0, 0.0), 44.0)
_WRIST = ((0.0, 0.062, -0.028), (0.002, 0.0, -0.112), (0.0, 1.0, 0.0), 72.0)


def cube_joint(colour: str) -> str:
    """Return the name of the free joint (and body) of the cube of `colour`."""
    return f"{colour}_cube"


@functools.cache
def scene_model() -> Any:
    """Return the compiled `mujoco.MjModel`, made once per process; nobody may change it.

    Raises:
        ModelMissing: the arm's model is not installed.
    """
    import mujoco

    spec = arm_spec()
    spec.option.timestep = SUBSTEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10.0  # friction as stiff as contact: what is held does not creep out of the jaws
    _add_table(spec)
    _add_cubes(spec)
    _add_cameras(spec)
    _add_lights(spec)
    return spec.compile()


def _add_table(spec: Any) -> None:
    import mujoco

    world = spec.worldbody
    box, plane = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_PLANE
    table = {"contype": OBJECT_BIT, "conaffinity": OBJECT_BIT | ARM_BIT, "friction": [0.6, 0.005, 0.0001]}
    middle = [_TABLE_MIDDLE_X_M, 0.0, -_TABLE_HALF_M[2]]
    world.add_geom(name="table", type=box, pos=middle, size=_TABLE_HALF_M, rgba=[0.72, 0.70, 0.66, 1.0], **table)
    world.add_geom(
        name="floor", type=plane, pos=[0, 0, _FLOOR_Z_M], size=[3, 3, 0.1], rgba=[0.45, 0.45, 0.48, 1], **table
    )
    # no free body: it can be put elsewhere at a reset without a change of the model, and physics do not see it
    square = world.add_body(name=SQUARE, mocap=True)
    size = [SQUARE_HALF_M, SQUARE_HALF_M, 0.0004]
    square.add_geom(type=box, size=size, rgba=[0.98, 0.98, 0.98, 1.0], contype=0, conaffinity=0)


def _add_cubes(spec: Any) -> None:
    import mujoco

    for colour, rgb in CUBES.items():
        cube = spec.worldbody.add_body(name=cube_joint(colour), pos=[0.2, 0.0, CUBE_HALF_M])
        cube.add_freejoint(name=cube_joint(colour))
        cube.add_geom(
            name=cube_joint(colour),
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[CUBE_HALF_M] * 3,
            mass=CUBE_MASS_KG,
            rgba=[*rgb, 1.0],
            contype=OBJECT_BIT,
            conaffinity=OBJECT_BIT | ARM_BIT,
            condim=4,
            friction=[0.6, 0.005, 0.0001],
        )


def _add_cameras(spec: Any) -> None:
    for name, body, (place, target, up, fovy) in (
        (CAMERAS[0], spec.worldbody, _OVERHEAD),
        (CAMERAS[1], spec.body(HAND_BODY), _WRIST),
    ):
        camera = body.add_camera(name=name, pos=place, fovy=fovy)
        camera.quat = _look_at(np.array(place), np.array(target), np.array(up))
    width, height = LARGEST_PICTURE
    spec.visual.global_.offwidth, spec.visual.global_.offheight = width, height
    spec.visual.quality.offsamples = 0  # multisampling costs three times the picture on a CPU
    spec.visual.map.znear = 0.01
    spec.visual.map.zfar = 10.0
    spec.stat.extent = 1.0


def _look_at(
    place: npt.NDArray[np.float64], target: npt.NDArray[np.float64], up: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the orientation of a camera at `place` that looks at `target`, quaternion [4]: it looks along its -z."""
    import mujoco

    back = (place - target) / np.linalg.norm(place - target)
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, np.column_stack((right, np.cross(back, right), back)).ravel())
    return quaternion


def _add_lights(spec: Any) -> None:
    import mujoco

    head = spec.visual.headlight
    head.ambient, head.diffuse, head.specular = [0.38] * 3, [0.25] * 3, [0.0] * 3
    spec.worldbody.add_light(
        name="lamp",
        directional=True,
        pos=[0.5, 0.5, 1.5],
        dir=[-0.3, -0.35, -1.0],
        diffuse=[0.5] * 3,
        specular=[0.15] * 3,
    )
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=[0.75, 0.80, 0.85],
        rgb2=[0.55, 0.58, 0.62],
        width=32,
        height=192,
    )
