"""Hugging Face models of random weights, offline: a compressed cache drops in, and without loss it changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kv_cache import Attention, Expected, Full, Gate, GateConfig, Gated, Mean, Random, SessionCache, Window, rotate
from kv_cache.gate_file import load_gate, save_gate

transformers = pytest.importorskip("transformers")
from small_models import gemma, ids, llama, paligemma, scaled_llama, small, smolvlm, stream  # noqa: E402 (optional)

from kv_cache.huggingface import CompressedCache, spec_of  # noqa: E402 (optional)

torch.set_num_threads(1)
HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "gated-cache.md"
MODELS = (llama, scaled_llama, gemma, paligemma, smolvlm)


@pytest.fixture(scope="module", params=MODELS, ids=lambda make: make.__name__)
def model(request: pytest.FixtureRequest) -> Any:
    """A small model with random weights."""
    torch.manual_seed(0)
    make: Callable[[], Any] = request.param
    return make().eval()


@pytest.mark.parametrize("endless", [False, True], ids=["absolute", "endless"])
def test_without_loss_it_is_the_models_own_cache(model: Any, endless: bool) -> None:
    tokens, sizes = ids(30), [11, 1, 6, 12]
    wanted = stream(model, transformers.DynamicCache(), tokens, sizes)
    gate = Gate(GateConfig.of(spec_of(model)))
    for policy in (Full(64), Window(2, 40), Gated(2, 5, 1, 64, gate=gate, threshold=0.0)):
        cache = CompressedCache.of(model, policy, endless)
        torch.testing.assert_close(stream(model, cache, tokens, sizes), wanted, rtol=1e-4, atol=1e-5)
        assert cache.get_seq_length() == cache.stats()[0].full_tokens == 30


def test_positions_do_not_matter_to_what_is_seen(model: Any) -> None:
    """The model sees distances only, so both ways of counting give the same logits when chunks are dropped."""
    tokens, sizes = ids(60), [9] * 6 + [6]
    gate = Gate(GateConfig.of(spec_of(model)))
    with torch.no_grad():
        gate.head.weight.mul_(60.0)
        gate.head.bias.zero_()
    policy = Gated(2, 12, 4, 24, gate=gate)
    absolute, endless = CompressedCache.of(model, policy), CompressedCache.of(model, policy, endless=True)
    one = stream(model, absolute, tokens, sizes)
    torch.testing.assert_close(one, stream(model, endless, tokens, sizes), rtol=1e-3, atol=1e-4)
    assert absolute.get_seq_length() == 60
    assert endless.get_seq_length() == endless.rows[0].view().next_position <= policy.sizes.max_positions
    stats = endless.stats()[0]
    assert stats.chunks_kept + stats.chunks_dropped == 11
    assert stats.tokens <= 24


def test_generate_goes_on_with_a_bounded_cache(model: Any) -> None:
    cache = CompressedCache.of(model, Mean(2, 10, 4, 20))
    with torch.no_grad():
        out = model.generate(ids(25), past_key_values=cache, max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert out.shape == (1, 37)
    assert cache.tokens <= 20
    assert cache.stats()[0].full_tokens == 36


def test_generate_is_unchanged_while_everything_fits(model: Any) -> None:
    with torch.no_grad():
        wanted, seen = (
            model.generate(ids(9, rows=2), past_key_values=cache, max_new_tokens=8, do_sample=False, num_beams=2)
            for cache in (transformers.DynamicCache(), CompressedCache.of(model, Window(2, 40)))
        )
    assert seen.tolist() == wanted.tolist()


def test_rows_do_not_touch_each_other() -> None:
    torch.manual_seed(0)
    model = llama().eval()
    policy = Gated(2, 8, 3, 16, gate=Gate(GateConfig.of(spec_of(model))), threshold=0.0)
    tokens = ids(40, rows=3)
    together = stream(model, CompressedCache.of(model, policy), tokens, [10] * 4)
    for row in range(3):
        alone = stream(model, CompressedCache.of(model, policy), tokens[row : row + 1], [10] * 4)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_rows_under_chance_keep_the_same_chunks() -> None:
    torch.manual_seed(0)
    model = llama().eval()
    cache = CompressedCache.of(model, Random(2, 8, 3, 16, keep_rate=0.5))
    stream(model, cache, ids(40, rows=2), [10] * 4)
    kept, other = (row.chunks_kept for row in cache.stats())
    assert kept == other
    assert 0 < kept < 10
    with pytest.raises(ValueError, match="a batch of 1, expected 2"):
        stream(model, cache, ids(5), [5])


def test_refusals_are_sentences_and_reset_begins_anew() -> None:
    torch.manual_seed(0)
    model = llama().eval()
    gate = Gate(GateConfig.of(spec_of(model)))
    cache = CompressedCache.of(model, Gated(2, 8, 3, 16, gate=gate))
    first = stream(model, cache, ids(12), [6, 6])
    with pytest.raises(ValueError, match="tokens cannot be taken back"):
        cache.crop(-1)
    cache.reset()
    torch.testing.assert_close(stream(model, cache, ids(12), [6, 6]), first, rtol=0, atol=0)
    with pytest.raises(ValueError, match="the gate's weights are for 3 layers of 2 x 8"):
        CompressedCache(replace(spec_of(model), head_dim=16), Gated(2, 8, 3, 16, gate=gate))


def test_what_is_seen_is_what_a_computation_by_hand_sees() -> None:
    """One layer, one piece at a time: its keys by its own projection, closed up, and its own output from them."""
    torch.manual_seed(0)
    model = llama(num_hidden_layers=1).eval()
    tokens, policy = ids(60), Window(2, 20)
    logits = stream(model, CompressedCache.of(model, policy), tokens, [10] * 6)[:, -10:]
    kept = torch.cat((tokens[:, :2], tokens[:, 30:]), dim=1)  # sinks, the window of 20 before the last piece, and it
    with torch.no_grad():
        wanted = model(input_ids=kept).logits[:, -10:]
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)


def by_means(policy: Mean, past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return what is held of unrotated keys and values [2, L, Hkv, T, d], its positions, and that of the next token."""
    sinks, chunk = min(policy.sinks, past.shape[3]), policy.chunk
    left = max(0, past.shape[3] - sinks - policy.recent) // chunk
    means = past[:, :, :, sinks : sinks + left * chunk].unflatten(3, (left, chunk)).mean(dim=4)
    means = means[:, :, :, max(0, left - policy.sizes.summaries) :]
    held = torch.cat((past[:, :, :, :sinks], means, past[:, :, :, sinks + left * chunk :]), dim=3)
    line = sinks + means.shape[3] * chunk
    middles = torch.arange(sinks, line, chunk) + (chunk - 1) / 2
    end = line + past.shape[3] - sinks - left * chunk
    return held, torch.cat((torch.arange(sinks), middles, torch.arange(line, end))), end


