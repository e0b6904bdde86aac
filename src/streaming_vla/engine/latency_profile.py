"""Latency profiles: how long observing, a flow step and the network take on some machine; read from YAML.

One profile drives the virtual clock and, injected into the live engine, makes this machine behave like that one.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streaming_vla import bounded_yaml
from streaming_vla.policies.shipped import shipped_folders

NORMAL_P99 = 2.3263478740408408  # 99 % quantile of the normal distribution
LONGEST_MS = 60_000.0
SUFFIX = ".yaml"


class ProfileError(ValueError):
    """A profile cannot be used; the message says which, why and what was expected."""


@dataclass(frozen=True)
class Spread:
    """A latency with a lognormal distribution; equal median and 99th percentile make it constant.

    Raises:
        ValueError: not finite, negative, or the 99th percentile below the median.
    """

    median_ms: float
    p99_ms: float

    def __post_init__(self) -> None:
        for name, value in (("median_ms", self.median_ms), ("p99_ms", self.p99_ms)):
            if not math.isfinite(value) or not 0.0 <= value <= LONGEST_MS:
                raise ValueError(f"{name} is {value}, expected 0 to {LONGEST_MS:g} ms")
        if self.p99_ms < self.median_ms or (self.p99_ms > 0.0 and self.median_ms == 0.0):
            raise ValueError(
                f"median_ms is {self.median_ms} and p99_ms {self.p99_ms}, expected a median above 0 and p99 not below"
            )

    def draw_s(self, random: np.random.Generator) -> float:
        """Return one latency in seconds."""
        if self.p99_ms == self.median_ms:
            return self.median_ms / 1000.0
        sigma = math.log(self.p99_ms / self.median_ms) / NORMAL_P99
        return self.median_ms / 1000.0 * math.exp(sigma * random.standard_normal())


@dataclass(frozen=True)
class Spell:
    """A time that comes again and again, on the clock of the run.

    Args:
        every_s: from one beginning to the next.
        begin_s: of the first one.
        seconds: how long it lasts.

    Raises:
        ValueError: not finite, negative, or longer than `every_s`.
    """

    every_s: float
    begin_s: float
    seconds: float

    def __post_init__(self) -> None:
        lasts = 0.0 < self.seconds < self.every_s
        if not lasts or not math.isfinite(self.every_s) or not 0.0 <= self.begin_s < self.every_s:
            raise ValueError(
                f"{self.seconds} s from {self.begin_s} s on in every {self.every_s} s, expected seconds above 0 and "
                "below every_s, and begin_s from 0 to below every_s"
            )

    def left_s(self, now: float) -> float:
        """Return how much longer it lasts, 0 where it is not on."""
        since_s = (now - self.begin_s) % self.every_s
        return self.seconds - since_s if since_s < self.seconds and now >= self.begin_s else 0.0


@dataclass(frozen=True)
class LatencyProfile:
    """Latencies of one deployment.

    Args:
        name: of the file, without its suffix.
        description: what it stands for, and where its numbers come from.
        control_period_ms: T_e, an action lasts so long.
        observe: T_o, from the picture to the prefilled context, network left out.
        flow_step: one step of the flow (of an action, or of a whole chunk), network left out.
        transport: network between robot and inference, one way.
        loss: share of the messages that are lost and sent again.
        resend_ms: after so long a lost message is sent again.
        prefill_slices: flow steps wait for one of so many slices of a prefill that is under way, and delay it;
            0: prefill and flow steps do not share the hardware.
        throttled: while the model takes `throttled_times` as long; None: never.
        gone: while nothing travels; it arrives afterwards. None: never.

    Raises:
        ValueError: a number out of range.
    """

    name: str
    description: str
    control_period_ms: float
    observe: Spread
    flow_step: Spread
    transport: Spread
    loss: float = 0.0
    resend_ms: float = 0.0
    prefill_slices: int = 0
    throttled: Spell | None = None
    throttled_times: float = 1.0
    gone: Spell | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.control_period_ms) or not 1.0 <= self.control_period_ms <= LONGEST_MS:
            raise ValueError(f"control_period_ms is {self.control_period_ms}, expected 1 to {LONGEST_MS:g} ms")
        if not math.isfinite(self.loss) or not 0.0 <= self.loss < 1.0:
            raise ValueError(f"loss is {self.loss}, expected a share from 0 to below 1")
        if not math.isfinite(self.resend_ms) or not 0.0 <= self.resend_ms <= LONGEST_MS:
            raise ValueError(f"resend_ms is {self.resend_ms}, expected 0 to {LONGEST_MS:g} ms")
        if self.loss > 0.0 and self.resend_ms == 0.0:
            raise ValueError(f"resend_ms is 0 with a loss of {self.loss}, expected the time until a message is resent")
        if self.prefill_slices < 0:
            raise ValueError(f"prefill_slices is {self.prefill_slices}, expected 0 or more")
        if not 1.0 <= self.throttled_times <= 100.0:
            raise ValueError(f"throttled_times is {self.throttled_times}, expected 1 to 100")

    @property
    def control_period_s(self) -> float:
        """T_e in seconds."""
        return self.control_period_ms / 1000.0

    def times(self, now: float) -> float:
        """Return how many times as long the model's work takes at `now`."""
        return self.throttled_times if self.throttled is not None and self.throttled.left_s(now) else 1.0

    def transport_s(self, random: np.random.Generator, now: float) -> float:
        """Return the seconds that a message of `now` travels; a lost one is sent again until it arrives."""
        lost_s = 0.0 if self.gone is None else self.gone.left_s(now)
        while self.loss > 0.0 and random.random() < self.loss:
            lost_s += self.resend_ms / 1000.0
        return lost_s + self.transport.draw_s(random)


