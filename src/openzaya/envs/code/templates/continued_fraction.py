"""Continued fractions."""

from random import Random

from openzaya.envs.code.grammar import Given, Whole

STATEMENT = (
    "Write top/bottom as a continued fraction a0 + 1/(a1 + 1/(a2 + ...)) with a0 >= 0, all later "
    "terms at least 1 and the last of several terms at least 2. Return the list of terms and the "
    "fraction in lowest terms that remains when the last term is left out ([0, 1] if there is just "
    "one term)."
)
INPUTS = {"top": Whole(0, 9999), "bottom": Whole(1, 9999)}
OUTPUT = "a list: the terms, then [top, bottom]"
REJECTED: tuple[Given, ...] = (
    {"top": 1, "bottom": 0},
    {"top": -1, "bottom": 2},
    {"top": 10**9, "bottom": 1},
)


def generate(rng: Random, size: int) -> Given:
    """Fractions with more digits for larger sizes."""
    high = min(9999, 4 * size * size)
    return {"top": rng.randint(0, high), "bottom": rng.randint(1, high)}


SOLUTIONS = (
    """\
def solve(top, bottom):
    terms = []
    while bottom > 0:
        terms.append(top // bottom)
        top, bottom = bottom, top % bottom
    if len(terms) == 1:
        return [terms, [0, 1]]
    above, below = terms[-2], 1
    for term in reversed(terms[:-2]):
        above, below = term * above + below, above
    return [terms, [above, below]]
""",
    """\
def solve(top, bottom):
    terms = []
    h0, k0, h1, k1 = 0, 1, 1, 0
    kept = [0, 1]
    while True:
        whole, rest = divmod(top, bottom)
        if terms:
            kept = [h1, k1]
        terms.append(whole)
        h0, k0, h1, k1 = h1, k1, whole * h1 + h0, whole * k1 + k0
        if rest == 0:
            return [terms, kept]
        top, bottom = bottom, rest
""",
)
