"""Shape of a compact policy: everything that is needed to build the network and to feed it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from kv_cache.spec import CacheSpec
from streaming_vla.policies.layout import ActionLayout, check_counts

# Smallest and largest value of each size, of each element where there are several: far more than the network is made
# for, and so little that a checkpoint which lies about itself costs no time before its tensors are looked at.
RANGES = {
    "image_size": (8, 1024),
    "state_size": (1, 4096),
    "maximum_words": (1, 4096),
    "width": (1, 8192),
    "layers": (1, 128),
    "heads": (1, 256),
    "kv_heads": (1, 256),
    "mlp_ratio": (1, 64),
    "channels": (8, 8192),
    "keypoints": (1, 8192),
    "patch_grid": (1, 64),
    "language_tokens": (1, 1024),
    "trained_horizon": (1, 4096),
    "chunk_horizon": (1, 4096),
    "execution_horizon": (1, 4096),
}
MOST_NAMES = {"words": 65_536, "cameras": 16, "action_names": 256}
ELEMENTS = {"channels": 4, "keypoints": 2}
NO_STATE = -1  # of a dimension that no number of the state shows
NORM_GROUPS = 8  # of a camera's convolutions


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of the network and layout of its inputs and outputs.

    Args:
        cameras: names, in the order of the pictures.
        image_size: width and height of a picture in pixels; a multiple of 8.
        state_size: numbers of proprioception.
        words: the vocabulary; index 0 is for every other word.
        maximum_words: words of an instruction that are read.
        width, layers, heads, kv_heads, mlp_ratio: of the transformer; heads share keys in groups.
        channels: of the four convolutions of a camera's encoder.
        keypoints: spatial-softmax keypoints of a camera on the fine and on the coarse scale, all in one token.
        patch_grid: a camera gives patch_grid x patch_grid pooled patch tokens.
        language_tokens: tokens that an instruction is pooled into.
        trained_horizon, execution_horizon: steps of the flow, and how many are meant to be executed.
        chunk_horizon: actions of a chunk.
        action_state: for each dimension of the action the number of the state that shows where its target has led to,
            which makes the network tell the target as a change of the one before; NO_STATE: none, it tells the value.
            Empty: none at all.

    Raises:
        ValueError: a size out of RANGES, too few or too many names, sizes that do not divide, or an action layout or
            rotary base that is none.
    """

    words: tuple[str, ...]
    cameras: tuple[str, ...] = ("corner2", "gripperPOV")
    image_size: int = 96
    state_size: int = 4
    maximum_words: int = 16
    width: int = 192
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    mlp_ratio: int = 3
    channels: tuple[int, int, int, int] = (24, 48, 96, 128)
    keypoints: tuple[int, int] = (16, 32)
    patch_grid: int = 3
    language_tokens: int = 4
    trained_horizon: int = 32
    chunk_horizon: int = 16
    execution_horizon: int = 10
    rope_base: float = 10_000.0
    action_names: tuple[str, ...] = ("dx", "dy", "dz", "gripper")
    action_absolute: tuple[bool, ...] = (False, False, False, True)
    action_low: tuple[float, ...] = (-1.0, -1.0, -1.0, -1.0)
    action_high: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    action_initial: tuple[float, ...] = (0.0, 0.0, 0.0, -1.0)
    action_state: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, most in MOST_NAMES.items():
            names = getattr(self, name)
            if not 1 <= len(names) <= most or not all(isinstance(each, str) for each in names):
                raise ValueError(f"compact policy: {name} are {len(names)}, expected 1 to {most} texts")
        for name, (low, high) in RANGES.items():
            value, count = getattr(self, name), ELEMENTS.get(name, 1)
            each = value if name in ELEMENTS and isinstance(value, tuple) else (value,)
            if len(each) != count or not all(type(size) is int and low <= size <= high for size in each):
                wanted = "a whole number" if count == 1 else f"{count} whole numbers"
                raise ValueError(f"compact policy: {name} is {value!r}, expected {wanted} from {low} to {high}")
        if self.width % self.heads or self.heads % self.kv_heads or self.image_size % 8:
            raise ValueError(
                f"compact policy: width {self.width} must divide by heads {self.heads}, heads by kv_heads "
                f"{self.kv_heads}, and image_size {self.image_size} by 8"
            )
        if any(channels % NORM_GROUPS for channels in self.channels):
            raise ValueError(f"compact policy: channels are {self.channels}, each must divide by {NORM_GROUPS}")
        _ = self.layout, self.cache  # they check themselves
        check_counts({"action_state": len(self.state_places)}, self.action_names)
        for name, absolute, place in zip(self.action_names, self.action_absolute, self.state_places, strict=True):
            highest = self.state_size - 1 if absolute else NO_STATE
            if type(place) is not int or not NO_STATE <= place <= highest:
                raise ValueError(
                    f"compact policy: action_state of '{name}' is {place!r}, expected {NO_STATE} to {highest}"
                )

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.width // self.heads

    @property
    def state_places(self) -> tuple[int, ...]:
        """`action_state`, with an entry for each dimension."""
        return self.action_state or (NO_STATE,) * len(self.action_names)

    @property
    def behind(self) -> tuple[bool, ...]:
        """Dimensions of which it can be told what the robot's state does not show yet."""
        pairs = zip(self.action_absolute, self.state_places, strict=True)
        return tuple(not absolute or place != NO_STATE for absolute, place in pairs)

    @property
    def tokens_per_camera(self) -> int:
        """One keypoint token and the patches."""
        return 1 + self.patch_grid**2

    @property
    def tokens_per_observation(self) -> int:
        """Tokens that one observation adds to the cache."""
        return len(self.cameras) * self.tokens_per_camera + self.language_tokens + 1

    @property
    def layout(self) -> ActionLayout:
        """Layout of an action."""
        return ActionLayout(
            self.action_names, self.action_absolute, self.action_low, self.action_high, self.action_initial
        )

    @property
    def cache(self) -> CacheSpec:
        """Shape of the key-value cache."""
        return CacheSpec(
            layers=self.layers,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            rope_base=self.rope_base,
            query_heads=self.heads,
        )

    def to_json(self) -> str:
        """Return the configuration as JSON, for a checkpoint's metadata."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> CompactConfig:
        """Read what `to_json` wrote.

        Raises:
            ValueError: not JSON, or fields that this version does not know or misses.
        """
        fields = json.loads(text)
        known = {field.name for field in dataclasses.fields(cls)}
        if isinstance(fields, dict):
            fields = {"action_state": [], **fields}  # older policies do not say it
        if not isinstance(fields, dict) or set(fields) != known:
            different = sorted(set(fields) ^ known) if isinstance(fields, dict) else "not an object"
            raise ValueError(f"the architecture's fields differ: {different}")
        typed: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in fields.items()}
        return cls(**typed)
