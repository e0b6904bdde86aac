"""Sizes of pi0 and pi0.5, which no config.json holds: those of the published models, or of a geometry.json."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from streaming_vla.policies.errors import CheckpointError, shortened
from streaming_vla.policies.lerobot.config import CONFIG, PiConfig
from streaming_vla.policies.lerobot.folder import Folder
from streaming_vla.policies.lerobot.layers import LayerSizes
from streaming_vla.policies.lerobot.stated import Layers, Positive, Size, Stated, Width, stated

GEOMETRY = "geometry.json"


class Tower(Stated):
    """A stack of Gemma layers."""

    width: Width
    depth: Layers
    mlp: Width
    heads: Layers
    kv_heads: Layers
    head_dim: Width


class Eyes(Stated):
    """A SigLIP vision tower."""

    width: Width
    depth: Layers
    mlp: Width
    heads: Layers
    image: Width
    patch: Width


class Geometry(Stated):
    """Sizes of a whole model."""

    text: Tower
    expert: Tower
    vision: Eyes
    vocab: Size
    rms_norm_eps: Positive = 1e-6
    vision_layer_norm_eps: Positive = 1e-6
    rope_base: Annotated[float, Field(gt=1.0, allow_inf_nan=False)] = 10_000.0

    def layer(self, tower: Tower, condition: int = 0) -> LayerSizes:
        """Return a layer of a tower; condition: width of what its adaptive norms are given."""
        return LayerSizes(
            tower.width,
            tower.mlp,
            tower.heads,
            tower.kv_heads,
            tower.head_dim,
            self.rms_norm_eps,
            unit_offset=True,
            condition=condition,
            gelu=True,
        )

    @property
    def picture_tokens(self) -> int:
        """Tokens of a picture."""
        return (self.vision.image // self.vision.patch) ** 2


VARIANTS = {
    "gemma_300m": Tower(width=1024, depth=18, mlp=4096, heads=8, kv_heads=1, head_dim=256),
    "gemma_2b": Tower(width=2048, depth=18, mlp=16384, heads=8, kv_heads=1, head_dim=256),
}
SIGLIP_SO400M = Eyes(width=1152, depth=27, mlp=4304, heads=16, image=224, patch=14)
VOCABULARY = 257_152


def published(text: str = "gemma_2b", expert: str = "gemma_300m") -> Geometry:
    """Return the sizes of the published models, by the variants of their towers."""
    return Geometry(text=VARIANTS[text], expert=VARIANTS[expert], vision=SIGLIP_SO400M, vocab=VOCABULARY)


def read_geometry(folder: Folder, assets: Folder | None, config: PiConfig) -> Geometry:
    """Return the sizes: of geometry.json in model_assets, in the checkpoint or beside it; else the published ones.

    Raises:
        CheckpointError: a size is missing, out of range or not that of model_assets/config.json, or the towers do not
            fit each other.
    """
    for place in (assets, folder, Folder(folder.path.resolve().parent, "the folder of the checkpoint")):
        if place is not None and place.has(GEOMETRY):
            content = place.json(GEOMETRY, "")
            who = f"{place.who}: {GEOMETRY}"
            geometry = stated(Geometry, content.get("fixture", content), who)
            break
    else:
        who = f"{folder.who}: {CONFIG}"
        for field in ("paligemma_variant", "action_expert_variant"):
            if getattr(config, field) not in VARIANTS:
                raise CheckpointError(
                    f"{who}: {field} is {shortened(getattr(config, field))}, expected one of {', '.join(VARIANTS)}, or "
                    f"the sizes in {GEOMETRY}"
                )
        geometry = published(config.paligemma_variant, config.action_expert_variant)
    _check(geometry, config.image_resolution, who)
    if assets is not None and assets.has(CONFIG):
        _check_vlm(geometry, assets)
    return geometry


def _check(geometry: Geometry, resolution: tuple[int, int], who: str) -> None:
    text, expert, vision = geometry.text, geometry.expert, geometry.vision
    for field in ("depth", "kv_heads", "head_dim"):
        if getattr(text, field) != getattr(expert, field):
            raise CheckpointError(
                f"{who}: {field} is {getattr(text, field)} in the text tower and {getattr(expert, field)} in the "
                "expert, expected the same: the expert reads its keys and values"
            )
    for tower in (text, expert):
        if tower.heads % tower.kv_heads or tower.head_dim % 2 or tower.width % 2:
            raise CheckpointError(
                f"{who}: {tower.heads} heads on {tower.kv_heads} of {tower.head_dim} fit no attention"
            )
    if vision.width % vision.heads or vision.image % vision.patch:
        raise CheckpointError(f"{who}: the vision tower's width or picture is no multiple of its heads or patches")
    if tuple(resolution) != (vision.image, vision.image):
        raise CheckpointError(
            f"{who}: pictures are {tuple(resolution)} in config.json, the vision tower reads {vision.image} squared; "
            f"give {GEOMETRY} where the model is no published one"
        )


def _check_vlm(geometry: Geometry, assets: Folder) -> None:
    """Compare with a PaliGemma configuration; its files leave out what is the default."""
    content: Any = assets.json(CONFIG, "")
    if content.get("model_type") != "paligemma":
        raise CheckpointError(
            f"{assets.who}: {CONFIG} is of a '{shortened(content.get('model_type'))}', expected 'paligemma': give the "
            "folder of google/paligemma-3b-pt-224 (no weights)"
        )
    both = {"hidden_size": "width", "num_hidden_layers": "depth"}
    pairs = (
        ("text_config", geometry.text, {**both, "head_dim": "head_dim"}),
        (
            "vision_config",
            geometry.vision,
            {**both, "image_size": "image"},
        ),
    )
    for part, tower, names in pairs:
        stated_there = content.get(part)
        for name, field in names.items():
            value = stated_there.get(name) if isinstance(stated_there, dict) else None
            if value is not None and value != getattr(tower, field):
                raise CheckpointError(
                    f"{assets.who}: {part}.{name} is {shortened(value)}, the policy has {getattr(tower, field)}: give "
                    f"the folder of its own model, or its sizes in {GEOMETRY}"
                )
