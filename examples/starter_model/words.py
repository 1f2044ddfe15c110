"""The English that the starter's text tower learns: WordNet, ImageNet's classes, prompts.

`texts` are what a teacher's sentence embeddings are distilled from: WordNet's words and glosses,
what it says a thing is a kind of, nouns in the paper's prompts, and with adjectives and each other.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_model.templates import class_set, template_set, template_sets
from query_builder.synsets import parse_synset

PHYSICAL_ENTITY = "00001930"  # its synset in WordNet 3.0
LONGEST = 200  # characters of a text
JOINS = ("and a", "on a", "with a", "in front of a", "next to a", "in a")


@dataclass(frozen=True)
class Synset:
    """One meaning: its words, what it means, and the synsets of what it is a kind of."""

    words: tuple[str, ...]
    gloss: str
    hypernyms: tuple[str, ...]


@dataclass(frozen=True)
class ClassTexts:
    """What is said of a class of ImageNet: the paper's name, WordNet's words, its gloss."""

    name: str
    words: str
    gloss: str


def read_synsets(folder: Path, part_of_speech: str) -> dict[str, Synset]:
    """WordNet's `data.noun` and the like by the number of the synset (wndb(5WN)).

    Args:
        folder: the one with WordNet's files.
        part_of_speech: "noun", "verb" or "adj".
    """
    found = {}
    for line in (folder / f"data.{part_of_speech}").read_text(encoding="ascii").splitlines():
        if line.startswith(" "):  # the licence
            continue
        fields, _, gloss = line.partition(" | ")
        parts = fields.split(" ")
        pointers = 4 + 2 * int(parts[3], 16)  # behind the words
        kinds = parts[pointers + 1 : pointers + 1 + 4 * int(parts[pointers])]
        found[parts[0]] = Synset(
            tuple(parse_synset(line)),
            gloss.split('; "')[0].strip(),  # without examples
            tuple(
                synset
                for pointer, synset in zip(kinds[::4], kinds[1::4], strict=True)
                if pointer in ("@", "@i")
            ),
        )
    return found


def imagenet_classes(nouns: dict[str, Synset]) -> list[ClassTexts]:
    """Of ImageNet's thousand classes, in their order. timm knows their synsets."""
    import clip_model._torchvision  # noqa: F401, I001
    from timm.data import ImageNetInfo

    synsets = [nouns[label.removeprefix("n")] for label in ImageNetInfo().label_names()]
    names = map(str, class_set("ImageNet"))
    return [
        ClassTexts(name, ", ".join(synset.words), f"{name}: {synset.gloss}")
        for name, synset in zip(names, synsets, strict=True)
    ]


def texts(folder: Path, captions: Sequence[str], seed: int = 0) -> list[str]:
    """What the text tower is taught, each text once, the same for a seed.

    Args:
        folder: WordNet's.
        captions: names of the drawings.
    """
    rng = random.Random(seed)
    nouns, verbs, adjectives = (read_synsets(folder, part) for part in ("noun", "verb", "adj"))
    found = [*_words(nouns), *sorted({synset.gloss for synset in nouns.values()}), *captions]
    found += [*_words(verbs), *_words(adjectives), *_composed(nouns, _words(adjectives), rng)]
    return list(dict.fromkeys(text[:LONGEST] for text in found))


def _words(synsets: dict[str, Synset]) -> list[str]:
    return sorted({word for synset in synsets.values() for word in synset.words})


def _composed(
    nouns: dict[str, Synset], adjectives: Sequence[str], rng: random.Random
) -> Iterator[str]:
    """Prompts, things with a property, two things, and what kind of thing a thing is."""
    things = sorted({word for word in _words(_physical(nouns)) if word == word.lower()})
    prompts = sorted({prompt for name in template_sets() for prompt in template_set(name)})
    for _ in range(80_000):
        yield rng.choice(prompts).format(rng.choice(things))
    for _ in range(30_000):
        article = rng.choice(("", "a ", "the ", "two "))
        yield f"{article}{rng.choice(adjectives)} {rng.choice(things)}"
    for _ in range(30_000):
        yield f"a {rng.choice(things)} {rng.choice(JOINS)} {rng.choice(things)}"
    synsets = list(nouns.values())
    for _ in range(60_000):
        synset = rng.choice(synsets)
        word = rng.choice(synset.words)
        kinds = [nouns[number].words[0] for number in synset.hypernyms]
        is_kind = kinds and rng.random() < 0.5
        yield f"{word}, a kind of {rng.choice(kinds)}" if is_kind else f"{word}, {synset.gloss}"


def _physical(nouns: dict[str, Synset]) -> dict[str, Synset]:
    """What is a kind of physical entity, at whatever distance."""
    known = {PHYSICAL_ENTITY: True}

    def is_physical(number: str) -> bool:
        if number not in known:
            known[number] = False  # while it is looked for
            known[number] = any(is_physical(above) for above in nouns[number].hypernyms)
        return known[number]

    return {number: synset for number, synset in nouns.items() if is_physical(number)}
