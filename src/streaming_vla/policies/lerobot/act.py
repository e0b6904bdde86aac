"""ACT's network (arXiv 2304.13705) as it is used: its variational encoder is for training only, the latent is zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from kv_cache.spec import CacheSpec
from streaming_vla.policies.errors import CheckpointError, shortened
from streaming_vla.policies.lerobot.config import ACTConfig
from streaming_vla.policies.lerobot.resnet import BLOCKS, CHANNELS, ResNet
from streaming_vla.policies.lerobot.weights import Names, Shape

EMPTY_TOKEN = CacheSpec(1, 1, 2)  # ACT remembers nothing: one empty token stands for an observation


class _Attention(nn.Module):
    """What an encoder's and a decoder's layer have in common; tokens are [T, 1, D]."""

    def __init__(self, config: ACTConfig, norms: int) -> None:
        super().__init__()
        self._pre_norm = config.pre_norm
        self._activation = functional.relu if config.feedforward_activation == "relu" else functional.gelu
        self.self_attn = nn.MultiheadAttention(config.dim_model, config.n_heads)
        self.linear1 = nn.Linear(config.dim_model, config.dim_feedforward)
        self.linear2 = nn.Linear(config.dim_feedforward, config.dim_model)
        for number in range(1, norms + 1):
            setattr(self, f"norm{number}", nn.LayerNorm(config.dim_model))

    def _added(self, x: Tensor, number: int, inner: Callable[[Tensor], Tensor]) -> Tensor:
        """Return x + inner(x), normed before or behind."""
        norm = getattr(self, f"norm{number}")
        if self._pre_norm:
            return x + inner(norm(x))
        normed: Tensor = norm(x + inner(x))
        return normed

    def _attend_self(self, x: Tensor, places: Tensor) -> Tensor:
        placed = x + places
        attended: Tensor = self.self_attn(placed, placed, x, need_weights=False)[0]
        return attended

    def _feed(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear2(self._activation(self.linear1(x)))
        return out


class EncoderLayer(_Attention):
    """Self-attention and a feed-forward network."""

    def __init__(self, config: ACTConfig) -> None:
        super().__init__(config, norms=2)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """Return the layer's tokens; places [T, 1, D] are added to queries and keys."""
        x = self._added(x, 1, lambda each: self._attend_self(each, places))
        return self._added(x, 2, self._feed)


class DecoderLayer(_Attention):
    """Self-attention, attention to the encoder's tokens, and a feed-forward network."""

    def __init__(self, config: ACTConfig) -> None:
        super().__init__(config, norms=3)
        self.multihead_attn = nn.MultiheadAttention(config.dim_model, config.n_heads)

    def forward(self, x: Tensor, places: Tensor, seen: Tensor, seen_places: Tensor) -> Tensor:
        """Return the layer's tokens; `seen` are the encoder's."""
        x = self._added(x, 1, lambda each: self._attend_self(each, places))
        x = self._added(
            x,
            2,
            lambda each: self.multihead_attn(each + places, seen + seen_places, seen, need_weights=False)[0],
        )
        return self._added(x, 3, self._feed)


