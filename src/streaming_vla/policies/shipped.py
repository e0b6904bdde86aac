"""Where shipped files are: in the ROS package's share, in that of a plain pip installation, or in the source tree."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

SHARE = Path("share") / "streaming_vla"


def shipped_folders(name: str) -> list[Path]:
    """Return the folders of this name that hold shipped files, those of the installed package first.

    Args:
        name: relative to the package's share, "models".
    """
    folders = [Path(sys.prefix) / SHARE / name, Path(__file__).resolve().parents[3] / name]
    # off the robot there is no ROS; used from the source tree no install, or no environment that names it
    with contextlib.suppress(ImportError, LookupError, OSError):
        from ament_index_python.packages import get_package_share_directory

        folders.insert(0, Path(get_package_share_directory("streaming_vla")) / name)
    return [folder for folder in folders if folder.is_dir()]
