"""The size and shape rules of the house, checked: a file or function that outgrows them is split, not waved through.

A rule that must be broken once gets a named line in EXEMPT with the reason; a line that no longer excuses anything
fails, so the list cannot rot.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "src" / "bitwright"

FILE_LINES = 400
FUNCTION_LINES = 60
PARAMETERS = 6
NESTING = 3
FOLDERS = 2
INHERITANCE = 1
BAD_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "core", "misc"}
ARCHITECTURES = {"llama", "mistral", "qwen", "qwen2", "gemma", "gemma2", "opt", "falcon", "bloom", "gpt_neox"}

# "path: rule: name" as a violation prints it, without its line and figure -> why it may stay.
EXEMPT: dict[str, str] = {
    "store/folder_source.py: call: getattr": "the folder names the class, and the library loads classes on demand",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Found = Iterator[tuple[str, str]]  # ("rule: name", what is wrong)
BRANCH = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
SCOPE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function, bool]]:
    """Qualified name, node and whether it is a method, for every function at any depth."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | Function):
            name = f"{prefix}{node.name}"
            if not isinstance(node, ast.ClassDef):
                yield name, node, isinstance(tree, ast.ClassDef)
            yield from functions(node, f"{name}.")
        else:
            yield from functions(node, prefix)


def has_elif(node: ast.AST) -> bool:
    """True where the else part of an `if` is an `elif`, which reads at the same depth."""
    match node:
        case ast.If(orelse=[ast.If(col_offset=column)]):
            return column == node.col_offset
    return False


def depth(node: ast.AST, level: int = 0) -> int:
    """The deepest control flow below a node; nested functions and classes are counted on their own."""
    deepest = level
    for child in ast.iter_child_nodes(node):
        if isinstance(child, SCOPE):
            continue
        is_elif = has_elif(node) and child in node.orelse  # type: ignore[attr-defined]
        deepest = max(deepest, depth(child, level + (isinstance(child, BRANCH) and not is_elif)))
    return deepest


def file_size(path: PurePosixPath, source: str, tree: ast.AST) -> Found:
    lines = len(source.splitlines())
    if lines > FILE_LINES:
        yield "file", f"{lines} lines, at most {FILE_LINES}"


def function_size(path: PurePosixPath, source: str, tree: ast.AST) -> Found:
    for name, node, _ in functions(tree):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > FUNCTION_LINES:
            yield f"function: {name}", f"{lines} lines, at most {FUNCTION_LINES}"


def parameters(path: PurePosixPath, source: str, tree: ast.AST) -> Found:
    if path.parts[0] == "cli":  # a command's parameters are its options
        return
    for name, node, is_method in functions(tree):
        a = node.args
        names = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if arg]
        count = len(names) - (is_method and names[:1] in (["self"], ["cls"]))
        if count > PARAMETERS:
            yield f"parameters: {name}", f"{count}, at most {PARAMETERS}"


def nesting(path: PurePosixPath, source: str, tree: ast.AST) -> Found:
    for name, node, _ in functions(tree):
        if (levels := depth(node)) > NESTING:
            yield f"nesting: {name}", f"{levels} levels, at most {NESTING}"


def naming(path: PurePosixPath, source: str, tree: ast.AST) -> Found:
    if len(path.parts) - 1 > FOLDERS:
        yield "folders", f"{len(path.parts) - 1} levels, at most {FOLDERS}"
    for part in path.parts:
        if part.removesuffix(".py") in BAD_NAMES:
            yield f"name: {part}", "says nothing; name it after what it holds"


def forbidden(path: PurePosixPath, source: str, tree: ast.AST) -> Found:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="hasattr" | "getattr" as name)):
                yield f"call: {name}", f"line {node.lineno}: probing; make the type say it"
            case ast.Call(func=ast.Name(id="print")) if path.parts[0] != "cli":
                yield "call: print", f"line {node.lineno}: the library never prints"
            case ast.ExceptHandler(type=None):
                yield "except", f"line {node.lineno}: bare; name what is caught"


def architectures(path: PurePosixPath, source: str, tree: ast.AST) -> Found:
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if text.lower() in ARCHITECTURES:
                yield f"architecture: {text}", f"line {node.lineno}: a new model must cost zero files"


RULES: list[Callable[[PurePosixPath, str, ast.AST], Found]] = [
    file_size,
    function_size,
    parameters,
    nesting,
    naming,
    forbidden,
    architectures,
]


