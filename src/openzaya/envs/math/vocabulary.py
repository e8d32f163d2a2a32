"""The words and commands that the parser knows, by what they mean."""

FUNCTIONS = {
    **{name: name for name in ("sin", "cos", "tan", "sec", "csc", "cot", "sinh", "cosh", "tanh")},
    **{name: name for name in ("exp", "ln", "log", "sqrt", "abs", "floor")},
    **{f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan")},
    **{f"a{name}": f"a{name}" for name in ("sin", "cos", "tan")},
    "lg": "lg",
    "ceil": "ceil",
    "cosec": "csc",
}
"""Functions of one argument, by every spelling."""

INVERSES = {"sin": "asin", "cos": "acos", "tan": "atan"}
"""What f^{-1} means where it is not 1/f."""

CONSTANTS = {"pi": "pi", "infty": "infinity", "inf": "infinity", "infinity": "infinity"}

_GREEK = r"""
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu nu xi rho
    sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega ell
"""
GREEK = frozenset(_GREEK.split())

RELATIONS = {
    "=": "=",
    "==": "=",
    "<": "<",
    "<=": "<=",
    ">": ">",
    ">=": ">=",
    "!=": "!=",
    r"\lt": "<",
    r"\gt": ">",
    **dict.fromkeys((r"\le", r"\leq", r"\leqslant"), "<="),
    **dict.fromkeys((r"\ge", r"\geq", r"\geqslant"), ">="),
    **dict.fromkeys((r"\ne", r"\neq"), "!="),
    **dict.fromkeys((r"\approx", r"\simeq"), "~"),
    **dict.fromkeys((r"\in", "in"), "in"),
}

INFIX = {
    **dict.fromkeys((r"\cup", "cup", "U", "union"), "cup"),
    **dict.fromkeys((r"\setminus", r"\backslash"), "setminus"),
    "+": "+",
    "-": "-",
    r"\pm": "pm",
    r"\mp": "pm",
    **dict.fromkeys(("*", r"\cdot", r"\times", r"\ast"), "*"),
    **dict.fromkeys(("/", r"\div"), "/"),
    **dict.fromkeys(("^", "**"), "^"),
}
POWERS = {"cup": 10, "setminus": 10, "+": 20, "-": 20, "pm": 20, "*": 30, "/": 30, "^": 50}
"""How tightly each binds. Products without a sign bind like `*`, from left to right."""
PRODUCT, SIGN = POWERS["*"], POWERS["*"]

FRACTIONS = frozenset((r"\frac", r"\dfrac", r"\tfrac", r"\cfrac"))
BINOMIALS = frozenset((r"\binom", r"\dbinom", r"\tbinom"))
ACCENTS = frozenset(
    (r"\overline", r"\vec", r"\hat", r"\bar", r"\widehat", r"\overrightarrow", r"\underline")
)
DROPPED = frozenset((r"\angle", r"\triangle"))
UNEVALUATED = {
    r"\sum": "sum",
    r"\prod": "product",
    r"\int": "integral",
    r"\iint": "integral",
    r"\oint": "integral",
    r"\lim": "limit",
    r"\partial": "derivative",
    r"\max": "extremum",
    r"\min": "extremum",
    r"\gcd": "divisor",
    r"\det": "determinant",
    "diff": "derivative",
    "derivative": "derivative",
    "integrate": "integral",
    "integral": "integral",
    "sum": "sum",
    "limit": "limit",
    "lim": "limit",
    "binom": "binomial",
    "binomial": "binomial",
    "choose": "binomial",
    "factorial": "factorial",
    "gcd": "divisor",
    "lcm": "divisor",
}
"""Commands and words of work that is still to be done."""

OPENERS = {"(": "(", "[": "[", r"\{": "{", "{": "{", r"\langle": "<", r"\lbrace": "{"}
CLOSERS = {")": ")", "]": "]", r"\}": "}", "}": "}", r"\rangle": ">", r"\rbrace": "}", "[": "["}
BARS = {"|": "|", r"\vert": r"\vert", r"\lvert": r"\rvert", r"\|": r"\|"}
MATRICES = frozenset(("pmatrix", "bmatrix", "matrix", "array", "Bmatrix", "smallmatrix"))
CONNECTIVES = {
    **dict.fromkeys((r"\lor", r"\vee", r"\text{or}", "or"), "or"),
    **dict.fromkeys((r"\land", r"\wedge", r"\text{and}", "and"), "and"),
    ",": ",",
    ";": ",",
}
EMPTY_SETS = frozenset((r"\emptyset", r"\varnothing"))
EMPTY_WORDS = frozenset(
    (
        *("no solution", "no solutions", "no real solution", "no real solutions", "none"),
        *("empty set", "the empty set", "no such numbers"),
    )
)
