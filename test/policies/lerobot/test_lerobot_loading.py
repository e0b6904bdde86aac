"""How a checkpoint becomes a policy: names, options, memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_files import GOLDEN, edit, folder_of
from measure_loading import make
from safetensors.torch import load_file, save_file

from streaming_vla.policies.errors import CheckpointError, listed, shortened
from streaming_vla.policies.lerobot.folder import Folder
from streaming_vla.policies.lerobot.load import load_lerobot
from streaming_vla.policies.lerobot.options import LoadOptions
from streaming_vla.policies.lerobot.tensor_archive import BLOCK_BYTES, TensorArchive

Load = Callable[..., Any]
Copied = Callable[[str], Path]
MOST_MEMORY = 1.15  # of the weights


def loaded(folder: Path, **options: Any) -> Any:
    return load_lerobot(folder / "checkpoint", LoadOptions(**folder_of(folder), **options))


def test_the_spec_is_that_of_the_checkpoint(load: Load) -> None:
    spec = load("smolvla").spec
    assert spec.cameras == ("top", "wrist") and spec.image_size == 32 and spec.state_size == 6
    assert (spec.execution_horizon, spec.trained_horizon) == (12, 12)
    assert spec.tokens_per_observation == 2 * 4 + 48 + 1
    assert (spec.cache.layers, spec.cache.kv_heads, spec.cache.head_dim, spec.cache.query_heads) == (4, 2, 16, 4)
    assert spec.layout.absolute == (True,) * 6
    assert spec.image_fit == "letterbox_left_top" and load("pi0").spec.image_fit == "letterbox"
    assert load("pi05").spec.cameras == ("base_0_rgb", "left_wrist_0_rgb")  # an empty camera is none of the robot's


def test_options_say_what_no_file_does(load: Load) -> None:
    names = tuple("abcdef")
    spec = load("pi0", action_names=names, action_absolute=False, execution_horizon=5, control_period_s=0.05).spec
    assert spec.control_period_s == 0.05
    assert spec.layout.names == names and spec.layout.initial == (0.0,) * 6 and spec.execution_horizon == 5
    assert all(low < high for low, high in zip(spec.layout.low, spec.layout.high, strict=True))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device": "tpu9"}, "model_device is 'tpu9'"),
        ({"device": "meta"}, "expected cpu, cuda or cuda:N"),
        ({"device": "cuda:77"}, "CUDA devices that this torch can use"),
        ({"dtype": "int8"}, "model_dtype is 'int8'"),
        ({"action_names": ("a", "b")}, "expected 6 different ones"),
        ({"execution_horizon": 13}, "expected 1 to 12"),
        ({"cameras": {"front": "observation.images.front"}}, "model_cameras has front=observation.images.front"),
        ({"assets": GOLDEN / "nowhere"}, "is no folder"),
    ],
)
def test_options_that_do_not_fit_are_refused(load: Load, options: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        load("pi05", **options)


def test_a_camera_may_be_missing_where_lerobot_lets_it(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    policy = load("smolvla", cameras={"eye": "observation.images.wrist"})
    assert policy.spec.cameras == ("eye",) and "without the pictures of observation.images.top" in caplog.text
    with pytest.raises(CheckpointError, match=r"names no camera for observation\.images\.top"):
        load("act", cameras={"eye": "observation.images.wrist"})


def test_hub_files_may_lack_the_prefix_and_hold_the_head_alone(copied: Copied) -> None:
    folder = copied("pi05")
    file = folder / "checkpoint" / "model.safetensors"
    held = {name.removeprefix("model."): each for name, each in load_file(file).items()}
    embedding = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    head = "paligemma_with_expert.paligemma.lm_head.weight"
    assert not torch.equal(held[embedding], held[head])
    with_both = embedding_of(loaded(folder))
    assert torch.equal(with_both, held[embedding])
    held[head] = held.pop(embedding)
    save_file(held, file)
    assert torch.equal(embedding_of(loaded(folder)), with_both)


def embedding_of(policy: Any) -> torch.Tensor:
    return policy.network.embed_tokens.weight


def test_tied_heads_may_be_missing(copied: Copied) -> None:
    for policy in ("smolvla", "pi0"):
        folder = copied(policy)
        file = folder / "checkpoint" / "model.safetensors"
        save_file({name: each for name, each in load_file(file).items() if "lm_head" not in name}, file)
        loaded(folder)


def test_weights_of_half_precision_are_widened(copied: Copied) -> None:
    folder = copied("smolvla")
    file = folder / "checkpoint" / "model.safetensors"
    held = load_file(file)
    save_file({name: each.bfloat16() if "expert" in name else each.half() for name, each in held.items()}, file)
    policy = loaded(folder)
    name = "model.vlm_with_expert.lm_expert.layers.1.mlp.up_proj.weight"
    assert torch.equal(policy.network.expert[1].mlp.up_proj.weight, held[name].bfloat16().float())


def test_weights_too_large_for_a_format_are_refused(copied: Copied) -> None:
    folder = copied("pi0")
    file = folder / "checkpoint" / "model.safetensors"
    held = load_file(file)
    held["model.paligemma_with_expert.gemma_expert.model.layers.0.mlp.up_proj.weight"].fill_(3.4e38)
    save_file(held, file)
    loaded(folder)
    with pytest.raises(CheckpointError, match=r"is not finite \(in torch\.bfloat16\)"):
        loaded(folder, dtype="bfloat16")


def test_sizes_in_assets_or_in_the_checkpoint(copied: Copied) -> None:
    folder = copied("pi0")
    content = json.loads((folder / "geometry.json").read_text())["fixture"]
    (folder / "geometry.json").unlink()
    for place in ("vlm", "checkpoint"):
        (folder / place / "geometry.json").write_text(json.dumps(content))
        assert loaded(folder).spec.cache.layers == 3
        (folder / place / "geometry.json").unlink()


def test_the_published_sizes_are_known(copied: Copied) -> None:
    """Of the real model the weights are missing here; their names and shapes are asked for."""
    folder = copied("pi05")
    (folder / "geometry.json").unlink()
    (folder / "vlm" / "config.json").unlink()
    edit(folder / "checkpoint" / "config.json", lambda content: content.update(image_resolution=[224, 224]))
    with pytest.raises(CheckpointError, match=r"misses \(.*has other shapes .* for \(1152, 3, 14, 14\)"):
        loaded(folder)


def test_a_hub_cache_is_followed(copied: Copied, tmp_path: Path) -> None:
    folder, cache = copied("smolvla"), tmp_path / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted((folder / "checkpoint").iterdir())):
        file.rename(cache / "blobs" / f"blob{number}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"blob{number}")
    assert load_lerobot(snapshot, LoadOptions(assets=folder / "vlm")).spec.name == "abc"
    elsewhere = tmp_path / "elsewhere"
    (snapshot / "config.json").unlink()
    elsewhere.write_text("{}")
    (snapshot / "config.json").symlink_to(elsewhere)
    with pytest.raises(CheckpointError, match="is a link to"):
        load_lerobot(snapshot, LoadOptions(assets=folder / "vlm"))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8]
)
def test_an_archive_gives_back_what_was_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    count = BLOCK_BYTES // dtype.itemsize + 37  # more than a block
    held = {
        "a": (torch.arange(count) % 200).to(dtype),
        "empty": torch.zeros(0, dtype=dtype),
        "b": torch.arange(6).to(dtype).view(2, 3),
    }
    save_file(held, tmp_path / "file.safetensors", {"format": "pt"})
    archive = TensorArchive(tmp_path / "file.safetensors", "file")
    for name, value in held.items():
        assert torch.equal(archive.tensor(name, dtype), value)


def test_a_file_that_shrinks_is_said(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4 * BLOCK_BYTES // 4)}, tmp_path / "file.safetensors")
    archive = TensorArchive(tmp_path / "file.safetensors", "file")
    (tmp_path / "file.safetensors").write_bytes((tmp_path / "file.safetensors").read_bytes()[:BLOCK_BYTES])
    with pytest.raises(CheckpointError, match="became shorter"):
        archive.tensor("a")


def test_sentences_stay_short() -> None:
    assert listed(str(number) for number in range(40)).endswith("9, 10, 11 and 28 more")
    assert len(shortened("x" * 10_000)) < 200 and shortened("a\x1b[31m\n") == "a?[31m?"
    with pytest.raises(CheckpointError, match="is no folder"):
        Folder(Path("/nowhere/at/all"))


def test_loading_takes_little_more_than_the_weights(tmp_path: Path) -> None:
    """In a process of its own: what an earlier test has left in memory would hide what is taken.

    In bfloat16, where every number is converted on its way: of float32 less is taken beside the weights.
    """
    make(tmp_path / "large")
    script = Path(__file__).parent / "measure_loading.py"
    command = [sys.executable, str(script), str(tmp_path / "large"), "bfloat16"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    measured = json.loads(said.stdout.splitlines()[-1])
    assert measured["weights"] > 100e6
    assert measured["taken"] <= MOST_MEMORY * measured["weights"], measured
