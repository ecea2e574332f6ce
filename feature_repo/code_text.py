"""What a function computes, as text and hashes: its source, and all of the project that it uses.

The source is read as a syntax tree without comments, docstrings, annotations and layout, and so is every
function, class and constant of the project that it names, wherever that stands. A library counts by name.
"""

import ast
import dis
import hashlib
import importlib
import inspect
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache, partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import polars as pl

from feature_repo.code_data import is_array, refuse, refuse_hidden, tell_data

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
LEFT_OUT = {"type_comment", "type_params", "ctx", "kind", "returns", "annotation"}
# Written out in full, these are what they are.
PLAIN = (type(None), bool, int, float, complex, str, bytes)
Scope = Mapping[str, Any]


def read_code(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Return what is called, with its fixed arguments, and by name the hash of all that it uses of us.

    Raises DefinitionChanged if it uses a value that cannot be told by its content.
    """
    reader = _Reader()
    return reader.tell(function), dict(sorted(reader.found.items()))


def hash_text(text: str) -> str:
    """Return the start of a text's SHA-256: 16 characters."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Reader:
    """Follows values into code and back; `found` is what it met of the project's own."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._names: dict[int, str] = {}
        self._kept: list[Any] = []  # an id stays one object's for as long as the object is there

    def tell(self, value: Any) -> str:
        """Return a value as text that is equal for equal values, in every process."""
        if isinstance(value, PLAIN):
            return repr(value)
        if callable(value) and not isinstance(value, Enum):
            return self._tell_callable(value)
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{self.tell(k)}: {self.tell(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list | tuple):
            return "(" + ", ".join(map(self.tell, value)) + ")"
        if isinstance(value, AbstractSet):
            return "{" + ", ".join(sorted(map(self.tell, value))) + "}"
        return self._tell_object(value)

    def _tell_callable(self, value: Any) -> str:
        if isinstance(value, partial):
            given = [*map(self.tell, value.args)]
            given += [f"{name}={self.tell(one)}" for name, one in sorted(value.keywords.items())]
            return f"{self.tell(value.func)}({', '.join(given)})"
        if isinstance(value, MethodType):
            return f"{self.tell(value.__func__)} of {self.tell(value.__self__)}"
        if hasattr(value, "__wrapped__"):
            return self._tell_wrapped(value)
        if isinstance(value, FunctionType | type):
            return self._tell_code(value)
        if isinstance(value, BuiltinFunctionType):
            return f"{value.__module__}.{value.__qualname__}"
        return self._tell_object(value)

    def _tell_wrapped(self, value: Any) -> str:
        inner = self.tell(value.__wrapped__)
        if hasattr(value, "registry") and hasattr(value, "dispatch"):  # functools.singledispatch
            return f"{inner} by type {self.tell(value.registry)}"
        if not isinstance(value, FunctionType):  # functools.lru_cache: computes the same
            return inner
        outer = value.__code__
        ours = _is_ours_file(outer.co_filename)
        return f"{self._tell_code(value) if ours else outer.co_qualname}({inner})"

    def _tell_object(self, value: Any) -> str:
        told: Any = None
        if isinstance(value, Enum):
            told = (value.name, value.value)
        elif isinstance(value, re.Pattern):
            told = (value.pattern, value.flags)
        elif isinstance(value, pl.DataFrame | pl.Series | pl.Expr) or is_array(value):
            told = tell_data(value)
        elif is_dataclass(value):
            told = {field.name: getattr(value, field.name) for field in fields(value)}
        elif _is_ours(type(value)):
            told = vars(value)
        if told is not None:
            return f"{self.tell(type(value))} {self.tell(told)}"
        text = repr(value)
        if " at 0x" in text or "..." in text:
            raise refuse(f"a {type(value).__qualname__}", text)
        return text

    def _tell_code(self, value: FunctionType | type) -> str:
        if not _is_ours(value):
            return f"{value.__module__}.{value.__qualname__}"
        if id(value) in self._names:
            return self._names[id(value)]
        name = self._new_name(value.__qualname__)
        self._names[id(value)] = name
        self._kept.append(value)
        node = _find_node(value)
        # A class is read under the names of its module; a function also knows those around it.
        scope = _see(value) if isinstance(value, FunctionType) else dict(vars(sys.modules[value.__module__]))
        own = () if isinstance(value, type) else _list_own(value.__code__)
        self._read_names(node, {k: v for k, v in scope.items() if k not in own}, str(scope["__name__"]))
        if isinstance(value, FunctionType):
            self._read_head(value, node, scope)
        self.found[name] = hash_text(_dump(node, top=True))
        return name

    def _read_head(self, value: FunctionType, node: ast.AST, scope: Scope) -> None:
        """Take in what stands outside a function's own names: its decorators, and its defaults by value."""
        for decorator in getattr(node, "decorator_list", ()):
            self._read_names(decorator, scope, str(scope["__name__"]))
        for name, parameter in inspect.signature(value, follow_wrapped=False).parameters.items():
            default = parameter.default
            # A plain one stands in the source, unless it came from elsewhere.
            if default is not inspect.Parameter.empty and not _is_written(node, name):
                self._take(name, default)

    def _read_names(self, node: ast.AST, scope: Scope, module: str) -> None:
        """Take in all that the code names of the project, and the constants that it uses."""
        for part in _walk(node):
            refuse_hidden(part, scope)
            if isinstance(part, ast.Name) and part.id in scope:
                self._take(part.id, scope[part.id])
            elif isinstance(part, ast.Attribute):
                base = _resolve(part.value, scope)
                if isinstance(base, ModuleType) and _is_ours(base):
                    self._take(part.attr, getattr(base, part.attr))
            elif isinstance(part, ast.ImportFrom):
                package = module if part.level == 0 else module.rpartition(".")[0]
                source = importlib.import_module("." * part.level + (part.module or ""), package)
                for alias in part.names if _is_ours(source) else ():
                    self._take(alias.name, getattr(source, alias.name))

    def _take(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType):
            text = "" if _is_ours(value) else value.__name__  # ours may move: what is used of it counts
        else:
            text = self.tell(value)
        if not text or text in self._names.values():
            return
        known = (self.found.get(n) for n in self.found if n.partition("#")[0] == name)
        if hash_text(text) not in known:
            self.found[self._new_name(name)] = hash_text(text)

    def _new_name(self, name: str) -> str:
        # Two modules may each have one of that name.
        taken = {*self.found, *self._names.values()}
        return next(n for n in (name, *(f"{name}#{i}" for i in range(2, 1_000))) if n not in taken)


def _see(value: FunctionType) -> dict[str, Any]:
    """Return the names that a function sees from around it."""
    return {**value.__globals__, **inspect.getclosurevars(value).nonlocals}


def _list_own(code: CodeType) -> set[str]:
    """Return a function's own names; one that a comprehension or an inner function shares is not."""
    return set(code.co_varnames) - _list_global(code)


def _list_global(code: CodeType) -> set[str]:
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    named = {one.argval for one in dis.get_instructions(code) if one.opname == "LOAD_GLOBAL"}
    return named.union(*map(_list_global, inner))


def _is_written(node: ast.AST, name: str) -> bool:
    """Tell whether a parameter's default is written out in the source, as a plain value."""
    given = getattr(node, "args", None)
    if not isinstance(given, ast.arguments):
        return False
    placed = [*given.posonlyargs, *given.args]
    pairs = [*zip(reversed(placed), reversed(given.defaults), strict=False)]
    pairs += [(arg, one) for arg, one in zip(given.kwonlyargs, given.kw_defaults, strict=True) if one]
    return any(arg.arg == name and isinstance(default, ast.Constant) for arg, default in pairs)


def _resolve(node: ast.AST, scope: Scope) -> Any:
    if isinstance(node, ast.Name):
        return scope.get(node.id)
    if isinstance(node, ast.Attribute):
        return getattr(_resolve(node.value, scope), node.attr, None)
    return None


def _is_ours(value: Any) -> bool:
    """Tell whether a module, function or class is neither Python's nor an installed library's."""
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None) or ""
    if name.split(".")[0] == __name__.split(".")[0]:
        return True
    module = value if isinstance(value, ModuleType) else None
    code = getattr(value, "__code__", None)
    file = code.co_filename if code else getattr(module or sys.modules.get(name), "__file__", None)
    if not file or not Path(file).is_file():
        return False
    return _is_ours_file(file)


