"""Facts set into a text and questions for them far behind: what a memory is good for, in a page of any text."""

from __future__ import annotations

import numpy as np

from streaming_vla.training.token_files import Tokenize

PEOPLE = ("Alvarez", "Bennett", "Chowdhury", "Dubois", "Eriksen", "Gallagher", "Haddad", "Jansen", "Kowalski", "Moreau")
PLACES = ("Lisbon", "Oslo", "Nairobi", "Quito", "Hanoi", "Riga", "Tunis", "Perth", "Bergen", "Porto")
THINGS = ("locker", "invoice", "cabinet", "parcel", "meter", "archive", "vault", "router", "ticket", "account")
WORDS = ("copper", "falcon", "harbor", "lantern", "meadow", "orchid", "pepper", "quartz", "timber", "velvet")
FORMS = (  # fact, question, answer
    ("The {thing} number of {person} is {n}.", "What is it? The {thing} number of {person} is", " {n}."),
    ("{person} moved to {place}, extension {n}.", "Where is {person}? {person} moved to", " {place}, extension {n}."),
    (
        "The password for the {thing} in {place} is {word}-{n}.",
        "The password for the {thing} in {place} is",
        " {word}-{n}.",
    ),
    ("The {thing} of {person} is kept in {place}.", "The {thing} of {person} is kept in", " {place}."),
    ("{person} calls the {thing} {word} {n}.", "How does {person} call it? {person} calls the {thing}", " {word} {n}."),
)
FACTS = 5


def with_recall(tokens: np.ndarray, tokenize: Tokenize, random: np.random.Generator) -> np.ndarray:
    """Return [T] tokens with facts in the first half and questions in the second; what no longer fits is cut off."""
    half, inserts = len(tokens) // 2, []
    lists = {"person": PEOPLE, "place": PLACES, "thing": THINGS, "word": WORDS}
    for _ in range(FACTS):
        form = FORMS[random.integers(len(FORMS))]
        said: dict[str, object] = {name: choices[random.integers(len(choices))] for name, choices in lists.items()}
        said["n"] = random.integers(100, 100_000)
        fact, question, answer = (part.format(**said) for part in form)
        inserts.append((int(random.integers(half)), f"\n{fact}\n"))
        inserts.append((int(random.integers(half, len(tokens))), f"\n{question}{answer}\n"))
    pieces, before = [], 0
    for place, text in sorted(inserts):
        pieces += [tokens[before:place], np.asarray(tokenize(text), dtype=np.int64)]
        before = place
    return np.concatenate([*pieces, tokens[before:]])[: len(tokens)]
