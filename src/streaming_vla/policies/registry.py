"""From the parameter `model` to a policy: the one loader of the suite.

A model is the name of a shipped one or the path of a .safetensors file (compact policy), `scheme:address` with one of
SCHEMES, or a name that an installed package registers (entry point group `streaming_vla.policies`). Whatever it is, the
engine gets a flow policy: a chunk policy is made a stream (chunk.py).

Loaders are known by name and imported when they are needed, so that nobody pays for what is not used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from pathlib import Path
from typing import Any

from streaming_vla.policies.chunk import ChunkAsStream, ChunkOptions
from streaming_vla.policies.contract import FlowPolicy, PolicySpec
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.lerobot.options import LoadOptions
from streaming_vla.policies.models import AUTO, SUFFIX, find_model, shipped_models
from streaming_vla.policies.remote.options import RemoteOptions

GROUP = "streaming_vla.policies"  # of entry points
COMPACT = "streaming_vla.saliency.loading:load_with_predictor"  # with its look-ahead predictor


class PolicyError(CheckpointError):
    """A model cannot be used; the message says which, why and what to do."""


@dataclass(frozen=True)
class Scheme:
    """How models of a scheme are loaded.

    Args:
        loader: "package.module:function", which takes the address.
        packages: that the loader needs beside those of every model, as pip is told them.
        extra: of this package that names them too.
        address: makes of the text behind the colon what the loader takes.
        options: kind of the options that it takes too; None: none.
    """

    loader: str
    packages: str
    extra: str
    address: Callable[[str], object] = str
    options: type[LoadOptions] | type[RemoteOptions] | None = None


def _folder(address: str) -> Path:
    return Path(address).expanduser()


SCHEMES = {
    "lerobot": Scheme("streaming_vla.policies.lerobot.load:load_lerobot", "transformers", "vla", _folder, LoadOptions),
    "openpi": Scheme(
        "streaming_vla.policies.remote.openpi:connect", "msgpack websockets", "remote", options=RemoteOptions
    ),
    "groot": Scheme("streaming_vla.policies.remote.groot:connect", "msgpack", "remote", options=RemoteOptions),
}


def load_policy(
    model: str,
    saliency_model: str = AUTO,
    chunk: ChunkOptions | None = None,
    load: LoadOptions | None = None,
    remote: RemoteOptions | None = None,
) -> FlowPolicy:
    """Return the policy of a model.

    Args:
        model: see the module.
        saliency_model: look-ahead predictor of a compact policy, a name or a file; "auto": the one that belongs to it;
            empty: none.
        chunk: how a chunk policy denoises; None: as ChunkOptions says.
        load: what no file of a LeRobot checkpoint says.
        remote: how a server is spoken to.

    Raises:
        PolicyError: there is no such model, it cannot be loaded, what was loaded is no policy, or an option is set
            that it has no use for.
        CheckpointError: see the scheme's loader.
    """
    scheme, address = _split(model)
    given = {LoadOptions: load, RemoteOptions: remote}
    kind = SCHEMES[scheme].options if scheme in SCHEMES else None
    used = set() if kind is None else {field.name for field in fields(kind)}
    for options, whose in ((load, "lerobot:/folder"), (remote, "openpi:// and groot://")):
        told = [] if options is None else [f"model_{name}" for name in _set_in(options) if name not in used]
        _refuse_unused(model, told, f"it is for {whose}")
    if kind is RemoteOptions and chunk is not None and chunk.steps:
        _refuse_unused(model, ["model_denoise_steps"], "the server denoises")
    if not scheme and (_is_file(model) or model in shipped_models()):
        policy: FlowPolicy = _resolve(f"model '{model}'", COMPACT)(model, saliency_model)
        return _streamed(model, policy, chunk)
    if saliency_model not in (AUTO, ""):
        raise PolicyError(f"saliency_model is '{saliency_model}', model '{model}' takes none: leave it {AUTO} or empty")
    return as_flow_policy(model, _load(model, scheme, address, None if kind is None else given[kind]), chunk)


def model_files(model: str) -> list[Path]:
    """Return the files that hold a model's weights; of a policy that is not loaded from files there are none.

    Raises:
        CheckpointError: there is no such file.
    """
    folder = lerobot_folder(model)
    if folder is not None:
        return sorted(folder.glob(f"*{SUFFIX}"))
    if _split(model)[0] or not (_is_file(model) or model in shipped_models()):
        return []
    return [find_model(model)]


def lerobot_folder(model: str) -> Path | None:
    """Return the folder of the LeRobot checkpoint that a model names, None of any other model."""
    scheme, address = _split(model)
    return _folder(address) if scheme == "lerobot" else None


def _split(model: str) -> tuple[str, str]:
    """Return scheme and address; no scheme for names and paths."""
    found = re.fullmatch(r"([a-z][a-z0-9_]*):(?://)?(.+)", model)
    return (found[1], found[2]) if found else ("", model)


def _is_file(model: str) -> bool:
    return model.endswith(SUFFIX) or "/" in model


def _set_in(options: object) -> list[str]:
    """Return the fields of a dataclass that are not at their defaults."""
    assert is_dataclass(options)
    return [field.name for field in fields(options) if getattr(options, field.name) != field.default]


def _refuse_unused(model: str, names: list[str], why: str) -> None:
    if names:
        raise PolicyError(
            f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} set, model '{model}' has no use for it: {why}"
        )


def _load(model: str, scheme: str, address: str, options: LoadOptions | RemoteOptions | None) -> object:
    who = f"model '{model}'"
    if scheme == "python":
        return _made(who, _resolve(who, address))
    if scheme in SCHEMES:
        entry = SCHEMES[scheme]
        loader, taken = _resolve(who, entry.loader, entry), entry.address(address)
        return loader(taken) if entry.options is None else loader(taken, options)
    if scheme:
        raise PolicyError(f"{who}: scheme '{scheme}' is unknown, choose one of python, {', '.join(SCHEMES)}")
    registered = {entry.name: entry for entry in entry_points(group=GROUP)}
    if model not in registered:
        known = ", ".join((*shipped_models(), *registered)) or "none"
        schemes = ", ".join(("python:package.module:factory", *(f"{name}:..." for name in SCHEMES)))
        raise PolicyError(
            f"{who} is unknown: choose one of {known}, give the path of a {SUFFIX} file, or one of {schemes}"
        )
    return _made(who, _loaded(who, registered[model]))


def _resolve(who: str, name: str, scheme: Scheme | None = None) -> Callable[..., Any]:
    """Return the function "package.module:function"; with a scheme its module is part of the suite."""
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise PolicyError(f"{who} names no function, expected python:package.module:factory")
    try:
        module = import_module(module_name)
    except ImportError as error:
        missing = error.name or module_name
        if scheme is not None:
            raise PolicyError(
                f"{who} needs {missing}: pip install {scheme.packages} (extra [{scheme.extra}] of docs/install.md)"
            ) from error
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise PolicyError(f"{who}: there is no module {missing}, put its folder on PYTHONPATH") from error
        raise PolicyError(f"{who}: module {module_name} cannot be imported: {_first_line(error)}") from error
    except Exception as error:
        raise PolicyError(
            f"{who}: module {module_name} cannot be imported: {type(error).__name__}: {_first_line(error)}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        what = "has no" if function is None else f"has a {type(function).__name__}, no function"
        raise PolicyError(f"{who}: module {module_name} {what} {function_name}")
    return function  # type: ignore[no-any-return]


def _loaded(who: str, entry: EntryPoint) -> Callable[..., Any]:
    """Return the factory that an installed package registers."""
    return _resolve(f"{who}, registered by {entry.dist.name if entry.dist else 'a package'}", entry.value)


def _made(who: str, factory: Callable[..., Any]) -> object:
    """Return what a factory makes."""
    name = getattr(factory, "__name__", "factory")
    try:
        signature(factory).bind()
    except TypeError as error:
        raise PolicyError(f"{who}: {name} must be callable without arguments ({error})") from error
    except ValueError:  # built-in functions do not tell their arguments
        pass
    try:
        return factory()
    except Exception as error:
        raise PolicyError(f"{who}: {name} raises {type(error).__name__}: {_first_line(error)}") from error


def as_flow_policy(model: str, found: Any, chunk: ChunkOptions | None) -> FlowPolicy:
    """Check what was loaded, and make a flow policy of it."""
    who = f"model '{model}'"
    what = f"{who} gives a {type(found).__name__}"
    spec = getattr(found, "spec", None)
    if spec is None and callable(found):
        raise PolicyError(f"{who} gives a function without a description: return BlockingPolicy(function, spec)")
    if not isinstance(spec, PolicySpec):
        has = "without a spec" if spec is None else f"whose spec is a {type(spec).__name__}"
        raise PolicyError(f"{what} {has}, expected a policy with a PolicySpec as its spec")
    if not callable(getattr(found, "prefill", None)):
        raise PolicyError(f"{what} without prefill, expected a flow policy or a chunk policy (policies/contract.py)")
    if callable(getattr(found, "flow_step", None)):
        return _streamed(model, found, chunk)
    if callable(getattr(found, "denoise", None)):
        try:
            return ChunkAsStream(found, chunk)
        except ValueError as error:
            raise PolicyError(f"{who}: {error}") from error
    raise PolicyError(f"{what} with neither flow_step nor denoise, expected a flow policy or a chunk policy")


def _streamed(model: str, policy: FlowPolicy, chunk: ChunkOptions | None) -> FlowPolicy:
    """Return a flow policy, for which nothing is said of chunks."""
    names = {"steps": "model_denoise_steps", "execution_horizon": "model_execution_horizon"}
    told = [] if chunk is None else [names[name] for name in _set_in(chunk) if name in names]
    _refuse_unused(model, told, "it gives one action per step of its flow, no chunks")
    return policy


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no reason given")
