"""Lets the tests import what they share: matrix.py and small_models.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
