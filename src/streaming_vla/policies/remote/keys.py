"""Where a server's messages hold pictures, state, instruction and actions: the mapping of keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from streaming_vla.policies.contract import PolicySpec
from streaming_vla.policies.remote.messages import WireError

Key = str | tuple[str, ...]
"""A key of the message, or the keys of the maps that lie in each other."""

EPISODE_KEY = "streaming_vla/episode"
"""Only where the greeting names the key: number of the episode, drawn anew with each; a server that has a history
begins it anew when the number changes."""
PLANNED_KEY = "streaming_vla/planned"
"""Real-time chunking, only where the greeting names the key: [n, A], of the action that began with the pictures and all
that are planned behind it."""
DELAY_KEY = "streaming_vla/delay"
"""Of the planned actions, how many are expected to be executed before the chunk takes over."""

OPTIONAL_KEY = "streaming_vla/optional_keys"
"""In a greeting: which of the keys above the server takes."""


@dataclass(frozen=True)
class Keys:
    """The keys of a robot's messages.

    Args:
        images: key of each camera's picture, in the policy's order.
        state: numbers under each key, in the order of the robot's state.
        instruction: key of the plain text; for GR00T empty: as the server says.
        actions: numbers of an action under each key, in the order of the layout.
        channels_first: a picture is [3, S, S], not [S, S, 3].
    """

    images: Mapping[str, Key]
    state: Mapping[str, int]
    instruction: str
    actions: Mapping[str, int]
    channels_first: bool = False

    def check(self, spec: PolicySpec, who: str) -> None:
        """Compare with a spec.

        Raises:
            WireError: cameras, numbers of the state or of an action are not those of the spec.
        """
        if tuple(self.images) != spec.cameras:
            raise WireError(f"{who}: images are of {_listed(self.images)}, cameras are {_listed(spec.cameras)}")
        for field, counts, size in (
            ("state", self.state, spec.state_size),
            ("actions", self.actions, spec.layout.size),
        ):
            if sum(counts.values()) != size:
                raise WireError(f"{who}: the keys of {field} have {sum(counts.values())} numbers, expected {size}")


def generic_keys(spec: PolicySpec) -> Keys:
    """Return the keys that `streaming-vla serve` uses."""
    return Keys(
        images={camera: f"observation/images/{camera}" for camera in spec.cameras},
        state={"observation/state": spec.state_size},
        instruction="prompt",
        actions={"actions": spec.layout.size},
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
