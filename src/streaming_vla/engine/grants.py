"""Which steps of which flows a robot has granted, also of contexts that do not exist yet."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from streaming_vla.engine.refused import Refused, checked
from streaming_vla.engine.sessions import Session
from streaming_vla.machines.episodes import episode_is_far_ahead, is_far_ahead
from streaming_vla.machines.events import GeneratedAction, GenerateRequest
from streaming_vla.policies.contract import PlannedActions, PolicySpec
from streaming_vla.policies.layout import Vector

CONTEXTS_TO_COME = 2  # that may be granted before they exist


@dataclass(frozen=True)
class RobotState:
    """The robot's state [state_size] at measured_s, engine's clock.

    shown: [A], sum of the episode's actions that this state shows; None: not known.
    """

    values: Vector
    measured_s: float
    shown: Vector | None


@dataclass
class Flow:
    """The flow of one context: its next step, the state to ask it from [A], and where the granted steps end.

    Args:
        asked_s: since when the next step could have been done, engine's clock.
        begun: [A], the state that it began from.
        first: step with which it began.
        before: [A], what is to be added to `position` for the sum of the episode's actions; None: not known.
        robot: the newest that was told of it.
    """

    episode: int
    context: int
    revision: int
    step: int
    position: Vector
    until: int
    asked_s: float
    begun: Vector
    first: int
    before: Vector | None = None
    robot: RobotState | None = None
    planned: PlannedActions | None = None


class Grants:
    """What one robot has granted, by context. Its episode is that of the newest request."""

    def __init__(self) -> None:
        self.episode = -1
        self._flows: dict[int, Flow] = {}

    def take(self, request: GenerateRequest, session: Session | None, spec: PolicySpec, now: float) -> None:
        """Begin a flow, or grant more steps of it.

        A robot that grants more steps of a context that exists goes on with it: older flows end. One that begins a flow
        anew may still need an older one meanwhile.

        Raises:
            Refused: an old episode, numbers far ahead of all before, a context that is no longer kept, a step outside
                of the horizon, or vectors that are none.
        """
        known = -1 if session is None else session.episode
        if request.episode < max(self.episode, known):
            raise Refused(
                "old_episode",
                f"actions of episode {request.episode} are asked for, the robot is in {max(self.episode, known)}",
            )
        if episode_is_far_ahead(request.episode, max(self.episode, known)) or is_far_ahead(
            request.context, session.newest if session is not None and request.episode == known else -1
        ):
            raise Refused(
                "far_ahead",
                f"actions of context {request.context} of episode {request.episode} are asked for, far ahead of all "
                f"that the robot has sent in episode {max(self.episode, known)}",
            )
        if session is not None and _is_gone(request.episode, request.context, session):
            session.context(request.episode, request.context)  # says what is kept
        if not 0 <= request.step < spec.trained_horizon:
            raise Refused(
                "bad_step",
                f"step {request.step} of a flow is asked for, there are 0 to {spec.trained_horizon - 1}",
            )
        until = min(request.until, spec.trained_horizon)
        position = checked("bad_position", "flow state", spec.layout, request.position)
        state = None if request.state is None else _checked_state(request.state, spec.state_size)
        pending, sent = request.pending, request.sent
        if pending is not None:
            pending = checked("bad_pending", "sum of pending actions", spec.layout, pending)
        if sent is not None:
            sent = checked("bad_sent", "sum of sent actions", spec.layout, sent)
        planned = _checked_planned(request, spec)
        if request.episode > self.episode:
            self.episode = request.episode
            self._flows.clear()
        flow = self._flows.get(request.context)
        if flow is None or request.revision > flow.revision:
            told = planned if planned is not None or flow is None else flow.planned
            numbers = (request.episode, request.context, request.revision, request.step)
            flow = Flow(*numbers, position, until, now, position, request.step, planned=told)
            self._flows[request.context] = flow
        elif request.revision < flow.revision:
            return  # overtaken on the way
        elif until > flow.until:
            if flow.step >= flow.until:
                flow.asked_s = max(flow.asked_s, now)
            flow.until = until
            if session is not None and session.episode == self.episode and session.keeps(request.context):
                self._flows = {number: flow for number, flow in self._flows.items() if number >= request.context}
        if sent is not None:
            flow.before = sent - position
        if state is not None:
            age_s = request.state_age_s if math.isfinite(request.state_age_s) else 0.0
            shown = None if pending is None or sent is None else sent - pending
            flow.robot = RobotState(state, now - max(0.0, age_s), shown)
        if len(self._flows) > CONTEXTS_TO_COME:
            to_come = sorted(number for number in self._flows if session is None or number > session.newest)
            for number in to_come[:-CONTEXTS_TO_COME]:
                del self._flows[number]

    def flow(self, context: int) -> Flow | None:
        """Return the flow of a context, None where nothing of it is granted."""
        return self._flows.get(context)

    def planned(self, episode: int, context: int) -> PlannedActions | None:
        """Return the actions that the robot has planned from the picture of `context` on, None: not told."""
        flow = self.flow(context) if episode == self.episode else None
        return None if flow is None else flow.planned

    def robot(self, flow: Flow) -> tuple[RobotState | None, Vector | None]:
        """Return the robot's newest state, and the sum of the actions between it and the next one of `flow`, [A].

        Each is None where it is not known. The state may have been told with another flow, that is played until this
        one takes over: of that one only what is executed before this one counts, not all that was generated of it.
        """
        known = [other for other in self._flows.values() if other.context <= flow.context and other.robot is not None]
        if not known:
            return None, None
        newest = max(known, key=lambda other: (_measured_s(other), other.context))
        assert newest.robot is not None, "only flows with one are compared"
        if newest.robot.shown is None or flow.before is None:
            return newest.robot, None
        return newest.robot, flow.before + flow.position - newest.robot.shown

    def next(self, session: Session | None) -> Flow | None:
        """Return the flow of the newest context that has a granted step and can be asked, or None."""
        if session is None or session.episode != self.episode:
            return None
        granted = (flow for flow in self._flows.values() if flow.step < flow.until and session.keeps(flow.context))
        return max(granted, key=lambda flow: flow.context, default=None)

    def on_prefilled(self, sequence: int, session: Session, now: float) -> list[Flow]:
        """The prefill of an observation has ended, well or not: what waited for its context can be done from now on.

        Returns:
            The flows with granted steps that will never be done, because their contexts are no longer kept.
        """
        flow = self._flows.get(sequence)
        if flow is not None and session.episode == self.episode and session.keeps(sequence):
            flow.asked_s = max(flow.asked_s, now)
        gone = [flow for flow in self._flows.values() if _is_gone(flow.episode, flow.context, session)]
        for flow in gone:
            self.end(flow)
        return [flow for flow in gone if flow.step < flow.until]

    def end(self, flow: Flow) -> None:
        """Let a flow go; a request of its revision begins it anew."""
        if self._flows.get(flow.context) is flow:
            del self._flows[flow.context]


def refusal(flow: Flow | GenerateRequest, refused: Refused) -> GeneratedAction:
    """Return the answer to a step that is not done."""
    numbers = (flow.episode, flow.context, flow.revision, flow.step)
    return GeneratedAction(*numbers, False, np.zeros(0), refused.code, refused.reason)


def _measured_s(flow: Flow) -> float:
    return -math.inf if flow.robot is None else flow.robot.measured_s


def _is_gone(episode: int, context: int, session: Session) -> bool:
    """True when a context has been there, or was left out, and cannot be asked any more."""
    return episode == session.episode and context <= session.newest and not session.holds(context)


def _checked_state(values: Vector, size: int) -> Vector:
    state = np.asarray(values, dtype=np.float64)
    if state.shape != (size,) or not all(map(math.isfinite, state.tolist())):
        raise Refused("bad_state", f"the robot's newest state has shape {state.shape}, expected ({size},), all finite")
    return state


def _checked_planned(request: GenerateRequest, spec: PolicySpec) -> PlannedActions | None:
    if request.planned is None:
        return None
    actions = np.asarray(request.planned, dtype=np.float64)
    if actions.ndim != 2 or actions.shape[1] != spec.layout.size or not np.isfinite(actions).all():
        raise Refused(
            "bad_planned", f"planned actions have shape {actions.shape}, expected (n, {spec.layout.size}), all finite"
        )
    if request.delay < 0:
        raise Refused("bad_planned", f"{request.delay} planned actions are expected to be executed, expected 0 or more")
    return PlannedActions(actions[: spec.trained_horizon], request.delay)
