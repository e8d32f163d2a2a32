r"""Sets of real numbers as pieces: brackets, unions, inequalities, \mathbb{R} without points.

Endpoints are trees here; only `equal` knows their order, so overlaps are merged there.
"""

from dataclasses import dataclass

from openzaya.envs.math.labels import is_unknown
from openzaya.envs.math.limits import MAX_ITEMS, TooLarge, Unreadable
from openzaya.envs.math.syntax import Apply, Chain, Listing, Name, Node, Seq, walk


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One interval; None is an infinite end. A point has equal closed ends.

    `holes` are points that are left out of it.
    """

    low: Node | None
    high: Node | None
    low_closed: bool = False
    high_closed: bool = False
    holes: tuple[Node, ...] = ()


REALS = Piece(low=None, high=None)
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}


def pieces(node: Node) -> list[Piece]:
    """Return the pieces of a set of numbers, in no special order. Raises Unreadable."""
    if len(_unknowns(node)) > 1:
        raise Unreadable("conditions on more than one unknown")
    found = _pieces(node)
    if len(found) > MAX_ITEMS:
        raise TooLarge(f"{len(found)} intervals")
    return found


def _unknowns(node: Node) -> set[Node]:
    """Return what the inequalities and set-builders of a tree are about."""
    found: set[Node] = set()
    for part in walk(node):
        match part:
            case Chain(members, _) | Apply("builder", (*members, _)):
                found.update(member for member in members if is_unknown(member))
    return found


def _pieces(node: Node) -> list[Piece]:
    match node:
        case Name("reals"):
            return [REALS]
        case Seq("{", items, "}"):
            return [_point(item) for item in items]
        case Seq(opener, (low, high), closer):
            return [_bracketed(opener, low, high, closer)]
        case Apply("cup", (a, b)):
            return _pieces(a) + _pieces(b)
        case Apply("setminus", (Name("reals"), Seq("{", items, "}"))):
            return _without(items)
        case Apply("builder", (subject, condition)):
            return _built(subject, condition)
        case Chain():
            return _inequality(node)
        case Listing(items, joiners) if set(joiners) == {"or"}:
            return [piece for item in items for piece in _pieces(item)]
        case Listing(items, _):
            return _all_of(items)
        case _:
            raise Unreadable("an interval was asked for")


def _built(subject: Node, condition: Node) -> list[Piece]:
    """Read a set-builder: its subject is a name."""
    match subject:
        case Name() | Chain((Name(), Name("reals")), ("in",)):
            return _pieces(condition)
        case _:
            raise Unreadable("a set of something other than a name")


def _point(node: Node) -> Piece:
    return Piece(low=node, high=node, low_closed=True, high_closed=True)


def _end(node: Node, is_low: bool) -> Node | None:
    """Return an endpoint; None for the infinity of its side. Raises Unreadable for the other."""
    match node:
        case Name("infinity") | Apply("pos", (Name("infinity"),)):
            if is_low:
                raise Unreadable("an interval that starts at infinity")
            return None
        case Apply("neg", (Name("infinity"),)):
            if not is_low:
                raise Unreadable("an interval that ends at minus infinity")
            return None
        case _:
            return node


def _bracketed(opener: str, low: Node, high: Node, closer: str) -> Piece:
    """Read one interval in brackets; ]0, 1[ is the open one."""
    if opener not in "([]" or closer not in ")][":
        raise Unreadable("brackets of no interval")
    start, stop = _end(low, True), _end(high, False)
    low_closed, high_closed = opener == "[", closer == "]"
    if (start is None and low_closed) or (stop is None and high_closed):
        raise Unreadable("infinity is no member of an interval")
    return Piece(low=start, high=stop, low_closed=low_closed, high_closed=high_closed)


def _without(points: tuple[Node, ...]) -> list[Piece]:
    """Return the reals without points."""
    return [Piece(low=None, high=None, holes=points)]


def _inequality(chain: Chain) -> list[Piece]:
    """Read `a <= x < b`, `x > a`, `x != a`, `x = a`: one member names the unknown."""
    members, relations = chain.members, chain.relations
    named = [i for i, member in enumerate(members) if is_unknown(member)]
    if len(named) != 1 or len(members) > 3:
        raise Unreadable("an inequality needs one unknown and at most two bounds")
    if relations == ("in",) and named == [0]:
        return _pieces(members[1])
    if any(relation not in _FLIPPED for relation in relations):
        raise Unreadable("a relation that makes no interval")
    if len(members) == 3:
        if named != [1] or relations[0][0] != relations[1][0] or relations[0][0] not in "<>":
            raise Unreadable("two inequalities that do not run the same way")
        return [_between(chain)]
    if named == [0]:
        return _half_line(relations[0], members[1])
    return _half_line(_FLIPPED[relations[0]], members[0])


def _between(chain: Chain) -> Piece:
    (low, _, high), (first, second) = chain.members, chain.relations
    if first[0] == ">":
        low, high, first, second = high, low, second, first
    return Piece(
        low=_end(low, True), high=_end(high, False), low_closed=first[-1] == "=",
        high_closed=second[-1] == "=",
    )  # fmt: skip


def _half_line(relation: str, bound: Node) -> list[Piece]:
    """Return the numbers x with `x relation bound`."""
    match relation:
        case "<" | "<=":
            return [Piece(low=None, high=_end(bound, False), high_closed=relation == "<=")]
        case ">" | ">=":
            return [Piece(low=_end(bound, True), high=None, low_closed=relation == ">=")]
        case "!=":
            return _without((bound,))
        case _:
            return [_point(bound)]


def _all_of(items: tuple[Node, ...]) -> list[Piece]:
    """Read conditions that hold together: a lower and an upper bound, or points left out."""
    found = [_pieces(item) for item in items]
    if all(piece.holes for one in found for piece in one):
        return _without(tuple(hole for one in found for piece in one for hole in piece.holes))
    if len(found) != 2 or any(len(one) != 1 for one in found):
        raise Unreadable("conditions that make no single interval")
    first, second = found[0][0], found[1][0]
    low, high = (first, second) if first.high is None else (second, first)
    if low.high is not None or high.low is not None or low.low is None or high.high is None:
        raise Unreadable("conditions that are not a lower and an upper bound")
    return [
        Piece(low=low.low, high=high.high, low_closed=low.low_closed, high_closed=high.high_closed)
    ]
