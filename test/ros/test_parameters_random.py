"""Parameters of every node, set and asked for at random over rclpy's own services: refused or taken, never an end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from lifecycle_msgs.srv import ChangeState
from own_context import own_context
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters, SetParametersAtomically
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode
from rclpy.serialization import deserialize_message, serialize_message

from streaming_vla.options.option import Options
from streaming_vla.options.texts import LONGEST
from streaming_vla.parameters.nodes import NODES
from streaming_vla.ros.declare import Declared
from streaming_vla.ros.guard import guard_services

pytestmark = pytest.mark.ros
SETS = 250  # of each node
NUMBERS = (0, 1, -1, 2, 64, 2**31, -(2**63), 2**63 - 1)
REALS = (0.0, 1.0, -1.0, 0.5, 1e-320, 1e308, float("nan"), float("inf"), float("-inf"))
TEXTS = ("", "off", "full", "wrong", "\x1b[31m", "a" * 10_000, "café", "/", "rgb8", "sensor_msgs/msg/JointState")
REASON_LONGEST = 4 * LONGEST  # with the value cut and what is allowed behind it


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    with own_context() as own:
        yield own


class Asked:
    """A node with the options of one kind, asked as the executor would hand it requests."""

    def __init__(self, name: str, kind: type[Options], context: Context) -> None:
        self.node: Any = LifecycleNode(name, context=context, allow_undeclared_parameters=True)
        self.declared = Declared(self.node, kind, lambda _: None)
        self.refused: list[str] = []
        guard_services(self.node, lambda _, sentence: self.refused.append(sentence))
        self._services = {service.srv_name.rsplit("/", 1)[-1]: service for service in self.node.services}

    def ask(self, name: str, request: Any) -> Any:
        """Return what the node answers, over the wire and back."""
        service = self._services[name]
        response = service.callback(over_the_wire(request), service.srv_type.Response())
        return over_the_wire(response)


def over_the_wire(message: Any) -> Any:
    """Serialise and read back, as the middleware does."""
    return deserialize_message(serialize_message(message), type(message))


def any_value(draw: random.Random) -> ParameterValue:
    """Return a value of any type, also of one that does not exist, with a list of any length."""
    length = draw.choice((0, 0, 1, 2, 4, 4, 7, 300))
    return ParameterValue(
        type=draw.choice((*range(10), 3, 7, 8, 10, 77, 255)),
        bool_value=draw.random() < 0.5,
        integer_value=draw.choice(NUMBERS),
        double_value=draw.choice(REALS),
        string_value=draw.choice(TEXTS),
        byte_array_value=[b"1"] * length,
        bool_array_value=[draw.random() < 0.5] * length,
        integer_array_value=[draw.choice(NUMBERS) for _ in range(length)],
        double_array_value=[draw.choice(REALS) for _ in range(length)],
        string_array_value=[draw.choice(TEXTS) for _ in range(length)],
    )


@pytest.mark.parametrize(("name", "kind"), NODES.items())
def test_random_parameters_of_every_node_are_answered(context: Context, name: str, kind: type[Options]) -> None:
    asked, draw = Asked(name, kind, context), random.Random(name)
    names = [*kind.declared, "use_sim_time", "qos_overrides./x", "nope", *TEXTS]
    taken = 0
    for _ in range(SETS):
        changes = [Parameter(name=draw.choice(names), value=any_value(draw)) for _ in range(draw.choice((1, 1, 1, 3)))]
        if draw.random() < 0.8:
            results = asked.ask("set_parameters", SetParameters.Request(parameters=changes)).results
            assert len(results) == len(changes)
        else:
            request = SetParametersAtomically.Request(parameters=changes)
            results = [asked.ask("set_parameters_atomically", request).result]
        assert all(result.successful or result.reason for result in results)
        assert all(len(result.reason) < REASON_LONGEST * len(changes) for result in results)
        taken += sum(result.successful for result in results)
        assert type(asked.declared.options) is kind
        assert kind(**asked.declared.options.values()) == asked.declared.options, "what is in force is allowed"
    assert taken, "nothing was ever taken: the test asks for nothing that is allowed"
    for odd in TEXTS:
        asked.ask("get_parameters", GetParameters.Request(names=[odd, "autostart"]))
        asked.ask("describe_parameters", DescribeParameters.Request(names=[odd]))
        asked.ask("list_parameters", ListParameters.Request(prefixes=[odd], depth=2**63 + 7))
    asked.node.destroy_node()


def test_every_declared_parameter_refuses_the_empty_list_of_every_type(context: Context) -> None:
    for name, kind in NODES.items():
        asked = Asked(name, kind, context)
        for option in kind.declared:
            empty = [Parameter(name=option, value=ParameterValue(type=number)) for number in (0, 5, 6, 7, 8, 9, 77)]
            results = asked.ask("set_parameters", SetParameters.Request(parameters=empty)).results
            assert not any(result.successful for result in results)
            assert all(result.reason for result in results)
        assert asked.declared.options == kind()
        asked.node.destroy_node()


def test_parameters_in_front_of_one_without_a_type_keep_their_results(context: Context) -> None:
    asked = Asked("executor", NODES["executor"], context)
    good = Parameter(name="hold_s", value=ParameterValue(type=3, double_value=3.0))
    odd = Parameter(name="hold_s", value=ParameterValue(type=77))
    results = asked.ask("set_parameters", SetParameters.Request(parameters=[good, odd, good])).results
    assert [result.successful for result in results] == [True, False, False]
    assert "77" in results[1].reason
    assert len(asked.refused) == 1
    asked.node.destroy_node()


def test_a_transition_that_does_not_exist_is_refused(context: Context) -> None:
    asked = Asked("executor", NODES["executor"], context)
    for number, label in ((0, ""), (250, ""), (3, ""), (1, "nonsense"), (1, "\x1b[31m"), (255, "a" * 1000)):
        request = ChangeState.Request()
        request.transition.id, request.transition.label = number, label
        assert not asked.ask("change_state", request).success
    asked.node.destroy_node()
