"""Nothing that Dynamo of the oldest torch cannot trace is called where it traces.

Found by reading, for that torch is not at hand here: from the public ops and the methods that layers run, through
everything that they call, up to the operators, which are nodes of the graph. What lies behind a question whether there
is a compiler is not followed. ``make test-oldest`` runs the tests that compile on that torch.
"""

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import smart_kernels
from smart_kernels import ops

ROOT = Path(smart_kernels.__file__).parent
ROOMS = ("ops", "formats", "nn", "shapes", "reference")
RUN = {"forward", "linear", "conv2d"}  # methods that a compiler enters
NODES = {"define", "Planned"}  # decorators of what it does not enter
EAGER = {"prepared", "runs", "_packed"}  # methods of formats that are called once ``eager_inference`` has said yes
CONSTANT = "_dynamo_marked_constant"  # set to True on what it calls, and takes the result for granted
UNTRACEABLE = {  # each tried in torch 2.11.0: torch.compile(fullgraph=True) of a function that calls it raises
    "is_autocast_available", "get_float32_matmul_precision", "is_inference_mode_enabled", "_len_torch_dispatch_stack",
    "data_ptr", "is_inference", "_is_zerotensor", "get_device_capability", "is_available", "_is_avx512_supported",
    "cached_property",
}  # fmt: skip


@dataclass(frozen=True)
class Function:
    """A function of the package: where it is, its tree, and the names of its module."""

    file: Path
    tree: ast.FunctionDef
    module: "Module"

    def __hash__(self):
        return hash((self.file, self.tree.lineno))


class Module:
    """Know what the names of a file stand for: functions, or modules of the package."""

    def __init__(self, file: Path):
        self.file, self.tree = file, ast.parse(file.read_text())
        self.own = {
            node.name: Function(file, node, self) for node in self.tree.body if isinstance(node, ast.FunctionDef)
        }
        self.methods = [
            Function(file, node, self)
            for owner in self.tree.body
            if isinstance(owner, ast.ClassDef)
            for node in owner.body
            if isinstance(node, ast.FunctionDef)
        ]

    @functools.cached_property
    def imported(self) -> dict[str, "Module | Function"]:
        found = {}
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and (base := self._place(node)) is not None:
                for alias in node.names:
                    found[alias.asname or alias.name] = member(base, alias.name)
        return {name: value for name, value in found.items() if value is not None}

    def _place(self, node: ast.ImportFrom) -> Path | None:
        if node.level:
            parents = [self.file.parent, *self.file.parent.parents]
            return parents[node.level - 1].joinpath(*(node.module or "").split("."))
        names = node.module.split(".")
        return ROOT.parent.joinpath(*names) if names[0] == ROOT.name else None


@functools.cache
def module(file: Path) -> Module:
    return Module(file)


def member(base: Path, name: str) -> "Module | Function | None":
    """Return what ``from base import name`` gives; names of a face are followed to where they are made."""
    if (base / f"{name}.py").exists():
        return module(base / f"{name}.py")
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    if not file.exists():
        return None
    found = module(file)
    return found.own.get(name) or found.imported.get(name)


@functools.cache
def methods() -> dict[str, list[Function]]:
    """The methods of layers, formats and what they hold, by name."""
    found: dict[str, list[Function]] = {}
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            for each in module(file).methods:
                found.setdefault(each.tree.name, []).append(each)
    return found


def decorated(tree: ast.FunctionDef, names: set[str]) -> bool:
    return any(names & named(each) for decorator in tree.decorator_list for each in ast.walk(decorator))


def constant(function: Function) -> bool:
    """Whether a compiler calls it and takes the result for granted: a line below it says so."""
    marked = (each for node in function.module.tree.body if isinstance(node, ast.Assign) for each in node.targets)
    marked = (each for each in marked if isinstance(each, ast.Attribute) and each.attr == CONSTANT)
    return function.tree.name in {name for each in marked for name in named(each.value)}


def named(node: ast.AST) -> set[str]:
    return {node.id} if isinstance(node, ast.Name) else {node.attr} if isinstance(node, ast.Attribute) else set()


def asks(test: ast.AST) -> bool:
    """Whether the answer is yes wherever there is a compiler: the question itself, or one of several joined by or."""
    parts = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or) else [test]
    return any(isinstance(part, ast.Call) and "is_compiling" in named(part.func) for part in parts)


