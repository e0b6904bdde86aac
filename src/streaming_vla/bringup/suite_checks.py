"""What the nodes would refuse of a parameter file and its model, found by the doctor before any of them is started."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streaming_vla.bringup import graph
from streaming_vla.bringup.apart import ask
from streaming_vla.bringup.checks import Note, Trouble
from streaming_vla.parameters import load
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.parameters.sections import full_namespace

if TYPE_CHECKING:
    from streaming_vla.policies.contract import FlowPolicy
    from streaming_vla.ros.topics import Graph

WIDER = 5.0  # limits that are so many times wider or narrower than the policy's are worth a remark


class SuiteChecks:
    """The checks of one robot's parameters; what is refused in the file has its default in all the others.

    Args:
        path: of the parameter file; None: the defaults.
        namespace: of the robot.
        inference: options of the inference node in place of the file's.
    """

    def __init__(self, path: Path | None, namespace: str, inference: Mapping[str, str]) -> None:
        self._path, self._namespace, self._inference = path, namespace, inference

    @cached_property
    def _read(self) -> tuple[SuiteOptions, list[str]]:
        try:
            options, problems = (SuiteOptions(), []) if self._path is None else load.survey(self._path, self._namespace)
        except load.ParameterFileError as error:
            options, problems = SuiteOptions(), str(error).splitlines()
        return options.changed("inference", self._inference), problems

    @property
    def _options(self) -> SuiteOptions:
        return self._read[0]

    @cached_property
    def _loaded(self) -> tuple[FlowPolicy | None, list[str]]:
        from streaming_vla.engine.loading import load_model, survey_model

        inference = self._options.inference
        found = survey_model(inference)
        try:
            return load_model(inference), []
        except ValueError as error:
            return None, list(dict.fromkeys([*found, str(error)]))

    @cached_property
    def _topics(self) -> tuple[str, ...]:
        observer, executor = self._options.observer, self._options.executor
        return (
            *observer.camera_topics,
            observer.robot_state_topic,
            executor.command_topic,
            executor.joint_states_topic,
        )

    @cached_property
    def _seen(self) -> Graph:
        from streaming_vla.ros.topics import ends, name_problem

        named = [topic for topic in self._topics if not name_problem(topic)]
        return ask(ends, full_namespace(self._namespace), named)

    def parameters(self) -> str:
        """Check every key and value of the parameter file."""
        if problems := self._read[1]:
            raise Trouble(*problems)
        return f"{self._path}: every value is valid"

    def model(self) -> str:
        """Load the policy; name everything that it lacks."""
        from streaming_vla.policies.registry import model_files

        policy, found = self._loaded
        if policy is None:
            raise Trouble(*found)
        name, spec = self._options.inference.model, policy.spec
        sizes = [f"{file} ({file.stat().st_size / 1e6:.1f} MB)" for file in model_files(name)] or [name]
        predictor = "no saliency model" if getattr(policy, "predictor", None) is None else "with its saliency model"
        return f"{', '.join(sizes)}, {predictor}; cameras {', '.join(spec.cameras)}, state {spec.state_size}"

    def policy(self) -> Sequence[str]:
        """Compare what the policy needs with the robot's parameters."""
        spec = self._spec()
        if found := self._options.policy_findings(spec):
            raise Trouble(*found)
        notes = [Note(each) for each in _odd_limits(spec.layout, self._options.generator.layout)]
        monitor, predictor = self._options.saliency_monitor, getattr(self._loaded[0], "predictor", None)
        if monitor.mode == "adaptive" and monitor.saliency_of == "pictures" and predictor is None:
            notes.append(
                Note("saliency_of is pictures, but there is no saliency model: every observation is sent early")
            )
        return notes or ["pictures, state, actions and control period are the policy's"]

    def cache(self) -> Sequence[str]:
        """Check the KV cache, its gate and the latency profile."""
        from streaming_vla.engine.cache import engine_options
        from streaming_vla.engine.latency_profile import find_profile
        from streaming_vla.engine.loading import fitted

        inference, policy = self._options.inference, self._loaded[0]
        said: list[str] = []
        found: list[str] = []

        def check(look: Callable[[], Any]) -> Any:
            try:
                return look()
            except (ValueError, MemoryError) as error:
                found.append(str(error))
                return None

        if policy is None:  # what can be said without it
            check(lambda: engine_options(inference, 1, inference.max_sessions))
        elif (made := check(lambda: fitted(inference, policy))) is not None:
            said += [Note(each) for each in made[1]]
        if inference.latency_profile and (profile := check(lambda: find_profile(inference.latency_profile))):
            said.append(Note(f"latency profile '{profile.name}' holds answers back: {profile.description}"))
        if found:
            raise Trouble(*found)
        return said or [f"cache policy {inference.cache_policy}, {inference.max_sessions} sessions at most"]

    def commands(self) -> str:
        """Check that the executor can say the actions as commands."""
        from streaming_vla.commands.types import WRITERS

        executor = self._options.executor
        try:
            WRITERS[executor.command_type](executor)
        except ValueError as error:
            raise Trouble(str(error)) from error
        return f"{executor.command_type} for {', '.join(executor.action_names)}"

    def names(self) -> str:
        """Check names of topics and of the robots that are served."""
        from streaming_vla.ros.topics import name_problem, session_problems

        inference = self._options.inference
        found = [name_problem(topic) for topic in self._topics]
        found += session_problems(inference.sessions, full_namespace(self._namespace), inference.max_sessions)
        if wrong := [each for each in found if each]:
            raise Trouble(*wrong)
        return "names of topics and sessions are valid"

    def domain(self) -> str:
        """Look for nodes of the suite that are running already."""
        domain, namespace = os.environ.get("ROS_DOMAIN_ID", "0"), full_namespace(self._namespace)
        ours = {node.name for node in graph.NODES}
        if running := sorted(name for name, its in self._seen.nodes if its == namespace and name in ours):
            return Note(
                f"ROS domain {domain} has {', '.join(running)} running: "
                "a second suite needs another ROS_DOMAIN_ID or --namespace"
            )
        return f"ROS domain {domain} has no other suite"

    def topics(self) -> Sequence[str]:
        """Look for publishers of what is read, of the right type, and for a listener of the commands."""
        from streaming_vla.commands.types import WRITERS
        from streaming_vla.ros.topics import type_name

        observer, executor = self._options.observer, self._options.executor
        kinds = observer.of_cameras(observer.camera_types)
        topics = observer.of_cameras(observer.camera_topics)
        wanted: dict[str, tuple[str, str]] = {
            topic: (kinds[camera], "camera_topics") for camera, topic in topics.items()
        }
        wanted[observer.robot_state_topic] = (observer.robot_state_type, "robot_state_topic")
        joints, command = executor.joint_states_topic, type_name(WRITERS[executor.command_type].message_type)
        there = self._seen
        if not there.nodes and not any(each.sent for each in there.topics.values()):
            return [Note("no robot is up in this ROS domain: topics are compared where one is")]
        found, said = [], []
        for topic, (kind, parameter) in wanted.items():
            end = there.topics.get(topic)
            if end is None:
                continue  # no name: `names` says so
            if not end.sent:
                found.append(f"nobody publishes {end.name}: start the robot's drivers, or correct {parameter}")
            elif kind not in end.sent:
                found.append(
                    f"{end.name} is {', '.join(sorted(end.sent))}, expected {kind}: correct the type of {parameter}"
                )
        heard, listened = there.topics.get(joints), there.topics.get(executor.command_topic)
        if heard and not heard.sent:
            said.append(
                Note(f"nobody publishes {heard.name}, without which the robot is not moved: correct joint_states_topic")
            )
        if listened and command not in listened.taken:
            others = f" (it is {', '.join(sorted(listened.taken))})" if listened.taken else ""
            said.append(Note(f"nobody listens to {listened.name} as {command}{others}: correct command_topic"))
        if found:
            raise Trouble(*found)
        return said or [f"{', '.join(end.name for end in there.topics.values())} have their ends"]

    def _spec(self) -> Any:
        policy = self._loaded[0]
        if policy is None:
            raise Trouble("not compared with the robot: the model has to be loaded first")
        return policy.spec


def _odd_limits(policy: Any, robot: Any) -> list[str]:
    """Return a sentence for each dimension whose limits are far from the policy's."""
    found = []
    for index, name in enumerate(policy.names):
        its, own = policy.high[index] - policy.low[index], robot.high[index] - robot.low[index]
        if not its / WIDER <= own <= its * WIDER:
            found.append(
                f"action_low to action_high of '{name}' span {own:.4g}, the policy's {its:.4g}: are the units the same?"
            )
    return found