class _Stack(nn.Module):
    """Layers and perhaps a norm, named as in the file."""

    def __init__(self, layers: Sequence[nn.Module], norm: nn.Module | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        if norm is not None:
            self.norm = norm


class ACT(nn.Module):
    """The network.

    Args:
        config: of the checkpoint.

    Raises:
        CheckpointError: its backbone or its sizes are none that this network has.
    """

    def __init__(self, config: ACTConfig) -> None:
        super().__init__()
        if config.vision_backbone not in BLOCKS:
            raise CheckpointError(
                f"vision_backbone is '{shortened(config.vision_backbone)}', expected one of {', '.join(BLOCKS)}"
            )
        width = config.dim_model
        if width % config.n_heads or width % 4:
            raise CheckpointError(f"dim_model is {width}, expected a multiple of 4 and of n_heads ({config.n_heads})")
        self._config = config
        self.backbone = ResNet(config.vision_backbone)
        encoders = [EncoderLayer(config) for _ in range(config.n_encoder_layers)]
        self.encoder = _Stack(encoders, nn.LayerNorm(width) if config.pre_norm else None)
        self.decoder = _Stack([DecoderLayer(config) for _ in range(config.n_decoder_layers)], nn.LayerNorm(width))
        self.encoder_robot_state_input_proj = nn.Linear(config.state_size, width)
        self.encoder_latent_input_proj = nn.Linear(config.latent_dim, width)
        self.encoder_img_feat_input_proj = nn.Conv2d(CHANNELS, width, 1)
        self.encoder_1d_feature_pos_embed = nn.Embedding(2, width)
        self.decoder_pos_embed = nn.Embedding(config.chunk_size, width)
        self.action_head = nn.Linear(width, config.action_size)

    def tokens(self, maps: Sequence[Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoder's input and its places, each [T, 1, D]: latent, state, then each map's cells by rows.

        Args:
            maps: of `backbone`, [1, 512, h, w] each.
            state: [S], normalised.
        """
        latent = state.new_zeros(self._config.latent_dim)
        parts = [self.encoder_latent_input_proj(latent), self.encoder_robot_state_input_proj(state)]
        cells = [self.encoder_img_feat_input_proj(each)[0].flatten(1).T for each in maps]
        places = [places_of(each.shape[2], each.shape[3], self._config.dim_model).to(state) for each in maps]
        tokens = torch.cat((torch.stack(parts), *cells))
        return tokens.unsqueeze(1), torch.cat((self.encoder_1d_feature_pos_embed.weight, *places)).unsqueeze(1)

    def encode(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Return the encoder's tokens [T, 1, D]."""
        for layer in self.encoder.layers:
            tokens = layer(tokens, places)
        return self.encoder.norm(tokens) if self._config.pre_norm else tokens

    def decode(self, seen: Tensor, seen_places: Tensor) -> Tensor:
        """Return the decoder's tokens [H, 1, D]."""
        places = self.decoder_pos_embed.weight.unsqueeze(1)
        tokens = torch.zeros_like(places)
        for layer in self.decoder.layers:
            tokens = layer(tokens, places, seen, seen_places)
        normed: Tensor = self.decoder.norm(tokens)
        return normed


def places_of(rows: int, columns: int, width: int) -> Tensor:
    """Return where a map's cells are, [rows * columns, width]: sines and cosines in turn, of y first, then of x.

    A coordinate counts 1 .. n over n + 1e-6, times 2 pi; frequencies are 10000^(-2i / (width / 2)).
    """
    half = width // 2
    frequencies = 10000.0 ** (-2.0 * (torch.arange(half, dtype=torch.float64) // 2) / half)

    def one(count: int) -> Tensor:
        place = torch.arange(1, count + 1, dtype=torch.float64) / (count + 1e-6) * 2.0 * math.pi
        angle = place.unsqueeze(1) * frequencies
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=-1).flatten(1)

    vertical = one(rows).unsqueeze(1).expand(-1, columns, -1)
    horizontal = one(columns).unsqueeze(0).expand(rows, -1, -1)
    return torch.cat((vertical, horizontal), dim=-1).flatten(0, 1).float()


def names_of(config: ACTConfig) -> Names:
    """Return how the network's tensors are called in a file."""
    with torch.device("meta"):
        network = ACT(config)
    own = [name for name, _ in network.named_children()]
    return Names(modules={name: f"model.{name}" for name in own}, required=_of_training(config))


def _of_training(config: ACTConfig) -> dict[str, Shape]:
    """Return the shapes of the variational encoder's tensors, which are compared and not read."""
    if not config.use_vae:
        return {}
    width, encoder = config.dim_model, "model.vae_encoder"
    with torch.device("meta"):
        layer = EncoderLayer(config)
    each = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    norms = {f"{encoder}.norm.{name}": (width,) for name in ("weight", "bias")} if config.pre_norm else {}
    return {
        **{f"{encoder}.layers.{n}.{name}": s for n in range(config.n_vae_encoder_layers) for name, s in each.items()},
        **norms,
        f"{encoder}_cls_embed.weight": (1, width),
        f"{encoder}_robot_state_input_proj.weight": (width, config.state_size),
        f"{encoder}_robot_state_input_proj.bias": (width,),
        f"{encoder}_action_input_proj.weight": (width, config.action_size),
        f"{encoder}_action_input_proj.bias": (width,),
        f"{encoder}_latent_output_proj.weight": (2 * config.latent_dim, width),
        f"{encoder}_latent_output_proj.bias": (2 * config.latent_dim,),
        f"{encoder}_pos_enc": (1, config.chunk_size + 2, width),
    }
