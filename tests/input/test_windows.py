import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_text import bert_tokenizer, clip_tokenizer

from laur.core.errors import CheckpointError, RecipeError
from laur.input.windows import WINDOW_LIMIT, Piece, Windower, fill

COMMA = 0
TEXT = 1


def pieces(text: str, start: int = 0) -> list[Piece]:
    """One piece per letter; `word` counts them."""
    return [Piece(COMMA if letter == "," else TEXT, 1.0, start + index) for index, letter in enumerate(text)]


def lengths(*texts: str, capacity: int = 8, backtrack: int = 3) -> list[int]:
    return [len(window) for window in fill([pieces(text) for text in texts], capacity, COMMA, backtrack)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [0]),
        ("x" * 8, [8]),
        ("x" * 9, [8, 1]),
        ("x" * 17, [8, 8, 1]),
        ("xxxxx,xxx", [6, 3]),  # three tokens back: the phrase moves on
        ("xxxx,xxxx", [8, 1]),  # four back is too far
        ("xxxxx,xx", [8]),  # nothing to cut
        ("xxxxxxx,x", [8, 1]),
        ("xxxxx,xx,", [8, 1]),  # the token that does not fit is itself a comma
        ("xxxxx,xxxxxx,xx", [6, 7, 2]),
        ("xxxx,,xxx", [6, 3]),  # the last of them
    ],
)
def test_a_window_ends_at_a_near_comma(text, expected):
    assert lengths(text) == expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["xx", "xxx"], [2, 3]),
        (["x" * 9, "x"], [8, 1, 1]),
        (["xx", ""], [2]),  # a BREAK at the end adds nothing
        (["", "xx"], [0, 2]),
        (["xx", "", "xx"], [2, 0, 2]),
        (["", ""], [0]),
        (["xxxxx,", "xxxx"], [6, 4]),  # a comma before the BREAK is forgotten
    ],
)
def test_each_part_begins_a_window(texts, expected):
    assert lengths(*texts) == expected


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from("xxxxx,"), max_size=60), min_size=1, max_size=4), st.integers(1, 12))
def test_nothing_is_lost_reordered_or_too_long(texts, capacity):
    parts: list[list[Piece]] = []
    for text in texts:
        parts.append(pieces(text, start=sum(map(len, parts))))
    windows = fill(parts, capacity, COMMA, 5)
    assert [piece for window in windows for piece in window] == [piece for part in parts for piece in part]
    assert all(len(window) <= capacity for window in windows)
    firsts = {window[0].word for window in windows if window}
    assert {part[0].word for part in parts if part} <= firsts


def test_frames_are_what_the_tokenizer_itself_makes():
    for tokenizer in (clip_tokenizer(), clip_tokenizer(pad="!"), bert_tokenizer()):
        windower = Windower(tokenizer, 77)
        for prompt in ("a red fox", "Fox, cat's!", ""):
            (window,) = windower.read(prompt).windows
            frame = windower.frame(window)
            expected = tokenizer(prompt, padding="max_length", max_length=windower.size)
            assert frame.ids == expected.input_ids
            assert frame.mask == expected.attention_mask
            assert frame.weights == [1.0] * windower.size


def test_weights_fall_on_the_tokens_of_their_words():
    windower = Windower(clip_tokenizer(), 77)
    (window,) = windower.read("a (red fox:1.3) [ab]").windows
    assert windower.frame(window).weights[:8] == [1, 1, 1.3, 1.3, 0.909091, 0.909091, 1, 1]


def test_words_keep_their_spelling_and_their_tokens():
    windower = Windower(clip_tokenizer(), 77)
    reading = windower.read("A Red fox, (abc:1.2) fox")
    assert reading.words == ["A", "Red", "fox", ",", "abc", "fox"]
    assert [piece.word for piece in reading.windows[0]] == [0, 1, 2, 3, 4, 4, 4, 5]


def test_the_real_comma_is_found():
    """81 tokens for a window of 75: the comma after 60 words is near enough to end it."""
    windower = Windower(clip_tokenizer(), 77)
    prompt = "fox " * 60 + ", " + "red " * 20
    assert [len(window) for window in windower.read(prompt).windows] == [61, 20]


def test_the_lower_limit_of_tokenizer_and_network_counts():
    assert Windower(bert_tokenizer(), 512).size == 16
    assert Windower(clip_tokenizer(), 40).size == 40


def test_too_long_is_refused_in_one_line():
    windower = Windower(bert_tokenizer(), 64)
    fits = "fox " * (14 * WINDOW_LIMIT)
    assert len(windower.read(fits).windows) == WINDOW_LIMIT
    with pytest.raises(RecipeError, match=f"fills {WINDOW_LIMIT + 1} windows of 14 tokens; at most {WINDOW_LIMIT}"):
        windower.read(fits + "fox")


def test_invalid_unicode_is_refused_in_one_line():
    with pytest.raises(RecipeError, match="position 2"):
        Windower(clip_tokenizer(), 77).read("a \udcff fox")


def test_a_tokenizer_without_a_frame_is_refused():
    tokenizer = clip_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(CheckpointError, match="0 tokens"):
        Windower(tokenizer, 77)


def test_reading_leaves_the_tokenizer_as_it_was():
    """A tokenizer file may come with its own truncation and padding, as mini's does: neither may cut a prompt."""
    tokenizer = bert_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    reading = Windower(tokenizer, 64).read("red fox " * 10)
    assert [len(window) for window in reading.windows] == [14, 6]
