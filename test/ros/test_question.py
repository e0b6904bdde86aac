"""One question at a time: the newest counts, and its answer is fetched once."""

from __future__ import annotations

from typing import Any, cast

from rclpy.client import Client
from rclpy.task import Future

from streaming_vla.ros.question import Asking


class Service:
    """Stands for a client; its futures are answered by hand."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Future[Any]]] = []
        self.removed: list[Future[Any]] = []

    def call_async(self, request: str) -> Future[Any]:
        self.asked.append((request, Future()))
        return self.asked[-1][1]

    def remove_pending_request(self, future: Future[Any]) -> None:
        self.removed.append(future)


def test_the_newest_question_is_answered_once() -> None:
    service, asking = Service(), Asking[int]()
    client = cast(Client, service)
    assert asking.answer() is None
    asking.ask(client, 1, "first")
    asking.ask(client, 2, "second")
    assert asking.answer() is None
    (_, first), (_, second) = service.asked
    assert service.removed == [first]
    first.set_result("too late")
    assert asking.answer() is None
    second.set_result("yes")
    assert asking.answer() == (2, "yes")
    assert asking.answer() is None


def test_a_forgotten_question_has_no_answer() -> None:
    service, asking = Service(), Asking[int]()
    asking.ask(cast(Client, service), 1, "first")
    asking.forget()
    service.asked[0][1].set_result("yes")
    assert asking.answer() is None and len(service.removed) == 1
