"""The mistakes that mutants make: small changes of one node of a syntax tree.

Every operator is a mistake that people make: a bound off by one, a comparison turned around, a
special case forgotten, a wrong start value, a branch lost, a division that rounds the other way, a
name taken for another, a return too early, and more.
"""

import ast
import copy
from collections.abc import Callable, Iterator

MAX_RENAMES = 2
"""Other names tried in place of one use of a name."""

Edit = tuple[str, Callable[[ast.AST], None]]
"""A change: its operator's name, and what does it in place to a copy of the node."""

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_ARITHMETIC: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add,),
    ast.FloorDiv: (ast.Mod, ast.Div),
    ast.Mod: (ast.FloorDiv,),
    ast.BitXor: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitAnd: (ast.BitOr,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
    ast.Pow: (ast.Mult,),
}
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list", "abs": "int"}
_METHODS = {"append": "remove", "find": "index", "pop": "copy", "bisect_left": "bisect_right"}


def edits(node: ast.AST, tree: ast.Module) -> Iterator[Edit]:
    """Yield all changes of a node; `tree` tells which names there are."""
    yield from _values(node)
    yield from _operations(node)
    yield from _branches(node)
    yield from _blocks(node)
    yield from _loops(node)
    yield from _sizes(node)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        for name in _neighbours(node.id, tree):
            yield "shadowed variable", _set("id", name)


def _set(field: str, value: object) -> Callable[[ast.AST], None]:
    return lambda node: setattr(node, field, value)


def _put(field: str, index: int, value: object) -> Callable[[ast.AST], None]:
    def change(node: ast.AST) -> None:
        getattr(node, field)[index] = value

    return change


def _cut(field: str, index: int) -> Callable[[ast.AST], None]:
    def change(node: ast.AST) -> None:
        del getattr(node, field)[index]

    return change


def _become(make: Callable[[ast.AST], ast.AST]) -> Callable[[ast.AST], None]:
    """Turn a node into another in place: parents keep pointing at it."""

    def change(node: ast.AST) -> None:
        new = make(copy.copy(node))
        node.__class__ = new.__class__
        node.__dict__.clear()
        node.__dict__.update(new.__dict__)

    return change


def _values(node: ast.AST) -> Iterator[Edit]:
    """Constants, start values and bounds."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield "off by one", _set("value", node.value + 1)
        yield "off by one", _set("value", node.value - 1)
        if node.value not in (0, 1):
            yield "wrong constant", _set("value", 0)
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield "wrong start", _set("value", not node.value)
    if isinstance(node, ast.Assign):
        yield from _starts(node.value)
    yield from _bounds(node)


def _starts(value: ast.expr) -> Iterator[Edit]:
    if isinstance(value, ast.Constant) and value.value is None:
        yield "wrong start", _set("value", ast.Constant(0))
    if isinstance(value, ast.List) and not value.elts:
        yield "wrong start", _set("value", ast.List([ast.Constant(0)], ast.Load()))


def _bounds(node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice | ast.Tuple):
        yield "off by one", _shift("slice", -1)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        last = 0 if len(node.args) == 1 else 1
        yield "off by one", _shift_item("args", last, -1)
        yield "off by one", _shift_item("args", last, 1)
    if isinstance(node, ast.Slice):
        for field in ("lower", "upper"):
            if getattr(node, field) is not None:
                yield "off by one", _shift(field, 1)
                yield "dropped bound", _set(field, None)


def _moved(value: ast.expr, by: int) -> ast.expr:
    operator = ast.Add() if by > 0 else ast.Sub()
    return ast.BinOp(value, operator, ast.Constant(abs(by)))


def _shift(field: str, by: int) -> Callable[[ast.AST], None]:
    return lambda node: setattr(node, field, _moved(getattr(node, field), by))


def _shift_item(field: str, index: int, by: int) -> Callable[[ast.AST], None]:
    def change(node: ast.AST) -> None:
        items = getattr(node, field)
        items[index] = _moved(items[index], by)

    return change


def _operations(node: ast.AST) -> Iterator[Edit]:
    """Operators and calls."""
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            for other in _COMPARISONS[type(operator)]:
                yield "comparison flip", _put("ops", index, other())
    if isinstance(node, ast.BinOp | ast.AugAssign):
        for arithmetic in _ARITHMETIC.get(type(node.op), ()):
            name = "int division" if isinstance(node.op, ast.FloorDiv) else "wrong operator"
            yield name, _set("op", arithmetic())
    if isinstance(node, ast.BinOp):
        yield from _divisions(node)
    if isinstance(node, ast.BoolOp):
        other_op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "boolean flip", _set("op", other_op)
        for index in range(len(node.values)):
            yield "lost condition", _cut("values", index)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield "lost operation", _become(lambda old: old.operand)  # type: ignore[attr-defined]
    yield from _calls(node)


def _divisions(node: ast.BinOp) -> Iterator[Edit]:
    if isinstance(node.op, ast.FloorDiv):
        yield "int division", _become(_rounded_up)
    if isinstance(node.op, ast.Mod):
        yield "lost operation", _become(lambda old: old.left)  # type: ignore[attr-defined]


def _rounded_up(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.BinOp)
    negated = ast.BinOp(ast.UnaryOp(ast.USub(), node.left), ast.FloorDiv(), node.right)
    return ast.UnaryOp(ast.USub(), negated)


def _calls(node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.Name) and node.id in _CALLS and isinstance(node.ctx, ast.Load):
        yield "wrong function", _set("id", _CALLS[node.id])
    if isinstance(node, ast.Attribute) and node.attr in _METHODS:
        yield "wrong function", _set("attr", _METHODS[node.attr])
    if isinstance(node, ast.Call):
        for index in range(len(node.keywords)):
            yield "lost argument", _cut("keywords", index)
        if isinstance(node.func, ast.Name) and len(node.args) > 1:
            yield "swapped arguments", lambda call: call.args.reverse()  # type: ignore[attr-defined]


def _branches(node: ast.AST) -> Iterator[Edit]:
    """Conditions: a special case forgotten, a branch lost."""
    if isinstance(node, ast.If):
        leaves = isinstance(node.body[-1], ast.Return | ast.Continue | ast.Break)
        name = "missing edge case" if leaves and not node.orelse else "dropped branch"
        yield name, _set("test", ast.Constant(False))
        yield "dropped condition", _set("test", ast.Constant(True))
        if node.orelse:
            yield "dropped branch", _set("orelse", [])
    if isinstance(node, ast.IfExp):
        yield "dropped branch", _become(lambda old: old.body)  # type: ignore[attr-defined]
        yield "dropped branch", _become(lambda old: old.orelse)  # type: ignore[attr-defined]
    if isinstance(node, ast.comprehension):
        for index in range(len(node.ifs)):
            yield "lost condition", _cut("ifs", index)
    if isinstance(node, ast.Break):
        yield "wrong jump", _become(lambda _: ast.Continue())
    if isinstance(node, ast.Continue):
        yield "wrong jump", _become(lambda _: ast.Break())


def _loops(node: ast.AST) -> Iterator[Edit]:
    """What a loop runs over: first or last item left out, repeats lost, order changed."""
    if not isinstance(node, ast.For | ast.comprehension):
        return
    over = node.iter
    if isinstance(over, ast.Name | ast.Call):
        items = ast.Call(ast.Name("list", ast.Load()), [over], [])
        first, last = ast.Slice(ast.Constant(1)), ast.Slice(None, ast.Constant(-1))
        yield "missing edge case", _set("iter", ast.Subscript(items, first, ast.Load()))
        yield "missing edge case", _set("iter", ast.Subscript(items, last, ast.Load()))
    if isinstance(over, ast.Name):
        for function in ("sorted", "reversed"):
            yield "wrong order", _set("iter", _call(function, over))
        once = ast.Attribute(ast.Name("dict", ast.Load()), "fromkeys", ast.Load())
        yield "lost repeats", _set("iter", ast.Call(once, [over], []))  # a set has no fixed order


def _sizes(node: ast.AST) -> Iterator[Edit]:
    """Values: a sign lost, a number that outgrows its type, a limit moved."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        yield "lost sign", _become(lambda old: _call("abs", old))
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Mult):
        for limit in (7, 16):
            yield "overflow", _become(_wrapped(limit))
    if isinstance(node, ast.Compare) and isinstance(
        node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE
    ):
        yield "off by one", _shift_item("comparators", 0, 1)
        yield "off by one", _shift_item("comparators", 0, -1)


