"""Names for a value on the left of an equality: what may stand there without being checked."""

from openzaya.envs.math.syntax import Apply, Chain, Name, Node, Seq, Words, children

_CONSTANTS = ("pi", "e", "infinity", "reals")
_NEGATIONS = frozenset(("not", "no", "non", "nor", "neither", "never", "none", "false", "except"))
_FUNCTIONS = "fghFGH"
"""Names whose negative power before an argument is an inverse function, as in f^{-1}(x)."""


def is_label(node: Node, variables: frozenset[str]) -> bool:
    """Say whether a tree only names something: x, f(2), AB, a + b; not 2x, x + 1 or -x.

    A name that is a variable of the gold is a value, and so is any tree with a number in it; the
    arguments of a call such as f(2) do not count. What says no turns the rest into its opposite.
    """
    match node:
        case Words(text):
            return _NEGATIONS.isdisjoint(text.casefold().split())
        case Name(name):
            return name not in variables and name not in _CONSTANTS and name not in _NEGATIONS
        case Apply("juxt", (Name() as head, _)):
            return is_label(head, variables)
        case Apply("juxt", (Apply("^", (Name(head), Apply("neg"))), _)):
            return head in _FUNCTIONS
        case Apply("neg", _):
            return False
        case Apply() | Seq():
            parts = children(node)
            return bool(parts) and all(is_label(part, variables) for part in parts)
        case _:
            return False


def is_unknown(node: Node) -> bool:
    """Say whether an inequality may be about a tree: a name or a call, since |x| > 3 is not x > 3.

    A product of names reads like a call and counts as one.
    """
    match node:
        case Apply("juxt", (Name() as head, _)):
            return is_unknown(head)
        case Name() | Words():
            return is_label(node, frozenset())
        case _:
            return False


def split_label(node: Node, variables: frozenset[str]) -> tuple[Node | None, Node]:
    r"""Return (label, value) of `label = value` and `label \in value`, else (None, node)."""
    match node:
        case Chain((label, value), ("=" | "in",)) if is_label(label, variables):
            return label, value
        case Chain((value, label), ("=",)) if is_label(label, variables):
            return label, value
        case _:
            return None, node