def _is_ours_file(file: str) -> bool:
    path = Path(file).resolve()
    libraries = {"site-packages", "dist-packages"} & set(path.parts)
    return not libraries and not path.is_relative_to(Path(sysconfig.get_paths()["stdlib"]).resolve())


def _find_node(value: FunctionType | type) -> ast.AST:
    if isinstance(value, type):
        text = inspect.getsource(value)
        return ast.parse(inspect.cleandoc(text) if text[:1].isspace() else text).body[0]
    code = value.__code__
    nodes = [n for n in ast.walk(_parse(code.co_filename)) if isinstance(n, FUNCTIONS)]
    found = [n for n in nodes if _begins(n) == code.co_firstlineno]
    named = [n for n in found if getattr(n, "name", "<lambda>") == code.co_name]
    # Several lambdas on one line cannot be told apart: all of them count.
    return named[0] if len(named) == 1 else ast.Tuple([ast.Expr(n) for n in named])  # type: ignore[arg-type,misc]


def _begins(node: ast.AST) -> int:
    return min(n.lineno for n in (node, *getattr(node, "decorator_list", ())))


@lru_cache
def _parse(file: str) -> ast.Module:
    return ast.parse(Path(file).read_text(encoding="utf-8"))


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for name, value in ast.iter_fields(node):
        if name not in LEFT_OUT:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _walk(child)


def _dump(node: Any, *, top: bool = False) -> str:
    """Return a tree as text, the same in every version of Python, without what computes nothing."""
    if isinstance(node, list):
        return "[" + ",".join(map(_dump, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    told = []
    for name, value in ast.iter_fields(node):
        if name in LEFT_OUT or value is None or value == [] or (top and name == "name"):
            continue
        body = value
        if name == "body" and isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            body = value[1:]
        told.append(f"{name}={_dump(body)}")
    return f"{type(node).__name__}({','.join(told)})"