def _call(name: str, argument: ast.AST) -> ast.Call:
    assert isinstance(argument, ast.expr)
    return ast.Call(ast.Name(name, ast.Load()), [argument], [])


def _wrapped(limit: int) -> Callable[[ast.AST], ast.AST]:
    """Return what turns `a += b` into `a = (a + b) % limit`."""

    def make(node: ast.AST) -> ast.AST:
        assert isinstance(node, ast.AugAssign)
        old = copy.deepcopy(node.target)
        old.ctx = ast.Load()
        value = ast.BinOp(old, node.op, node.value)
        return ast.Assign([node.target], ast.BinOp(value, ast.Mod(), ast.Constant(limit)))

    return make


def _blocks(node: ast.AST) -> Iterator[Edit]:
    """Statements: one lost, one leaving a loop too early, updates that overwrite."""
    if isinstance(node, ast.AugAssign):
        yield "wrong update", _become(_overwritten)
    body = getattr(node, "body", None)
    if not isinstance(body, list):
        return
    if isinstance(node, ast.For | ast.While):
        yield "early exit", lambda loop: loop.body.append(ast.Break())  # type: ignore[attr-defined]
    for index, statement in enumerate(body):
        if isinstance(statement, ast.AugAssign | ast.Expr | ast.Assign):
            yield "lost statement", _put("body", index, ast.Pass())
        if isinstance(statement, ast.For | ast.While) and index + 1 < len(body):
            following = body[index + 1]
            if isinstance(following, ast.Return):
                yield "early return", _return_inside(index)


def _overwritten(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.AugAssign)
    return ast.Assign([node.target], node.value)


def _return_inside(index: int) -> Callable[[ast.AST], None]:
    def change(node: ast.AST) -> None:
        body = node.body  # type: ignore[attr-defined]
        body[index].body.append(copy.deepcopy(body[index + 1]))

    return change


def _neighbours(name: str, tree: ast.Module) -> list[str]:
    """Return the local names nearest in the order of the program's own naming."""
    names: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            names[node.arg] = None
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names[node.id] = None
    order = list(names)
    if name not in names:
        return []
    place = order.index(name)
    near = sorted(
        (each for each in order if each != name), key=lambda n: abs(order.index(n) - place)
    )
    return near[:MAX_RENAMES]
