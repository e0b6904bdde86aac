"""Trains a gate with a task's loss, from nothing: a cue is shown once, a decoy later; at the end the cue must be named.

One episode in four has no cue. Without these a gate may code one colour by its absence: nothing kept means blue.

The transformer first learns the task with its full history; then the gate learns, in one pass over
[tokens ; summaries], which chunks it needs. Evaluation is online, frame by frame, in a real cache.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from kv_cache import CachePolicy, CacheSpec, Gate, GateConfig, Gated, rotate
from kv_cache.batched import BatchedCache
from kv_cache.gate import CELLS
from kv_cache.policies.base import Sizes
from kv_cache.rotary import angles, apply_rotary
from kv_cache.sampling import (
    chunks_of,
    gated_attention,
    hard_sample,
    keep_penalty,
    memory_mask,
    ramp,
    summary_positions,
    threshold_for_count,
)

NOISE, CUES, FRAME = 16, 3, 4  # noise words, colours of the cue, tokens of a frame
CUE, DECOY = NOISE, NOISE + CUES  # first word of each
WORDS = NOISE + 2 * CUES
WITHOUT = 0.25  # share of episodes without a cue
SPEC = CacheSpec(layers=2, kv_heads=1, head_dim=16, query_heads=2)
WIDTH = 32
SIZES = Sizes(sinks=0, recent=8, chunk=FRAME)


def episodes(count: int, frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return words [count, frames * FRAME], the cue's colour [count] (CUES: no cue) and its frame [count].

    The cue comes in one of the first frames; a decoy of another kind and any colour comes after it.
    """
    words = torch.randint(NOISE, (count, frames, FRAME), generator=generator)
    colour = torch.randint(CUES, (count,), generator=generator)
    none = torch.rand(count, generator=generator) < WITHOUT
    shown = torch.randint(4, (count,), generator=generator)
    decoy = torch.randint(5, frames, (count,), generator=generator)
    every = torch.arange(count)
    words[every, shown, 0] = torch.where(none, words[every, shown, 0], CUE + colour)
    words[every, decoy, 1] = DECOY + torch.randint(CUES, (count,), generator=generator)
    return words.flatten(1), torch.where(none, CUES, colour), shown


