"""A service that is asked one question at a time; the answer is fetched, no callback waits for it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from rclpy.client import Client
from rclpy.task import Future

Q = TypeVar("Q")


class Asking(Generic[Q]):
    """The question that waits for its answer, if any."""

    def __init__(self) -> None:
        self._waiting: tuple[Q, Client, Future[Any]] | None = None

    def ask(self, client: Client, question: Q, request: Any) -> None:
        """Send `request` for `question`; an answer to the question before is no longer wanted."""
        self.forget()
        self._waiting = question, client, client.call_async(request)

    def forget(self) -> None:
        """Want no answer any more."""
        if self._waiting is not None:
            _, client, answered = self._waiting
            client.remove_pending_request(answered)
        self._waiting = None

    def answer(self) -> tuple[Q, Any] | None:
        """Return the question and its response once, when it has come; else None."""
        if self._waiting is None or not self._waiting[2].done():
            return None
        (question, _, answered), self._waiting = self._waiting, None
        response = answered.result()
        return None if response is None else (question, response)
