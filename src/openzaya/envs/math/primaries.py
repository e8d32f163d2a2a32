"""What an expression is made of: numbers, names, functions, fractions, brackets, matrices."""

from abc import abstractmethod
from fractions import Fraction

from openzaya.envs.math.brackets import Brackets
from openzaya.envs.math.limits import Unevaluated, Unreadable
from openzaya.envs.math.numerals import read_number, read_repeating
from openzaya.envs.math.syntax import (
    EMPTY_SET,
    Apply,
    Based,
    Name,
    Node,
    Num,
    Quantity,
    Words,
)
from openzaya.envs.math.tokens import Token
from openzaya.envs.math.vocabulary import (
    ACCENTS,
    BARS,
    BINOMIALS,
    CONSTANTS,
    DROPPED,
    EMPTY_SETS,
    FRACTIONS,
    FUNCTIONS,
    GREEK,
    INVERSES,
    OPENERS,
    UNEVALUATED,
)

_DEGREE = (r"\circ", r"\degree")


class Primaries(Brackets):
    """Reads one factor; the operators between factors are `Parser`'s."""

    @abstractmethod
    def starts_factor(self, left: Node) -> bool:
        """Say whether the next token continues a product that is written without a sign."""

    def factor(self) -> Node:
        """Read a primary with its powers, factorials, percent and degree signs."""
        node = self.primary()
        while True:
            text = self.text()
            if text in ("^", "**"):
                self.position += 1
                node = self.node("degree", node) if self._degree() else self._power(node)
            elif text == "!":
                self.position += 1
                node = self.node("!", node)
            elif text in ("%", r"\%"):
                self.position += 1
                node = self.node("percent", node)
            elif text == r"\degree":
                self.position += 1
                node = self.node("degree", node)
            else:
                return node

    def _degree(self) -> bool:
        r"""Go over \circ, bare or in braces."""
        if self.text() in _DEGREE:
            self.position += 1
            return True
        if self.text() == "{" and self.text(1) in _DEGREE and self.text(2) == "}":
            self.position += 3
            return True
        return False

    def _power(self, base: Node) -> Node:
        return self.node("^", base, self.exponent())

    def exponent(self) -> Node:
        """Read what stands behind ^; powers of powers go to the right."""
        self.enter()
        if self.accept("-"):
            node: Node = self.node("neg", self.exponent())
        else:
            node = self.argument()
            if self.text() in ("^", "**"):
                self.position += 1
                node = self._power(node)
        self.leave()
        return node

    def argument(self) -> Node:
        """Read one argument of a command: a group in braces or a single primary."""
        return self.primary(mixed=False)

    def primary(self, mixed: bool = True) -> Node:
        """Read a number, a name, a call, a bracket, a matrix."""
        self.count()
        self.enter()
        node = self._primary(self.take(), mixed)
        self.leave()
        return node

    def _primary(self, token: Token, mixed: bool) -> Node:
        if token.kind == "number":
            return self._number(token, mixed)
        if token.kind == "repeating":
            return read_repeating(token)
        if token.kind == "word":
            return self._word(token.text)
        if token.kind == "text":
            return self._text(token.text)
        if token.kind == "begin":
            return self.matrix(token.text)
        if token.text in OPENERS or token.text == "]":
            return self.bracket(token.text)
        if token.text in BARS:
            return self.absolute(BARS[token.text])
        return self._command(token.text)

    def _number(self, token: Token, mixed: bool) -> Node:
        """Read a number, an integer in a base, or a mixed number."""
        number = read_number(token)
        if number.form != "integer":
            return number
        if self.accept("_"):
            base = self.argument()
            if not isinstance(base, Num) or base.form != "integer" or not 2 <= base.value <= 10:
                raise Unreadable("a base is a whole number from 2 to 10")
            return Based(token.text, int(base.value))
        return self._mixed(number) if mixed else number

    def _mixed(self, whole: Num) -> Node:
        r"""Read the fraction of `3 1/2` or `3\frac{1}{2}`; return the number alone if none."""
        start = self.position
        following = self.peek()
        if self.text() in FRACTIONS:
            self.position += 1
            part = self._fraction()
        elif (
            following is not None
            and following.kind == "number"
            and following.spaced
            and self.text(1) == "/"
        ):
            top = read_number(self.take())
            self.position += 1
            part = Apply("/", (top, self.primary(mixed=False)))
        else:
            return whole
        match part:
            case Apply("/", (Num(top_value, "integer", n), Num(bottom, "integer", d))):
                if not 0 < top_value < bottom:
                    raise Unreadable("a whole number before a fraction that is not below 1")
                return Num(whole.value + top_value / bottom, "mixed", whole.digits + n + d)
            case _ if following is not None and following.kind == "number":
                raise Unreadable("two numbers side by side")
        self.position = start  # a product such as 2\frac{x}{3}: the operators read it again
        return whole

    def _fraction(self) -> Node:
        r"""Read both arguments of \frac; \frac12 splits its two digits."""
        token = self.peek()
        if token is not None and token.kind == "number" and token.text.isdigit():
            if len(token.text) == 2:
                self.position += 1
                halves = [Num(Fraction(int(digit)), "integer", 1) for digit in token.text]
                return self.node("/", *halves)
            if len(token.text) > 2:
                raise Unreadable(f"a fraction of {token.text[:12]!r} without braces")
        return self.node("/", self.argument(), self.argument())

    def is_known_word(self, word: str) -> bool:
        """Say whether a word is mathematics: a function, a constant or variables side by side."""
        if word in FUNCTIONS or word in CONSTANTS or word in UNEVALUATED:
            return True
        return word in self.names or all(char in self.names or char == "e" for char in word)

    def _word(self, word: str) -> Node:
        """Read a name, a call, or letters that are variables side by side."""
        if word in UNEVALUATED:
            raise Unevaluated(f"{word!r} is work still to be done", UNEVALUATED[word])
        if word in FUNCTIONS:
            return self._call(FUNCTIONS[word])
        if word in CONSTANTS:
            return Name(CONSTANTS[word])
        if len(word) > 1 and word not in self.names and self.is_known_word(word):
            node: Node = Name(word[0])
            for letter in word[1:-1]:
                node = self.node("juxt", node, Name(letter))
            last = self._subscripted(word[-1])
            return self.node("juxt", node, last if self.text() != "^" else self.factor_of(last))
        return self._subscripted(word)

    def factor_of(self, node: Node) -> Node:
        """Read the power of a node that is already there: xy^2 is x times y^2."""
        self.expect("^")
        return self._power(node)

    def _subscripted(self, word: str) -> Name:
        """Return a name with its subscript and primes."""
        if self.accept("_"):
            index = self.argument()
            if not isinstance(index, Name | Num):
                raise Unreadable(f"the subscript of {word!r} is no name or number")
            word += f"_{index.name if isinstance(index, Name) else index.value}"
        while self.accept("'"):
            word += "'"
        return Name(word)

    def _text(self, text: str) -> Node:
        """Read a currency sign before a number; other text is not mathematics."""
        if text == "$":
            return Quantity(self.expression(0), "dollar")
        return Words(text)

    def _call(self, function: str) -> Node:
        """Read a function's power, base and operand."""
        if function == "sqrt":
            return self._root()
        power = base = None
        if self.text() in ("^", "**"):
            self.position += 1
            power = self.exponent()
        if function == "log" and self.accept("_"):
            base = self.argument()
        if isinstance(power, Apply) and power.op == "neg" and function in INVERSES:
            if power.args != (Num(Fraction(1), "integer", 1),):
                raise Unreadable(f"{function} to a negative power other than -1")
            function, power = INVERSES[function], None
        bracketed = self.text() in ("(", "{", "[")
        operand = self.primary() if bracketed else self._operand()
        call = self.node(function, operand) if base is None else self.node("log", operand, base)
        return call if power is None else self.node("^", call, power)

    def _operand(self) -> Node:
        """Read factors side by side up to the next function: sin 2x is sin(2x)."""
        node = self.factor()
        while self.starts_factor(node):
            text = self.text()
            if text == "(" or text.removeprefix("\\") in FUNCTIONS:
                break
            node = self.node("juxt", node, self.factor())
        return node

    def _root(self) -> Node:
        """Read a root, its degree in square brackets."""
        if not self.accept("["):
            return self.node("sqrt", self.argument())
        degree = self.expression(0)
        self.expect("]")
        return self.node("root", self.argument(), degree)

    def _command(self, command: str) -> Node:
        """Read what starts with a backslash; anything else is no start of an expression."""
        name = command[1:]
        if command in FRACTIONS:
            return self._fraction()
        if command in BINOMIALS:
            return self.node("binom", self.argument(), self.argument())
        if command in UNEVALUATED:
            raise Unevaluated(f"{command} is work still to be done", UNEVALUATED[command])
        if name in FUNCTIONS:
            return self._call(FUNCTIONS[name])
        if name in CONSTANTS:
            return Name(CONSTANTS[name])
        if name in GREEK:
            return self._subscripted(name)
        if command in EMPTY_SETS:
            return EMPTY_SET
        return self._decorated(command)

    def _decorated(self, command: str) -> Node:
        """Read what only changes the looks, and rounding brackets."""
        if command == r"\R":
            return Name("reals")
        if command in (r"\boxed", r"\fbox"):
            return self.argument()
        if command in DROPPED:
            return self.primary()
        if command in ACCENTS:
            return self.node("accent", self.argument())
        if command in (r"\lfloor", r"\lceil"):
            node = self.node("floor" if command == r"\lfloor" else "ceil", self.expression(0))
            self.expect(command.replace("l", "r", 1))
            return node
        raise Unreadable(f"{command[:20]!r} cannot start an expression")
