"""How alike two texts are, from 0 to 1: the metrics of OpenAI's `text_similarity` that can be had from the texts alone.

`cosine` needs an embedding model and `meteor` a dictionary of synonyms; they are refused. Words are runs of letters and
digits, without case.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq, Levenshtein

Words = Sequence[str]

WORD = re.compile(r"\w+")
LONGEST = 4  # n-grams of BLEU and GLEU


def similarity(metric: str, text: str, reference: str) -> float:
    if metric == "fuzzy_match":
        return fuzz.ratio(text, reference) / 100
    return METRICS[metric](words(text), words(reference))


def distance(text: str, other: str) -> float:
    """How many characters are inserted, deleted or replaced between two texts, as a share of the longer one's."""
    return Levenshtein.normalized_distance(text, other)


def words(text: str) -> Words:
    return WORD.findall(text.casefold())


def grams(text: Words, n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(text[i:] for i in range(n)), strict=False))


def rouge(n: int, text: Words, reference: Words) -> float:
    """ROUGE-n (Lin 2004): the F1 of the n-grams that both have."""
    ours, theirs = grams(text, n), grams(reference, n)
    return f1((ours & theirs).total(), ours.total(), theirs.total())


def rouge_l(text: Words, reference: Words) -> float:
    """ROUGE-L (Lin 2004): the F1 of the longest common subsequence."""
    return f1(LCSseq.similarity(text, reference), len(text), len(reference))


def f1(common: int, ours: int, theirs: int) -> float:
    return 2 * common / (ours + theirs) if common else 0.0


def gleu(text: Words, reference: Words) -> float:
    """Google's BLEU (Wu 2016): the smaller of precision and recall over all n-grams up to four words."""
    common = ours = theirs = 0
    for n in range(1, LONGEST + 1):
        left, right = grams(text, n), grams(reference, n)
        common, ours, theirs = common + (left & right).total(), ours + left.total(), theirs + right.total()
    return common / max(ours, theirs) if common else 0.0


def bleu(text: Words, reference: Words) -> float:
    """BLEU-4 (Papineni 2002) of a sentence, precisions above one word smoothed by adding one (Lin and Och 2004)."""
    precisions = []
    for n in range(1, LONGEST + 1):
        ours = grams(text, n)
        smoothing = int(n > 1)
        common = (ours & grams(reference, n)).total() + smoothing
        if not common:
            return 0.0
        precisions.append(common / (ours.total() + smoothing))
    brevity = min(1.0, math.exp(1 - len(reference) / len(text)))
    return brevity * math.exp(sum(map(math.log, precisions)) / LONGEST)


METRICS: dict[str, Callable[[Words, Words], float]] = {
    "bleu": bleu,
    "gleu": gleu,
    "rouge_l": rouge_l,
    **{f"rouge_{n}": partial(rouge, n) for n in range(1, 6)},
}
