"""Settings that hold for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A busy machine must not fail a property test: pytest's own time limit holds for the whole test.
_PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
# The same examples in every run, so that a run which fails can be run again. A test module makes its own
# `settings(...)` after this profile is loaded, and those inherit from it.
settings.register_profile("suite", derandomize=True, database=None, max_examples=150, **_PATIENT)
# The search for new examples, by hand: make test ARGS="test/runtime --hypothesis-profile explore --timeout 3600"
settings.register_profile("explore", max_examples=3000, print_blob=True, **_PATIENT)
settings.load_profile("suite")
