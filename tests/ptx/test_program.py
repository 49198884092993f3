"""The parser."""

import pytest

from .program import instruction, parse, split

NESTED = """
.visible .entry f(.param .u64 f_param_0, .param .u32 f_param_1)
.reqntid 64
{
    .reg .b32 %r<4>;  // a comment; with a semicolon
    .loc 1 2 3
$start:
    mov.b32 %r1, 1;
    { .reg .b32 x; mov.b32 x, %r1; { .reg .b32 x; again: mov.b32 x, 7; bra again; } add.s32 %r2, x, 1; }
    { .reg .b32 x; mov.b32 {x, %r3}, %rd1; }
    $table: .branchtargets $start, $end;
    brx.idx %r1, $table;
$end:
    @!%p1 st.shared::cta.v2.b32 [ %r1 + 8 ], {%r2, %r3};
    ret;
}
"""


def test_entry_labels_and_tables():
    program = parse(NESTED)
    assert (program.name, program.threads, program.parameters) == ("f", 64, ["f_param_0", "f_param_1"])
    assert program.tables == {"$table": ["$start", "$end"]}
    assert program.labels["$start"] == 0
    assert program.code[program.labels["$end"]].parts[0] == "st"


def test_names_of_inner_scopes_are_their_own():
    targets = [i.operands[0] for i in parse(NESTED).code if i.parts[0] == "mov"]
    outer, inner, sibling = targets[1], targets[2], targets[3].strip("{}").split(",")[0]
    assert len({outer, inner, sibling}) == 3 and all(name.startswith("x@") for name in (outer, inner, sibling))
    branch = next(i for i in parse(NESTED).code if i.parts[0] == "bra")
    assert branch.operands[0] in parse(NESTED).labels, "a label of an inner scope is found there"


def test_a_guarded_instruction():
    i = parse(NESTED).code[-2]
    assert (i.predicate, i.negated, i.type) == ("%p1", True, "b32")
    assert i.parts == ("st", "shared::cta", "v2", "b32")
    assert i.operands == ["[ %r1 + 8 ]", "{%r2, %r3}"] and i.names(1) == ["%r2", "%r3"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [("a, b", ["a", "b"]), ("[a, {b, c}], d", ["[a, {b, c}]", "d"]), ("", []), ("{ }", ["{ }"])],
)
def test_split(text, parts):
    assert split(text) == parts


def test_one_instruction():
    assert instruction("ret").operands == []
    assert instruction("@%p3 bra $L").predicate == "%p3"
