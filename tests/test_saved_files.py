"""The files of a saved model are looked at before they are believed: sizes, shapes, and the type of every entry."""

import json

import pytest

from smart_kernels.convert.saving import bounded, schema

NAMES = "0123456789"


def file_of(header: bytes, length: int | None = None, rest: bytes = b"") -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + rest


def entry(shape) -> bytes:
    return file_of(json.dumps({"w": {"shape": shape}}).encode())


@pytest.mark.parametrize(
    "content, message",
    [
        (b"abc", "the header of x must have at most 3 bytes, got 6513249"),
        (b"", "must have at most 0 bytes, got 0"),
        (file_of(b"{}", 3), "must have at most 10 bytes, got 3"),
        (file_of(b"{}", 2**63), f"must have at most 10 bytes, got {2**63}"),
        (file_of(b"{" + b" " * 200 + b"}"), "must have at most 100 bytes, got 202"),
        (file_of(b"[]"), "the header of x must be a table, got another"),
        (file_of(b'{"w": []}'), "the tensor 'w' must have a shape, got None"),
        (entry(None), "must have a shape, got None"),
        (entry("3"), "must have a shape, got 3"),
        (entry([2, -1]), r"must have a shape, got \[2, -1\]"),
        (entry([2, True]), r"must have a shape, got \[2, True\]"),
        (entry([2.0]), r"must have a shape, got \[2.0\]"),
        (entry([1] * 9), "must have a shape, got"),
        (entry([0, 2**48 + 1]), "must have a shape, got"),
        (entry([2**24, 2**24, 2]), "must have a shape, got"),
        (file_of(b'{"w": 1, "w": 2}'), "JSON must name each key once, got 'w' twice"),
    ],
)
def test_a_header_that_cannot_be_is_refused(content, message, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        bounded.read_header(tmp_path / "x", 100)


@pytest.mark.parametrize(
    "header",
    [b"{}", b'{"__metadata__": {"format": "pt"}}', *(entry(shape)[8:] for shape in ([], [1] * 8, [0, 2**48]))],
)
def test_a_header_that_can_be_is_read(header, tmp_path):
    (tmp_path / "x").write_bytes(file_of(header, rest=b"tensors"))
    assert bounded.read_header(tmp_path / "x", len(header)) == json.loads(header)


def test_a_file_is_read_up_to_its_limit(tmp_path):
    (tmp_path / "x").write_bytes(b"1234")
    assert bounded.read_bytes(tmp_path / "x", 4) == b"1234"
    with pytest.raises(ValueError, match="x must have at most 3 bytes, got more"):
        bounded.read_bytes(tmp_path / "x", 3)
    for read in (bounded.read_bytes, bounded.read_header):
        with pytest.raises(ValueError, match="must be a plain file"):
            read(tmp_path, 100)
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none", 100)
    assert bounded.most_text(3) == 2**20 + 3 * 2**13


@pytest.mark.parametrize(
    "check, good, bad, must",
    [
        (schema.text, ["", "a"], [1, None, ["a"]], " must be a text"),
        (schema.number, [1, -2.5], [True, "1", None], " must be a number"),
        (schema.count, [0, 2**63 - 1], [-1, 2**63, 1.0, True], r" must be a whole number from 0 to 2\^63 - 1"),
        (schema.size, [1, 2**31 - 1], [0, 2**31, 1.0, True], r" must be a whole number from 1 to 2\^31 - 1"),
        (schema.setting, [1, 0.5, True, "x"], [None, [1], {}], " must be a text, a number or a truth value"),
        (schema.truth, [True, False], [0, 1, None, "true"], " must be true or false"),
        (schema.sequence(schema.size), [[], [1, 2]], [(1,), {}, "1"], " must be a list of any"),
        (schema.sequence(schema.size, 2), [[1, 2]], [[], [1], [1, 2, 3]], " must be a list of 2"),
        (schema.sequence(schema.size, 2), [[1, 2]], [[1, 0]], " must be a whole number"),
        (schema.mapping(schema.text), [{}, {"a": "b"}], [[], "a"], " must be a table"),
        (schema.mapping(schema.text), [{}, {"a": "b"}], [{"a": 1}], ".a must be a text"),
        (schema.optional(schema.text), [None, "a"], [1, []], " must be a text"),
        (schema.LAYER, [{"stored": "bsr", "shared": []}], ["bsr", []], " must be a table"),
        (schema.LAYER, [], [{"stored": "bsr"}], r" must hold \['shared', 'stored'\], got it missing {'shared'}"),
        (schema.LAYER, [], [{"stored": "", "shared": [], "b": 1, "a": 1}], " must hold .*, got also a, b"),
        (schema.LAYER, [], [{"stored": 1, "shared": []}], ".stored must be a text, got 1"),
    ],
)
def test_each_entry_has_its_type(check, good, bad, must):
    for value in good:
        check(value, "place")
    for value in bad:
        with pytest.raises(ValueError, match=f"^place{must}"):
            check(value, "place")


@pytest.mark.parametrize("length, shown", [(80, NAMES * 8), (81, NAMES * 8 + "...")])
def test_what_came_is_shown_up_to_its_80th_letter(length, shown):
    with pytest.raises(ValueError) as caught:
        schema.number((NAMES * 9)[:length], "place")
    assert str(caught.value) == f"place must be a number, got {shown}"
