"""`streaming-vla doctor`: checks an installation, one line per check, with the fix."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from streaming_vla.bringup import checks
from streaming_vla.bringup.checks import Note, Trouble

Check = Callable[[], str]


@dataclass(frozen=True)
class Finding:
    """What a check has found: `ok`, `note` (works, but worth knowing) or `FAIL`."""

    grade: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.grade:<5}{self.name:<12}{self.text}"


def examine(params_file: Path | None, namespace: str) -> int:
    """Print one line per check and return the exit code: 1 when a check failed.

    Args:
        params_file: also checked, with the topics that it names; None leaves that out.
        namespace: of the robot.
    """
    wanted: list[tuple[str, Check]] = [
        ("python", checks.python),
        ("cpu", checks.cpu),
        ("libraries", checks.libraries),
        ("ros", checks.ros),
        ("messages", checks.messages),
        ("package", checks.package),
        ("model", lambda: checks.model(params_file, namespace)),
        ("simulator", checks.simulator),
        ("dds", checks.dds),
        ("domain", lambda: checks.domain(namespace)),
        ("launch", checks.launch),
    ]
    if params_file is not None:
        wanted.append(("parameters", lambda: checks.parameters(params_file, namespace)))
        wanted.append(("cameras", lambda: checks.cameras(params_file, namespace)))
    return report(wanted, print)


def report(wanted: Iterable[tuple[str, Check]], say: Callable[[str], None]) -> int:
    """Run the checks, say each finding as it comes, and return the exit code."""
    failures = 0
    for name, check in wanted:
        finding = find(name, check)
        failures += finding.grade == "FAIL"
        say(str(finding))
    say(f"{failures} of the checks failed." if failures else "Everything is in order.")
    return 1 if failures else 0


def find(name: str, check: Check) -> Finding:
    """Run one check; whatever it raises is a failure of that check alone."""
    try:
        text = check()
    except Trouble as trouble:
        return Finding("FAIL", name, str(trouble))
    except Exception as error:
        return Finding("FAIL", name, f"{type(error).__name__}: {' '.join(str(error).split())}")
    return Finding("note" if isinstance(text, Note) else "ok", name, text)