class Layer(nn.Module):
    """A pre-norm transformer layer with grouped keys."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.project = nn.Linear(WIDTH, (SPEC.query_heads + 2 * SPEC.kv_heads) * SPEC.head_dim)
        self.mix = nn.Linear(SPEC.query_heads * SPEC.head_dim, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def heads(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [B, Hq, T, d], keys and values [B, Hkv, T, d], unrotated."""
        packed = self.project(self.norm(tokens)).unflatten(-1, (-1, SPEC.head_dim)).transpose(1, 2)
        queries, keys, values = packed.split((SPEC.query_heads, SPEC.kv_heads, SPEC.kv_heads), dim=1)
        return queries, keys, values

    def finish(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """Return the tokens after what attention has seen, [B, Hq, T, d], and the MLP."""
        tokens = tokens + self.mix(seen.transpose(1, 2).flatten(2))
        out: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return out


class Recall(nn.Module):
    """A block-causal transformer that names the cue after every frame."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList([Layer() for _ in range(SPEC.layers)])
        self.head = nn.Linear(WIDTH, CUES + 1)

    def one_pass(self, words: Tensor, gate: Gate | None = None) -> tuple[Tensor, Tensor]:
        """Return the cue's logits after every frame [B, F, CUES + 1] and the gate's [B, n] (without a gate: [B, 0])."""
        total = words.shape[1]
        positions = torch.arange(total)
        frame = positions // FRAME
        mask = frame[:, None] >= frame[None, :]
        tokens, at = self.embed(words), positions.double()
        logits = weight = tokens.new_zeros(words.shape[0], 0)
        for number, layer in enumerate(self.layers):
            queries, keys, values = layer.heads(tokens)
            if gate is not None:
                old_keys, old_values = chunks_of(keys, SIZES), chunks_of(values, SIZES)
                if number == 0:
                    logits, _ = gate(old_keys, gate.start(len(words)))
                    _, weight = hard_sample(logits)
                    mask = memory_mask(mask, frame * FRAME, SIZES)
                    at = torch.cat((at, summary_positions(logits.shape[1], SIZES)))
                keys = torch.cat((keys, old_keys.mean(dim=3)), dim=2)
                values = torch.cat((values, old_values.mean(dim=3)), dim=2)
            seen = gated_attention(rotate(queries, positions), rotate(keys, at), values, mask, weight)
            tokens = layer.finish(tokens, seen)
        return self.head(tokens[:, FRAME - 1 :: FRAME]), logits

    @torch.no_grad()
    def online(self, words: Tensor, policy: CachePolicy) -> tuple[Tensor, BatchedCache]:
        """Go through episodes frame by frame with a cache; return the last logits [B, CUES + 1] and the cache."""
        cache = BatchedCache(SPEC, policy, len(words))
        frequencies = torch.tensor(SPEC.frequencies)
        for frame in words.split(FRAME, dim=1):
            view, tokens, new = cache.view(), self.embed(frame), []
            cos, sin = angles(view.next_position.unsqueeze(1) + torch.arange(FRAME), frequencies)
            own = view.held.new_ones(len(words), FRAME)
            mask = torch.cat((view.held, own), dim=1)[:, None, None]
            for number, layer in enumerate(self.layers):
                queries, keys, values = layer.heads(tokens)
                new.append((keys, values))
                turned = apply_rotary(keys, cos.unsqueeze(1), sin.unsqueeze(1))
                all_keys = torch.cat((view.keys[:, number], turned), dim=2)
                all_values = torch.cat((view.values[:, number], values), dim=2)
                queries = apply_rotary(queries, cos.unsqueeze(1), sin.unsqueeze(1))
                nothing = tokens.new_zeros(len(words), 0)
                tokens = layer.finish(tokens, gated_attention(queries, all_keys, all_values, mask, nothing))
            cache.append(torch.stack([keys for keys, _ in new], 1), torch.stack([values for _, values in new], 1))
        return self.head(tokens[:, -1]), cache


def loss_of(answers: Tensor, colour: Tensor, shown: Tensor) -> Tensor:
    """Return the cross-entropy at every frame from the cue on: dense supervision of memory."""
    frames = answers.shape[1]
    known = torch.arange(frames) >= shown.unsqueeze(1)
    labels = colour.unsqueeze(1).expand(-1, frames)[known]
    # smoothed: a model that is certain loses so much when the cue is missing that the gate stays open
    return functional.cross_entropy(answers[known], labels, label_smoothing=0.1)


def train(
    seed: int, steps: int, gate_steps: int, frames: int = 20, batch: int = 32, cell: str = "gru"
) -> tuple[Recall, Gate]:
    """Train the transformer on its full history, then transformer and gate together."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, gate = Recall(), Gate(GateConfig.of(SPEC, width=16, hidden=16, cell=cell))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        words, colour, shown = episodes(batch, frames, generator)
        loss = loss_of(model.one_pass(words)[0], colour, shown)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    rates = [{"params": model.parameters(), "lr": 1e-3}, {"params": gate.parameters(), "lr": 1e-2}]
    optimiser = torch.optim.AdamW(rates)
    for step in range(gate_steps):
        words, colour, shown = episodes(batch, frames, generator)
        answers, logits = model.one_pass(words, gate)
        loss = loss_of(answers, colour, shown) + 5.0 * ramp(step, gate_steps) * keep_penalty(logits, count=1.0)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(gate.parameters(), 0.1)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.eval(), gate.eval().requires_grad_(False)


@dataclass(frozen=True)
class Outcome:
    """What a trained gate does in fresh episodes: shares of them, chunks per episode, the threshold."""

    success: float
    cue_kept: list[float]
    chunks_kept: float
    threshold: float
    tokens: float


def evaluate(model: Recall, gate: Gate, frames: int, count: int = 96, seed: int = 1000) -> Outcome:
    """Calibrate the threshold on one set of episodes, then go through another one online.

    Returns:
        Success and, for every colour, the share of episodes in which the chunk of the cue is held at the end.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        scores = model.one_pass(episodes(count, 20, generator)[0], gate)[1].sigmoid()
    threshold = threshold_for_count(scores, 1.0 - WITHOUT)
    words, colour, shown = episodes(count, frames, generator)
    policy = Gated(SIZES.sinks, SIZES.recent, SIZES.chunk, 20, gate=gate, threshold=threshold)
    answers, cache = model.online(words, policy)
    state = cache.state
    held = torch.arange(state.numbers.shape[1]) < state.summaries.unsqueeze(1)
    kept = ((state.numbers == shown.unsqueeze(1)) & held).any(dim=1)
    return Outcome(
        success=float((answers.argmax(dim=1) == colour).float().mean()),
        cue_kept=[float(kept[colour == each].float().mean()) for each in range(CUES)],
        chunks_kept=float(state.kept.float().mean()),
        threshold=threshold,
        tokens=float(state.tokens.float().mean()),
    )


def main() -> None:
    """Train and evaluate with both cells and three seeds, print what came out and write cued_recall.json."""
    torch.set_num_threads(1)
    rows = []
    for cell, seed in itertools.product(CELLS, range(3)):
        begin_s = time.process_time()
        model, gate = train(seed, steps=200, gate_steps=250, cell=cell)
        spent_s = time.process_time() - begin_s
        outcome = evaluate(model, gate, frames=60)
        rows.append({"cell": cell, "seed": seed, "train_cpu_s": round(spent_s, 1), **vars(outcome)})
        print(json.dumps(rows[-1]))
    Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
