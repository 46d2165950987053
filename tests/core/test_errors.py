"""Messages: one line, whatever is quoted in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laur.core.errors import BusyError, LaurError, RecipeError


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("plain text; it's 3 µm × 2", "plain text; it's 3 µm × 2"),
        ("a\nb", "a b"),
        ("a \r\n\t b", "a b"),
        ("a\u2028b\x85c", "a b c"),
        ("a\x1b[31mb\x07", "a\\x1b[31mb\\x07"),
        ("\x00", "\\x00"),
    ],
)
def test_what_is_quoted_cannot_break_the_line(said: str, shown: str) -> None:
    assert str(RecipeError(said)) == shown
    assert f"{BusyError(said, 3)}" == shown


@given(st.text())
def test_one_line(text: str) -> None:
    assert len(str(LaurError(f"name {text} is unknown")).splitlines()) == 1
    if text.isprintable():
        assert text in str(LaurError(text))
