"""python -m streaming_vla.policies.lerobot.check DIR CASE: prints the worst difference of every tensor of a case."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.lerobot.check.case import GIVEN, Case, check_case


def main(arguments: list[str] | None = None) -> int:
    """Return 0 when every tensor is within the case's tolerance."""
    parser = argparse.ArgumentParser(prog="check", description=__doc__)
    parser.add_argument("dir", type=Path, help="folder with checkpoint/, and vlm/ where the policy reads text")
    parser.add_argument("case", type=Path, help="path of a case without its suffixes: .safetensors and .json")
    parsed = parser.parse_args(arguments)
    try:
        case = Case.read(parsed.case)
        errors = check_case(parsed.dir, case)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 2
    for name in case.tensors:
        if name in errors:
            print(f"{name:32} {errors[name]:.2e}{'' if errors[name] <= case.tolerance else '  TOO LARGE'}")
        else:
            print(f"{name:32} {'given' if name.startswith(GIVEN) else 'NOT KNOWN'}")
    worst = max(errors, key=lambda name: errors[name])
    print(f"{case.policy}: worst {errors[worst]:.2e} ({worst}), tolerance {case.tolerance:.0e}")
    known = all(name in errors or name.startswith(GIVEN) for name in case.tensors)
    return 0 if known and errors[worst] <= case.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
