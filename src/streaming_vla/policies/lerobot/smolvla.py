"""SmolVLA's network (arXiv 2506.01844): SmolVLM2's first layers, and an action expert that reads their keys and values.

The expert's even layers attend to [context ; own tokens]; its odd layers cross to a linear projection of the ROTATED
keys, so they read absolute positions: a context's own observation is kept at 0 .. P - 1 and its history before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from kv_cache.cache import CacheView
from kv_cache.spec import CacheSpec
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.lerobot.compiled import CompiledExpert
from streaming_vla.policies.lerobot.config import SmolVLAConfig
from streaming_vla.policies.lerobot.expert import ExpertContext, prepare, run_expert
from streaming_vla.policies.lerobot.layers import DecoderLayer, LayerSizes, RMSNorm
from streaming_vla.policies.lerobot.time_embedding import embed_time
from streaming_vla.policies.lerobot.vlm_config import VlmSizes
from streaming_vla.policies.lerobot.weights import Names

ROPE_BASE = 10_000.0  # lerobot computes with it, whatever the VLM's own rope_theta (100 000) says
CENTRED = False  # of the letterbox


class SmolVLA(nn.Module):
    """The network.

    Args:
        config: of the checkpoint.
        vlm: sizes of its vision-language model.

    Raises:
        CheckpointError: its expert has other layers than such a policy.
    """

    def __init__(self, config: SmolVLAConfig, vlm: VlmSizes) -> None:
        super().__init__()
        from transformers.models.smolvlm.modeling_smolvlm import SmolVLMConnector, SmolVLMVisionTransformer

        if 0 < config.num_expert_layers != config.num_vlm_layers:
            raise CheckpointError(
                f"num_expert_layers is {config.num_expert_layers}, expected as many as num_vlm_layers "
                f"({config.num_vlm_layers}), or -1"
            )
        text = vlm.text
        expert = _expert_sizes(text, config.expert_width_multiplier)
        self._config, self._text, self.rope_base = config, text, ROPE_BASE
        self.vision_model = SmolVLMVisionTransformer(vlm.config.vision_config)
        self.connector = SmolVLMConnector(vlm.config)
        self.embed_tokens = nn.Embedding(vlm.vocabulary, text.width)
        self.text_layers = nn.ModuleList(DecoderLayer(text) for _ in range(config.num_vlm_layers))
        key_width = text.kv_heads * text.head_dim
        self.expert_layers = nn.ModuleList(
            DecoderLayer(expert, key_width if _crosses(config, number) else None)
            for number in range(config.num_vlm_layers)
        )
        self.expert_norm = RMSNorm(expert)
        self.state_proj = nn.Linear(config.max_state_dim, text.width)
        self.action_in_proj = nn.Linear(config.max_action_dim, expert.width)
        self.action_out_proj = nn.Linear(expert.width, config.max_action_dim)
        self.action_time_mlp_in = nn.Linear(2 * expert.width, expert.width)
        self.action_time_mlp_out = nn.Linear(expert.width, expert.width)
        self.expert_width = expert.width
        self.causal = True  # rows of a chunk see those before them
        self.compiled: CompiledExpert | None = None

    def cache_spec(self, dtype: torch.dtype) -> CacheSpec:
        """Return the shape of a token's keys and values."""
        text = self._text
        return CacheSpec(len(self.text_layers), text.kv_heads, text.head_dim, dtype, ROPE_BASE, text.heads)

    @property
    def text(self) -> Sequence[DecoderLayer]:
        """Layers of the text tower."""
        return list(self.text_layers)  # type: ignore[arg-type]

    @property
    def expert(self) -> Sequence[DecoderLayer]:
        """Layers of the action expert."""
        return list(self.expert_layers)  # type: ignore[arg-type]

    def picture(self, pixels: Tensor) -> Tensor:
        """Return the tokens of a picture [1, 3, h, w] from -1 to 1, [n, width], before any scaling."""
        return self.pictures(pixels)[0]

    def pictures(self, pixels: Tensor) -> Tensor:
        """Return the tokens of N pictures [N, 3, h, w], [N, n, width] (see `picture`)."""
        seen = self.vision_model(pixels.to(self.embed_tokens.weight.dtype)).last_hidden_state
        tokens: Tensor = self.connector(seen)
        return tokens

    def prefix(self, pictures: Sequence[Tensor], tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return an observation as the text tower reads it, [1, P, width], and who sees whom [P, P].

        Args:
            pictures: of `picture`.
            tokens: of the instruction, [n].
            state: [max_state_dim], normalised and padded.
        """
        words = self.embed_tokens(tokens)
        scaled = [part * math.sqrt(self._text.width) for part in (*pictures, words)]
        whole = torch.cat((*scaled, self.state_proj(state).unsqueeze(0).to(words.dtype)))
        sees = torch.ones(len(whole), len(whole), dtype=torch.bool, device=whole.device)
        sees[:-1, -1] = False  # pictures and words do not see the state, which sees all
        return whole.unsqueeze(0), sees

    def prepare(self, view: CacheView, own: int, state: Tensor) -> ExpertContext:
        """Return what the steps of a flow read of a view that ends with `own` tokens of its observation."""
        count = self._config.chunk_size
        sees = torch.ones(count, count, dtype=torch.bool, device=view.keys.device).tril()
        context = prepare(self.expert, view, count, sees, ROPE_BASE, first=own)
        return context if self.compiled is None else self.compiled.fixed(context)

    def suffix(self, noisy: Tensor, time: float | Tensor) -> Tensor:
        """Return the expert's tokens [..., H, width] of noisy chunks [..., H, max_action_dim].

        Args:
            time: 1 at noise; of all tokens, or [..., H].
        """
        config = self._config
        moment = embed_time(time, self.expert_width, config.min_period, config.max_period, noisy.device)
        actions = self.action_in_proj(noisy)
        both = torch.cat((actions, moment.expand_as(actions)), dim=-1)
        tokens: Tensor = self.action_time_mlp_out(functional.silu(self.action_time_mlp_in(both)))
        return tokens

    def condition(self, time: float | Tensor, device: torch.device) -> Tensor | None:
        """Return what adaptive norms are given: SmolVLA has none."""
        return None

    def velocity(self, noisy: Tensor, time: float, context: ExpertContext, added: Tensor | None = None) -> Tensor:
        """Return noise minus actions, [H, max_action_dim] (see `suffix`).

        Args:
            added: to the tokens, [H, width].
        """
        made = self.suffix(noisy, time)
        tokens = (made if added is None else made + added).unsqueeze(0).to(self.embed_tokens.weight.dtype)
        out, _ = self.expert_norm((self.compiled or run_expert)(self.expert, tokens, context))
        velocity: Tensor = self.action_out_proj(out[0].float())
        return velocity


def _expert_sizes(text: LayerSizes, share: float) -> LayerSizes:
    width = int(text.width * share)
    if width < 2 or width % 2:
        raise CheckpointError(
            f"expert_width_multiplier {share} of {text.width} makes an expert of width {width}, expected an even one"
        )
    mlp = 256 * math.ceil(4 * int(2 * width / 3) / 256)  # two thirds of four times the width, in steps of 256
    return LayerSizes(width, mlp, text.heads, text.kv_heads, text.head_dim, text.norm_epsilon)


def _crosses(config: SmolVLAConfig, number: int) -> bool:
    every = config.self_attn_every_n_layers
    return config.attention_mode == "cross_attn" and not (every > 0 and number % every == 0)


def names_of(config: SmolVLAConfig, vlm: VlmSizes) -> Names:
    """Return how the network's tensors are called in a file."""
    both, model = "model.vlm_with_expert", "model.vlm_with_expert.vlm.model"
    own = ("state_proj", "action_in_proj", "action_out_proj", "action_time_mlp_in", "action_time_mlp_out")
    return Names(
        modules={
            "vision_model": f"{model}.vision_model",
            "connector": f"{model}.connector",
            "embed_tokens": f"{model}.text_model.embed_tokens",
            "text_layers": f"{model}.text_model.layers",
            "expert_layers": f"{both}.lm_expert.layers",
            "expert_norm": f"{both}.lm_expert.norm",
            **{name: f"model.{name}" for name in own},
        },
        optional={f"{both}.vlm.lm_head.weight": (vlm.vocabulary, vlm.text.width)},
        required={f"{model}.text_model.norm.weight": (vlm.text.width,)},  # behind the last layer, which is not run
    )
