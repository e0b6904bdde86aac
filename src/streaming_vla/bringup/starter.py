"""The built-in starter: runs the suite's processes, brings them up in order, respawns them, stops them in reverse."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from streaming_vla.bringup.graph import GraphNode, Settings
from streaming_vla.bringup.heartbeats import Telling
from streaming_vla.bringup.lifecycle_client import LifecycleClient
from streaming_vla.bringup.processes import RespawnPolicy
from streaming_vla.bringup.security.endpoints import STARTER
from streaming_vla.bringup.security.policy import enclave as enclave_of
from streaming_vla.bringup.supervised_node import GivenUp, Member
from streaming_vla.parameters import load
from streaming_vla.parameters.sections import full_namespace, qualified, write_settings
from streaming_vla.ros.middleware import MiddlewareError
from streaming_vla.ros.topics import resolved_session

TICK_S = 0.05
_NAMESPACE = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+|/")


class SuiteError(RuntimeError):
    """The suite cannot run; the message is one sentence for the operator."""


def say_on_stderr(line: str) -> None:
    """Print a line of the starter or of a node."""
    sys.stderr.write(f"{line}\n")  # at once: lines of several threads must not run into each other
    sys.stderr.flush()


def checked_namespace(namespace: str, params_file: Path | None) -> str:
    """Return `namespace` in full, "/" for the root, after a look at the parameter file (None: there is none).

    Raises:
        SuiteError: the namespace or the parameter file is wrong.
    """
    full = full_namespace(namespace)
    if not _NAMESPACE.fullmatch(full):
        raise SuiteError(
            f"namespace '{namespace}' is not a ROS namespace: expected letters, digits and '_', as in robot_1"
        )
    if params_file is not None:
        try:
            load.read(params_file, full)
        except load.ParameterFileError as error:
            raise SuiteError(str(error)) from error
    return full


class Suite:
    """The processes of the suite; a context manager that starts and stops them.

    They run in the ROS domain of this process's environment. One thread of this object supervises them.

    Args:
        nodes: which processes, in the order of `graph.NODES`; two suites may share a namespace, but not a node.
        namespace: of the robot; "" and "/" are the root.
        params_file: ROS parameter file for all nodes; None takes the defaults.
        settings: parameters per node that win over the file.
        log_level: of the nodes.
        log_folder: gets one log file per node; None passes the nodes' output to `say`.
        say: gets the starter's own lines.
        respawn: how often, and how soon, a node that has crashed is started again.
        enclave: in front of the nodes' security enclaves; empty: the namespace.

    Raises:
        SuiteError: the namespace or the parameter file is wrong.
    """

    def __init__(
        self,
        nodes: Sequence[GraphNode],
        namespace: str = "/",
        params_file: Path | None = None,
        settings: Settings | None = None,
        log_level: str = "info",
        log_folder: Path | None = None,
        say: Callable[[str], None] = say_on_stderr,
        respawn: RespawnPolicy | None = None,
        enclave: str = "",
    ) -> None:
        self.namespace = checked_namespace(namespace, params_file)
        self._enclave = checked_namespace(enclave or self.namespace, None)
        self._nodes = tuple(nodes)
        self._params_file = params_file
        self._settings = settings or {}
        self._log_level = log_level
        self._log_folder = log_folder
        self._say = say
        self._respawn = respawn or RespawnPolicy()
        self._members: dict[str, Member] = {}
        self._failure = ""
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._up = False
        self._thread = threading.Thread(target=self._supervise, name="suite")

    def start(self) -> None:
        """Start every process and return when all nodes are active.

        Raises:
            SuiteError: a node cannot start; everything has been stopped again.
        """
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._up or not self._thread.is_alive() or bool(self._failure))
        if self._failure:
            self.stop()
            raise SuiteError(self._failure)

    def stop(self) -> None:
        """Stop every process, the last of the order first."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def __enter__(self) -> Suite:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_up(self) -> bool:
        """Whether every node is active."""
        return self._up

    @property
    def failure(self) -> str:
        """The sentence that says why the suite has stopped by itself; empty while it has not."""
        return self._failure

    def wait_up(self, timeout_s: float) -> bool:
        """Wait until every node is active (again); return whether it is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._up or bool(self._failure), timeout_s) and self._up

    def wait_failure(self, timeout_s: float) -> str:
        """Wait for a failure; return its sentence, empty when none came."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._failure), timeout_s)
        return self._failure

    def node_process(self, name: str) -> subprocess.Popen[bytes]:
        """Return the running process of a node.

        Raises:
            KeyError: no such node, or it is waiting to be respawned.
        """
        process = self._members[name].process
        if process is None:
            raise KeyError(name)
        return process.popen

    def respawns(self, name: str) -> int:
        """Return how often a node has been started again."""
        return self._members[name].respawns

    def _supervise(self) -> None:
        try:
            with self._only_suite_here():
                client = LifecycleClient(self.namespace, enclave_of(self._enclave, STARTER))
                try:
                    self._refuse_second_suite(client)
                    with TemporaryDirectory(prefix="streaming_vla_") as folder:
                        self._run(client, Path(folder))
                finally:
                    client.close()
        except (GivenUp, SuiteError, MiddlewareError) as error:
            self._fail(str(error))
        except Exception as error:
            self._fail(f"the starter failed: {type(error).__name__}: {error}")
            raise
        finally:
            with self._changed:
                self._up = False
                self._changed.notify_all()

    def _run(self, client: LifecycleClient, folder: Path) -> None:
        members = [self._member(node, client, folder) for node in self._nodes]
        self._members = {member.node.name: member for member in members}
        been_up = False
        telling, sessions = Telling(), self._sessions()
        client.tell_away(telling.nobody, sessions)  # whoever listens finds the publisher before it is needed
        try:
            for member in members:
                member.spawn()
            while not self._stopping.is_set():
                client.spin(TICK_S)
                now = time.monotonic()
                for index, member in enumerate(members):
                    # Only the first time does a node wait for those before it.
                    member.step(now, been_up or all(other.active for other in members[:index]))
                away_s = {member.node.name: member.away_s(now) for member in members}
                told = telling.tell({name: seconds for name, seconds in away_s.items() if seconds is not None}, now)
                if told is not None:
                    client.tell_away(told, sessions)
                up = all(member.active for member in members)
                been_up = been_up or up
                with self._changed:
                    if up != self._up:
                        self._up = up
                        self._changed.notify_all()
        except GivenUp as error:
            self._fail(str(error))
        finally:
            with self._changed:
                self._up = False
            for member in reversed(members):
                member.stop()

    @contextmanager
    def _only_suite_here(self) -> Iterator[None]:
        """Refuse a second starter of a node on this machine for certain, however slow discovery is."""
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        with ExitStack() as claims:
            for node in self._nodes:
                claim = claims.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                try:
                    # the leading zero makes it a name without a file, which ends with this process
                    claim.bind(f"\0streaming_vla {domain} {qualified(self.namespace, node.name)}")
                except OSError as error:
                    raise SuiteError(self._taken_sentence(f"a suite with node {node.name}")) from error
            yield

    def _refuse_second_suite(self, client: LifecycleClient) -> None:
        """Refuse nodes of the same name that something else has started, perhaps on another machine."""
        taken = client.taken({node.name for node in self._nodes})
        if taken:
            raise SuiteError(self._taken_sentence(f"node {', '.join(sorted(taken))}"))

    def _taken_sentence(self, by: str) -> str:
        return (
            f"ROS domain {os.environ.get('ROS_DOMAIN_ID', '0')} already has {by} in namespace {self.namespace}: "
            "stop the other suite, or choose another ROS_DOMAIN_ID or --namespace"
        )

    def _member(self, node: GraphNode, client: LifecycleClient, folder: Path) -> Member:
        arguments = ["-r", f"__ns:={self.namespace}", "-r", f"__node:={node.name}", "--log-level", self._log_level]
        arguments += ["--enclave", enclave_of(self._enclave, node.name)]
        if self._params_file is not None:
            arguments += ["--params-file", str(self._params_file)]
        if settings := self._settings.get(node.name):
            own = folder / f"{node.name}.yaml"
            write_settings(own, qualified(self.namespace, node.name), settings)
            arguments += ["--params-file", str(own)]
        # every node has crashes of its own
        return Member(node, arguments, client, self._say, self._output(node), folder, replace(self._respawn))

    def _sessions(self) -> list[str]:
        """Return the robots that the nodes work for: one inference serves several."""
        sessions = [self.namespace]
        if any(node.name == "inference" for node in self._nodes):
            served = load.read(self._params_file, self.namespace).inference.sessions
            sessions += [resolved_session(name, self.namespace) for name in served]
        return list(dict.fromkeys(sessions))

    def _output(self, node: GraphNode) -> Callable[[str], None]:
        if self._log_folder is None:
            return lambda line: self._say(f"[{node.name}] {line}")
        self._log_folder.mkdir(parents=True, exist_ok=True)
        path = self._log_folder / f"{node.name}.log"
        path.write_text("")

        def write(line: str) -> None:
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

        return write

    def _fail(self, sentence: str) -> None:
        with self._changed:
            self._failure = self._failure or sentence
            self._changed.notify_all()
