"""What attention over a cache costs, counted: FLOPs (2 per multiply-add, as torch's counter does) and bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TransformerShape:
    """Sizes of a transformer whose tokens are cached.

    Args:
        layers, width, heads, kv_heads, head_dim: as usual.
        hidden: width of the MLP.
        gated_mlp: True for three matrices (Gemma, Llama), False for two.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    gated_mlp: bool = True

    def linear_flops(self, tokens: int) -> int:
        """FLOPs of all matrices for `tokens` tokens: queries, keys, values, output and MLP."""
        heads = 2 * self.heads + 2 * self.kv_heads
        matrices = self.width * heads * self.head_dim + (3 if self.gated_mlp else 2) * self.width * self.hidden
        return 2 * tokens * self.layers * matrices

    def attention_flops(self, queries: int, keys: int) -> int:
        """FLOPs of scores and weighted sums where every query sees every key."""
        return 4 * self.layers * self.heads * self.head_dim * queries * keys

    def step_flops(self, tokens: int, held: int) -> int:
        """FLOPs of `tokens` new tokens that see themselves and a cache of `held` tokens."""
        return self.linear_flops(tokens) + self.attention_flops(tokens, held + tokens)


# google/paligemma-3b (its language model is Gemma 2B) and Llama 2 7B, from their published configurations
PALIGEMMA = TransformerShape(layers=18, width=2048, heads=8, kv_heads=1, head_dim=256, hidden=16_384)
LLAMA_7B = TransformerShape(layers=32, width=4096, heads=32, kv_heads=32, head_dim=128, hidden=11_008)
