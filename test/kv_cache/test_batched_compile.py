"""Many sessions under torch.compile: one graph for every policy, its numbers, and no compilation in a long run."""

from __future__ import annotations

import pytest
import torch
from matrix import BATCHED, SPEC, B, Case, batch_of
from torch._dynamo.testing import CompileCounterWithBackend

from kv_cache.batched import BatchedCache

torch.set_num_threads(1)
SAME_GRAPH = ("window with sinks", "window of one", "attention per token")  # as another case, with other sizes
COMPILED = [case for case in BATCHED if case.name not in SAME_GRAPH]
STEPS, ADDED = 12, 6


@pytest.mark.parametrize("case", COMPILED, ids=lambda case: case.name)
@torch.no_grad()
def test_update_and_view_compile_as_one_graph_and_then_never_again(case: Case) -> None:
    """Compilation costs seconds: it must be over when a run has taken its first step."""
    assert case.small is not None
    torch._dynamo.reset()  # graphs of other caches count towards the limit of a function
    updates, views = CompileCounterWithBackend("aot_eager"), CompileCounterWithBackend("aot_eager")
    cache, plain = BatchedCache(SPEC, case.small, B), BatchedCache(SPEC, case.small, B)
    update = torch.compile(cache.update, fullgraph=True, backend=updates, dynamic=False)
    view_of = torch.compile(cache.view_of, fullgraph=True, backend=views, dynamic=False)
    compiled = []
    for step in range(STEPS):
        queries = torch.randn(B, 4, 2, 8, generator=torch.Generator().manual_seed(step))
        for each in (cache, plain):
            if step in (2, STEPS - 2):  # row 1 begins anew, the others go on
                each.reset(torch.tensor([False, True, False]))
            for layer in range(SPEC.layers if case.small.reads_queries else 0):
                each.observe_queries(layer, queries)
        keys, values = batch_of(ADDED, step)
        cache.state = update(cache.state, keys, values)
        plain.append(keys, values)
        view, wanted = view_of(cache.state), plain.view()
        compiled.append((updates.frame_count, views.frame_count))
        torch.testing.assert_close(cache.state, plain.state, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(vars(view), vars(wanted), rtol=1e-5, atol=1e-5)
    assert case.small.max_tokens + case.small.sizes.chunk < STEPS * ADDED  # chunks did leave
    assert compiled == [(1, 1)] * STEPS
