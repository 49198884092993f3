"""PTX text -> instructions. A name declared in an inner scope (inline assembly) is made unique."""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

NAME = re.compile(r"[%$A-Za-z_][\w$]*")


@dataclass(frozen=True)
class Instruction:
    """``@!%p1 add.s32 %r1, %r2, 4``: predicate "%p1", negated, parts ("add", "s32"), operands ["%r1", "%r2", "4"]."""

    predicate: str | None
    negated: bool
    parts: tuple[str, ...]
    operands: list[str]
    text: str

    @property
    def type(self) -> str:
        return self.parts[-1]

    def names(self, index: int) -> list[str]:
        """The registers of a ``{a, b, ...}`` operand, or the one register."""
        return split(self.operands[index].strip("{} "))


@dataclass
class Program:
    """An entry function.

    Attributes:
        name, threads, parameters: of the entry.
        code: all instructions in order.
        labels: index into ``code``.
        tables: labels of each ``.branchtargets``.
    """

    name: str
    threads: int
    parameters: list[str]
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)


def parse(ptx: str) -> Program:
    """The first entry function of a PTX module."""
    entry = re.sub(r"//[^\n]*", "", ptx[ptx.index(".visible .entry") :])
    head, body = entry[: entry.index("{")], entry[entry.index("{") + 1 :]
    body = re.sub(r"^\s*\.(loc|file|section|pragma)[^\n]*$", "", body, flags=re.M)
    threads = re.search(r"\.reqntid\s+(\d+)", head)
    program = Program(re.search(r"\.entry (\w+)", head)[1], int(threads[1]), re.findall(r"\w+_param_\d+", head))
    for table, targets in re.findall(r"([$%\w]+):\s*\.branchtargets\s+([^;]*);", body):
        program.tables[table] = split(targets)
    body = re.sub(r"[$%\w]+:\s*\.branchtargets\s+[^;]*;", "", body)
    _scope(program, list(_statements(body)), {}, itertools.count(1))
    return program


def _statements(body: str) -> Iterator[str]:
    """Statements, ``name:`` for labels, and ``{`` ``}`` for scopes, up to the end of the function."""
    depth, text, inside = 0, "", 0  # depth of scopes; inside: of the braces of an operand
    for character, following in itertools.pairwise(body + " "):
        if character == "{" and text.strip():
            inside += 1
        elif character == "}" and inside:
            inside -= 1
        elif character in "{}" or (character == ";" and not inside):
            yield from [t for t in (" ".join(text.split()), character) if t not in ("", ";")]
            depth += {"{": 1, "}": -1, ";": 0}[character]
            if depth < 0:
                return
            text = ""
            continue
        elif character == ":" and following != ":" and re.fullmatch(r"\s*[$%\w]+", text):
            yield text.strip() + ":"
            text = ""
            continue
        text += character


def _scope(program: Program, statements: list[str], outer: Mapping[str, str], numbers: Iterator[int]) -> None:
    """Append the instructions of one scope; consumes up to its closing brace."""
    number, names = next(numbers), dict(outer)
    for declared in _declared(statements):
        names[declared] = declared if number == 1 else f"{declared}@{number}"
    while statements:
        text = statements.pop(0)
        if text == "}":
            return
        if text == "{":
            _scope(program, statements, names, numbers)
        elif text.endswith(":"):
            program.labels[names[text[:-1]]] = len(program.code)
        elif not text.startswith("."):
            program.code.append(instruction(NAME.sub(lambda m: names.get(m[0], m[0]), text)))


def _declared(statements: list[str]) -> Iterator[str]:
    """Registers and labels declared in the scope that begins here, not in its inner ones."""
    depth = 0
    for text in statements:
        depth += (text == "{") - (text == "}")
        if depth < 0:
            return
        if depth == 0 and text.startswith(".reg"):
            yield from (name.partition("<")[0] for name in split(text.split(None, 2)[2]))
        elif depth == 0 and text.endswith(":"):
            yield text[:-1]


def instruction(text: str) -> Instruction:
    """One statement without its semicolon."""
    guard, rest = re.fullmatch(r"(?:@(!?[%\w@]+)\s+)?(.*)", text).groups()
    opcode, _, operands = rest.partition(" ")
    predicate = guard.lstrip("!") if guard else None
    negated = bool(guard) and guard.startswith("!")
    return Instruction(predicate, negated, tuple(opcode.split(".")), split(operands), text)


def split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "{[(") - (character in "}])")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]
