"""Data that code uses, by its content; and what in code cannot be told by its content, refused."""

import ast
import builtins
import hashlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import polars as pl

from feature_repo.errors import DefinitionChanged

# What these give cannot be seen in the code that calls them.
HIDING = {"globals", "vars", "eval", "exec", "compile", "open", "__import__"}
READING = ("read_", "scan_", "load", "genfromtxt", "fromfile", "memmap", "import_module", "getenv")
PYTHON = b"PLPYFN"  # begins a Python function within a serialized expression


def is_array(value: Any) -> bool:
    """Tell whether a value is of NumPy or pandas."""
    library = type(value).__module__.partition(".")[0]
    return library in {"numpy", "pandas"} and hasattr(value, "shape") and value.shape != ()


def tell_data(value: Any) -> Any:
    """Return an expression, frame, column or array as plain values: whole, with its types."""
    if isinstance(value, pl.Expr):
        return _tell_expression(value)
    if isinstance(value, pl.DataFrame):
        return {name: tell_data(column) for name, column in value.to_dict().items()}
    if isinstance(value, pl.Series):
        return value.name, str(value.dtype), value.to_list()
    if type(value).__module__.partition(".")[0] == "numpy":
        fields = value.dtype.descr if value.dtype.names else ()
        return str(value.dtype), fields, value.shape, value.tolist()
    if value.ndim == 1:
        kind, held = value.dtype, value.tolist()
        index = tell_data(value.index) if hasattr(value, "index") else ()
        return value.name, str(kind), list(getattr(kind, "categories", ())), index, held
    columns = [tell_data(value.iloc[:, i]) for i in range(value.shape[1])]
    return columns, tell_data(value.columns), tell_data(value.index)


def refuse(subject: str, got: str) -> DefinitionChanged:
    """Return the error for what cannot be told by its content."""
    return DefinitionChanged(
        f"fingerprint of {subject}",
        got=got,
        expected="a value that can be told by its content",
        next_step="Make it inside the function, or pass it plain values.",
    )


def refuse_hidden(part: ast.AST, scope: Mapping[str, Any]) -> None:
    """Raise DefinitionChanged at a call that brings in what is not in the code, such as a file."""
    if isinstance(part, ast.Attribute) and part.attr == "environ":
        raise refuse("a function", f"a look at {ast.unparse(part)}")
    if not isinstance(part, ast.Call):
        return
    called = part.func
    if isinstance(called, ast.Name):
        given = scope.get(called.id, getattr(builtins, called.id, None))
        if called.id in HIDING and given is getattr(builtins, called.id):
            raise refuse("a function", f"a call of {called.id}")
    elif isinstance(called, ast.Attribute):
        library = isinstance(called.value, ast.Name) and isinstance(scope.get(called.value.id), ModuleType)
        if called.attr in {"read_text", "read_bytes"} or (library and called.attr.startswith(READING)):
            raise refuse("a function", f"a call of {ast.unparse(called)}")


def _tell_expression(value: pl.Expr) -> str:
    try:
        told = value.meta.serialize()
    except Exception as error:
        raise refuse("an expression", f"{value}: {error}") from error
    if PYTHON in told:
        raise refuse("an expression with a Python function in it", str(value))
    return hashlib.sha256(told).hexdigest()
