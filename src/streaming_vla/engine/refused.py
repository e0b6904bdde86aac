"""The exception that carries a refusal from where it is found to where it is answered."""

from __future__ import annotations

from streaming_vla.policies.layout import ActionLayout, Vector


class Refused(Exception):
    """A request that cannot be served: `code` to count it by, `reason` in one sentence."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def describe(action: str, error: Exception) -> str:
    """Return one sentence about an unexpected error in `action`; the rest is in the log."""
    lines = str(error).strip().splitlines()
    return f"{action} failed with {type(error).__name__}{': ' + lines[0] if lines else ''}"


def checked(code: str, what: str, layout: ActionLayout, values: Vector) -> Vector:
    """Return `values` as an action's vector [A].

    Raises:
        Refused: with `code`, another shape or a value that is not finite.
    """
    try:
        return layout.check(values)
    except ValueError as error:
        raise Refused(code, f"{what}: {error}") from error
