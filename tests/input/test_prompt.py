import itertools
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laur.core.errors import RecipeError
from laur.input.prompt import DEPTH_LIMIT, WEIGHT_LIMIT, Segment, parse

PLAIN = st.text(st.characters(exclude_characters="()[]\\:", exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: "BREAK" not in text
)
MARKS = [*"()[]\\:.,+-0123456789 ab\n", "BREAK", " BREAK ", ":1.3)", "\\("]
SYNTAX = st.lists(st.sampled_from(MARKS), max_size=60).map("".join)


def flat(prompt: str) -> list[tuple[str, float]]:
    """Text and weight; BREAK between parts."""
    found: list[tuple[str, float]] = []
    for number, part in enumerate(parse(prompt)):
        if number:
            found.append(("BREAK", -1.0))
        found += [(segment.text, segment.weight) for segment in part]
    return found


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", []),
        ("a red fox", [("a red fox", 1)]),
        ("a (red) fox", [("a ", 1), ("red", 1.1), (" fox", 1)]),
        ("a (red:1.3) fox", [("a ", 1), ("red", 1.3), (" fox", 1)]),
        ("a [red] fox", [("a ", 1), ("red", 0.909091), (" fox", 1)]),
        ("((red))", [("red", 1.21)]),
        ("[[red]]", [("red", 0.826446)]),
        ("([red])", [("red", 1)]),
        ("((red:1.5) fox:2)", [("red", 3), (" fox", 2)]),
        ("(red:0)", [("red", 0)]),
        ("(red:-.5)", [("red", -0.5)]),
        ("(red: 1.2 )", [("red", 1.2)]),
        ("(red:1.)", [("red", 1)]),
        # neighbours of equal weight are one
        ("(red)(fox)", [("redfox", 1.1)]),
        (r"a \(red\) fox", [("a (red) fox", 1)]),
        (r"\[red\] \\ fox", [(r"[red] \ fox", 1)]),
        (r"(fox \(animal\):1.2)", [("fox (animal)", 1.2)]),
        # a backslash before any other character is dropped
        (r"a\b", [("ab", 1)]),
        ("fox\\", [("fox", 1)]),
        # broken: not closed reaches to the end
        ("a (red fox", [("a ", 1), ("red fox", 1.1)]),
        ("a [red fox", [("a ", 1), ("red fox", 0.909091)]),
        ("((red) fox", [("red", 1.21), (" fox", 1.1)]),
        ("(red:1.3", [("red:1.3", 1.1)]),
        # broken: not opened is text
        ("red) fox]", [("red) fox]", 1)]),
        ("red:1.3)", [("red:1.3)", 1)]),
        ("[red:1.3)", [("red:1.3)", 0.909091)]),
        # colons that carry no number
        ("(red:)", [("red:", 1.1)]),
        ("(red:blue)", [("red:blue", 1.1)]),
        ("(red:.)", [("red:.", 1.1)]),
        ("(red:1.2.3)", [("red:1.2.3", 1.1)]),
        ("(red:1.3 fox)", [("red:1.3 fox", 1.1)]),
        ("ratio 16:9", [("ratio 16:9", 1)]),
        # brackets of two kinds may cross
        ("(a [b) c]", [("a ", 1.1), ("b", 1), (" c", 0.909091)]),
        ("()", []),
        ("a()b", [("ab", 1)]),
        # BREAK
        ("a BREAK b", [("a", 1), ("BREAK", -1), ("b", 1)]),
        ("a\nBREAK\nb", [("a", 1), ("BREAK", -1), ("b", 1)]),
        ("a BREAK BREAK b", [("a", 1), ("BREAK", -1), ("BREAK", -1), ("b", 1)]),
        ("BREAK a", [("BREAK", -1), ("a", 1)]),
        ("a BREAK", [("a", 1), ("BREAK", -1)]),
        ("BREAKFAST aBREAK break", [("BREAKFAST aBREAK break", 1)]),
        # and inside brackets, where A1111 would draw the word
        ("(a BREAK b:1.2)", [("a", 1.2), ("BREAK", -1), ("b", 1.2)]),
    ],
)
def test_reads_as_a1111_does(prompt, expected):
    assert flat(prompt) == expected


@settings(deadline=None)
@given(PLAIN)
def test_plain_text_is_one_segment_of_weight_one(text):
    assert parse(text) == [[Segment(text, 1.0)]]


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: "BREAK" not in text))
def test_escaped_text_comes_back_as_it_was(text):
    escaped = "".join("\\" + letter if letter in "()[]\\" else letter for letter in text)
    assert parse(escaped) == [[Segment(text, 1.0)]]


@settings(deadline=None)
@given(PLAIN, st.lists(st.sampled_from("(["), max_size=12))
def test_brackets_multiply_whatever_their_order_and_whether_closed(text, brackets):
    opened = "".join(brackets)
    closed = "".join(")" if bracket == "(" else "]" for bracket in reversed(brackets))
    expected = 1.1 ** (opened.count("(") - opened.count("["))
    assert parse(opened + text) == parse(opened + text + closed)
    (segment,) = parse(opened + text)[0]
    assert segment.text == text
    assert segment.weight == pytest.approx(expected, abs=1e-6)


@settings(deadline=None)
@given(PLAIN, st.floats(-WEIGHT_LIMIT, WEIGHT_LIMIT).map(lambda weight: round(weight, 3)))
def test_a_written_weight_is_the_weight(text, weight):
    assert parse(f"({text}:{weight:.3f})") == [[Segment(text, weight)]]


@settings(deadline=None)
@given(SYNTAX)
def test_no_text_is_too_broken(prompt):
    """Any text parses or is refused in one line; nothing but marks is lost, and merging leaves no equal neighbours."""
    try:
        parts = parse(prompt)
    except RecipeError as error:
        assert "\n" not in str(error)
        return
    text = "".join(segment.text for part in parts for segment in part)
    remaining = iter(prompt)
    assert all(letter in remaining for letter in text), "letters are added or change places"
    assert [text.count(letter) for letter in "ab,"] == [prompt.count(letter) for letter in "ab,"]
    for part in parts:
        assert all(segment.text for segment in part)
        assert all(a.weight != b.weight for a, b in itertools.pairwise(part))


@pytest.mark.parametrize("weight", ["10.1", "-11", "9" * 400])
def test_weights_beyond_use_are_refused(weight):
    with pytest.raises(RecipeError, match=r"the weight of 'red' is .* from -10 to 10"):
        parse(f"a (red:{weight}) fox")


def test_weights_that_multiply_beyond_use_are_refused():
    with pytest.raises(RecipeError, match="16"):
        parse("((red:4):4)")


@pytest.mark.parametrize("bracket", ["(", "["])
def test_absurd_nesting_is_refused(bracket):
    with pytest.raises(RecipeError, match=f"more than {DEPTH_LIMIT} brackets"):
        parse((bracket + "a") * 5000)


def test_nesting_to_the_limit_is_read():
    assert parse("[" * DEPTH_LIMIT + "a")[0][0].weight == pytest.approx(1.1**-DEPTH_LIMIT, abs=1e-6)


def test_imports_nothing_heavy():
    code = "import sys, laur.input.prompt, laur.input.vectorize, laur.input.windows, laur.input.cache;"
    code += "print([name for name in ('torch', 'numpy', 'transformers', 'diffusers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
