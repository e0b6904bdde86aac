"""A small SmolVLA of random weights, for machines that a real one is too large for: 6.5 million parameters.

It is a checkpoint like any other, with its own tokenizer of bytes: LeRobot loads it, and it has learned nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from streaming_vla.datasets.facts import DatasetFacts
from streaming_vla.policies.lerobot.config import ACTION, CONFIG, STATE, SmolVLAConfig
from streaming_vla.policies.lerobot.folder import Folder
from streaming_vla.policies.lerobot.layers import RMSNorm
from streaming_vla.policies.lerobot.load import ASSETS, WEIGHTS, set_precision
from streaming_vla.policies.lerobot.smolvla import SmolVLA, names_of
from streaming_vla.policies.lerobot.stated import stated
from streaming_vla.policies.lerobot.steps import POSTPROCESSOR, PREPROCESSOR
from streaming_vla.policies.lerobot.vlm_config import read_vlm

SMALL = "new:smolvla-small"
NAME = "smolvla-small"
PICTURE = 128  # pixels of a side: 16 tokens of a camera
WORDS = 512  # of the vocabulary: bytes, and what is frequent in the instructions
TEXT = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 3,
        "num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 8192}  # fmt: skip
VISION = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 3,
          "image_size": PICTURE, "patch_size": 16}  # fmt: skip
SHUFFLE = 2  # patches of a side that become a token
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>", "<image>", "<fake_token_around_image>",
           "<global-img>", "<end_of_utterance>")  # fmt: skip
PADDING, IMAGE = 2, 4  # of SPECIAL
Steps = tuple[tuple[str, dict[str, Any]], ...]


def make_small(folder: Path, facts: DatasetFacts, said: Sequence[str], seed: int) -> Path:
    """Write the checkpoint into a folder, in place of what lies there; return the folder.

    Args:
        facts: of the data set that it is for.
        said: instructions, whose frequent parts get tokens of their own.
        seed: of the weights.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / ASSETS).mkdir(parents=True)
    _write_assets(folder / ASSETS, said)
    content = _config(facts)
    _write(folder / CONFIG, content)
    _write_processors(folder)
    config = stated(SmolVLAConfig, content, NAME)
    vlm = read_vlm(Folder(folder / ASSETS), NAME)
    torch.manual_seed(seed)
    network = SmolVLA(config, vlm)
    for module in network.modules():
        _begin(module)
    set_precision(network, torch.bfloat16)  # half the bytes; it learns in float32
    names = names_of(config, vlm)
    tensors = {names.in_file(name): value.clone() for name, value in network.state_dict().items()}
    tensors |= {name: torch.ones(shape) for name, shape in names.required.items()}
    tensors |= {name: network.embed_tokens.weight.detach().clone() for name in names.optional}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


@torch.no_grad()
def _begin(module: nn.Module) -> None:
    """Set a module's own weights as its kind begins."""
    if isinstance(module, RMSNorm):
        module.weight.fill_(1.0)
    elif isinstance(module, nn.LayerNorm):
        module.reset_parameters()
    elif isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.flatten(1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)


def _config(facts: DatasetFacts) -> dict[str, Any]:
    state, action = len(facts.state_names), len(facts.action_names)
    cameras = {each.feature: {"type": "VISUAL", "shape": [3, each.height, each.width]} for each in facts.cameras}
    padded = max(32, state, action)
    return {
        "type": "smolvla",
        "n_obs_steps": 1,
        "input_features": {STATE: {"type": "STATE", "shape": [state]}, **cameras},
        "output_features": {ACTION: {"type": "ACTION", "shape": [action]}},
        "device": "cpu",
        "chunk_size": 50,
        "n_action_steps": 50,
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"},
        "max_state_dim": padded,
        "max_action_dim": padded,
        "resize_imgs_with_padding": [PICTURE, PICTURE],
        "empty_cameras": 0,
        "adapt_to_pi_aloha": False,
        "use_delta_joint_actions_aloha": False,
        "tokenizer_max_length": 48,
        "num_steps": 10,
        "vlm_model_name": NAME,
        "load_vlm_weights": False,
        "add_image_special_tokens": False,
        "attention_mode": "cross_attn",
        "prefix_length": -1,
        "pad_language_to": "longest",
        "num_expert_layers": -1,
        "num_vlm_layers": TEXT["num_hidden_layers"],
        "self_attn_every_n_layers": 2,
        "expert_width_multiplier": 0.75,
        "min_period": 4e-3,
        "max_period": 4.0,
    }


def _write_processors(folder: Path) -> None:
    """Write the steps; statistics come with the data set."""
    maps = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    normalise = {"eps": 1e-8, "features": {}, "norm_map": maps}
    tokenize = {"max_length": 48, "task_key": "task", "padding_side": "right", "padding": "longest",
                "truncation": True, "tokenizer_name": NAME}  # fmt: skip
    device = {"device": "cpu", "float_dtype": None}
    before: Steps = (("rename_observations_processor", {"rename_map": {}}), ("to_batch_processor", {}),
              ("smolvla_new_line_processor", {}), ("tokenizer_processor", tokenize),
              ("device_processor", device), ("normalizer_processor", normalise))  # fmt: skip
    after: Steps = (("unnormalizer_processor", normalise), ("device_processor", device))
    for name, steps in ((PREPROCESSOR, before), (POSTPROCESSOR, after)):
        listed = [{"registry_name": step, "config": config} for step, config in steps]
        _write(folder / name, {"name": Path(name).stem, "steps": listed})


def _write_assets(folder: Path, said: Sequence[str]) -> None:
    """Write a tokenizer, and the configuration of a vision-language model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lines(said), trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|im_end|>",
        unk_token="<unk>",
        extra_special_tokens={
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end_of_utterance>",
        },
    ).save_pretrained(folder)
    text = {"model_type": "llama", "vocab_size": WORDS, "pad_token_id": PADDING, "rope_theta": 100_000, **TEXT}
    _write(
        folder / CONFIG,
        {
            "model_type": "smolvlm",
            "architectures": ["SmolVLMForConditionalGeneration"],
            "image_token_id": IMAGE,
            "pad_token_id": PADDING,
            "scale_factor": SHUFFLE,
            "tie_word_embeddings": False,
            "text_config": text,
            "vision_config": {"model_type": "smolvlm_vision", **VISION},
        },
    )
    side = PICTURE // (VISION["patch_size"] * SHUFFLE)
    _write(folder / "processor_config.json", _processor(side * side))


def _processor(tokens: int) -> dict[str, Any]:
    """Return what lerobot loads beside the tokenizer."""
    pictures = {"do_convert_rgb": True, "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True,
                "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 1,
                "rescale_factor": 1 / 255, "size": {"longest_edge": 4 * PICTURE},
                "max_image_size": {"longest_edge": PICTURE}}  # fmt: skip
    return {
        "processor_class": "SmolVLMProcessor",
        "image_seq_len": tokens,
        "image_processor": {"image_processor_type": "SmolVLMImageProcessor", "do_image_splitting": True, **pictures},
        "video_processor": {"video_processor_type": "SmolVLMVideoProcessor", "do_sample_frames": False, **pictures},
    }


def _lines(said: Sequence[str]) -> Iterator[str]:
    yield from sorted(set(said))


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
