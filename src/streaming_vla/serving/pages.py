"""What the server answers to a browser or a program that watches it: /healthz, /status and a page at /."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping
from html import escape
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

HEALTH = "/healthz"
STUCK_S = 60.0  # a policy that is so long in one slice answers nobody


class Doorman:
    """Answers what is no WebSocket, and lets nobody in without the key.

    Args:
        key: that clients send; empty: none is asked for.
        figures: of the server, for /status.
        stuck_s: for how long the policy has been in one slice, seconds.
        full: whether there are as many connections as the server takes.
        count: told the code of every refusal.
    """

    def __init__(
        self,
        key: str,
        figures: Callable[[], Mapping[str, Any]],
        stuck_s: Callable[[], float],
        full: Callable[[], bool],
        count: Callable[[str], None],
    ) -> None:
        self._expected = f"Api-Key {key}".encode() if key else b""
        self._figures, self._stuck_s, self._full, self._count = figures, stuck_s, full, count

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Return the answer to a request of HTTP; None lets the WebSocket be opened."""
        path = request.path.partition("?")[0]
        if path == HEALTH:
            return self._health(connection)
        if not self._has_key(request):
            self._count("wrong_key")
            return connection.respond(
                HTTPStatus.UNAUTHORIZED, "the key is missing or wrong: send the header Authorization: Api-Key ...\n"
            )
        if "Upgrade" in request.headers:
            if not self._full():
                return None
            self._count("too_many_connections")
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many clients are connected: try later\n")
        if path == "/status":
            return _document(json.dumps(self._figures(), indent=1) + "\n", "application/json")
        if path == "/":
            return _document(_page(self._figures()), "text/html; charset=utf-8")
        return connection.respond(HTTPStatus.NOT_FOUND, "there is /healthz, /status and /, and a WebSocket\n")

    def _health(self, connection: ServerConnection) -> Response:
        stuck_s = self._stuck_s()
        if stuck_s > STUCK_S:
            text = f"the policy has been in one step for {stuck_s:.0f} s: restart the server\n"
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, text)
        return connection.respond(HTTPStatus.OK, "OK\n")

    def _has_key(self, request: Request) -> bool:
        given = request.headers.get_all("Authorization")
        # of one length and in one time, whatever was sent
        return not self._expected or (
            len(given) == 1 and hmac.compare_digest(given[0].encode("utf-8", "replace"), self._expected)
        )


def _document(text: str, kind: str) -> Response:
    body = text.encode()
    headers = Headers({"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"})
    headers["Cache-Control"] = "no-store"
    headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    return Response(HTTPStatus.OK.value, HTTPStatus.OK.phrase, headers, body)


def _page(figures: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}<td>{_cell(value)}" for name, value in figures.items())
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="5">'
        "<title>streaming-vla serve</title><style>body{font:15px sans-serif;margin:2em}"
        "th{text-align:left;vertical-align:top;padding:.2em 1.5em .2em 0}</style>"
        f"<h1>{escape(str(figures.get('model', '')))}</h1><table>{rows}</table></html>\n"
    )


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return "<br>".join(f"{escape(str(name))}: {_cell(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list):
        return (
            "<br>".join(", ".join(f"{name} {escape(str(v))}" for name, v in each.items()) for each in value) or "none"
        )
    return escape(str(value))
