"""tools/setup says what the machine lacks, and which package brings it, before it installs anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASICS = ("bash", "cat", "dirname", "find", "flock", "grep", "ldconfig", "sha256sum", "sort", "uname", "xargs")
SEARCHED = f"{os.environ['PATH']}:/usr/sbin:/sbin"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Return the folder of the programs that the machine of the test has; the repository is beside it."""
    shutil.copytree(ROOT / "tools", tmp_path / "repository" / "tools")
    shutil.copy(ROOT / "requirements.txt", tmp_path / "repository")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in BASICS:
        if path := shutil.which(name, path=SEARCHED):
            (programs / name).symlink_to(path)
    return programs


def add(machine: Path, *names: str) -> None:
    """Let the machine have programs that do nothing."""
    for name in names:
        (machine / name).write_text("#!/bin/sh\n")
        (machine / name).chmod(0o755)


def refusal(machine: Path, **environment: str) -> str:
    """Return the one line with which the set-up ends."""
    result = subprocess.run(
        [machine.parent / "repository" / "tools" / "setup"],
        env={"PATH": str(machine), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert not (machine.parent / "repository" / ".venv").exists()
    line = result.stderr.splitlines()[-1]
    assert line.startswith("set-up: ")
    return line


def test_no_compiler(machine: Path) -> None:
    assert "apt install gcc g++" in refusal(machine)


def test_no_make(machine: Path) -> None:
    add(machine, "cc", "c++")
    assert "apt install make" in refusal(machine)


def test_no_egl(machine: Path) -> None:
    add(machine, "cc", "c++", "make")
    (machine / "ldconfig").unlink(missing_ok=True)
    add(machine, "ldconfig")
    assert "apt install libegl1 libgl1-mesa-dri" in refusal(machine)


def test_no_python(machine: Path) -> None:
    add(machine, "cc", "c++", "make")
    line = refusal(machine)
    assert "no Python 3.10 to 3.13 is found" in line
    assert "docs/install.md" in line


def test_wrong_python(machine: Path) -> None:
    add(machine, "cc", "c++", "make", "python9")
    (machine / "python9").write_text("#!/bin/sh\nexit 1\n")
    assert "PYTHON=python9 is not a Python 3.10 to 3.13" in refusal(machine, PYTHON="python9")


def test_python_without_venv(machine: Path) -> None:
    add(machine, "cc", "c++", "make")
    real = Path(sys.executable).resolve()
    (machine / "python3").write_text(f'#!/bin/bash\n[[ "$*" == *ensurepip* ]] && exit 1\nexec {real} "$@"\n')
    (machine / "python3").chmod(0o755)
    assert "apt install python3-venv" in refusal(machine)


def test_other_processor(machine: Path) -> None:
    (machine / "uname").unlink()
    (machine / "uname").write_text('#!/bin/sh\n[ "$1" = -s ] && echo Linux || echo aarch64\n')
    (machine / "uname").chmod(0o755)
    line = refusal(machine)
    assert "this machine is Linux aarch64" in line
    assert "docs/install.md" in line
