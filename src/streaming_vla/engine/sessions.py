"""What the engine remembers of each robot: a cache, the newest contexts, and how far its episode has come."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from kv_cache.cache import MAX_BYTES, CacheView, SessionCache, required_bytes
from kv_cache.policies import CacheFullError
from streaming_vla.engine.cache import RETUNED, EngineOptions
from streaming_vla.engine.refused import Refused
from streaming_vla.machines.episodes import episode_is_far_ahead, is_far_ahead
from streaming_vla.policies.contract import PolicySpec, Prefilled
from streaming_vla.policies.layout import Vector


@dataclass(eq=False)
class CachedContext:
    """A context that can be asked.

    Args:
        view: of the cache, the context's own observation last.
        seen: what the prefill left for the look-ahead; None: the policy has no predictor.
        own: what the policy wants back with every call (see Prefilled).
        plan: [trained_horizon, A], once somebody has asked for it.
        ready: False while the policy completes it.
    """

    view: CacheView
    seen: Tensor | None
    own: Any = None
    plan: Vector | None = None
    ready: bool = True


class Session:
    """One robot's history. `epoch` counts its beginnings, so that work begun before one is known as outdated."""

    def __init__(self, name: str, cache: SessionCache, contexts_kept: int) -> None:
        self.name = name
        self.cache = cache
        self.epoch = 0
        self.episode = -1
        self._sequence = -1
        self.history_from = 0  # sequence of the oldest observation of the episode that the cache was given
        self._contexts: dict[int, CachedContext] = {}
        self._contexts_kept = contexts_kept

    def begin(self, episode: int) -> None:
        """Forget everything and be in `episode`."""
        self.epoch += 1
        self.episode = episode
        self._sequence = -1
        self._contexts.clear()
        self.cache.reset()

    def admit(self, episode: int, sequence: int) -> None:
        """Begin a newer episode; accept only a newer sequence of the present one.

        Raises:
            Refused: an older episode, a sequence that is not newer, or numbers far ahead of all before.
        """
        if episode < self.episode:
            raise Refused(
                "old_episode",
                f"observation is of episode {episode}, {self.name} is in {self.episode}: it is late, or the robot's "
                "clock was set back (then call reset_session)",
            )
        if episode_is_far_ahead(episode, self.episode) or is_far_ahead(
            sequence, self._sequence if episode == self.episode else -1
        ):
            raise Refused(
                "far_ahead",
                f"observation {sequence} of episode {episode} is far ahead of all that {self.name} has sent in "
                f"episode {self.episode}",
            )
        if episode > self.episode:
            self.begin(episode)
        if sequence <= self._sequence:
            raise Refused(
                "old_sequence", f"observation {sequence} of {self.name} comes after observation {self._sequence}"
            )

    @property
    def newest(self) -> int:
        """Sequence of the newest observation of the episode that was prefilled, -1 before the first."""
        return self._sequence

    def holds(self, sequence: int) -> bool:
        """True for the context of an observation of this episode that can be asked, now or once it is completed."""
        return sequence in self._contexts

    def keeps(self, sequence: int) -> bool:
        """True when the context of an observation of this episode can be asked."""
        return self.holds(sequence) and self._contexts[sequence].ready

    def extend(self, sequence: int, prefilled: Prefilled, ready: bool = True) -> CachedContext:
        """Add the tokens of an observation and return the new context.

        Args:
            sequence: of the observation.
            prefilled: what the policy made of it.
            ready: False when the policy has still to complete the context.

        Raises:
            Refused: the cache is full.
            ValueError: wrong shapes or numbers.
        """
        try:
            self.cache.append(prefilled.keys, prefilled.values)
        except CacheFullError as error:
            raise Refused("cache_full", str(error)) from error
        if self._sequence < 0:
            self.history_from = sequence
        self._sequence = sequence
        context = CachedContext(self.cache.view(), prefilled.seen, prefilled.context, ready=ready)
        self._contexts[sequence] = context
        while len(self._contexts) > self._contexts_kept:
            del self._contexts[next(iter(self._contexts))]
        return context

    def drop(self, context: CachedContext) -> None:
        """Forget a context that could not be completed; the history keeps its tokens."""
        self._contexts = {number: held for number, held in self._contexts.items() if held is not context}

    def context(self, episode: int, sequence: int) -> CachedContext:
        """Return the context of an observation.

        Raises:
            Refused: another episode, or a context that is not kept.
        """
        if episode != self.episode:
            code = "old_episode" if episode < self.episode else "no_context"
            raise Refused(code, f"request is of episode {episode}, {self.name} is in {self.episode}")
        context = self._contexts.get(sequence)
        if context is None or not context.ready:
            kept = ", ".join(str(number) for number in self._contexts if self.keeps(number)) or "none"
            raise Refused("no_context", f"context {sequence} of {self.name} is not kept, there is {kept}")
        return context


