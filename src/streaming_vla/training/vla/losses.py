"""The losses of the two heads on one batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from streaming_vla.policies.lerobot.denoising import padded
from streaming_vla.policies.lerobot.flow_head.fresh_body import FreshBody
from streaming_vla.policies.lerobot.normalisation import Values
from streaming_vla.policies.lerobot.sample import Sample
from streaming_vla.policies.lerobot.vla_policy import VlaPolicy
from streaming_vla.training.augment import augment_pictures
from streaming_vla.training.plan import Augment
from streaming_vla.training.vla.batches import Batch
from streaming_vla.training.vla.passes import Context, Passes
from streaming_vla.training.vla.windows import EARLIEST

NOISY = 1.5  # of Beta(NOISY, 1), the time of a chunk's denoising, as both policies have it


def read_observations(
    policy: VlaPolicy, passes: Passes, batch: Batch, augment: Augment, generator: torch.Generator
) -> Context:
    """Return what the expert reads of a batch's observations, with pictures disturbed."""
    device, sizes = policy.sizes.device, policy.sizes
    if not augment.blank:
        augment = augment.model_copy(update={"blank": (0.0,) * batch.pictures.shape[1]})
    pictures = torch.from_numpy(batch.pictures).to(device).unsqueeze(1)
    pixels = augment_pictures(pictures, augment, generator).squeeze(1)
    samples = [
        policy.before(Sample({}, state, text, state))
        for state, text in zip(batch.state, batch.instructions, strict=True)
    ]
    words = [torch.tensor(sample.tokens, device=device) for sample in samples]
    states = padded(torch.from_numpy(np.stack([sample.state for sample in samples])).to(device), sizes.state)
    return passes.read(pixels, words, states)


def flow_loss(policy: VlaPolicy, passes: Passes, fresh: FreshBody, batch: Batch, context: Context) -> Tensor:
    """Return the loss of action flow matching (StreamingVLA, arXiv 2603.28565), |v - u|^2 / H^2 on average.

    The network answers one step of the flow, v / H, as a robot asks for it.
    """
    given, device, count = batch.flow, policy.sizes.device, len(policy.spec.layout.names)

    def tensor(values: Values) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(device)

    with torch.autocast(device.type, enabled=False):
        seen = tensor(policy.before.state.normalise(given.state))
        added = fresh(seen, tensor(given.lacking), tensor(np.asarray(given.age)))
    noisy = padded(tensor(given.moved), policy.sizes.action)
    time = tensor(np.asarray(given.time))
    answer = passes.answer(noisy, time, context, chunk=False, added=added)[..., :count]
    loss: Tensor = (answer - tensor(given.step)).square().mean()
    return loss


def chunk_loss(policy: VlaPolicy, passes: Passes, batch: Batch, context: Context, generator: torch.Generator) -> Tensor:
    """Return the flow-matching loss of whole chunks as SmolVLA and pi0.5 have it: from noise, at time 1, to actions.

    Columns without an action are noise on the way to 0, and learned as such.
    """
    device, sizes = policy.sizes.device, policy.sizes
    rows = policy.after.normalised(batch.chunk.astype(np.float64), batch.state[0]).astype(np.float32)
    actions = padded(torch.from_numpy(rows).to(device), sizes.action)
    noise = torch.randn(actions.shape, generator=generator, device=device)
    drawn = torch.rand(actions.shape[:1], generator=generator, device=device) ** (1.0 / NOISY)
    time = EARLIEST + (1.0 - EARLIEST) * drawn
    share = time[:, None, None]
    answer = passes.answer(
        share * noise + (1.0 - share) * actions, time.unsqueeze(1).expand(actions.shape[:2]), context, chunk=True
    )
    loss: Tensor = (answer - (noise - actions)).square().mean()
    return loss
