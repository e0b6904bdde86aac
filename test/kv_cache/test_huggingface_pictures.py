"""Hugging Face models that are given pictures: their tokens go through the cache like those of a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kv_cache import Full, Mean, Window

transformers = pytest.importorskip("transformers")
from small_models import ids, observe, paligemma, picture, smolvlm  # noqa: E402 (optional)

from kv_cache.huggingface import CompressedCache  # noqa: E402 (optional)

torch.set_num_threads(1)
OBSERVATIONS = 4


@pytest.fixture(scope="module", params=(paligemma, smolvlm), ids=lambda make: make.__name__)
def model(request: pytest.FixtureRequest) -> Any:
    """A small model with random weights."""
    torch.manual_seed(0)
    make: Callable[[], Any] = request.param
    return make().eval()


def watched(model: Any, cache: Any, first: int = 0) -> torch.Tensor:
    """Return the logits of observations, the first of them with picture number `first`, and of a text behind them."""
    seen = [
        observe(model, cache, picture(first if step == 0 else step), ids(5, seed=step)) for step in range(OBSERVATIONS)
    ]
    return torch.cat([*seen, observe(model, cache, None, ids(6, seed=9))], dim=1)


@pytest.mark.parametrize("endless", [False, True], ids=["absolute", "endless"])
def test_without_loss_pictures_are_seen_as_with_the_models_own_cache(model: Any, endless: bool) -> None:
    wanted = watched(model, transformers.DynamicCache())
    for policy in (Full(64), Window(2, 60)):
        cache = CompressedCache.of(model, policy, endless)
        torch.testing.assert_close(watched(model, cache), wanted, rtol=1e-4, atol=1e-5)
        assert cache.tokens == 4 * OBSERVATIONS + 5 * OBSERVATIONS + 6
    other = watched(model, CompressedCache.of(model, Full(64), endless), first=7)
    assert not torch.allclose(other[:, -6:], wanted[:, -6:], atol=1e-4)  # the first picture is remembered to the end


def test_positions_do_not_matter_to_what_is_seen_of_pictures(model: Any) -> None:
    one, other = (CompressedCache.of(model, Mean(2, 8, 3, 16), endless) for endless in (False, True))
    seen = watched(model, one)
    torch.testing.assert_close(seen, watched(model, other), rtol=1e-3, atol=1e-4)
    assert one.tokens <= 16 and other.position < one.position == one.stats()[0].full_tokens
    assert not torch.allclose(seen, watched(model, transformers.DynamicCache()), atol=1e-4)  # much was summarised


def test_only_the_first_forward_is_taken_for_the_first_one() -> None:
    torch.manual_seed(0)
    model = paligemma().eval()

    @torch.no_grad()
    def fed(cache: Any) -> torch.Tensor:
        text = ids(25)
        pieces = [
            model(input_ids=piece, token_type_ids=torch.zeros_like(piece), past_key_values=cache, use_cache=True).logits
            for piece in text.split([5, 20], dim=1)
        ]
        return torch.cat(pieces, dim=1)

    wanted, cache = fed(transformers.DynamicCache()), CompressedCache.of(model, Full(64))
    torch.testing.assert_close(fed(cache), wanted, rtol=1e-4, atol=1e-5)
    cache.reset()
    torch.testing.assert_close(fed(cache), wanted, rtol=1e-4, atol=1e-5)
