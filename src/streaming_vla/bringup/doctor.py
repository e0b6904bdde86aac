"""`streaming-vla doctor`: checks an installation, a parameter file and a model; a line per finding, with the fix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from streaming_vla.bringup import checks
from streaming_vla.bringup.checks import Note, Trouble
from streaming_vla.bringup.suite_checks import SuiteChecks
from streaming_vla.ros.middleware import MiddlewareError

Check = Callable[[], str | Sequence[str]]


@dataclass(frozen=True)
class Finding:
    """What a check has found: `ok`, `note` (works, but worth knowing) or `FAIL`."""

    grade: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.grade:<5}{self.name:<12}{self.text}"


def examine(params_file: Path | None, namespace: str, inference: Mapping[str, str]) -> int:
    """Print a line for every finding and return the exit code: 1 when a check failed.

    Args:
        params_file: also checked, with the model and the topics that it names; None leaves that out.
        namespace: of the robot.
        inference: model and its options in place of the file's; without a file only what a model needs is checked.
    """
    suite = SuiteChecks(params_file, namespace, inference)
    wanted: list[tuple[str, Check]] = [
        ("python", checks.python),
        ("cpu", checks.cpu),
        ("libraries", checks.libraries),
    ]
    if inference and params_file is None:
        return report([*wanted, ("model", suite.model)], print)
    wanted += [
        ("ros", checks.ros),
        ("messages", checks.messages),
        ("package", checks.package),
        *([("parameters", suite.parameters)] if params_file is not None else []),
        ("model", suite.model),
        ("policy", suite.policy),
        ("cache", suite.cache),
        ("simulator", checks.simulator),
        ("dds", checks.dds),
        ("domain", suite.domain),
        ("launch", checks.launch),
    ]
    if params_file is not None:
        wanted += [
            ("commands", suite.commands),
            ("names", suite.names),
            ("topics", suite.topics),
        ]
    return report(wanted, print)


def report(wanted: Iterable[tuple[str, Check]], say: Callable[[str], None]) -> int:
    """Run the checks, say each finding as it comes, and return the exit code."""
    failures = 0
    for name, check in wanted:
        findings = find(name, check)
        failures += sum(finding.grade == "FAIL" for finding in findings)
        for finding in findings:
            say(str(finding))
    say(f"{failures} findings have to be repaired." if failures else "Everything is in order.")
    return 1 if failures else 0


def find(name: str, check: Check) -> list[Finding]:
    """Run one check; whatever it raises is a failure of that check alone."""
    try:
        found = check()
    except Trouble as trouble:
        return [Finding("FAIL", name, str(sentence)) for sentence in trouble.args]
    except (MiddlewareError, TimeoutError) as error:
        return [Finding("FAIL", name, str(error))]
    except Exception as error:
        return [Finding("FAIL", name, f"{type(error).__name__}: {' '.join(str(error).split())}")]
    texts = [found] if isinstance(found, str) else found
    return [Finding("note" if isinstance(text, Note) else "ok", name, text) for text in texts]
