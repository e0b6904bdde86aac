"""Wire messages to the values of the state machines and back; pure functions, nothing is published here.

`*_to` makes a message, `*_from` reads one and raises ValueError when its content is not of the contract.
"""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header
from streaming_vla_interfaces import msg, srv

from streaming_vla.engine.values import ContextReport, EncodedObservation, ResetResult
from streaming_vla.machines.events import (
    Action,
    ContextReady,
    Episode,
    ExecutionState,
    GeneratedAction,
    GenerateRequest,
    Mode,
    NodesAway,
    ObserveRequest,
    Reason,
    SaliencyQuestion,
    SaliencyReply,
    Vector,
)
from streaming_vla.options.texts import cut
from streaming_vla.policies.layout import ActionLayout

NS_PER_S = 10**9
MOST_NODES = 64  # of a supervisor


def floats(values: Vector) -> array.array[float]:
    """Return [A] as the array that a float32[] field takes without a copy per element."""
    return array.array("f", np.asarray(values, dtype=np.float32).tobytes())


def vector(values: Any) -> Vector:
    """Return a float32[] field as a float64 vector [A]."""
    return np.array(values, dtype=np.float64)


def nanoseconds_from(stamp: Time) -> int:
    """Return a stamp in nanoseconds. A driver may send what is no time of ROS: it becomes the nearest that is one."""
    return stamp.sec * NS_PER_S + min(stamp.nanosec, NS_PER_S - 1) if stamp.sec >= 0 else 0


def episode_to(episode: Episode, session: str, stamp: Time) -> msg.Episode:
    """Return Episode.msg."""
    return msg.Episode(
        header=Header(stamp=stamp),
        session=session,
        number=episode.number,
        active=episode.active,
        instruction=episode.instruction,
        stopped=episode.stopped,
    )


def episode_from(message: msg.Episode) -> Episode:
    """Return what Episode.msg says."""
    return Episode(message.number, message.active, message.instruction, message.stopped)


def nodes_away_to(away: NodesAway, session: str, stamp: Time) -> msg.NodesAway:
    """Return NodesAway.msg."""
    return msg.NodesAway(
        header=Header(stamp=stamp),
        session=session,
        supervisor=away.supervisor,
        nodes=list(away.nodes),
        away_s=array.array("f", away.away_s),
    )


def nodes_away_from(message: msg.NodesAway) -> NodesAway:
    """Return what NodesAway.msg says; ValueError for nodes without a time, or for more than a suite has."""
    if len(message.nodes) != len(message.away_s) or len(message.nodes) > MOST_NODES:
        raise ValueError(
            f"{len(message.nodes)} nodes with {len(message.away_s)} times, expected as many, at most {MOST_NODES}"
        )
    return NodesAway(cut(message.supervisor), tuple(cut(name) for name in message.nodes), tuple(message.away_s))


def request_to(request: ObserveRequest, session: str, stamp: Time) -> msg.ObserveRequest:
    """Return ObserveRequest.msg."""
    return msg.ObserveRequest(
        header=Header(stamp=stamp),
        session=session,
        episode=request.episode,
        sequence=request.sequence,
        reason=int(request.reason),
        saliency=request.saliency,
    )


def request_from(message: msg.ObserveRequest) -> ObserveRequest:
    """Return what ObserveRequest.msg says; ValueError for an unknown reason code."""
    return ObserveRequest(message.episode, message.sequence, Reason(message.reason), message.saliency)


def observation_to(
    request: ObserveRequest, session: str, stamp: Time, pictures: dict[str, bytes], state: Vector
) -> msg.Observation:
    """Return Observation.msg without instruction and skew; `pictures` are JPEG, in the policy's camera order."""
    observation = msg.Observation(
        header=Header(stamp=stamp),
        session=session,
        episode=request.episode,
        sequence=request.sequence,
        reason=int(request.reason),
        cameras=list(pictures),
        state=floats(state),
    )
    for name, data in pictures.items():
        header = Header(stamp=stamp, frame_id=name)
        observation.images.append(CompressedImage(header=header, format="jpeg", data=array.array("B", data)))
    return observation


