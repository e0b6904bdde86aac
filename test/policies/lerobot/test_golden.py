"""The four policies repeat every number that lerobot 0.6.1 computed from the same checkpoint and observation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from golden_files import GOLDEN, POLICIES
from safetensors.torch import load_file, save_file

from streaming_vla.policies.lerobot.check.__main__ import main
from streaming_vla.policies.lerobot.check.case import GIVEN, Case, check_case, error


@pytest.mark.parametrize("policy", POLICIES)
def test_every_tensor_is_lerobots(policy: str) -> None:
    case = Case.read(GOLDEN / policy / "case_0")
    errors = check_case(GOLDEN / policy, case)
    assert set(case.tensors) - set(errors) == {name for name in case.tensors if name in GIVEN or "image." in name}
    assert max(errors.values()) <= case.tolerance, errors


def test_the_command_says_every_difference(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(GOLDEN / "pi05"), str(GOLDEN / "pi05" / "case_0")]) == 0
    said = capsys.readouterr().out
    names = load_file(GOLDEN / "pi05" / "case_0.safetensors")
    assert all(f"{name} " in said for name in names)
    assert "TOO LARGE" not in said and "NOT KNOWN" not in said and "tolerance 1e-05" in said


def test_the_command_fails_where_a_number_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(GOLDEN / "pi05" / "case_0.safetensors")
    tensors["path"][3, 2, 1] += 1e-3
    tensors["made_up"] = torch.zeros(1)
    save_file(tensors, tmp_path / "case_0.safetensors")
    shutil.copyfile(GOLDEN / "pi05" / "case_0.json", tmp_path / "case_0.json")
    assert main([str(GOLDEN / "pi05"), str(tmp_path / "case_0")]) == 1
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "TOO LARGE" in lines["path"] and "TOO LARGE" not in lines["velocity.t1.0"]
    assert "NOT KNOWN" in lines["made_up"]


def test_the_command_refuses_a_case_that_is_not_there(
    copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(copied("pi0")), "nowhere/case_7"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_measure_is_relative_above_one_and_absolute_below() -> None:
    want = torch.tensor([4.0, 0.0])
    assert error(want + 0.4, want) == pytest.approx(0.1)
    assert error(want / 8 + 0.1, want / 8) == pytest.approx(0.1)
    assert error(torch.zeros(3), want) == float("inf")
