"""A compressed key-value cache for sessions of a streaming policy; needs torch only."""

from kv_cache.cache import SessionCache, required_bytes
from kv_cache.gate import Gate, GateConfig
from kv_cache.policies import (
    POLICY_NAMES,
    Attention,
    CacheFullError,
    CachePolicy,
    Expected,
    Full,
    Gated,
    Mean,
    Newest,
    Random,
    Window,
    make_policy,
)
from kv_cache.rotary import rotate
from kv_cache.spec import CacheSpec
from kv_cache.view import CacheSnapshot, CacheStats, CacheView

__all__ = [
    "POLICY_NAMES",
    "Attention",
    "CacheFullError",
    "CachePolicy",
    "CacheSnapshot",
    "CacheSpec",
    "CacheStats",
    "CacheView",
    "Expected",
    "Full",
    "Gate",
    "GateConfig",
    "Gated",
    "Mean",
    "Newest",
    "Random",
    "SessionCache",
    "Window",
    "make_policy",
    "required_bytes",
    "rotate",
]
