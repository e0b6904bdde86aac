"""Measures what a frozen language model loses under every cache: loss behind a long text, and needles in it.

One prefill of a text in one piece serves all methods, as kvpress works; each then holds `budget` tokens, and the
model reads on. Every text and needle is one line of cases.jsonl, written at once: a second call goes on where the
first one ended.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from captured import answer, cache_of, held_bytes, prefill
from methods import METHODS, ours, presses
from plots import draw
from rich.progress import Progress
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from kv_cache.gate_file import load_head_gate
from kv_cache.huggingface_spec import spec_of

HERE = Path(__file__).parent
DEVELOPED = 2  # pages on which a share of methods.py was chosen
TAIL = 128  # tokens whose loss is measured behind a text
FACT = "\nThe secret code of the {colour} {thing} is {code}.\n"
QUESTION = (
    "\nQuestion: What is the secret code of the {colour} {thing}?\nAnswer: The secret code of the {colour} {thing} is"
)
COLOURS, OBJECTS = ("purple", "silver", "crimson", "golden", "turquoise"), ("castle", "submarine", "violin", "glacier")
DEPTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9)


def main(
    model: Annotated[Path, typer.Option(help="folder of the model, safetensors and tokenizer")],
    gate: Annotated[Path, typer.Option(help="gate per head, from train gate --model")],
    texts: Annotated[Path, typer.Option(help="folder evaluate/ that texts.py writes")],
    out: Annotated[Path, typer.Option(help="folder of cases.jsonl, results.json and the picture")] = HERE,
    length: Annotated[int, typer.Option(min=128, help="tokens of a text")] = 2048,
    budget: Annotated[list[int] | None, typer.Option(help="tokens held; give it repeatedly")] = None,
    count: Annotated[int, typer.Option(min=0, help="texts")] = 20,
    needles: Annotated[int, typer.Option(min=0, help="needles, in texts of --needle-length")] = 40,
    needle_length: Annotated[int, typer.Option(min=128)] = 512,
    method: Annotated[list[str] | None, typer.Option(help="only these; give it repeatedly")] = None,
) -> None:
    """Measure every case that is not there yet, then write results.json and draw the picture."""
    torch.set_num_threads(1)
    names = method or list(METHODS)
    if unknown := set(names) - set(METHODS):
        raise typer.BadParameter(f"no method {', '.join(sorted(unknown))}; there are {', '.join(METHODS)}")
    bench = Bench(model, gate, texts, names)
    log = out / "cases.jsonl"
    there = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(case["kind"], case["length"], case["number"]) for case in there}
    jobs = [("needle", needle_length, number) for number in range(needles)]
    jobs += [("loss", length, number) for number in range(count)]
    with Progress() as progress, log.open("a") as file:
        for kind, tokens, number in progress.track(jobs, description="measuring"):
            if (kind, tokens, number) in done:
                continue
            budgets = [tokens // 4] if kind == "needle" else budget or [tokens // 8, tokens // 4]
            found = bench.needle(tokens, number, budgets) if kind == "needle" else bench.loss(tokens, number, budgets)
            case = {"kind": kind, "length": tokens, "number": number, **found}
            file.write(json.dumps(case) + "\n")
            file.flush()
            there.append(case)
    rows = summarise(there)
    command = f"python benchmarks/kv_models/run.py --length {length} --count {count} --needles {needles}"
    (out / "results.json").write_text(json.dumps({"command": command, "rows": rows}, indent=1) + "\n")
    draw(rows, out / "quality.png")


class Bench:
    """The model, the gate and the texts."""

    def __init__(self, model: Path, gate: Path, texts: Path, names: list[str]) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(
            model, local_files_only=True, use_safetensors=True, dtype=torch.float32
        ).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        self.spec, self.gate = spec_of(self.model), load_head_gate(gate)
        self.names, self.files = names, sorted(texts.glob("*.txt"))
        random.Random(0).shuffle(self.files)

    def text(self, length: int, number: int) -> list[int]:
        """Return tokens of the `number`-th page that is long enough."""
        long = [file for file in self.files if file.stat().st_size > 8 * length]
        if not long:
            raise typer.BadParameter(f"no text has {length} tokens")
        words = long[(number + DEVELOPED) % len(long)].read_text(encoding="utf-8")
        begin = len(words) // 5  # behind a page's head
        return self.ids(words[begin : begin + 12 * length])[:length]

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def loss(self, length: int, number: int, budgets: list[int]) -> dict[str, Any]:
        """Return the loss of TAIL tokens behind a text."""
        tokens = torch.tensor([self.text(length + TAIL, number)])
        wanted = tokens[0, length + 1 :]

        def judge(odds: Tensor) -> float:
            return -float(odds[:-1].gather(1, wanted.unsqueeze(1)).mean())

        return self._all(tokens[:, :length], tokens[:, length:], budgets, judge)

    def needle(self, length: int, number: int, budgets: list[int]) -> dict[str, Any]:
        """Return 1 where a code that stands in a text is named, 0 where it is not."""
        lot = random.Random(number)
        about = {"colour": lot.choice(COLOURS), "thing": lot.choice(OBJECTS), "code": lot.randint(1000, 9999)}
        fact, code = self.ids(FACT.format(**about)), self.ids(f" {about['code']}")
        question = self.ids(QUESTION.format(**about))
        depth = DEPTHS[number % len(DEPTHS)]
        text = self.text(length, 100 + number)[: length - len(fact)]
        place = int(depth * len(text))
        tokens = torch.tensor([text[:place] + fact + text[place:]])
        asked = torch.tensor([question + code])

        def judge(odds: Tensor) -> float:
            return float(odds[len(question) - 1 : -1].argmax(dim=1).tolist() == code)

        return {"depth": depth} | self._all(tokens, asked, budgets, judge)

    def _all(self, tokens: Tensor, behind: Tensor, budgets: list[int], judge: Any) -> dict[str, Any]:
        length, methods = tokens.shape[1], []
        pressing = presses(budgets, length, self.names)
        begin_s = time.process_time()
        found = prefill(self.model, tokens, pressing)
        prefill_s = time.process_time() - begin_s - sum(found.press_s.values())
        for name in self.names:
            for budget in budgets if name != "full" else [length]:
                key, begin_s = f"{name} {budget}", time.process_time()
                cache = cache_of(self.spec, found, key if key in pressing else ours(name, budget, self.gate), budget)
                append_s = time.process_time() - begin_s + found.press_s.get(key, 0.0)
                size, begin_s = held_bytes(cache), time.process_time()
                value = judge(answer(self.model, cache, behind, length))
                methods.append(
                    {
                        "method": name,
                        "budget": budget,
                        "value": value,
                        "bytes": size,
                        "compress_ms": 1000 * append_s,
                        "read_ms": 1000 * (time.process_time() - begin_s),
                    }
                )
        return {"prefill_ms": 1000 * prefill_s, "methods": methods}


def summarise(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per method, length and budget: perplexity, needles outside of the window, bytes, times."""
    gathered: dict[tuple[str, int, int, str], list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for case in cases:
        for found in case["methods"]:
            key = (found["method"], case["length"], found["budget"], case["kind"])
            gathered.setdefault(key, []).append((case, found))
    rows = []
    for (method, length, budget, kind), pairs in sorted(gathered.items()):
        far = [(case, found) for case, found in pairs if kind == "loss" or case["depth"] < 1 - budget / length]
        row: dict[str, Any] = {"method": method, "source": METHODS[method][0], "streaming": METHODS[method][1]}
        row |= {"tokens": length, "budget": budget, "kind": kind, "cases": len(pairs)}
        values = [found["value"] for _, found in pairs]
        if kind == "loss":
            row |= {"loss": statistics.fmean(values), "perplexity": 2.718281828459045 ** statistics.fmean(values)}
            row |= gap(method, length, budget, cases)
        else:
            row |= {"needle": sum(values), "needle_far": sum(found["value"] for _, found in far), "cases_far": len(far)}
        row |= {
            name: statistics.median(found[name] for _, found in pairs) for name in ("bytes", "compress_ms", "read_ms")
        }
        row["prefill_ms"] = statistics.median(case["prefill_ms"] for case, _ in pairs)
        rows.append(row)
    return rows


def gap(method: str, length: int, budget: int, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how much of the loss between a window and the full cache is closed, and in how many texts it is lower."""
    closed, whole, better, texts = 0.0, 0.0, 0, 0
    for case in cases:
        at = {(found["method"], found["budget"]): found["value"] for found in case["methods"]}
        if case["kind"] != "loss" or case["length"] != length or ("window", budget) not in at:
            continue
        window, full, here = at["window", budget], at["full", length], at.get((method, budget))
        if here is not None:
            closed, whole, texts = closed + window - here, whole + window - full, texts + 1
            better += here < window
    return {"gap_closed": closed / whole, "below_window": better, "paired": texts} if texts and whole else {}


if __name__ == "__main__":
    typer.run(main)