def bases(tree: ast.Module, node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """(module prefix, class name) of each base that can be a class of ours; the prefix is empty for this file."""
    names = {
        alias.asname or alias.name: (statement.module or "", alias.name)
        for statement in ast.walk(tree)
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    for base in node.bases:
        match base.value if isinstance(base, ast.Subscript) else base:
            case ast.Name(id=name):
                yield names.get(name, ("", name))
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                yield "bitwright." + names.get(module, ("", module))[1], name


def ancestry(trees: dict[str, ast.Module]) -> dict[tuple[str, str], int]:
    """How many classes of ours stand above each class, by (path, class name): the longest chain."""
    classes = {
        (path, node.name): (tree, node)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }

    def parents(path: str, name: str) -> list[tuple[str, str]]:
        tree, node = classes[path, name]
        found = []
        for module, base in bases(tree, node):
            if not module:
                found += [key for key in classes if key == (path, base) and base != name]
            elif module.split(".")[0] == "bitwright":
                folder = module.split(".")[1:2]  # re-exports hide the file, so any class of that name in the package
                found += [key for key in classes if key[1] == base and key[0].split("/")[0].split(".")[:1] == folder]
        return found

    def above(key: tuple[str, str]) -> int:
        return max((1 + above(parent) for parent in parents(*key) if parent != key), default=0)

    return {key: above(key) for key in classes}


def violations(sources: dict[str, str]) -> dict[str, str]:
    """What breaks a rule in these files (path below src/bitwright -> text): "path: rule: name" -> what is wrong."""
    trees = {path: ast.parse(source) for path, source in sources.items()}
    found = {
        f"{path}: {what}": wrong
        for path, source in sources.items()
        for rule in RULES
        for what, wrong in rule(PurePosixPath(path), source, trees[path])
    }
    for (path, name), levels in ancestry(trees).items():
        if levels > INHERITANCE:
            found[f"{path}: inheritance: {name}"] = f"{levels} classes of ours above it, at most {INHERITANCE}"
    return found


def package_sources() -> dict[str, str]:
    return {p.relative_to(PACKAGE).as_posix(): p.read_text(encoding="utf-8") for p in sorted(PACKAGE.rglob("*.py"))}


def test_the_package_keeps_its_budget() -> None:
    found = violations(package_sources())
    assert not (left := found.keys() - EXEMPT.keys()), "\n".join(f"{key}: {found[key]}" for key in sorted(left))
    assert not (idle := EXEMPT.keys() - found.keys()), f"exemptions that excuse nothing: {sorted(idle)}"


def test_the_tests_keep_the_file_size() -> None:
    lengths = {str(p.relative_to(TESTS)): len(p.read_text(encoding="utf-8").splitlines()) for p in TESTS.rglob("*.py")}
    assert not {name: lines for name, lines in lengths.items() if lines > FILE_LINES}


FOUR_DEEP = "def f():\n for a in b:\n  if a:\n   with a:\n    while a:\n     pass"
THREE_DEEP = "def f():\n for a in b:\n  if a:\n   with a:\n    pass" + "\n  elif c:\n   with c:\n    pass" * 2


@pytest.mark.parametrize(
    ("expected", "path", "source"),
    [
        ("a.py: file", "a.py", "x = 1\n" * 401),
        ("a.py: function: C.f", "a.py", "class C:\n    def f(self):\n" + "        pass\n" * 60),
        ("a.py: parameters: f", "a.py", "def f(a, b, c, d, *e, g, **h): pass"),
        ("a.py: parameters: C.f", "a.py", "class C:\n def f(self, a, b, c, d, e, g, h): pass"),
        ("a.py: parameters: f.g", "a.py", "def f():\n def g(a, b, c, d, e, h, i): pass"),
        ("a.py: nesting: f", "a.py", FOUR_DEEP),
        ("a.py: nesting: f", "a.py", FOUR_DEEP.replace("while a:", "try:") + "\n    except E:\n     pass"),
        ("a/b/c/d.py: folders", "a/b/c/d.py", ""),
        ("store/utils.py: name: utils.py", "store/utils.py", ""),
        ("core/a.py: name: core", "core/a.py", ""),
        ("a.py: call: getattr", "a.py", "getattr(x, 'y', None)"),
        ("cli/a.py: call: hasattr", "cli/a.py", "hasattr(x, 'y')"),
        ("a.py: call: print", "a.py", "def f():\n print(1)"),
        ("a.py: except", "a.py", "try:\n pass\nexcept:\n pass"),
        ("a.py: architecture: Llama", "a.py", "x = {'Llama': 1}"),
        ("a.py: inheritance: C", "a.py", "class A: ...\nclass B(A): ...\nclass C(B): ..."),
    ],
)
def test_a_planted_violation_is_found(expected: str, path: str, source: str) -> None:
    assert list(violations({path: source})) == [expected]


def test_a_planted_chain_across_files_is_found() -> None:
    chain = {
        "solvers/solver.py": "from abc import ABC\nclass Solver(ABC): ...",
        "solvers/nearest.py": "from bitwright.solvers.solver import Solver\nclass Nearest(Solver): ...",
        "engine/run.py": "from bitwright.solvers import Nearest as N\nclass Own(N): ...",
    }
    assert list(violations(chain)) == ["engine/run.py: inheritance: Own"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("a.py", "x = 1\n" * 400),
        ("a.py", "@d\ndef f():\n" + "    pass\n" * 59),
        ("a.py", "class C:\n def f(self, a, b, c, d, e, g): pass"),
        ("cli/plan.py", "def f(a, b, c, d, e, g, h): print(a)"),
        ("a.py", THREE_DEEP),
        ("a.py", "def f():\n if a:\n  if b:\n   if c:\n    def g():\n     if d:\n      pass"),
        ("a/b/c.py", "x = 'a llama in a sentence'"),
        ("a.py", "from torch import nn\nclass A(nn.Module): ...\nclass B(A): ..."),
    ],
)
def test_what_is_within_the_budget_passes(path: str, source: str) -> None:
    assert violations({path: source}) == {}