class Sessions:
    """The sessions by name; memory of a session is taken when it is first used.

    Raises:
        ValueError: an observation of the policy does not fit into what its cache keeps.
        MemoryError: the caches of all sessions need more than MAX_BYTES.
    """

    def __init__(self, spec: PolicySpec, options: EngineOptions) -> None:
        check_fit(spec, options)
        self._spec, self._device = spec.cache, spec.device
        self._options = options
        self._sessions: dict[str, Session] = {}

    def check_retune(self, options: EngineOptions) -> None:
        """Check, from any thread, that `retune` can follow.

        Raises:
            ValueError: the options differ in more than budget and threshold.
        """
        before = {name: getattr(self._options.cache, name) for name in RETUNED}
        if replace(options, cache=options.cache.changed(**before)) != self._options:
            raise ValueError("engine: only budget and threshold of the cache can change while sessions are open")

    def retune(self, options: EngineOptions) -> None:
        """Go on with another budget or threshold; what a smaller budget has no room for is evicted at once."""
        policy = options.policy()
        caches = {name: session.cache.retuned(policy) for name, session in self._sessions.items()}
        for name, cache in caches.items():
            self._sessions[name].cache = cache
        self._options = options

    def open(self, name: str) -> Session:
        """Return the session, a new one when there is none.

        Raises:
            Refused: the largest number of sessions is reached.
        """
        session = self._sessions.get(name)
        if session is None:
            options = self._options
            self.check_room(name)
            cache = SessionCache(self._spec, options.policy(), views=options.contexts_kept, device=self._device)
            session = self._sessions[name] = Session(name, cache, options.contexts_kept)
        return session

    def check_room(self, name: str, others: Collection[str] = ()) -> None:
        """Check that a session may be served beside those that are open and `others`.

        Raises:
            Refused: the largest number of sessions is reached.
        """
        served = list(dict.fromkeys((*self._sessions, *others)))
        if name not in self._sessions and len(served) >= self._options.max_sessions:
            raise Refused(
                "sessions_full", f"session {name} is one too many, {', '.join(served)} are served; raise max_sessions"
            )

    def get(self, name: str) -> Session | None:
        """Return the session; None when there is none."""
        return self._sessions.get(name)

    def find(self, name: str) -> Session:
        """Return the session.

        Raises:
            Refused: there is none.
        """
        session = self._sessions.get(name)
        if session is None:
            raise Refused("no_session", f"session {name} has sent no observation yet")
        return session


def check_fit(spec: PolicySpec, options: EngineOptions) -> None:
    """Check that sessions with these options can serve a policy.

    Raises:
        ValueError: an observation of the policy does not fit into what its cache keeps, or the gate is another model's.
        MemoryError: the caches of all sessions need more than MAX_BYTES.
    """
    kept = options.policy()
    kept.check_spec(spec.cache)
    newest = kept.newest_tokens
    if spec.tokens_per_observation > newest:
        raise ValueError(
            f"engine: one observation of policy {spec.name} has {spec.tokens_per_observation} tokens, cache policy "
            f"{options.cache.cache_policy} keeps the newest {newest}; raise cache_recent or cache_capacity"
        )
    needed = options.max_sessions * required_bytes(spec.cache, kept, options.contexts_kept)
    if needed > MAX_BYTES:
        raise MemoryError(
            f"engine: {options.max_sessions} sessions with cache policy {options.cache.cache_policy} need {needed} "
            f"bytes, {MAX_BYTES} are allowed; keep fewer tokens or serve fewer sessions"
        )