def observation_from(message: msg.Observation, cameras: tuple[str, ...]) -> EncodedObservation:
    """Return what Observation.msg holds; ValueError when its cameras are not `cameras`, in that order."""
    if tuple(message.cameras) != cameras:
        names = ", ".join(message.cameras) or "none"
        raise ValueError(f"its cameras are {names}, the policy needs {', '.join(cameras)}: set the observer's cameras")
    return EncodedObservation(
        session=message.session,
        episode=message.episode,
        sequence=message.sequence,
        instruction=message.instruction,
        images=tuple(image.data.tobytes() for image in message.images),
        state=np.array(message.state, dtype=np.float32),
    )


def context_from(message: msg.Context) -> ContextReady:
    """Return what Context.msg says."""
    return ContextReady(
        message.episode,
        message.sequence,
        message.execution_horizon,
        message.trained_horizon,
        message.flow_step_s,
        message.trained_delay,
        message.chunk,
        message.history_from,
        message.remembers,
    )


def context_to(report: ContextReport, layout: ActionLayout, period_s: float | None, stamp: Time) -> msg.Context:
    """Return Context.msg; `layout` and `period_s`, how long an action lasts (None: any), are the policy's."""
    return msg.Context(
        header=Header(stamp=stamp),
        session=report.session,
        episode=report.episode,
        sequence=report.sequence,
        tokens=report.tokens,
        execution_horizon=report.execution_horizon,
        trained_horizon=report.trained_horizon,
        action_names=list(layout.names),
        action_absolute=list(layout.absolute),
        control_period_s=period_s or 0.0,
        prefill_s=report.prefill_s,
        queued_s=report.queued_s,
        flow_step_s=report.flow_step_s,
        trained_delay=report.trained_delay,
        chunk=report.chunk,
        history_from=report.history_from,
        remembers=report.remembers,
    )


def cache_stats_to(report: ContextReport, stamp: Time) -> msg.KvCacheStats:
    """Return KvCacheStats.msg."""
    stats = report.stats
    return msg.KvCacheStats(
        header=Header(stamp=stamp),
        session=report.session,
        episode=report.episode,
        sequence=report.sequence,
        policy=stats.policy,
        tokens=stats.tokens,
        bytes=stats.bytes,
        allocated_bytes=stats.allocated_bytes,
        full_tokens=stats.full_tokens,
        full_bytes=stats.full_bytes,
        chunks_kept=stats.chunks_kept,
        chunks_dropped=stats.chunks_dropped,
        chunks_evicted=stats.chunks_evicted,
        flops_saved=stats.flops_saved,
        scores=array.array("f", stats.scores),
    )


def action_to(action: Action, session: str, stamp: Time) -> msg.Action:
    """Return Action.msg."""
    return msg.Action(
        header=Header(stamp=stamp),
        session=session,
        episode=action.episode,
        context=action.context,
        index=action.index,
        flow_time=action.flow_time,
        values=floats(action.values),
        more=action.more,
    )


def action_from(message: msg.Action) -> Action:
    """Return what Action.msg says; the executor checks shape and numbers."""
    return Action(
        message.episode, message.context, message.index, message.flow_time, vector(message.values), message.more
    )


def execution_state_to(state: ExecutionState, session: str, stamp: Time) -> msg.ExecutionState:
    """Return ExecutionState.msg."""
    return msg.ExecutionState(
        header=Header(stamp=stamp),
        session=session,
        episode=state.episode,
        mode=int(state.mode),
        context=state.context,
        index=state.index,
        queue_depth=state.queue_depth,
        executed=state.executed,
        cumulative_action=floats(state.cumulative_action),
        held=state.held,
        starved=state.starved,
        held_s=state.held_s,
        starved_s=state.starved_s,
        hand_overs=state.hand_overs,
        rejected=state.rejected,
        instruction=state.instruction,
        dry_run=state.dry_run,
        resumes=state.resumes,
        respawn_hold_s=state.respawn_hold_s,
    )


def execution_state_from(message: msg.ExecutionState) -> ExecutionState:
    """Return what ExecutionState.msg says; ValueError for an unknown mode, or an action that cannot be."""
    if not (-1 <= message.context < 1 << 32 and -1 <= message.index < 1 << 16):
        raise ValueError(
            f"its action is {message.index} of context {message.context}, expected -1 to {(1 << 16) - 1} of -1 to "
            f"{(1 << 32) - 1}"
        )
    return ExecutionState(
        message.episode,
        Mode(message.mode),
        message.context,
        message.index,
        message.queue_depth,
        message.executed,
        vector(message.cumulative_action),
        message.held,
        message.starved,
        message.held_s,
        message.starved_s,
        message.hand_overs,
        message.rejected,
        instruction=message.instruction,
        dry_run=message.dry_run,
        resumes=message.resumes,
        respawn_hold_s=message.respawn_hold_s,
    )


