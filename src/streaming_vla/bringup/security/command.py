"""The command `streaming-vla security`: policies for every process of a robot, and keys where SROS2 is installed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from streaming_vla.refusal import refuse

POLICIES = "policies"  # folder within the keystore


def security(
    keystore: Annotated[Path, typer.Option(help="folder of keys and policies; of several robots the same")],
    params_file: Annotated[
        Path | None, typer.Option("--params-file", "--params", help="names the robot's topics, as `up` takes it")
    ] = None,
    namespace: Annotated[str, typer.Option(help="namespace of the robot")] = "/",
    enclave: Annotated[str, typer.Option(help="in front of the nodes' enclaves, as `up` takes it")] = "",
    sim: Annotated[bool, typer.Option("--sim", help="with the simulated robot")] = False,
) -> None:
    """Write the policy that allows every node its own topics and services and nothing else, and make the keys."""
    from streaming_vla.bringup.security.endpoints import robot_ends
    from streaming_vla.bringup.security.policy import render
    from streaming_vla.bringup.starter import SuiteError, checked_namespace
    from streaming_vla.parameters import load

    try:
        full = checked_namespace(namespace, params_file)
        ends = robot_ends(load.read(params_file, full), full, sim)
        text = render(ends, full, checked_namespace(enclave or full, None))
        policy = keystore / POLICIES / f"{full.strip('/').replace('/', '.') or 'root'}.xml"
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text(text, encoding="utf-8")
    except (SuiteError, load.ParameterFileError, OSError) as error:
        refuse(error)
    print(f"{policy}: {len(ends)} enclaves, everything else is denied", flush=True)
    make_keys = ["ros2", "security", "generate_artifacts", "-k", str(keystore), "-p", str(policy)]
    if shutil.which("ros2") is None:
        refuse(
            "no keys are made, for SROS2 is not installed (it comes with a ROS installation, not from PyPI): there run "
            + shlex.join(make_keys)
        )
    print(f"keys and permissions, good in ROS domain {os.environ.get('ROS_DOMAIN_ID', '0')} only:", flush=True)
    if subprocess.run(make_keys, check=False).returncode != 0:
        refuse(f"no keys are made, see the message above of: {shlex.join(make_keys)}")
    print(f"export ROS_SECURITY_KEYSTORE={keystore.resolve()} ROS_SECURITY_ENABLE=true ROS_SECURITY_STRATEGY=Enforce")
