"""Where a fact is not clear: a question on the terminal, or a sentence that says which option answers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streaming_vla.bringup.new_robot.facts import UnclearError

Ask = Callable[[str, Sequence[str]], str]
"""Asks a question and returns one of the answers; without any, whatever is typed."""


def choose(question: str, answers: Sequence[str], option: str, ask: Ask | None) -> str:
    """Return the answer to a question.

    Args:
        answers: that are possible; empty: any.
        option: of the command that answers it too, with an example.
        ask: asks somebody; None: nobody is there.

    Raises:
        UnclearError: nobody is there, or the answer is none of them.
    """
    choice = f" ({', '.join(answers)})" if answers else ""
    if ask is None:
        raise UnclearError(f"{question}{choice} Say it with {option}")
    answer = ask(question, answers).strip()
    if answers and answer not in answers:
        raise UnclearError(f"'{answer}' is none of {', '.join(answers)}: say it with {option}")
    return answer
