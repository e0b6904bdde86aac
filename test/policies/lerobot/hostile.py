"""Checkpoints as a stranger may send them: what is done to a good one, and a part of the sentence that refuses it."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from golden_files import edit
from safetensors.torch import load_file, save_file

CONFIG, WEIGHTS = "checkpoint/config.json", "checkpoint/model.safetensors"
BEFORE, AFTER = "checkpoint/policy_preprocessor.json", "checkpoint/policy_postprocessor.json"
STATISTICS = "checkpoint/policy_preprocessor_step_5_normalizer_processor.safetensors"
OF_ACTIONS = "checkpoint/policy_postprocessor_step_0_unnormalizer_processor.safetensors"
HEAD = "model.action_out_proj.weight"


class Hostile(NamedTuple):
    """A bad checkpoint."""

    name: str
    spoil: Callable[[Path], object]
    says: str
    policy: str = "smolvla"


def config(**values: Any) -> Callable[[Path], None]:
    """Set options of config.json."""
    return lambda folder: edit(folder / CONFIG, lambda content: content.update(values))


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Change what model.safetensors holds."""
    return in_file(WEIGHTS, change)


def in_file(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Change what a safetensors file holds."""

    def spoil(folder: Path) -> None:
        tensors = {key: value.clone() for key, value in load_file(folder / name).items()}
        change(tensors)
        save_file(tensors, folder / name)

    return spoil


def step(file: str, number: int, **values: Any) -> Callable[[Path], None]:
    """Set entries of a step; those of `config` are set in its configuration."""

    def change(content: dict[str, Any]) -> None:
        entry = content["steps"][number]
        entry["config"].update(values.pop("config", {}))
        entry.update(values)

    return lambda folder: edit(folder / file, change)


def header(change: Callable[[dict[str, Any]], object], name: str = WEIGHTS) -> Callable[[Path], None]:
    """Change the header of a safetensors file, its numbers stay."""

    def spoil(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        length = struct.unpack("<Q", whole[:8])[0]
        content = json.loads(whole[8 : 8 + length])
        change(content)
        text = json.dumps(content).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])

    return spoil


def written(name: str, content: bytes) -> Callable[[Path], None]:
    """Replace a file."""
    return lambda folder: (folder / name).write_bytes(content)  # type: ignore[func-returns-value]


def link_outside(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    (folder / STATISTICS).rename(outside)
    (folder / STATISTICS).symlink_to(outside)


def as_folder(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


def as_pipe(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def without_tokenizer(folder: Path) -> None:
    (folder / "vlm" / "tokenizer.json").unlink()


def sparse(folder: Path) -> None:
    """A file that claims to be 64 GB, of which hardly anything is on the disk."""
    text = json.dumps({HEAD: {"dtype": "F32", "shape": [2**34], "data_offsets": [0, 2**36]}}).encode()
    with (folder / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 2**36)


def first(content: dict[str, Any], **values: Any) -> None:
    """Change the entry of the output head."""
    content[HEAD].update(values)


HOSTILE = (
    Hostile("missing tensor", weights(lambda held: held.pop(HEAD)), f"misses (1): {HEAD}"),
    Hostile("extra tensor", weights(lambda held: held.update(extra=torch.zeros(2))), "has unexpected (1): extra"),
    Hostile(
        "all that is wrong",
        weights(lambda held: held.update({"extra": held.pop(HEAD), "model.state_proj.bias": torch.zeros(3)})),
        f"misses (1): {HEAD}; it has unexpected (1): extra; it has other shapes (1): model.state_proj.bias (3,) for",
    ),
    Hostile("other shape", weights(lambda held: held.update({HEAD: torch.zeros(32, 47)})), "(32, 47) for (32, 48)"),
    Hostile("float64", weights(lambda held: held.update({HEAD: held[HEAD].double()})), f"{HEAD} F64"),
    Hostile("integers", weights(lambda held: held.update({HEAD: held[HEAD].to(torch.int64)})), f"{HEAD} I64"),
    Hostile("format nobody knows", header(lambda content: first(content, dtype="F4")), f"{HEAD} F4"),
    Hostile("NaN", weights(lambda held: held[HEAD].fill_(float("nan"))), f"'{HEAD}' is not finite"),
    Hostile("infinity", weights(lambda held: held[HEAD][3].fill_(float("inf"))), f"'{HEAD}' is not finite"),
    Hostile(
        "head of another shape",
        weights(lambda held: held.update({"model.vlm_with_expert.vlm.lm_head.weight": torch.zeros(2, 2)})),
        "other shapes (1)",
    ),
    Hostile("no weights", lambda folder: (folder / WEIGHTS).unlink(), "has no file 'model.safetensors'"),
    Hostile("weights are a folder", as_folder, "has no file 'model.safetensors'"),
    Hostile("weights are a pipe", as_pipe, "has no file 'model.safetensors'"),
    Hostile("pickled weights", written(WEIGHTS, pickle.dumps({"a": 1})), "header of"),
    Hostile("empty weights", written(WEIGHTS, b""), "is no safetensors file"),
    Hostile("header too long", written(WEIGHTS, struct.pack("<Q", 2**60) + b"{}"), "expected at most 8388608"),
    Hostile("header behind the end", written(WEIGHTS, struct.pack("<Q", 5000) + b"{}"), "it was cut off"),
    Hostile("header is no JSON", written(WEIGHTS, struct.pack("<Q", 4) + b"nope"), "a header that is no JSON"),
    Hostile("header is a list", written(WEIGHTS, struct.pack("<Q", 2) + b"[]"), "no JSON object"),
    Hostile(
        "header too deep", written(WEIGHTS, struct.pack("<Q", 200_000) + b"[" * 200_000), "a header that is no JSON"
    ),
    Hostile("a name twice", written(WEIGHTS, struct.pack("<Q", 13) + b'{"a":1,"a":2}'), "names a tensor twice"),
    Hostile("entry without offsets", header(lambda content: content[HEAD].pop("data_offsets")), "lacks dtype, shape"),
    Hostile("negative shape", header(lambda content: first(content, shape=[-32, -48])), "no such tensor"),
    Hostile("overflowing shape", header(lambda content: first(content, shape=[2**40, 2**40])), "the file is damaged"),
    Hostile("offsets beyond the data", header(lambda content: first(content, data_offsets=[0, 10**12])), "cut off"),
    Hostile("tensors share bytes", header(lambda content: first(content, data_offsets=[0, 6144])), "does not follow"),
    Hostile("cut off", lambda folder: os.truncate(folder / WEIGHTS, 1_000_000), "cut off"),
    Hostile("64 GB", sparse, "misses"),
    Hostile(
        "names that write lines", weights(lambda held: held.update({"a\nTraceback": torch.zeros(1)})), "a?Traceback"
    ),
    Hostile("no configuration", lambda folder: (folder / CONFIG).unlink(), "has no file 'config.json'"),
    Hostile("configuration cut off", written(CONFIG, b'{"type": "smol'), "config.json is no JSON"),
    Hostile("configuration too deep", written(CONFIG, b"[" * 200_000), "config.json is no JSON"),
    Hostile("configuration too large", written(CONFIG, b" " * 5_000_000), "expected at most 4194304"),
    Hostile("configuration is a list", written(CONFIG, b"[]"), "holds a list"),
    Hostile("another type", config(type="diffusion"), "is of type diffusion, expected one of smolvla, pi0, pi05, act"),
    Hostile("a type of another shape", config(type=["smolvla"]), "is of type ['smolvla']"),
    Hostile("option on that is not known", config(use_peft=True), "use_peft = True is not supported"),
    Hostile("Aloha's own joints", config(adapt_to_pi_aloha=True), "adapt_to_pi_aloha = True is not supported"),
    Hostile("billions of layers", config(num_vlm_layers=10**9), "num_vlm_layers is 1000000000"),
    Hostile("wide expert", config(expert_width_multiplier=1e9), "expert_width_multiplier is 1000000000.0"),
    Hostile("fewer layers in the expert", config(num_expert_layers=2), "num_expert_layers is 2"),
    Hostile("chunk of no rows", config(chunk_size=0), "chunk_size is 0"),
    Hostile("text for a number", config(chunk_size="50"), "chunk_size is '50'"),
    Hostile("steps beyond the chunk", config(n_action_steps=13), "n_action_steps is 13, expected at most chunk_size"),
    Hostile(
        "unknown feature",
        config(
            input_features={
                "observation.environment_state": {"type": "ENV", "shape": [3]},
                "observation.state": {"type": "STATE", "shape": [6]},
            }
        ),
        "observation.environment_state (ENV)",
    ),
    Hostile(
        "no camera", config(input_features={"observation.state": {"type": "STATE", "shape": [6]}}), "it has no camera"
    ),
    Hostile("no action", config(output_features={}), "the feature 'action'"),
    Hostile("state larger than its padding", config(max_state_dim=4), "max_state_dim is 4, the feature has 6"),
    Hostile("pictures of parts of tokens", config(resize_imgs_with_padding=[33, 33]), "a multiple of 16 pixels"),
    Hostile(
        "no processors",
        lambda folder: (folder / BEFORE).unlink(),
        "convert it with lerobot's migrate_policy_normalization",
    ),
    Hostile("unknown step", step(BEFORE, 2, registry_name="make_tea"), "step 2 is 'make_tea', which is not known here"),
    Hostile(
        "class of somebody", step(BEFORE, 2, **{"registry_name": None, "class": "os.system"}), "the class os.system"
    ),
    Hostile(
        "step states what is not known", step(BEFORE, 4, config={"float_dtype": "float16"}), "float_dtype is 'float16'"
    ),
    Hostile(
        "steps are a number",
        lambda folder: edit(folder / AFTER, lambda content: content.update(steps=7)),
        "has no list of",
    ),
    Hostile(
        "normalises twice",
        lambda folder: edit(folder / BEFORE, lambda content: content["steps"].append(content["steps"][5])),
        "normalizer_processor more than once",
    ),
    Hostile(
        "no normalisation",
        lambda folder: edit(folder / BEFORE, lambda content: content["steps"].pop(5)),
        "has no step 'normalizer_processor'",
    ),
    Hostile(
        "no new line",
        lambda folder: edit(folder / BEFORE, lambda content: content["steps"].pop(2)),
        "has no step 'smolvla_new_line_processor'",
    ),
    Hostile(
        "unknown normalisation",
        lambda folder: [
            config(normalization_mapping={"STATE": "MAGIC"})(folder),
            step(BEFORE, 5, config={"norm_map": {"STATE": "MAGIC"}})(folder),
        ],
        "the normalisation 'MAGIC'",
    ),
    Hostile("normalisations differ", config(normalization_mapping={"STATE": "MIN_MAX"}), "expected the same"),
    Hostile("epsilon below zero", step(AFTER, 0, config={"eps": -1.0}), "eps is -1.0"),
    Hostile("no statistics", step(AFTER, 0, state_file=None), "the statistics mean, std of 'action' are missing"),
    Hostile(
        "base model without features", step(BEFORE, 5, config={"features": {}}), "give a checkpoint that was fine-tuned"
    ),
    Hostile(
        "statistics of another size",
        in_file(STATISTICS, lambda held: held.update({"observation.state.mean": torch.zeros(7)})),
        "has shape (7,), expected (6,)",
    ),
    Hostile(
        "statistics that are not finite",
        in_file(OF_ACTIONS, lambda held: held["action.std"].fill_(float("nan"))),
        "'action.std' is not finite",
    ),
    Hostile(
        "negative deviation",
        in_file(OF_ACTIONS, lambda held: held["action.std"].neg_()),
        "a negative standard deviation",
    ),
    Hostile(
        "quantiles in the wrong order",
        in_file(STATISTICS, lambda held: held.update({"observation.state.q99": held["observation.state.q01"] - 1.0})),
        "q01 above its q99",
        "smolvla",
    ),
    Hostile("path above", step(BEFORE, 5, state_file="../../secret.safetensors"), "which may lie outside"),
    Hostile("path from the root", step(BEFORE, 5, state_file="/etc/passwd"), "which may lie outside"),
    Hostile("link outside", link_outside, "is a link to"),
    Hostile(
        "statistics are not there", step(BEFORE, 5, state_file="other.safetensors"), "has no file 'other.safetensors'"
    ),
    Hostile("tokenizer missing", without_tokenizer, "the tokenizer is missing"),
    Hostile("tokenizer damaged", written("vlm/tokenizer.json", b'{"version": 9}'), "cannot be read"),
    Hostile(
        "vocabulary of another model",
        lambda folder: [
            edit(folder / "vlm/config.json", lambda content: content["text_config"].update(vocab_size=5)),
            weights(
                lambda held: [
                    held.update({key: held[key][:5].clone()})
                    for key in list(held)
                    if "embed_tokens" in key or "lm_head" in key
                ]
            )(folder),
        ],
        "the policy knows 5",
    ),
    Hostile("VLM configuration missing", lambda folder: (folder / "vlm/config.json").unlink(), "give model_assets"),
    Hostile(
        "VLM of another kind",
        written("vlm/config.json", b'{"model_type": "llava"}'),
        "is of a 'llava', expected 'smolvlm'",
    ),
    Hostile(
        "VLM of senseless sizes",
        lambda folder: edit(
            folder / "vlm/config.json", lambda content: content["text_config"].update(num_hidden_layers=10**7)
        ),
        "num_hidden_layers is 10000000",
    ),
    Hostile(
        "VLM with biases",
        lambda folder: edit(
            folder / "vlm/config.json", lambda content: content["text_config"].update(attention_bias=True)
        ),
        "attention_bias",
    ),
    Hostile("pi0 without sizes", lambda folder: (folder / "geometry.json").unlink(), "(28, 28) in config.json", "pi0"),
    Hostile(
        "pi0 of towers that do not fit",
        lambda folder: edit(folder / "geometry.json", lambda content: content["fixture"]["expert"].update(head_dim=8)),
        "head_dim is 16 in the text tower and 8",
        "pi0",
    ),
    Hostile(
        "pi0 of another VLM",
        lambda folder: edit(folder / "vlm/config.json", lambda content: content["text_config"].update(hidden_size=99)),
        "text_config.hidden_size is 99",
        "pi0",
    ),
    Hostile(
        "pi0.5 without its state",
        lambda folder: edit(folder / BEFORE, lambda content: content["steps"].pop(4)),
        "has no step 'pi05_prepare_state",
        "pi05",
    ),
    Hostile(
        "pi0.5 with its state too early",
        lambda folder: edit(folder / BEFORE, lambda content: content["steps"].insert(0, content["steps"].pop(4))),
        "before it is normalised",
        "pi05",
    ),
    Hostile("relative on one side", step(AFTER, 1, config={"enabled": True}), "expected the same in both", "pi0"),
    Hostile("relative in one file", step(BEFORE, 5, config={"enabled": True}), "use_relative_actions", "pi0"),
    Hostile("ACT of another backbone", config(vision_backbone="resnet50"), "vision_backbone is 'resnet50'", "act"),
    Hostile("ACT of odd heads", config(n_heads=7), "a multiple of 4 and of n_heads", "act"),
    Hostile("ACT that votes", config(temporal_ensemble_coeff=0.01), "set it to null", "act"),
    Hostile(
        "ACT without its encoder",
        weights(lambda held: held.pop("model.vae_encoder_cls_embed.weight")),
        "misses (1): model.vae_encoder_cls",
        "act",
    ),
)
