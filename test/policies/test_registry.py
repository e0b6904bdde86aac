"""The one loader: names, files, schemes, registered packages, and a sentence for everything that is no policy."""

from __future__ import annotations

import itertools
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kv_cache import CacheView
from streaming_vla.policies import registry
from streaming_vla.policies.chunk import ChunkAsStream, ChunkOptions
from streaming_vla.policies.compact.checkpoint import save_policy
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.policies.compact.policy import CompactPolicy
from streaming_vla.policies.contract import EMPTY_TOKEN, FlowQuery, PolicyObservation, run_slices
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.registry import PolicyError, load_policy

torch.set_num_threads(1)
NUMBERS = itertools.count()
SPEC = """
import numpy as np, torch
from streaming_vla.policies.blocking import BlockingPolicy
from streaming_vla.policies.contract import PolicySpec, Prefilled
from streaming_vla.policies.layout import ActionLayout

LAYOUT = ActionLayout(("dx",), (False,), (-1.0,), (1.0,), (0.0,))
SPEC = PolicySpec("mine", ("front",), 8, 2, LAYOUT, 2, 3)


class Flow:
    spec = SPEC

    def prefill(self, observation, view):
        yield None
        return Prefilled(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), context=observation.state)

    def flow_step(self, query):
        return query.context[:1] / 10 + query.index


class Chunks:
    spec = SPEC
    prefill = Flow.prefill

    def denoise(self, view, context, steps, guide, random):
        yield from ()
        return np.full((3, 1), steps / 10)


def whole(images, state, instruction):
    return np.full((3, 1), 0.5)


def blocking():
    return BlockingPolicy(whole, SPEC)
"""
SEEN = PolicyObservation(np.zeros((1, 8, 8, 3), np.uint8), np.array([1.0, 2.0], np.float32), "go")
VIEW = CacheView(torch.zeros(1, 1, 0, 2), torch.zeros(1, 1, 0, 2), 0)
Module = Callable[[str], str]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """Write a module of the test's own; returns its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(source: str) -> str:
        name = f"own_policy_{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        return name

    return write


def test_a_shipped_name_is_the_compact_policy_with_its_predictor() -> None:
    policy = load_policy("compact_mt10")
    assert isinstance(policy, CompactPolicy) and policy.spec.name == "compact_mt10"
    assert policy.predictor is not None and not policy.spec.chunk
    plain = load_policy("compact_mt10", saliency_model="")
    assert isinstance(plain, CompactPolicy) and plain.predictor is None


def test_a_file_is_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = CompactConfig(words=("", "open"), width=48, layers=2, image_size=32)
    save_policy(tmp_path / "own.safetensors", config, CompactModel(config).state_dict(), {})
    policy = load_policy(str(tmp_path / "own.safetensors"))
    assert isinstance(policy, CompactPolicy) and policy.spec.name == "own"
    with pytest.raises(CheckpointError, match="does not exist"):
        load_policy(str(tmp_path / "other.safetensors"))
    with pytest.raises(CheckpointError, match="no_such_saliency"):
        load_policy(str(tmp_path / "own.safetensors"), "no_such_saliency")


def test_a_factory_of_a_flow_policy(module: Module) -> None:
    policy = load_policy(f"python:{module(SPEC)}:Flow")
    prefilled = run_slices(policy.prefill(SEEN, VIEW))
    assert policy.flow_step(FlowQuery(VIEW, np.zeros(1), 2, prefilled.context)) == pytest.approx([2.1])
    assert policy.spec.cache == EMPTY_TOKEN and policy.spec.tokens_per_observation == 1


@pytest.mark.parametrize(("factory", "first"), [("Chunks", 0.7), ("blocking", 0.5)])
def test_a_factory_of_chunks_is_made_a_stream(module: Module, factory: str, first: float) -> None:
    policy = load_policy(f"python:{module(SPEC)}:{factory}", chunk=ChunkOptions(steps=7))
    assert isinstance(policy, ChunkAsStream) and policy.spec.chunk
    prefilled = run_slices(policy.prefill(SEEN, VIEW))
    kept = run_slices(policy.complete(SEEN, VIEW, prefilled.context))
    assert policy.flow_step(FlowQuery(VIEW, np.zeros(1), 0, kept)) == pytest.approx([first])


def test_a_policy_of_both_kinds_is_a_flow_policy(module: Module) -> None:
    source = SPEC + "\n\nclass Both(Flow):\n    denoise = Chunks.denoise\n"
    policy = load_policy(f"python:{module(source)}:Both")
    assert not isinstance(policy, ChunkAsStream)


BAD = {
    "def factory(): return None": "gives a NoneType without a spec, expected a policy with a PolicySpec as its spec",
    "def factory(): return 'policy'": "gives a str without a spec",
    "class factory:\n    spec = 'mine'": "gives a factory whose spec is a str",
    "class factory(Flow):\n    prefill = None": "gives a factory without prefill",
    "class factory(Flow):\n    flow_step = 3": "gives a factory with neither flow_step nor denoise",
    "def factory(): return whole": r"gives a function without a description: return BlockingPolicy\(function, spec\)",
    "def factory(path): return Flow()": r"factory must be callable without arguments \(missing a required argument",
    "def factory(): raise OSError('no weights\\nat all')": "factory raises OSError: no weights",
    "def factory(): assert False": "factory raises AssertionError: no reason given",
    "factory = 3": "has a int, no function factory",
    "other = 3": "has no factory",
    "import no_such_package_at_all": "cannot be imported: No module named 'no_such_package_at_all'",
    "def factory(:": "cannot be imported: SyntaxError",
    "1 / 0": "cannot be imported: ZeroDivisionError: division by zero",
    "factory = lambda: BlockingPolicy(3, SPEC)": "raises ValueError: policy mine: a int is given, expected a function",
    "factory = lambda: BlockingPolicy(whole, SPEC, 0.0)": "raises ValueError: policy mine: timeout_s is 0.0",
    "factory = lambda: PolicySpec('mine', (), 8, 2, LAYOUT, 2, 3)": "raises ValueError: policy mine: cameras are",
}


@pytest.mark.parametrize("source", BAD, ids=list(BAD.values()))
def test_what_is_no_policy_is_one_sentence(module: Module, source: str) -> None:
    name = module(SPEC + "\n\n" + source)
    with pytest.raises(PolicyError, match=BAD[source]) as caught:
        load_policy(f"python:{name}:factory")
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.startswith(f"model 'python:{name}:factory'")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("python:no_such_module_here:factory", "there is no module no_such_module_here, put its folder on PYTHONPATH"),
        ("python:json.nothing.there:factory", "there is no module json.nothing"),
        ("python:json", "names no function, expected python:package.module:factory"),
        ("python::factory", "names no function"),
        ("pickle:/tmp/policy", "scheme 'pickle' is unknown, choose one of python, lerobot, openpi, groot"),
        (
            "no_such_model",
            r"is unknown: choose one of .*compact_mt10.*or one of python:package.module:factory, lerobot:",
        ),
        ("python:", "is unknown"),
        ("", "is unknown"),
    ],
)
def test_models_that_are_not_there(model: str, sentence: str) -> None:
    with pytest.raises(PolicyError, match=sentence):
        load_policy(model)


@pytest.mark.parametrize("model", ["lerobot:/somewhere", "openpi://robot:8000", "groot://robot:5555"])
def test_a_scheme_whose_modules_are_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    scheme = registry.SCHEMES[model.partition(":")[0]]
    module = scheme.loader.partition(":")[0]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        PolicyError, match=rf"model '{model}' needs {module}: pip install {scheme.packages} \(extra \[{scheme.extra}\]"
    ):
        load_policy(model)


def test_the_packages_of_a_scheme_are_those_of_its_extra() -> None:
    setup = (Path(__file__).parents[2] / "setup.py").read_text()
    for scheme in registry.SCHEMES.values():
        [extra] = re.findall(rf'"{scheme.extra}": \[(.*?)\]', setup, re.DOTALL)
        assert set(scheme.packages.split()) <= set(re.findall(r'"(\w+)>=', extra))


@pytest.mark.parametrize(
    ("model", "address"),
    [("own:/dir/a", Path("/dir/a")), ("own:~/a", Path.home() / "a"), ("server://host:80", "host:80")],
)
def test_a_scheme_gets_its_address(
    module: Module, monkeypatch: pytest.MonkeyPatch, model: str, address: object
) -> None:
    name = module(SPEC + "\n\nseen = []\n\ndef load(address):\n    seen.append(address)\n    return Flow()\n")
    monkeypatch.setitem(registry.SCHEMES, "own", registry.Scheme(f"{name}:load", "", "own", registry._folder))
    monkeypatch.setitem(registry.SCHEMES, "server", registry.Scheme(f"{name}:load", "", "own"))
    assert load_policy(model).spec.name == "mine"
    assert sys.modules[name].seen == [address]  # type: ignore[attr-defined]


def register(tmp_path: Path, name: str, value: str) -> None:
    """Install a package that registers a policy."""
    folder = tmp_path / "acme-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n", encoding="utf-8")
    (folder / "entry_points.txt").write_text(f"[streaming_vla.policies]\n{name} = {value}\n", encoding="utf-8")


def test_an_installed_package_registers_a_name(tmp_path: Path, module: Module) -> None:
    register(tmp_path, "acme_arm", f"{module(SPEC)}:Chunks")
    assert isinstance(load_policy("acme_arm"), ChunkAsStream)
    with pytest.raises(PolicyError, match=r"choose one of .*acme_arm"):
        load_policy("acme_leg")


def test_a_package_that_registers_what_is_not_there_is_named(tmp_path: Path, module: Module) -> None:
    register(tmp_path, "acme_arm", f"{module(SPEC)}:Missing")
    with pytest.raises(PolicyError, match=r"model 'acme_arm', registered by acme: module .* has no Missing"):
        load_policy("acme_arm")


def test_a_saliency_model_belongs_to_the_compact_policy_only(module: Module) -> None:
    with pytest.raises(PolicyError, match=r"saliency_model is 'mine_saliency', model '.*' takes none"):
        load_policy(f"python:{module(SPEC)}:Flow", "mine_saliency")
    load_policy(f"python:{module(SPEC)}:Flow", "")
