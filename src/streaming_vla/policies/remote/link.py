"""A connection that is made anew whenever something goes wrong with it, after a pause that grows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from streaming_vla.policies.contract import PolicyTimeout, PolicyUnavailable
from streaming_vla.policies.errors import shortened
from streaming_vla.policies.remote.messages import WireError

LOGGER = logging.getLogger(__name__)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
Result = TypeVar("Result")


class LinkError(Exception):
    """A server cannot be reached or used; the text says why, without its address."""


class Link(Protocol):
    """A connection to a server."""

    def usable(self) -> bool:
        """False when it has ended meanwhile; LinkError when the server has sent what nobody asked for."""

    def close(self) -> None:
        """End it, whatever state it is in; does not wait."""


Kind = TypeVar("Kind", bound=Link)


class Reconnecting(Generic[Kind]):
    """Keeps one connection. Whatever goes wrong, it is closed, so that no late answer meets the next question.

    Args:
        address: of the server, for people.
        connect: makes a connection by a time of time.monotonic(); raises LinkError, WireError or OSError.
    """

    def __init__(self, address: str, connect: Callable[[float], Kind]) -> None:
        self.address = address
        self._connect = connect
        self._link: Kind | None = None
        self._failure: PolicyUnavailable | None = None  # the newest, until something works
        self._pause_s = 0.0
        self._not_before_s = 0.0

    def use(self, work: Callable[[Kind], Result], deadline_s: float) -> Result:
        """Return what `work` does with the connection, which is made where there is none.

        A failure is followed by a pause; who asks within it is refused at its end with the same words. The next one
        tries again, with a fresh picture and all of its time.

        Raises:
            PolicyTimeout: the deadline is over.
            PolicyUnavailable: the server cannot be reached or used.
        """
        begin_s = time.monotonic()
        if self._failure is not None and begin_s < self._not_before_s:
            time.sleep(max(0.0, min(self._not_before_s, deadline_s) - begin_s))
            raise type(self._failure)(str(self._failure))
        try:
            if self._link is not None and not self._link.usable():
                self.close()
            if self._link is None:
                self._link = self._connect(deadline_s)
            result = work(self._link)
        except TimeoutError as error:
            waited_s = float(f"{max(0.0, deadline_s - begin_s):.2g}")
            raise self._failed(
                PolicyTimeout(
                    f"{self.address} has not answered within {waited_s:g} s: see whether it works, or raise "
                    "model_timeout_s"
                )
            ) from error
        except (LinkError, WireError) as error:
            raise self._failed(PolicyUnavailable(f"{self.address}: {error}")) from error
        except OSError as error:
            raise self._failed(PolicyUnavailable(f"{self.address} cannot be reached: {_reason(error)}")) from error
        except BaseException:
            self.close()
            raise
        if self._failure is not None:
            LOGGER.info("%s answers again", self.address)
        self._failure, self._pause_s = None, 0.0
        return result

    def close(self) -> None:
        """End the connection."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _failed(self, failure: PolicyUnavailable) -> PolicyUnavailable:
        self.close()
        self._failure = failure
        self._pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2.0 * self._pause_s))
        self._not_before_s = time.monotonic() + self._pause_s
        return failure


def _reason(error: OSError) -> str:
    return shortened(error.strerror or str(error) or type(error).__name__)