@torch.no_grad()
def by_own_layers(model: Any, policy: Mean, tokens: torch.Tensor, size: int) -> torch.Tensor:
    """Return the logits of tokens in pieces, from a Llama's own matrices and the means of its keys and values."""
    past, logits = torch.zeros(2, 3, 2, 0, 8), []
    for piece in tokens.split(size, dim=1):
        (old_keys, old_values), places, end = by_means(policy, past)
        here = end + torch.arange(size)
        later = torch.cat((torch.zeros(size, len(places)), torch.ones(size, size).triu(1)), dim=1).bool()
        hidden, made = model.model.embed_tokens(piece), []
        for number, layer in enumerate(model.model.layers):
            attention, normed = layer.self_attn, layer.input_layernorm(hidden[0])
            queries, keys, values = (
                project(normed).unflatten(-1, (-1, 8)).transpose(0, 1)
                for project in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            made.append(torch.stack((keys, values)))
            seen_keys = torch.cat((rotate(old_keys[number], places), rotate(keys, here)), dim=1)
            seen_values = torch.cat((old_values[number], values), dim=1)
            scores = rotate(queries, here) @ seen_keys.repeat_interleave(2, 0).transpose(-1, -2) / 8**0.5
            seen = scores.masked_fill(later, -torch.inf).softmax(dim=-1) @ seen_values.repeat_interleave(2, 0)
            hidden = hidden + attention.o_proj(seen.transpose(0, 1).flatten(1))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        past = torch.cat((past, torch.stack(made, dim=1)), dim=3)
        logits.append(model.lm_head(model.model.norm(hidden)))
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("endless", [False, True], ids=["absolute", "endless"])
def test_what_is_seen_of_summaries_is_what_a_computation_by_hand_sees(endless: bool) -> None:
    """Three layers: what an earlier piece saw of the summaries is in the keys of all deeper layers."""
    torch.manual_seed(0)
    model, tokens = llama().eval(), ids(60)
    for policy in (Mean(2, 12, 4, 40), Mean(2, 12, 4, 20)):  # all summaries are held; the oldest go
        cache = CompressedCache.of(model, policy, endless)
        logits = stream(model, cache, tokens, [10] * 6)
        torch.testing.assert_close(logits, by_own_layers(model, policy, tokens, 10), rtol=1e-4, atol=1e-5)
        assert cache.stats()[0].chunks_kept == 11 and bool(cache.stats()[0].chunks_evicted) == (policy.budget == 20)


def test_a_sliding_window_must_show_what_is_held() -> None:
    torch.manual_seed(0)
    model = small("Mistral", sliding_window=24)
    cache = CompressedCache.of(model, Window(2, 12))
    stream(model, cache, ids(40), [10] * 4)
    with pytest.raises(ValueError, match="14 tokens are held and 11 come, the model's sliding window shows 24"):
        stream(model, cache, ids(11), [11])
    stream(model, cache, ids(10), [10])


def test_numbers_that_are_not_finite_change_no_row() -> None:
    torch.manual_seed(0)
    model = llama().eval()
    cache = CompressedCache.of(model, Mean(2, 8, 3, 16))
    stream(model, cache, ids(5, rows=2), [5])
    keys, values = torch.randn(2, 2, 2, 4, 8)
    damaged = keys.clone()
    damaged[1, 0, 0, 0] = float("nan")
    for layer in range(2):
        cache.take(layer, keys, values)
    with pytest.raises(ValueError, match="compressed cache: keys are not finite"):
        cache.take(2, damaged, values)
    assert [row.full_tokens for row in cache.stats()] == [5, 5]
    stream(model, cache, ids(5, rows=2), [5])
    assert [row.full_tokens for row in cache.stats()] == [10, 10]


def test_a_bias_that_the_model_would_not_add_is_refused() -> None:
    with pytest.raises(ValueError, match="does not add log_count"):
        CompressedCache.of(llama().eval(), Mean(2, 8, 3, 16, log_count=True))


def test_a_cache_that_began_in_inference_mode_goes_on_outside() -> None:
    torch.manual_seed(0)
    model = llama().eval()
    cache, tokens = CompressedCache.of(model, Mean(2, 8, 3, 16)), ids(20)
    with torch.inference_mode():
        model(input_ids=tokens[:, :10], past_key_values=cache, use_cache=True)
    stream(model, cache, tokens[:, 10:], [10])
    assert cache.stats()[0].full_tokens == 20


@torch.no_grad()
def test_the_how_to_page_runs(tmp_path: Path) -> None:
    """Its code blocks, as they stand there, with a model and observations."""
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
    ten_lines, trained, frozen, attached, *_ = blocks
    model = llama().eval()
    names: dict[str, Any] = {"model": model, "observations": [ids(25, seed=step) for step in range(20)]}
    exec(ten_lines, names)
    stats = names["cache"].stats()[0]
    assert stats.full_tokens == 500
    assert stats.tokens <= 160
    assert len([line for line in ten_lines.splitlines() if line.strip()]) <= 10
    exec(frozen, names | {"noisy_actions": torch.randn(1, 4, 32)})
    assert names["cache"].stats()[0] == stats
    save_gate(tmp_path / "gate.safetensors", names["gate"], 0.25, {})
    exec(trained, names | {"load_gate": load_gate, "path": str(tmp_path / "gate.safetensors")})
    names["Attention"] = Attention
    exec(attached, names)
    assert len({score for _, score in names["cache"].rows[0].kept_chunks()}) > 1


@pytest.mark.parametrize("name", ["attention", "expected"])
def test_queries_are_reported_from_hooks_in_the_forward(name: str) -> None:
    """The how-to's way: what the cache keeps is what a session keeps that is given the same keys and queries."""
    torch.manual_seed(0)
    model = llama().eval()
    policy = {"attention": Attention(2, 8, 3, 16), "expected": Expected(2, 8, 3, 16)}[name]
    cache, alone = CompressedCache.of(model, policy, endless=True), SessionCache(spec_of(model), policy)
    heard: dict[int, torch.Tensor] = {}

    def listen(number: int) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            heard[number] = output.unflatten(-1, (-1, 8)).transpose(1, 2)

        return hook

    with pytest.raises(ValueError, match=f"policy {name} reads queries, those of 0 of 3 layers were reported"):
        stream(model, cache, ids(5), [5])
    assert cache.stats()[0].full_tokens == 0
    hooks = [layer.self_attn.q_proj.register_forward_hook(listen(i)) for i, layer in enumerate(model.model.layers)]
    taken: list[tuple[torch.Tensor, torch.Tensor]] = []
    append = cache.rows[0].append
    cache.rows[0].append = lambda keys, values: (taken.append((keys, values)), append(keys, values))[1]  # type: ignore[method-assign]
    for piece in ids(60).split(6, dim=1):
        with cache.attached(model):
            stream(model, cache, piece, [6])
        report = alone.view().observe_queries
        assert report is not None
        for number, queries in heard.items():
            report(number, queries[0])
        alone.append(*taken[-1])
    for hook in hooks:
        hook.remove()
    assert cache.rows[0].kept_chunks() == alone.kept_chunks()
    assert len({score for _, score in alone.kept_chunks()}) > 1


@pytest.mark.parametrize("family", ["Qwen3", "Phi3"])
def test_queries_are_found_behind_a_norm_and_in_one_matrix(family: str) -> None:
    """In the first layer they are what its own modules make of the embedded tokens."""
    torch.manual_seed(0)
    model = small(family)
    cache, tokens, seen = CompressedCache.of(model, Attention(2, 8, 3, 16)), ids(5), {}
    report = cache.observe_queries
    cache.observe_queries = lambda layer, queries: (seen.update({layer: queries}), report(layer, queries))[1]  # type: ignore[method-assign]
    with cache.attached(model):
        stream(model, cache, tokens, [5])
    attention, normed = (
        model.model.layers[0].self_attn,
        model.model.layers[0].input_layernorm(model.model.embed_tokens(tokens)),
    )
    both = attention.q_proj(normed) if family == "Qwen3" else attention.qkv_proj(normed)[..., :32]
    wanted = both.unflatten(-1, (4, 8))
    wanted = attention.q_norm(wanted) if family == "Qwen3" else wanted
    torch.testing.assert_close(seen[0], wanted.transpose(1, 2), rtol=1e-5, atol=1e-6)
    assert sorted(seen) == [0, 1, 2]


@pytest.mark.parametrize("endless", [False, True], ids=["absolute", "endless"])
def test_rows_that_keep_different_counts_are_as_if_alone(model: Any, endless: bool) -> None:
    torch.manual_seed(0)
    gate = Gate(GateConfig.of(spec_of(model)))
    with torch.no_grad():
        gate.head.weight.mul_(60.0)
        gate.head.bias.zero_()
    policy, tokens, sizes = Gated(2, 12, 4, 40, gate=gate, threshold=0.0), ids(60, rows=3), [9] * 5 + [1] * 3 + [12]
    cache = CompressedCache.of(model, policy, endless)
    stream(model, cache, tokens, sizes)
    scores = torch.tensor([[score for _, score in row.kept_chunks()] for row in cache.rows])
    levels = [level / 20 for level in range(1, 20) if len({*(scores >= level / 20).sum(dim=1).tolist()}) > 1]
    policy = replace(policy, threshold=levels[0])
    cache = CompressedCache.of(model, policy, endless)
    with cache.attached(model):
        together = stream(model, cache, tokens, sizes)
    assert len({row.tokens for row in cache.stats()}) > 1
    for row, own in enumerate(together):
        alone = stream(model, CompressedCache.of(model, policy, endless), tokens[row : row + 1], sizes)
        torch.testing.assert_close(own.unsqueeze(0), alone, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="rows hold different numbers of tokens; run the model in a block of"):
        stream(model, cache, tokens[:, :5], [5])
    with cache.attached(model), pytest.raises(ValueError, match="prompts are padded"):
        model(input_ids=tokens[:, :5], attention_mask=torch.zeros(3, 5), past_key_values=cache, use_cache=True)


def test_a_frozen_cache_is_read_and_stays_as_it_is() -> None:
    """As the passes of an action head need it: each sees the same history, none is remembered."""
    torch.manual_seed(0)
    model = llama().eval()
    cache = CompressedCache.of(model, Mean(2, 10, 4, 20), endless=True)
    stream(model, cache, ids(30), [10] * 3)
    before = cache.stats()
    with cache.frozen():
        passes = [stream(model, cache, ids(5, seed=1), [5]) for _ in range(3)]
    assert torch.equal(passes[0], passes[1]) and torch.equal(passes[0], passes[2])
    assert cache.stats() == before
    torch.testing.assert_close(stream(model, cache, ids(5, seed=1), [5]), passes[0], rtol=0, atol=0)
    assert cache.stats()[0].full_tokens == 35
    alone = stream(model, None, ids(5, seed=1), [5])
    assert not torch.allclose(alone, passes[0], atol=1e-2)  # it did read


def test_what_is_no_gate_or_no_spec_is_refused() -> None:
    model = llama().eval()
    for thing in (None, "gate.safetensors"):
        with pytest.raises(ValueError, match=r"gate is a \w+, expected a Gate: load_gate\(path\)\.gate"):
            Gated(2, 8, 3, 16, gate=thing)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"LlamaForCausalLM is no CacheSpec; CompressedCache\.of takes the model"):
        CompressedCache(model, Window(2, 8))
