"""The shape of a run in report.json: what a report of another version, or one written by hand, is checked against."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Base64Bytes, BaseModel, Field, ValidationError

Curve = list[tuple[float, float | None]]  # [s of the episode, value]; what is not finite is null


class _Picture(BaseModel):
    data: Base64Bytes
    time: str
    saliency: float | None
    bar: int
    high: bool
    sent: list[str]


class _Strip(BaseModel):
    name: str
    pictures: list[_Picture]


class _Timeline(BaseModel):
    episode: str
    worst_ms: float | None
    window: tuple[float, float]
    spans: list[tuple[str, float, float, bool]]


class _MemoryMap(BaseModel):
    data: Base64Bytes = b""
    about: str


class _Actions(BaseModel):
    replayed: Curve
    recorded: Curve


class _Run(BaseModel):
    name: str
    numbers: dict[str, Any]
    parameters: str
    halts_ms: list[float]
    timeline: _Timeline | Annotated[dict[str, Any], Field(max_length=0)]
    strips: list[_Strip]
    saliency: Curve = []
    saliency_threshold: float = 0.0
    kv_bytes: Curve = []
    kv_full_bytes: Curve = []
    chunks_kept: Curve = []
    memory_map: _MemoryMap | None = None
    actions: dict[str, _Actions] = {}


def check_run(run: object) -> None:
    """Check a run that was read from a file.

    Raises:
        ValueError: it has another shape; the message names the first place.
    """
    try:
        _Run.model_validate(run)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(each) for each in first["loc"])
        raise ValueError(f"{place or 'a run'}: {first['msg']}") from error
