"""Makes the helpers of this folder, and the driven engine of test/engine, importable."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[2] / "engine"))  # behind: it has a conftest too

from remote_servers import GrootToy, OpenpiToy

torch.set_num_threads(1)


@pytest.fixture
def openpi_toy() -> Iterator[OpenpiToy]:
    """A good openpi server."""
    toy = OpenpiToy()
    yield toy
    toy.close()


@pytest.fixture
def groot_toy() -> Iterator[GrootToy]:
    """A good GR00T server."""
    toy = GrootToy()
    yield toy
    toy.close()
