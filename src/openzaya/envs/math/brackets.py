"""Brackets of all sorts: groups, sequences, set-builders, absolute values, matrices."""

from abc import abstractmethod

from openzaya.envs.math.limits import Unreadable
from openzaya.envs.math.reader import Reader
from openzaya.envs.math.syntax import EMPTY_SET, Apply, Listing, Matrix, Node, Seq
from openzaya.envs.math.vocabulary import CLOSERS, MATRICES, OPENERS


class Brackets(Reader):
    """Reads from an opening bracket to its closing one."""

    @abstractmethod
    def expression(self, least: int) -> Node:
        """Read operators that bind at least as tightly as `least`."""

    @abstractmethod
    def listing(self) -> Node:
        """Read items joined by commas and words."""

    def node(self, op: str, *args: Node) -> Apply:
        """Return a counted node."""
        self.count()
        made = Apply(op, args)
        self.tall(made)
        return made

    def absolute(self, closer: str) -> Node:
        """Read an absolute value up to its closing bar."""
        self.enter()
        self.bars += 1
        node = self.node("abs", self.expression(0))
        self.bars -= 1
        self.expect(closer)
        self.leave()
        return node

    def bracket(self, opener: str) -> Node:
        """Read up to the closing bracket; round brackets around one item only group."""
        self.enter()
        bars, self.bars = self.bars, 0
        opened = OPENERS.get(opener, opener)
        if opened == "{" and self.text() in (r"\}", "}"):
            self.position += 1
            node: Node = EMPTY_SET
        else:
            inner = self.listing()
            node = self._builder(inner) if opened == "{" else inner
            closer = CLOSERS.get(self.text())
            if closer is None or not _close(opened, closer):
                raise Unreadable(f"a bracket {opened!r} is not closed before {self.rest()!r}")
            self.position += 1
            node = self.tall(self._grouped(opener, opened, node, closer))
        self.bars = bars
        self.leave()
        return node

    def _builder(self, inner: Node) -> Node:
        r"""Read the condition of \{x | ...\}, if there is one."""
        if self.text() not in ("|", r"\mid", ":"):
            return inner
        self.position += 1
        return self.node("builder", inner, self.listing())

    @staticmethod
    def _grouped(opener: str, opened: str, inner: Node, closer: str) -> Node:
        """Return a group's content, or a sequence with its brackets."""
        if isinstance(inner, Listing):
            if set(inner.joiners) != {","}:
                raise Unreadable("words between the items of a bracket")
            return Seq(opened, inner.items, closer)
        if isinstance(inner, Apply) and inner.op == "builder":
            return inner
        if opener == "{" or opened + closer == "()":
            return inner
        return Seq(opened, (inner,), closer)

    def matrix(self, name: str) -> Node:
        """Read rows up to the end of the environment."""
        if name not in MATRICES:
            raise Unreadable(f"the environment {name[:20]!r} is not read")
        self.enter()
        rows: list[tuple[Node, ...]] = []
        while True:
            cells = [self.expression(0)]
            while self.accept("&"):
                cells.append(self.expression(0))
            rows.append(tuple(cells))
            self.check_items(len(rows) * len(cells))
            if self.accept("\\\\") and (end := self.peek()) is not None and end.kind != "end":
                continue
            break
        closing = self.take()
        if (closing.kind, closing.text) != ("end", name):
            raise Unreadable(f"expected the end of {name}, found {closing.text[:20]!r}")
        self.leave()
        return self.tall(Matrix(tuple(rows)))


def _close(opened: str, closer: str) -> bool:
    """Say whether two brackets fit: intervals may mix round and square ones."""
    if opened in ("{", "<"):
        return opened + closer in ("{}", "<>")
    return closer in (")", "]", "[")