def generate_to(request: GenerateRequest, session: str, stamp: Time) -> msg.GenerateRequest:
    """Return GenerateRequest.msg; an empty plan says as much as none."""
    return msg.GenerateRequest(
        header=Header(stamp=stamp),
        session=session,
        episode=request.episode,
        context=request.context,
        revision=request.revision,
        step=request.step,
        position=floats(request.position),
        until=request.until,
        state=floats(np.zeros(0) if request.state is None else request.state),
        state_age_s=request.state_age_s,
        pending=floats(np.zeros(0) if request.pending is None else request.pending),
        sent=floats(np.zeros(0) if request.sent is None else request.sent),
        planned=floats(np.zeros(0) if request.planned is None else np.ravel(request.planned)),
        delay=request.delay,
    )


def generate_from(message: msg.GenerateRequest) -> GenerateRequest:
    """Return what GenerateRequest.msg asks; ValueError when its plan is not made of whole actions."""
    size, planned = len(message.position), None
    if len(message.planned):
        if not size or len(message.planned) % size:
            raise ValueError(f"planned has {len(message.planned)} numbers, expected some actions of {size} numbers")
        planned = vector(message.planned).reshape(-1, size)
    return GenerateRequest(
        episode=message.episode,
        context=message.context,
        revision=message.revision,
        step=message.step,
        position=vector(message.position),
        until=message.until,
        state=vector(message.state) if len(message.state) else None,
        state_age_s=message.state_age_s,
        pending=vector(message.pending) if len(message.pending) else None,
        sent=vector(message.sent) if len(message.sent) else None,
        planned=planned,
        delay=message.delay,
    )


def generated_to(action: GeneratedAction, session: str, stamp: Time) -> msg.GeneratedAction:
    """Return GeneratedAction.msg."""
    return msg.GeneratedAction(
        header=Header(stamp=stamp),
        session=session,
        episode=action.episode,
        context=action.context,
        revision=action.revision,
        step=action.step,
        accepted=action.accepted,
        code=action.code,
        reason=action.reason,
        values=floats(action.values),
        compute_s=action.compute_s,
        queued_s=action.queued_s,
    )


def generated_from(message: msg.GeneratedAction) -> GeneratedAction:
    """Return what GeneratedAction.msg says; the generator checks shape and numbers."""
    return GeneratedAction(
        message.episode,
        message.context,
        message.revision,
        message.step,
        message.accepted,
        vector(message.values),
        message.code,
        message.reason,
        message.compute_s,
        message.queued_s,
    )


def saliency_question_to(question: SaliencyQuestion, session: str) -> srv.PredictSaliency.Request:
    """Return the request of PredictSaliency.srv."""
    return srv.PredictSaliency.Request(
        session=session,
        episode=question.episode,
        context=question.context,
        index=question.index,
        pending=floats(question.pending),
        saliency_of=question.of,
    )


def saliency_question_from(message: srv.PredictSaliency.Request) -> SaliencyQuestion:
    """Return what the request of PredictSaliency.srv asks; the engine checks it."""
    return SaliencyQuestion(
        message.episode, message.context, message.index, vector(message.pending), message.saliency_of
    )


def saliency_reply_to(reply: SaliencyReply, response: srv.PredictSaliency.Response) -> srv.PredictSaliency.Response:
    """Fill the response of PredictSaliency.srv."""
    response.accepted, response.reason, response.saliency = reply.accepted, reply.reason, reply.saliency
    return response


def saliency_reply_from(question: SaliencyQuestion, message: srv.PredictSaliency.Response) -> SaliencyReply:
    """Return the answer to `question`."""
    return SaliencyReply(
        question.episode,
        question.context,
        question.index,
        message.accepted,
        message.saliency,
        reason=message.reason,
    )


def reset_result_to(result: ResetResult, response: srv.ResetSession.Response) -> srv.ResetSession.Response:
    """Fill the response of ResetSession.srv."""
    response.accepted, response.reason = result.accepted, result.reason
    return response
