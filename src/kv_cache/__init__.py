"""A compressed key-value cache for one session of a streaming policy; needs torch only."""

from kv_cache.cache import CacheSnapshot, CacheStats, CacheView, SessionCache, required_bytes
from kv_cache.policies import POLICY_NAMES, CacheFullError, CachePolicy, Full, Window, make_policy
from kv_cache.rotary import rotate
from kv_cache.spec import CacheSpec

__all__ = [
    "POLICY_NAMES",
    "CacheFullError",
    "CachePolicy",
    "CacheSnapshot",
    "CacheSpec",
    "CacheStats",
    "CacheView",
    "Full",
    "SessionCache",
    "Window",
    "make_policy",
    "required_bytes",
    "rotate",
]