def load_profile(path: Path) -> LatencyProfile:
    """Read a profile and check all of it.

    Raises:
        ProfileError: missing, not YAML, an unknown or missing key, or a number out of range.
    """
    try:
        entries = bounded_yaml.load(bounded_yaml.read(path))
    except OSError as error:
        raise ProfileError(f"profile '{path}' cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # no text, or no YAML that is taken
        raise ProfileError(f"profile '{path}' is not YAML ({error}); see config/profiles/paper.yaml") from error
    if not isinstance(entries, Mapping):
        raise ProfileError(f"profile '{path}' holds no keys; see config/profiles/paper.yaml")
    try:
        return _profile(path.stem, entries)
    except ValueError as error:
        raise ProfileError(f"profile '{path}': {error}") from error


def find_profile(name: str) -> LatencyProfile:
    """Return the profile `name`: a shipped one, or the path of a YAML file.

    Raises:
        ProfileError: there is no such profile (the message lists the shipped ones), or it cannot be used.
    """
    if name.endswith(SUFFIX) or "/" in name:
        return load_profile(Path(name).expanduser())
    shipped: dict[str, Path] = {}
    for folder in shipped_folders("config/profiles"):
        for file in sorted(folder.glob(f"*{SUFFIX}")):
            shipped.setdefault(file.stem, file)
    if name not in shipped:
        known = ", ".join(sorted(shipped)) or "none"
        raise ProfileError(f"latency profile '{name}' is unknown: choose one of {known}, or give a path to a YAML file")
    return load_profile(shipped[name])


_SPREADS = ("observe", "flow_step", "transport")
_REQUIRED = ("description", "control_period_ms", *_SPREADS)
_SPELLS = ("throttled", "gone")
_NUMBERS = ("control_period_ms", "loss", "resend_ms", "throttled_times")
_KEYS = (*_REQUIRED, "loss", "resend_ms", "prefill_slices", "throttled_times", *_SPELLS)


def _profile(name: str, entries: Mapping[Any, Any]) -> LatencyProfile:
    for key in entries:
        if key not in _KEYS:
            close = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            raise ValueError(f"there is no key '{key}'{hint}; keys are {', '.join(_KEYS)}")
    missing = [key for key in _REQUIRED if key not in entries]
    if missing:
        raise ValueError(f"key '{missing[0]}' is missing; required are {', '.join(_REQUIRED)}")
    values: dict[str, Any] = {key: _spread(key, entries[key]) for key in _SPREADS}
    values |= {key: _spell(key, entries[key]) for key in _SPELLS if key in entries}
    values |= {key: _number(key, entries[key]) for key in _NUMBERS if key in entries}
    slices = entries.get("prefill_slices", 0)
    if isinstance(slices, bool) or not isinstance(slices, int):
        raise ValueError(f"prefill_slices is {slices!r}, expected a whole number")
    if not isinstance(entries["description"], str):
        raise ValueError(f"description is {entries['description']!r}, expected text")
    return LatencyProfile(name, entries["description"].strip(), prefill_slices=slices, **values)


def _spread(key: str, value: Any) -> Spread:
    if not isinstance(value, Mapping) or set(value) != {"median_ms", "p99_ms"}:
        raise ValueError(f"{key} is {value!r}, expected {{median_ms: number, p99_ms: number}}")
    try:
        return Spread(_number("median_ms", value["median_ms"]), _number("p99_ms", value["p99_ms"]))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {value!r}, expected a number")
    return float(value)


def _spell(key: str, value: Any) -> Spell:
    if not isinstance(value, Mapping) or set(value) != {"every_s", "begin_s", "seconds"}:
        raise ValueError(f"{key} is {value!r}, expected {{every_s: number, begin_s: number, seconds: number}}")
    try:
        return Spell(*(_number(name, value[name]) for name in ("every_s", "begin_s", "seconds")))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
