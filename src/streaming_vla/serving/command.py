"""`streaming-vla serve`: any policy as a server with the messages of openpi, without ROS."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streaming_vla.refusal import refuse
from streaming_vla.serving.options import ServeOptions, bind, read_key

if TYPE_CHECKING:  # the help of every command imports this module
    from streaming_vla.engine.options import InferenceOptions
    from streaming_vla.policies.contract import FlowPolicy, PolicySpec
    from streaming_vla.policies.remote.keys import Keys

END_S = 2.0  # that a slice in work has to end


def serve(
    model: Annotated[
        str,
        typer.Argument(
            help="name of a shipped model, path of a .safetensors file, lerobot:/folder, python:package.module:factory",
            show_default="that of the parameter file",
        ),
    ] = "",
    host: Annotated[
        str, typer.Option(help="address to listen at; one that others can reach needs a key")
    ] = ServeOptions.host,
    port: Annotated[int, typer.Option(help="0: any that is free")] = ServeOptions.port,
    key_file: Annotated[Path | None, typer.Option(help="file with the one line that clients send as their key")] = None,
    clients: Annotated[
        int | None, typer.Option(help="that have a session at the same time", show_default="max_sessions")
    ] = None,
    assets: Annotated[Path | None, typer.Option(help="for lerobot: model_assets")] = None,
    device: Annotated[str | None, typer.Option(help="for lerobot: model_device")] = None,
    dtype: Annotated[str | None, typer.Option(help="for lerobot: model_dtype")] = None,
    keys: Annotated[
        str,
        typer.Option(
            help="of the messages: libero, droid, aloha or a description's path",
            show_default="observation/images/CAMERA, observation/state, prompt",
        ),
    ] = "",
    python: Annotated[
        Path | None,
        typer.Option(help="for lerobot: interpreter of an environment with lerobot, which then computes it"),
    ] = None,
    params_file: Annotated[
        Path | None,
        typer.Option(
            "--params-file", "--params", help="ROS parameter file whose section inference says model and cache"
        ),
    ] = None,
) -> None:
    """Serve a policy to robots and programs on other machines (openpi's WebSocket), without ROS."""
    told = {
        "model": model or None,
        "model_assets": None if assets is None else str(assets),
        "model_device": device,
        "model_dtype": dtype,
        "max_sessions": clients,
    }
    changes = {name: value for name, value in told.items() if value is not None}
    try:
        from streaming_vla.parameters.load import read

        serving = ServeOptions(host, port, key_file)
        options = read(params_file).inference.changed(**changes)
        key = read_key(key_file)
        with bind(serving, key) as listening:
            policy = _loaded(options, python)
            asyncio.run(_run(policy, options, listening, key, serving.idle_s, _keys(keys, policy.spec)))
    except ModuleNotFoundError as error:
        refuse(f"serve needs {error.name}: pip install 'streaming_vla[serve]'")
    except (ValueError, OSError, MemoryError) as error:
        refuse(error)
    except KeyboardInterrupt:  # before it listens
        say("Stopped.")


def _keys(name: str, spec: PolicySpec) -> Keys | None:
    """Return the keys of a description for a policy; None where none is named.

    Raises:
        ValueError: there is no such description, or it is of a robot with other cameras, state or actions.
    """
    if not name:
        return None
    from streaming_vla.policies.remote.description import read_description

    _, keys = read_description(name, "--keys")
    if set(keys.images) != set(spec.cameras):
        raise ValueError(
            f"--keys {name} are of cameras {', '.join(keys.images)}, policy {spec.name} has {', '.join(spec.cameras)}: "
            "name them so by model_cameras in the parameter file"
        )
    keys = replace(keys, images={camera: keys.images[camera] for camera in spec.cameras})
    keys.check(spec, f"--keys {name} and policy {spec.name}")
    return keys


def _loaded(options: InferenceOptions, python: Path | None) -> FlowPolicy:
    """Return the policy, computed here, or by the lerobot of another interpreter."""
    from streaming_vla.engine.loading import load_model

    if python is None:
        return load_model(options)
    from streaming_vla.serving.lerobot.policy import load_by_lerobot

    return load_by_lerobot(options, python)


async def _run(
    policy: FlowPolicy,
    options: InferenceOptions,
    listening: socket.socket,
    key: str,
    idle_s: float,
    keys: Keys | None,
) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    from streaming_vla.engine.latency_profile import find_profile
    from streaming_vla.engine.loading import fitted, warm_up
    from streaming_vla.serving.chunks import Chunks
    from streaming_vla.serving.server import PolicyServer

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # what strangers send is counted, not printed
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    engine, warnings = fitted(options, policy)
    warm_up(policy, engine)
    for sentence in warnings:
        say(f"streaming-vla: {sentence}")
    profile = find_profile(options.latency_profile) if options.latency_profile else None
    chunks = Chunks(policy, engine, profile)
    server = await PolicyServer(chunks, options.max_sessions, key, idle_s, keys).listen(listening)
    name, port = listening.getsockname()[:2]
    where = f"[{name}]" if ":" in name else name
    said = "with a key" if key else "without a key"
    say(f"Serving {policy.spec.name} at openpi://{where}:{port} {said}, {options.max_sessions} clients. Ctrl-C stops.")
    await stop.wait()
    server.close()
    await server.wait_closed()
    ended = await chunks.close(END_S)
    say("Stopped." if ended else f"Stopped, while the policy was in a step that has not ended within {END_S:g} s.")


def say(line: str) -> None:
    """Print a line for whoever started the server."""
    print(line, file=sys.stderr, flush=True)
