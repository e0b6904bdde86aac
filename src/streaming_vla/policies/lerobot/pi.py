"""The network of pi0 (arXiv 2410.24164) and pi0.5 (arXiv 2504.16054): PaliGemma, and a Gemma expert that reads it.

pi0 has the state as a token of its own in every step, and the time beside the actions; pi0.5 has the state in its text,
and the time as the condition of the expert's adaptive norms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from kv_cache.cache import CacheView
from kv_cache.spec import CacheSpec
from streaming_vla.policies.lerobot.compiled import CompiledExpert
from streaming_vla.policies.lerobot.expert import ExpertContext, prepare, run_expert
from streaming_vla.policies.lerobot.geometry import Geometry
from streaming_vla.policies.lerobot.layers import DecoderLayer, RMSNorm
from streaming_vla.policies.lerobot.time_embedding import embed_time
from streaming_vla.policies.lerobot.weights import Names

CENTRED = True  # of the letterbox


@dataclass(frozen=True)
class PiShape:
    """What a network is told beside its geometry.

    Args:
        adaptive: pi0.5; otherwise pi0.
        chunk_size: rows H of a chunk.
        action_dim, state_dim: padded sizes.
        shortest, longest: periods of the time's embedding.
    """

    adaptive: bool
    chunk_size: int
    action_dim: int
    state_dim: int
    shortest: float
    longest: float


class Pi(nn.Module):
    """The network."""

    def __init__(self, geometry: Geometry, shape: PiShape) -> None:
        super().__init__()
        from transformers import SiglipVisionConfig, SiglipVisionModel

        text, expert, eyes = geometry.text, geometry.expert, geometry.vision
        self._geometry, self._shape, self.rope_base = geometry, shape, geometry.rope_base
        self.vision_tower = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=eyes.width,
                intermediate_size=eyes.mlp,
                num_hidden_layers=eyes.depth,
                num_attention_heads=eyes.heads,
                image_size=eyes.image,
                patch_size=eyes.patch,
                layer_norm_eps=geometry.vision_layer_norm_eps,
                vision_use_head=False,
            )
        )
        self.projector = nn.Linear(eyes.width, text.width)
        self.embed_tokens = nn.Embedding(geometry.vocab, text.width)
        self.text_layers = nn.ModuleList(DecoderLayer(geometry.layer(text)) for _ in range(text.depth))
        sizes = geometry.layer(expert, condition=expert.width if shape.adaptive else 0)
        self.expert_layers = nn.ModuleList(DecoderLayer(sizes) for _ in range(expert.depth))
        self.expert_norm = RMSNorm(sizes)
        self.expert_width = expert.width
        self.causal = False  # all rows of a chunk see each other
        self.compiled: CompiledExpert | None = None
        self.action_in_proj = nn.Linear(shape.action_dim, expert.width)
        self.action_out_proj = nn.Linear(expert.width, shape.action_dim)
        self.time_mlp_in = nn.Linear(expert.width * (1 if shape.adaptive else 2), expert.width)
        self.time_mlp_out = nn.Linear(expert.width, expert.width)
        if not shape.adaptive:
            self.state_proj = nn.Linear(shape.state_dim, expert.width)

    def cache_spec(self, dtype: torch.dtype) -> CacheSpec:
        """Return the shape of a token's keys and values."""
        text = self._geometry.text
        return CacheSpec(text.depth, text.kv_heads, text.head_dim, dtype, self._geometry.rope_base, text.heads)

    @property
    def text(self) -> Sequence[DecoderLayer]:
        """Layers of the text tower."""
        return list(self.text_layers)  # type: ignore[arg-type]

    @property
    def expert(self) -> Sequence[DecoderLayer]:
        """Layers of the action expert."""
        return list(self.expert_layers)  # type: ignore[arg-type]

    def picture(self, pixels: Tensor) -> Tensor:
        """Return the tokens of a picture [1, 3, h, w] from -1 to 1, [n, width]."""
        return self.pictures(pixels)[0]

    def pictures(self, pixels: Tensor) -> Tensor:
        """Return the tokens of N pictures [N, 3, h, w], [N, n, width] (see `picture`)."""
        seen = self.vision_tower(pixels.to(self.embed_tokens.weight.dtype)).last_hidden_state
        tokens: Tensor = self.projector(seen)
        return tokens

    def prefix(self, pictures: Sequence[Tensor], tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return an observation as the text tower reads it, [1, P, width]; all its tokens see each other.

        Args:
            pictures: of `picture`.
            tokens: of the instruction, [n].
            state: not read here.
        """
        words = self.embed_tokens(tokens) * math.sqrt(self._geometry.text.width)
        return torch.cat((*pictures, words)).unsqueeze(0), None

    def prepare(self, view: CacheView, own: int, state: Tensor) -> PiContext:
        """Return what the steps of a flow read of a view, and the state's token [1, width] (pi0)."""
        token = None if self._shape.adaptive else self.state_proj(state).unsqueeze(0)
        count = self._shape.chunk_size + (token is not None)
        sees = None
        if token is not None:  # the state does not see the actions, which see all
            sees = torch.ones(count, count, dtype=torch.bool, device=view.keys.device)
            sees[0, 1:] = False
        read = prepare(self.expert, view, count, sees, self.rope_base)
        return PiContext(read if self.compiled is None else self.compiled.fixed(read), token)

    def condition(self, time: float | Tensor, device: torch.device) -> Tensor:
        """Return what the adaptive norms are given at times [...] of the flow, [..., width] (pi0.5)."""
        moment = self._moment(time, device)
        return functional.silu(self.time_mlp_out(functional.silu(self.time_mlp_in(moment))))

    def suffix(self, noisy: Tensor, time: float | Tensor, state: Tensor | None = None) -> Tensor:
        """Return the expert's tokens of noisy chunks [..., H, action_dim], [..., H, width].

        Args:
            time: 1 at noise; not read without a state.
            state: the state's token of pi0 (see `prepare`), which stands in front of a chunk's.
        """
        actions: Tensor = self.action_in_proj(noisy)
        if state is None:
            return actions
        both = torch.cat((actions, self._moment(time, noisy.device).expand_as(actions)), dim=-1)
        tokens = self.time_mlp_out(functional.silu(self.time_mlp_in(both)))
        return torch.cat((state, tokens))

    def velocity(self, noisy: Tensor, time: float, context: PiContext, added: Tensor | None = None) -> Tensor:
        """Return noise minus actions, [H, action_dim] (see `suffix`).

        Args:
            added: to the tokens, [H, width].
        """
        made = self.suffix(noisy, time, context.state)
        tokens = (made if added is None else made + added).unsqueeze(0).to(self.embed_tokens.weight.dtype)
        condition = self.condition(time, noisy.device).unsqueeze(0) if self._shape.adaptive else None
        run = self.compiled or run_expert
        out, _ = self.expert_norm(run(self.expert, tokens, context.read, condition), condition)
        velocity: Tensor = self.action_out_proj(out[0, -len(noisy) :].float())
        return velocity

    def _moment(self, time: float | Tensor, device: torch.device) -> Tensor:
        return embed_time(time, self._geometry.expert.width, self._shape.shortest, self._shape.longest, device)


@dataclass(frozen=True)
class PiContext:
    """What the steps of a flow read: the context, and the state's token of pi0."""

    read: ExpertContext
    state: Tensor | None


def names_of(geometry: Geometry, adaptive: bool) -> Names:
    """Return how the network's tensors are called in a file.

    The embedding counts, not the head that is tied to it; files of openpi hold the head alone.
    """
    both, text, expert = "model.paligemma_with_expert", geometry.text, geometry.expert
    model, language = f"{both}.paligemma.model", f"{both}.paligemma.model.language_model"
    head, time = f"{both}.paligemma.lm_head.weight", "model.time_mlp" if adaptive else "model.action_time_mlp"
    own = ("action_in_proj", "action_out_proj", *(() if adaptive else ("state_proj",)))
    return Names(
        modules={
            "vision_tower": f"{model}.vision_tower.vision_model",
            "projector": f"{model}.multi_modal_projector.linear",
            "embed_tokens": f"{language}.embed_tokens",
            "text_layers": f"{language}.layers",
            "expert_layers": f"{both}.gemma_expert.model.layers",
            "expert_norm": f"{both}.gemma_expert.model.norm",
            "time_mlp_in": f"{time}_in",
            "time_mlp_out": f"{time}_out",
            **{name: f"model.{name}" for name in own},
        },
        optional={
            head: (geometry.vocab, text.width),
            f"{both}.gemma_expert.lm_head.weight": (geometry.vocab, expert.width),
        },
        required={f"{language}.norm.weight": (text.width,)},  # behind the last layer, which is not run
        instead={f"{language}.embed_tokens.weight": head},
        added="model.",
    )
