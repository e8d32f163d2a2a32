r"""Tokens to a tree: a Pratt parser with limits on depth, nodes and items.

It reads any answer that belongs to the grammar, whatever the gold is; what the gold wants is
decided later. Nothing is worked out here. All functions raise Unreadable, TooLarge or Unevaluated.
"""

from openzaya.envs.math.limits import Unreadable
from openzaya.envs.math.primaries import Primaries
from openzaya.envs.math.syntax import Chain, Listing, Node, Num, Quantity, Seq
from openzaya.envs.math.tokens import tokenize
from openzaya.envs.math.units import count_noun, unit_name
from openzaya.envs.math.vocabulary import (
    BARS,
    BINOMIALS,
    CONNECTIVES,
    CONSTANTS,
    FRACTIONS,
    FUNCTIONS,
    GREEK,
    INFIX,
    OPENERS,
    POWERS,
    PRODUCT,
    RELATIONS,
    SIGN,
    UNEVALUATED,
)

_FACTOR_COMMANDS = (
    {f"\\{name}" for name in (*FUNCTIONS, *GREEK, *CONSTANTS)}
    | FRACTIONS
    | BINOMIALS
    | set(BARS)
    | {command for command in UNEVALUATED if command.startswith("\\")}
    | {r"\lfloor", r"\lceil", r"\boxed"}
) - {"|"}


def parse(text: str, names: frozenset[str] = frozenset(), thousands: bool = False) -> Node:
    """Return the tree of an answer; `names` are the variables that it may use."""
    parser = Parser(tokenize(text, thousands), names)
    if parser.peek() is None:
        raise Unreadable("the answer is empty")
    node = parser.listing()
    if parser.peek() is not None:
        raise Unreadable(f"{parser.rest()!r} does not fit what stands before it")
    return node


class Parser(Primaries):
    """Lists, relations, units and operators, down to the primaries."""

    def listing(self) -> Node:
        """Read items joined by commas and words; a single one is returned bare."""
        items, joiners = [self.chain()], list[str]()
        while (joiner := self._connective()) is not None:
            joiners.append(joiner)
            items.append(self.chain())
            self.check_items(len(items))
        return items[0] if not joiners else self.tall(Listing(tuple(items), tuple(joiners)))

    def _connective(self) -> str | None:
        """Go over `,`, `or`, `and`, or a comma with a word behind it."""
        found = None
        for _ in range(2):
            token = self.peek()
            if token is None or token.kind in ("number", "begin", "end"):
                break
            joiner = CONNECTIVES.get(token.text.strip(" ,").lower() or ",")
            if joiner is None or (joiner == "," and found is not None):
                break
            found = joiner
            self.position += 1
        return found

    def chain(self) -> Node:
        """Read members joined by relations; a single one is returned bare."""
        members, relations = [self._member()], list[str]()
        while (relation := self._relation()) is not None:
            self.position += 1
            relations.append(relation)
            members.append(self._member())
            self.check_items(len(members))
        return members[0] if not relations else self.tall(Chain(tuple(members), tuple(relations)))

    def _relation(self) -> str | None:
        """Return the relation that comes next; `in` at the very end is a unit."""
        if self.text() == "in" and self.peek(1) is None:
            return None
        return RELATIONS.get(self.text())

    def _member(self) -> Node:
        """Read an expression and the unit behind it."""
        node = self.expression(0)
        apart = (token := self.peek()) is not None and (token.spaced or token.kind == "text")
        words = self._unit_words()
        if not words:
            return node
        if words in ("percent", "%"):
            return self.node("percent", node)
        unit = unit_name(words) or (count_noun(words) if apart else None)
        if unit is None:
            raise Unreadable(f"{words[:40]!r} is neither a unit nor something counted")
        return self.tall(Quantity(node, unit))

    def _unit_words(self) -> str:
        """Go over what could be a unit, such as `km / h` or `cm^2`, and return it."""
        words = ""
        while (token := self.peek()) is not None:
            if token.kind in ("text", "word") and not self._joins():
                words += " " + token.text
            elif words and token.text in ("^", "/") and self.peek(1) is not None:
                words = words.rstrip() + token.text
                token = self.tokens[self.position + 1]
                if token.kind == "symbol" and token.text == "{" and self.text(3) == "}":
                    self.position += 1
                    words += self.tokens[self.position + 1].text
                    self.position += 1
                else:
                    words += token.text
                self.position += 1
            else:
                break
            self.position += 1
        return words.replace("/ ", "/").strip()

    def _joins(self) -> bool:
        """Say whether the next token is a relation or a connective, not a word of a unit."""
        token = self.peek()
        assert token is not None
        return self._relation() is not None or token.text.strip(" ,").lower() in ("and", "or")

    def expression(self, least: int) -> Node:
        """Read operators that bind at least as tightly as `least`."""
        self.enter()
        node = self._signed() if self.text() in ("-", "+", r"\pm", r"\mp") else self.factor()
        while True:
            op = self._infix(node)
            if op is None or POWERS.get(op, PRODUCT) < least:
                break
            if op != "juxt":
                self.position += 1
            node = self.node(op, node, self.expression(POWERS.get(op, PRODUCT) + 1))
        self.leave()
        return node

    def _infix(self, left: Node) -> str | None:
        """Return the operation that comes next: an operator, or a product without a sign."""
        text = self.text()
        if text in INFIX and text != "U":
            return INFIX[text]
        if text == "U" and isinstance(left, Seq) and self.text(1) in OPENERS:
            return "cup"
        return "juxt" if self.starts_factor(left) else None

    def starts_factor(self, left: Node) -> bool:
        """Say whether the next token continues a product that is written without a sign."""
        token = self.peek()
        if token is None or isinstance(left, Seq):
            return False
        if token.kind == "word":
            return self.is_known_word(token.text)
        if token.kind == "command":
            return token.text in _FACTOR_COMMANDS and not (self.bars and token.text in BARS)
        if token.text == "|":
            return not self.bars and isinstance(left, Num)
        return token.kind == "symbol" and token.text == "("

    def _signed(self) -> Node:
        """Read a sign and what it belongs to, a whole product."""
        sign = self.take().text
        op = {"-": "neg", "+": "pos"}.get(sign, "pm")
        return self.node(op, self.expression(SIGN))
