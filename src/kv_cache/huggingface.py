"""A cache for Hugging Face models, for `generate` and for a forward with `past_key_values`. Needs `transformers`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from kv_cache.cache import MAX_BYTES, SessionCache
from kv_cache.checks import check_tokens
from kv_cache.huggingface_spec import EYES, rotation, sliding_window, spec_of
from kv_cache.policies.base import CachePolicy
from kv_cache.rotary import apply_rotary
from kv_cache.spec import CacheSpec
from kv_cache.view import CacheStats, CacheView

__all__ = ["CompressedCache", "spec_of"]
OLDEST, NEWEST = (5, 2), (5, 23)  # versions of transformers that this is tested with

if not OLDEST <= tuple(map(int, transformers.__version__.split(".")[:2])) <= NEWEST:
    warnings.warn(
        f"kv_cache.huggingface is tested with transformers 5.2 to 5.23 and may fail with {transformers.__version__}: "
        'pip install "transformers>=5.2,<5.24"',
        stacklevel=2,
    )


class CompressedCache(Cache):  # type: ignore[misc]
    """`past_key_values` under a cache policy, with one session per row of the batch.

    Keys come rotated by the model: they are turned back with the model's own frequencies and stored unrotated. What
    the model gets are the tokens held, rotated so that their distances to the new tokens are those of the policy.
    The new tokens of a forward see each other in full; chunks leave when the last layer has run.

    Rows (beams are rows) must be of equal length, without padding, and no attention_mask is given. Rows that hold
    different numbers of tokens need `attached`, which masks what the shorter ones lack.

    Args:
        spec: see spec_of.
        policy: see kv_cache.policies.
        endless: False: positions go on counting all tokens, as `generate` wants it. True: they count from what is
            held, so that a forward without position_ids can go on for ever.
        max_bytes: most bytes that a row may reserve.
        window: tokens that the model's layers see, None: all. Its mask counts tokens held, so no more may be shown.

    Raises:
        ValueError: the policy was made for another shape, or has log_count, which the model's attention does not add.
    """

    def __init__(
        self,
        spec: CacheSpec,
        policy: CachePolicy,
        endless: bool = False,
        max_bytes: int = MAX_BYTES,
        window: int | None = None,
    ) -> None:
        if not isinstance(spec, CacheSpec):
            raise ValueError(
                f"compressed cache: {type(spec).__name__} is no CacheSpec; CompressedCache.of takes the model itself"
            )
        policy.check_spec(spec)
        if policy.sizes.log_count:
            raise ValueError("compressed cache: the model's attention does not add log_count, make the policy without")
        super().__init__(layers=[_Layer(self, number) for number in range(spec.layers)])
        self.spec, self.policy, self.endless = spec, policy, endless
        self._max_bytes, self._window = max_bytes, window
        self.rows: list[SessionCache] = []
        self._frozen = False
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._views: list[CacheView] = []  # of the rows, held for as long as they are the newest ones
        self._shown: tuple[Tensor, Tensor] | None = None  # what all layers of a forward read of them
        self._listening = False  # to the model that runs

    @classmethod
    def of(cls, model: PreTrainedModel, policy: CachePolicy, endless: bool = False) -> CompressedCache:
        """Return a cache for `model`.

        Raises:
            ValueError: see spec_of and CompressedCache.
        """
        return cls(spec_of(model), policy, endless, window=sliding_window(model))

    @property
    def tokens(self) -> int:
        """Tokens held by the row that holds the most."""
        return max((row.tokens for row in self.rows), default=0)

    @property
    def position(self) -> int:
        """Position of the next token."""
        if not self.rows:
            return 0
        return max(row.next_position for row in self.rows) if self.endless else self.rows[0].stats().full_tokens

    def stats(self) -> tuple[CacheStats, ...]:
        """Return the statistics of every row."""
        return tuple(row.stats() for row in self.rows)

    def observe_queries(self, layer: int, queries: Tensor) -> None:
        """Report the queries [B, Hq, Q, d], before rotation, with which a layer is about to read (see CacheView).

        `attached` does it for most models. What reads a frozen cache is not counted.

        Raises:
            ValueError: another number of rows, or see SessionCache.
        """
        if self._frozen:
            return
        self._open(len(queries), queries.device)
        for view, own in zip(self._views, queries, strict=True):
            if view.observe_queries is not None:
                view.observe_queries(layer, own)

    @contextmanager
    def attached(self, model: PreTrainedModel) -> Iterator[None]:
        """Let forwards of `model` in this block, those of `generate` too, report their queries and mask shorter rows.

        Raises:
            ValueError: the policy reads queries, and not every layer of the model has a projection that gives them.
        """
        asking = _asking(model) if self.policy.reads_queries else []
        if self.policy.reads_queries and len(asking) != self.spec.layers:
            raise ValueError(
                f"compressed cache: {len(asking)} query projections (q_proj, qkv_proj) are found in "
                f"{type(model).__name__}, expected {self.spec.layers}; call observe_queries in hooks of your own"
            )
        with ExitStack() as hooks:
            hooks.callback(setattr, self, "_listening", False)
            hooks.enter_context(model.register_forward_pre_hook(self._prepare, with_kwargs=True))
            for number, module in enumerate(asking):
                hooks.enter_context(module.register_forward_hook(self._listener(number)))
            yield

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let forwards of this block read the cache and leave it as it is: the passes of an action head."""
        before, self._frozen = self._frozen, True
        try:
            yield
        finally:
            self._frozen = before

    def reset(self) -> None:
        """Begin new sessions."""
        self.rows, self._views, self._pending, self._shown = [], [], [], None
        self._say_initialized(False)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on with the rows `beam_idx`; a row may be taken twice."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with these rows; a row may be taken twice."""
        saved = [row.snapshot() for row in self.rows]
        rows = []
        for index in indices.tolist():
            row = self._new_row(self.rows[index].device)
            row.restore(saved[index])
            rows.append(row)
        self.rows, self._views, self._shown = rows, [], None

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Go on with every row `repeats` times."""
        self.batch_select_indices(torch.arange(len(self.rows)).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: a chunk that has become a summary cannot be taken back.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "compressed cache: tokens cannot be taken back; assisted generation needs transformers' DynamicCache"
        )

    def take(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a layer attends to, [B, Hkv, N + T, d], from its new keys (rotated) and values."""
        if layer == 0:
            self._begin(keys)
        if layer != len(self._pending) or self._shown is None:
            raise ValueError(
                f"compressed cache: layer {layer} came after {len(self._pending)} layers, expected in order"
            )
        shown_keys, shown_values = self._shown
        self._pending.append((keys, values))
        seen = torch.cat((shown_keys[:, layer], keys), dim=2), torch.cat((shown_values[:, layer], values), dim=2)
        if layer == self.spec.layers - 1 and not self._frozen:
            self._commit()
        return seen

    def _begin(self, keys: Tensor) -> None:
        if self._window is not None and self.tokens + keys.shape[2] > self._window:
            raise ValueError(
                f"compressed cache: {self.tokens} tokens are held and {keys.shape[2]} come, the model's sliding window "
                f"shows {self._window}; make the policy's budget smaller, or the pieces shorter"
            )
        self._open(len(keys), keys.device)
        longest, position = self.tokens, self.position
        if not self._listening and any(row.tokens < longest for row in self.rows):
            raise ValueError(
                "compressed cache: its rows hold different numbers of tokens; run the model in a block of "
                "'with cache.attached(model):', which masks what the shorter ones lack"
            )
        shown = []
        for view in self._views:
            behind = torch.tensor([position - view.next_position], device=keys.device)
            turned = apply_rotary(view.keys, *rotation(self.spec, behind)) if int(behind) else view.keys
            missing = (0, 0, longest - view.tokens, 0)  # in front of the tokens of a shorter row
            shown.append([nn.functional.pad(part, missing) for part in (turned, view.values)])
        self._shown = torch.stack([own for own, _ in shown]), torch.stack([own for _, own in shown])
        self._pending = []

    def _prepare(self, _model: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, Any]:
        """Mask what shorter rows lack, before a forward of the model."""
        self._listening = given.get("past_key_values") is self
        longest = self.tokens
        if self._listening and any(row.tokens < longest for row in self.rows):
            mask, tokens = given.get("attention_mask"), given.get("input_ids")
            if mask is not None and not bool(mask.all()):
                raise ValueError("compressed cache: prompts are padded; give rows of equal length, or one at a time")
            tokens = next(each for each in (tokens, given.get("inputs_embeds"), *args) if each is not None)
            first = self.position - longest
            mask = torch.ones(len(self.rows), self.position + tokens.shape[1], dtype=torch.long, device=tokens.device)
            for row, own in zip(self.rows, mask, strict=True):
                own[first : first + longest - row.tokens] = 0
            given = given | {"attention_mask": mask}
        return args, given

    def _listener(self, number: int) -> Callable[..., None]:
        heads, size = self.spec.query_heads, self.spec.head_dim

        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            if self._listening:  # [B, T, Hq * d], keys and values behind them where one matrix gives all
                own = output.flatten(2)[..., : heads * size].unflatten(-1, (heads, size))
                self.observe_queries(number, own.transpose(1, 2))

        return hook

    def _open(self, batch: int, device: torch.device) -> None:
        """Make the rows of the first forward; check those of the others."""
        if self.rows and batch != len(self.rows):
            raise ValueError(f"compressed cache: a batch of {batch}, expected {len(self.rows)}; reset() begins anew")
        if not self.rows:
            self.rows = [self._new_row(device) for _ in range(batch)]
        if not self._views:
            self._views = [row.view() for row in self.rows]

    @torch.no_grad()
    def _commit(self) -> None:
        reported = self.rows[0].layers_reported
        if self.policy.reads_queries and reported < self.spec.layers:
            raise ValueError(
                f"compressed cache: policy {self.policy.name} reads queries, those of {reported} of "
                f"{self.spec.layers} layers were reported in this forward; run the model in a block of "
                "'with cache.attached(model):'"
            )
        keys = torch.stack([each for each, _ in self._pending], dim=1)
        values = torch.stack([each for _, each in self._pending], dim=1)
        positions = self.position + torch.arange(keys.shape[3], device=keys.device)
        cos, sin = rotation(self.spec, positions)
        unrotated = apply_rotary(keys, cos, -sin)
        for name, new in (("keys", unrotated), ("values", values)):  # of all rows, before the first of them changes
            check_tokens("compressed cache", name, new, self.spec, new.device, len(self.rows))
        for row, own_keys, own_values in zip(self.rows, unrotated, values, strict=True):
            row.append(own_keys, own_values)
        self._views, self._pending, self._shown = [], [], None
        self._say_initialized(True)

    def _say_initialized(self, holds: bool) -> None:
        """Tell models whether there is a history: PaliGemma treats the first forward as another one."""
        for layer in self.layers:
            layer.is_initialized = holds

    def _new_row(self, device: torch.device) -> SessionCache:
        # one view is enough: a forward has read it before the next append
        return SessionCache(self.spec, self.policy, views=1, max_bytes=self._max_bytes, device=device)


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """What a model's layer talks to; everything is done by the cache, which decides once for all layers."""

    is_sliding = False

    def __init__(self, owner: CompressedCache, number: int) -> None:
        super().__init__()
        self._owner, self._number = owner, number

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Rows are made when the first layer runs."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return what the layer attends to."""
        return self._owner.take(self._number, key_states, value_states)

    def get_mask_sizes(self, query_length: int | Tensor) -> tuple[int, int]:
        """Return the number of keys, and the position from which they would be numbered without gaps.

        Args:
            query_length: tokens that come; transformers before 5.4 gives their positions.
        """
        held = self._owner.tokens
        coming = len(query_length) if isinstance(query_length, Tensor) else query_length
        return held + coming, self._owner.position - held

    def get_seq_length(self) -> int:
        """Return the position of the next token."""
        return self._owner.position

    def get_max_length(self) -> int:
        """Return that there is no end."""
        return -1

    get_max_cache_shape = get_max_length  # its name in older versions


def _asking(model: PreTrainedModel) -> list[nn.Module]:
    """Return the module of each layer that gives queries before their rotation, behind a norm where there is one."""
    layers = [
        own
        for name, own in model.named_modules()
        if not any(eye in name for eye in EYES) and (hasattr(own, "q_proj") or hasattr(own, "qkv_proj"))
    ]
    return [getattr(own, "q_norm", None) or getattr(own, "q_proj", None) or own.qkv_proj for own in layers]
