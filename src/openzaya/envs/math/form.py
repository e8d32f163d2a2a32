"""Is an answer worked out? A right value is not enough: `37 * 49` restates a question.

A rational number must be written as one: an integer, a decimal, one fraction, a mixed number, a
percentage, or a mantissa times a power of ten. Other numbers may use roots, powers and arithmetic,
without more terms than the value needs. Formulas may use all elementary functions. What the gold
itself uses is always allowed, and `Rules.allow` adds to it.
"""

from collections.abc import Sequence

from openzaya.envs.math.limits import Unevaluated
from openzaya.envs.math.surds import Surd
from openzaya.envs.math.syntax import Apply, Based, Node, Num, children, walk

CLASSES = {
    **dict.fromkeys(("+", "-", "*", "/", "juxt"), "arithmetic"),
    "^": "power",
    **dict.fromkeys(("sqrt", "root"), "root"),
    **dict.fromkeys(("ln", "log", "lg"), "log"),
    "exp": "exp",
    **dict.fromkeys(("sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan"), "trig"),
    **dict.fromkeys(("sinh", "cosh", "tanh"), "exp"),
    "abs": "abs",
    **dict.fromkeys(("floor", "ceil"), "rounding"),
    "!": "factorial",
    "binom": "binomial",
}
"""The class of each operation; the names that `Rules.allow` takes."""

NUMBER_CLASSES = frozenset(("arithmetic", "power", "root"))
COUNTING_CLASSES = frozenset(("factorial", "binomial"))
FORMULA_CLASSES = NUMBER_CLASSES | {"log", "exp", "trig", "abs"}


def classes(node: Node) -> frozenset[str]:
    """Return the classes of all operations in a tree."""
    ops = (part.op for part in walk(node) if isinstance(part, Apply))
    return frozenset(CLASSES[op] for op in ops if op in CLASSES)


def is_literal(node: Node) -> bool:
    """Say whether a tree is how one writes a single rational number."""
    match node:
        case Num() | Based():
            return True
        case Apply("neg" | "pos", (inner,)):
            return is_literal(inner) and not _is_signed(inner)
        case Apply("percent" | "degree", (inner,)):
            return is_literal(inner)
        case Apply("/", (top, bottom)):
            return _is_whole(top) and _is_whole(bottom)
        case Apply("*", (inner, power)):
            return is_literal(inner) and _is_power_of_ten(power)
        case _:
            return _is_power_of_ten(node)


def _is_signed(node: Node) -> bool:
    return isinstance(node, Apply) and node.op in ("neg", "pos")


def _is_whole(node: Node) -> bool:
    """Say whether a tree is an integer with at most one sign."""
    match node:
        case Num(_, "integer", _):
            return True
        case Apply("neg" | "pos", (Num(_, "integer", _),)):
            return True
        case _:
            return False


def _is_power_of_ten(node: Node) -> bool:
    match node:
        case Apply("^", (Num(base, "integer", _), exponent)):
            return base == 10 and _is_whole(exponent)
        case _:
            return False


def num_terms(node: Node) -> int:
    """Count the summands of a tree, those inside products and roots included."""
    match node:
        case Apply("+" | "-", (a, b)):
            return num_terms(a) + num_terms(b)
        case _:
            inner = [num_terms(child) for child in children(node)]
            return 1 + sum(count - 1 for count in inner)


def check_number(node: Node, value: object, golds: Sequence[Node], allow: frozenset[str]) -> None:
    """Raise Unevaluated unless a number is worked out.

    `value` is what the tree evaluates to; `golds` are the numbers of the right answer, whose
    operations and number of terms are allowed.
    """
    used = allow.union(*(classes(gold) for gold in golds if not is_literal(gold)))
    if isinstance(value, Surd) and value.is_rational:
        if not is_literal(node):
            _refuse_others(node, used)
        return
    _refuse_others(node, used | NUMBER_CLASSES)
    if isinstance(value, Surd) and "arithmetic" not in allow:
        most = max(len(value.terms), *map(num_terms, golds))
        if num_terms(node) > most:
            raise Unevaluated(f"a sum of {num_terms(node)} terms whose value has {most}", "+")


def check_formula(node: Node, gold: Node, allow: frozenset[str]) -> None:
    """Raise Unevaluated for operations that a formula may not leave undone.

    Binomials and factorials say the same, so a gold that has one allows both.
    """
    of_gold = classes(gold)
    if of_gold & COUNTING_CLASSES:
        of_gold |= COUNTING_CLASSES
    _refuse_others(node, FORMULA_CLASSES | of_gold | allow)


def _refuse_others(node: Node, allowed: frozenset[str]) -> None:
    for part in walk(node):
        if isinstance(part, Apply) and CLASSES.get(part.op, "") not in (*allowed, ""):
            name = {"juxt": "a product", "^": "a power"}.get(part.op, f"{part.op!r}")
            raise Unevaluated(f"{name} is left to be worked out", part.op)
