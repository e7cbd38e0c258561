"""`calculate_output`: arithmetic over the scores of other graders, and nothing else.

The syntax tree is walked and every kind of node in it named here, so that a formula can reach nothing; all numbers are
floats, so that none can grow without bound.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping

LONGEST = 400  # characters, and so the deepest that a tree can be

BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
}
UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}


class BadFormula(ValueError):
    """A formula that says something else than arithmetic."""


class NoNumber(ArithmeticError):
    """A formula without a value for these scores, such as a division by zero."""


def parse(formula: str) -> ast.expr:
    """The formula's tree; `^` is a power, as in OpenAI's. Raise BadFormula."""
    if len(formula) > LONGEST:
        raise BadFormula(f"is longer than {LONGEST} characters")
    try:
        return ast.parse(formula.strip().replace("^", "**"), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise BadFormula("is no formula") from error


def names(tree: ast.expr) -> set[str]:
    """The scores that a formula reads; raise BadFormula for what it may not say."""
    match tree:
        case ast.Constant(value=int() | float()) if not isinstance(tree.value, bool):
            return set()
        case ast.Name(id=name):
            return {name}
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            return names(left) | names(right)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in UNARY:
            return names(operand)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS and args:
            if (name in ("min", "max")) == (len(args) == 1):
                raise BadFormula(f"{name} takes {'two or more numbers' if name in ('min', 'max') else 'one number'}")
            return set().union(*map(names, args))
    allowed = ", ".join(FUNCTIONS)
    raise BadFormula(f"may hold numbers, names of graders, + - * / ^ ( ) and {allowed}; not {type(tree).__name__}")


def value(tree: ast.expr, scores: Mapping[str, float]) -> float:
    """The formula's value; raise NoNumber where it has none."""
    try:
        result = compute(tree, scores)
    except (ArithmeticError, ValueError) as error:
        raise NoNumber(f"calculate_output has no value: {error}") from error
    if not math.isfinite(result):
        raise NoNumber("calculate_output is not finite")
    return result


def compute(tree: ast.expr, scores: Mapping[str, float]) -> float:
    match tree:
        case ast.Constant(value=number):
            return float(number)  # type: ignore[arg-type]
        case ast.Name(id=name):
            return scores[name]
        case ast.BinOp(left=left, op=op, right=right):
            return BINARY[type(op)](compute(left, scores), compute(right, scores))
        case ast.UnaryOp(op=op, operand=operand):
            return UNARY[type(op)](compute(operand, scores))
        case ast.Call(func=ast.Name(id=name), args=args):
            return float(FUNCTIONS[name](*(compute(arg, scores) for arg in args)))
    raise AssertionError("names() refuses everything else")
