"""A position in a list of tokens, and the limits on what is built from them."""

from openzaya.envs.math.limits import (
    MAX_DEPTH,
    MAX_HEIGHT,
    MAX_ITEMS,
    MAX_NODES,
    TooLarge,
    Unreadable,
)
from openzaya.envs.math.syntax import Node, children
from openzaya.envs.math.tokens import Token


class Reader:
    """Walks over tokens; the parser's parts build on it."""

    def __init__(self, tokens: list[Token], names: frozenset[str]) -> None:
        self.tokens = tokens
        self.names = names
        """Names that are variables: others are words."""
        self.position = 0
        self.depth = 0
        self.nodes = 0
        self.bars = 0
        """Open absolute values: a bar now closes one."""
        self.heights: dict[int, tuple[int, Node]] = {}
        """Height of the tree below each node, by its id; the node is kept so that the id is."""

    def peek(self, ahead: int = 0) -> Token | None:
        """Return a coming token, or None behind the last."""
        index = self.position + ahead
        return self.tokens[index] if index < len(self.tokens) else None

    def text(self, ahead: int = 0) -> str:
        """Return the text of a coming token if it is a symbol, command or word; else nothing."""
        token = self.peek(ahead)
        plain = token is not None and token.kind in ("symbol", "command", "word")
        return token.text if token is not None and plain else ""

    def take(self) -> Token:
        """Return the next token and go on. Raises Unreadable at the end."""
        token = self.peek()
        if token is None:
            raise Unreadable("the answer ends too early")
        self.position += 1
        return token

    def accept(self, text: str) -> bool:
        """Go over a symbol or command if it comes next."""
        if self.text() != text:
            return False
        self.position += 1
        return True

    def expect(self, text: str) -> None:
        """Go over a symbol or command. Raises Unreadable if another comes next."""
        if not self.accept(text):
            raise Unreadable(f"expected {text!r}, found {self.rest()!r}")

    def rest(self) -> str:
        """Return some of the tokens that are left, for messages."""
        return " ".join(t.text for t in self.tokens[self.position : self.position + 6])[:40]

    def enter(self) -> None:
        """Go one level deeper. Raises TooLarge."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLarge(f"more than {MAX_DEPTH} levels inside each other")

    def leave(self) -> None:
        """Come back from a level."""
        self.depth -= 1

    def count(self) -> None:
        """Count a node. Raises TooLarge."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise TooLarge(f"more than {MAX_NODES} operations and numbers")

    def tall(self, node: Node) -> Node:
        """Note the height of a node and return it. Raises TooLarge."""
        known = [self.heights.get(id(child), (1, child))[0] for child in children(node)]
        height = 1 + max(known, default=0)
        if height > MAX_HEIGHT:
            raise TooLarge(f"a tree of more than {MAX_HEIGHT} levels")
        self.heights[id(node)] = (height, node)
        return node

    @staticmethod
    def check_items(num_items: int) -> None:
        """Raise TooLarge for too long a list."""
        if num_items > MAX_ITEMS:
            raise TooLarge(f"more than {MAX_ITEMS} items")