def traced(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """The expressions and statements that run under a compiler."""
    for statement in body:
        if isinstance(statement, ast.If) and asks(statement.test):
            yield statement.test
            yield from traced(statement.body)
            if isinstance(statement.body[-1], ast.Return | ast.Raise):
                return
        elif isinstance(statement, ast.If | ast.For | ast.While | ast.With | ast.Try):
            yield from (child for child in ast.iter_child_nodes(statement) if not isinstance(child, ast.stmt))
            for name in ("body", "orelse", "finalbody"):
                yield from traced(getattr(statement, name, []))
        elif not isinstance(statement, ast.FunctionDef | ast.ClassDef):
            yield from eager_left_out(statement)


def eager_left_out(node: ast.AST) -> Iterator[ast.AST]:
    """The node itself; of ``a if compiling else b`` only the first."""
    choices = [each for each in ast.walk(node) if isinstance(each, ast.IfExp) and asks(each.test)]
    yield from (choice.body for choice in choices)
    if not choices:
        yield node


def calls(function: Function) -> Iterator[tuple[str, list[Function]]]:
    """The names that a function calls under a compiler, and the functions that they may be."""
    names = function.module.own | function.module.imported
    for part in traced(function.tree.body):
        for call in (node for node in ast.walk(part) if isinstance(node, ast.Call)):
            target = call.func
            if isinstance(target, ast.Name):
                found = names.get(target.id)
                yield target.id, [found] if isinstance(found, Function) else []
            elif isinstance(target, ast.Attribute):
                owner = names.get(target.value.id) if isinstance(target.value, ast.Name) else None
                if isinstance(owner, Module):
                    found = owner.own.get(target.attr)
                    yield target.attr, [found] if found else []
                else:
                    yield target.attr, methods().get(target.attr, []) if of_self(target) else []


def of_self(target: ast.Attribute) -> bool:
    """Whether it is a method of the object itself or of one that it holds."""
    while isinstance(target, ast.Attribute):
        target = target.value
    return (isinstance(target, ast.Name) and target.id == "self") or isinstance(target, ast.Call)


def roots() -> list[Function]:
    public = [member(ROOT / "ops", name) for name in ops.__all__]
    run = [each for name in RUN for each in methods().get(name, []) if each.file.parent.name in ("nn", "formats")]
    return [each for each in (*public, *run) if isinstance(each, Function)]


def reached() -> dict[Function, str]:
    """All functions that a compiler may enter, each with who has called it first."""
    found, todo = {}, [(root, "") for root in roots()]
    while todo:
        function, caller = todo.pop()
        if function in found or function.tree.name in EAGER or decorated(function.tree, NODES) or constant(function):
            continue
        found[function] = caller
        where = f"{function.file.relative_to(ROOT)}: {function.tree.name}"
        todo += [(each, where) for _, each_of in calls(function) for each in each_of]
    return found


def test_nothing_that_the_oldest_torch_cannot_trace_is_called_where_it_traces():
    wrong = [
        f"{function.file.relative_to(ROOT)}: {function.tree.name}, called by {caller}, calls {name}"
        for function, caller in reached().items()
        for name, _ in calls(function)
        if name in UNTRACEABLE
    ]
    assert not wrong, "\n".join(wrong)


def test_the_way_is_found():
    """Through faces, methods, checks that are looked at once, and not beyond operators and questions."""
    seen = {function.tree.name for function in reached()}
    assert {"block_sparse_linear", "autocast_dtype", "check", "_check_shapes", "linear", "flat", "finish"} <= seen
    assert not {"_block_sparse_linear", "product", "precision", "aligned", "verified", "state"} & seen


def test_a_question_guards_what_follows():
    source = "def f(x):\n if torch.compiler.is_compiling() or x:\n  return g(x)\n return x.data_ptr()"
    names = {name for part in traced(ast.parse(source).body[0].body) for each in ast.walk(part) for name in named(each)}
    assert "g" in names and "data_ptr" not in names
    unguarded = source.replace("is_compiling", "asks").replace(" or x", "")
    names = {name for part in traced(ast.parse(unguarded).body[0].body) for e in ast.walk(part) for name in named(e)}
    assert "data_ptr" in names
