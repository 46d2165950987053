import copy
import threading
from functools import cache

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from tiny_text import bert, bert_tokenizer, clip, clip_tokenizer

from laur.core.errors import RecipeError
from laur.core.plan import TextSpec
from laur.input.text import EncoderPart, TextEncoder, emphasise

PROMPTS = ["a red fox", "", "Fox, cat's: 3 red!", "fox " * 75]


@cache
def sd1() -> TextEncoder:
    tokenizer = clip_tokenizer()
    return TextEncoder.of([(tokenizer, clip(tokenizer))], xl=False, fingerprint="sd1")


@cache
def sd2() -> TextEncoder:
    tokenizer = clip_tokenizer(pad="!")
    return TextEncoder.of([(tokenizer, clip(tokenizer, seed=1))], xl=False, fingerprint="sd2")


@cache
def sdxl() -> TextEncoder:
    first, second = clip_tokenizer(), clip_tokenizer(pad="!")
    pairs = [(first, clip(first)), (second, clip(second, width=48, layers=5, projection=20, seed=1))]
    return TextEncoder.of(pairs, xl=True, fingerprint="sdxl")


@cache
def refiner() -> TextEncoder:
    return TextEncoder(sdxl().parts[1:], fingerprint="refiner")


@cache
def mini() -> TextEncoder:
    tokenizer = bert_tokenizer()
    return TextEncoder.of([(tokenizer, bert(tokenizer))], xl=False, fingerprint="mini")


ALL = [sd1, sd2, sdxl, refiner, mini]


def fresh(make) -> TextEncoder:
    """One that a test may change: equal to `make()`, and not shared."""
    encoder = make()
    parts = [
        EncoderPart(copy.deepcopy(part.tokenizer), copy.deepcopy(part.model), penultimate=part.penultimate)
        for part in encoder.parts
    ]
    return TextEncoder(parts, fingerprint=make.__name__)


def diffusers_states(encoder: TextEncoder, prompt: str, clip_skip: int | None = None):
    """Context and pooled text as diffusers' pipelines make them."""
    parts = encoder.parts
    if not parts[0].penultimate:
        model = parts[0].model
        # transformers 5 took away the attribute through which diffusers 0.42 finds the final norm
        model.__dict__.setdefault("text_model", model)
        pipeline = StableDiffusionPipeline(
            None, model, parts[0].tokenizer, None, None, None, None, requires_safety_checker=False
        )
        with torch.no_grad():
            return pipeline.encode_prompt(prompt, "cpu", 1, False, clip_skip=clip_skip)[0][0], None
    first = parts[0] if len(parts) == 2 else None
    pipeline = StableDiffusionXLPipeline(
        None,
        first and first.model,
        parts[-1].model,
        first and first.tokenizer,
        parts[-1].tokenizer,
        None,
        None,
    )
    with torch.no_grad():
        found = pipeline.encode_prompt(
            prompt, device=torch.device("cpu"), do_classifier_free_guidance=False, clip_skip=clip_skip
        )
    return found[0][0], found[2][0]


@pytest.mark.parametrize("prompt", PROMPTS[:3])
@pytest.mark.parametrize("make", ALL)
def test_equals_diffusers(make, prompt):
    encoder = make()
    context, pooled = diffusers_states(encoder, prompt)
    states = encoder.encode(TextSpec(prompt=prompt))
    assert torch.equal(states.context, context)
    assert (states.pooled is None) == (pooled is None)
    assert pooled is None or torch.equal(states.pooled, pooled)


@pytest.mark.parametrize("make", [sd1, sd2, sdxl, refiner])
def test_a_window_filled_to_the_last_token_equals_diffusers(make):
    encoder = make()
    context, _ = diffusers_states(encoder, PROMPTS[3])
    assert torch.equal(encoder.encode(TextSpec(prompt=PROMPTS[3])).context, context)


@pytest.mark.parametrize("clip_skip", [2, 3])
@pytest.mark.parametrize("make", [sd1, sd2, refiner])
def test_clip_skip_equals_diffusers_counted_from_one(make, clip_skip):
    encoder = make()
    context, pooled = diffusers_states(encoder, "a red fox", clip_skip - 1)
    states = encoder.encode(TextSpec(prompt="a red fox", clip_skip=clip_skip))
    assert torch.equal(states.context, context)
    assert pooled is None or torch.equal(states.pooled, pooled)
    assert not torch.equal(context, encoder.encode(TextSpec(prompt="a red fox")).context)


def test_clip_skip_of_both_encoders_equals_diffusers():
    encoder = sdxl()
    context, pooled = diffusers_states(encoder, "a red fox", 1)
    states = encoder.encode(TextSpec(prompt="a red fox", clip_skip=2))
    assert torch.equal(states.context, context)
    assert torch.equal(states.pooled, pooled)


def test_clip_skip_of_bert_takes_the_layer_before():
    encoder = mini()
    part = encoder.parts[0]
    inputs = part.tokenizer("a red fox", padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        hidden = part.model(**inputs, output_hidden_states=True).hidden_states
    assert torch.equal(encoder.encode(TextSpec(prompt="a red fox", clip_skip=2)).context, hidden[-2][0])


@pytest.mark.parametrize(("make", "most"), [(sd1, 3), (mini, 3), (sdxl, 2), (refiner, 4)])
def test_clip_skip_beyond_the_layers_is_refused(make, most):
    encoder = make()
    encoder.encode(TextSpec(prompt="fox", clip_skip=most))
    for wrong in (most + 1, 0):
        spec = TextSpec(prompt="fox", clip_skip=wrong)
        with pytest.raises(RecipeError, match=f"clip skip is {wrong}; .* from 1 to {most}"):
            encoder.encode(spec)
        with pytest.raises(RecipeError, match="clip skip"):
            encoder.check(spec)


def test_the_mask_hides_the_padding():
    """Other padding gives the same text states, which it would not if BERT attended to it."""
    encoder = fresh(mini)
    before = encoder.encode(TextSpec(prompt="a red fox")).context
    encoder.parts[0].tokenizer.pad_token = "!"
    after = TextEncoder([EncoderPart(encoder.parts[0].tokenizer, encoder.parts[0].model)], fingerprint="x")
    assert torch.equal(before[:5], after.encode(TextSpec(prompt="a red fox")).context[:5])


@pytest.mark.parametrize("make", ALL)
def test_windows_stand_one_after_the_other(make):
    encoder = make()
    joined = encoder.encode(TextSpec(prompt="a red fox BREAK (cat:1.4), 9 BREAK", windows=2))
    alone = [encoder.encode(TextSpec(prompt=prompt)) for prompt in ("a red fox", "(cat:1.4), 9")]
    torch.testing.assert_close(joined.context, torch.cat([states.context for states in alone]), rtol=1e-5, atol=1e-5)
    if joined.pooled is not None:
        torch.testing.assert_close(joined.pooled, alone[0].pooled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", ALL)
def test_a_long_text_fills_the_windows_that_were_counted(make):
    encoder = make()
    prompt = "fox " * (2 * encoder.window)
    count = encoder.windows(prompt)
    assert count == 3
    assert encoder.encode(TextSpec(prompt=prompt, windows=count)).context.shape[0] == count * encoder.window


@pytest.mark.parametrize("make", ALL)
def test_padding_is_empty_windows(make):
    encoder = make()
    padded = encoder.encode(TextSpec(prompt="a red fox", windows=4)).context.split(encoder.window)
    empty = encoder.encode(TextSpec(prompt="")).context
    torch.testing.assert_close(padded[0], encoder.encode(TextSpec(prompt="a red fox")).context, rtol=1e-5, atol=1e-5)
    assert len(padded) == 4
    for window in padded[1:]:
        torch.testing.assert_close(window, empty, rtol=1e-5, atol=1e-5)


def test_a_plan_with_too_few_windows_is_a_mistake():
    with pytest.raises(ValueError, match="1 windows and it needs 2"):
        sd1().encode(TextSpec(prompt="fox BREAK cat"))


@pytest.mark.parametrize("make", ALL)
def test_zeros_have_the_shape_of_states(make):
    encoder = make()
    zeros = encoder.encode(TextSpec(prompt="", zeros=True, windows=2))
    states = encoder.encode(TextSpec(prompt="", windows=2))
    assert zeros.context.shape == states.context.shape
    assert zeros.context.dtype == states.context.dtype
    assert not zeros.context.any()
    if states.pooled is None:
        assert zeros.pooled is None
    else:
        assert zeros.pooled.shape == states.pooled.shape
        assert not zeros.pooled.any()


@pytest.mark.parametrize("make", ALL)
def test_a_neighbour_changes_nothing(make):
    encoder = make()
    specs = [
        TextSpec(prompt="a red fox"),
        TextSpec(prompt="(cat:1.5) " * 5),
        TextSpec(prompt="fox BREAK cat", windows=3),
        TextSpec(prompt=""),
    ]
    alone = [encoder.encode(spec) for spec in specs]
    together = encoder.encode_each(specs[::-1])[::-1]
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.context, other.context)
        assert one.pooled is None or torch.equal(one.pooled, other.pooled)


def test_weights_scale_their_tokens_and_keep_the_mean():
    """A1111's emphasis, on states whose means have one sign; pooled text stays."""
    states = torch.rand(1, 5, 8) + 0.1
    weights = torch.tensor([[1.0, 1.3, 0.8, 1.0, 1.0]])
    scaled = states * weights[..., None]
    expected = scaled * (states.mean() / scaled.mean())
    torch.testing.assert_close(emphasise(states, weights), expected)


@pytest.mark.parametrize("make", ALL)
def test_weights_act_on_their_words(make):
    encoder = make()
    plain = encoder.encode(TextSpec(prompt="a red fox"))
    weighted = encoder.encode(TextSpec(prompt="a (red:1.5) fox"))
    ratio = (weighted.context / plain.context).median(dim=1).values
    scale = ratio[0]
    expected = torch.ones(encoder.window)
    expected[2] = 1.5
    torch.testing.assert_close(ratio / scale, expected, rtol=1e-4, atol=1e-4)
    assert 1 / 1.5 - 1e-6 <= scale <= 1 + 1e-6
    assert plain.pooled is None or torch.equal(weighted.pooled, plain.pooled)


def test_each_window_keeps_its_own_mean():
    states = torch.rand(3, 4, 8) + torch.tensor([0.1, 5.0, 1.0])[:, None, None]
    weights = torch.tensor([[1.0, 2.0, 1.0, 1.0], [1.0, 1.0, 0.5, 1.0], [1.0] * 4])
    found = emphasise(states, weights)
    torch.testing.assert_close(found.mean(dim=(1, 2)), states.mean(dim=(1, 2)))
    assert torch.equal(found[2], states[2])
    torch.testing.assert_close(found[1], emphasise(states[1:2], weights[1:2])[0])


@pytest.mark.parametrize("weight", [0.0, -2.0, 0.5, 3.0, 10.0])
def test_states_with_no_mean_are_not_scaled_at_random(weight):
    """As they come out of a norm without a bias."""
    states = torch.nn.functional.layer_norm(torch.randn(1, 9, 16), (16,))
    weights = torch.tensor([[1.0, weight, *[1.0] * 7]])
    torch.testing.assert_close(emphasise(states, weights), states * weights[..., None])


def test_the_scale_never_exceeds_the_weights():
    """Tokens whose means cancel under the weights would be scaled without limit."""
    states = torch.tensor([[[1.0, 1.0], [-0.5, -0.5], [0.1, 0.1]]])
    found = emphasise(states, torch.tensor([[1.0, 2.0, 1.0]]))
    assert found.abs().max() <= 1.0


def test_a_nan_stays_visible():
    states = torch.full((1, 3, 4), float("nan"))
    assert emphasise(states, torch.tensor([[1.0, 2.0, 1.0]])).isnan().all()


@pytest.mark.parametrize("make", ALL)
def test_low_precision_comes_out_as_it_is(make):
    encoder = fresh(make)
    for part in encoder.parts:
        part.model.to(torch.bfloat16)
    states = encoder.encode(TextSpec(prompt="a (red:1.3) fox", windows=2))
    assert states.context.dtype == encoder.dtype == torch.bfloat16
    assert states.pooled is None or states.pooled.dtype == torch.bfloat16
    full = make().encode(TextSpec(prompt="a (red:1.3) fox", windows=2)).context
    assert torch.nn.functional.cosine_similarity(states.context.float().flatten(), full.flatten(), dim=0) > 0.999


def test_the_fingerprint_tells_weights_and_dtype_apart():
    encoder = fresh(sd1)
    before = encoder.fingerprint
    assert before == sd1().fingerprint != sd2().fingerprint
    encoder.parts[0].model.to(torch.bfloat16)
    assert encoder.fingerprint != before


def test_tokens_are_found_in_the_context():
    encoder = sd1()
    assert encoder.tokens("A Red fox, (abc:1.2) BREAK fox") == [
        ("A", [1]),
        ("Red", [2]),
        ("fox", [3]),
        (",", [4]),
        ("abc", [5, 6, 7]),
        ("fox", [78]),
    ]
    assert mini().tokens("a redcat fox") == [("a", [1]), ("redcat", [2, 3, 4, 5]), ("fox", [6])]
    assert encoder.tokens("") == []


def test_positions_are_those_of_the_states():
    """CLIP is causal: a changed word changes the states from its position on, and none before."""
    (_, (position,)) = sd1().tokens("a red fox")[2]
    fox, cat = (sd1().encode(TextSpec(prompt=f"a red {animal}")).context for animal in ("fox", "cat"))
    changed = (fox != cat).any(dim=1)
    assert not changed[:position].any()
    assert changed[position:].all()


def test_states_can_be_trained_with():
    """They may be saved for a backward pass, and carry no graph of the text encoder."""
    states = sdxl().encode(TextSpec(prompt="a (red) fox"))
    assert not states.context.requires_grad
    weight = torch.ones(states.context.shape[1], requires_grad=True)
    (states.context * weight).sum().backward()
    assert weight.grad is not None


def test_a_training_network_is_put_in_eval_mode():
    tokenizer = clip_tokenizer()
    model = clip(tokenizer).train()
    EncoderPart(tokenizer, model)
    assert not model.training


def test_states_own_no_more_memory_than_they_say():
    """A cache counts their bytes; a view of all layers or windows would hold more."""
    for make in ALL:
        states = make().encode(TextSpec(prompt="a red fox", windows=2))
        assert states.context.untyped_storage().nbytes() == states.context.nbytes
        assert states.pooled is None or states.pooled.untyped_storage().nbytes() == states.pooled.nbytes


def test_threads_may_count_windows_while_one_encodes():
    encoder = sd1()
    spec = TextSpec(prompt="a red fox " * 40, windows=2)
    expected, failures = encoder.encode(spec).context, []

    def count() -> None:
        for length in range(60):
            if encoder.windows("fox " * length) != 1:
                failures.append(length)

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        assert torch.equal(encoder.encode(spec).context, expected)
    for thread in threads:
        thread.join()
    assert not failures


def test_parts_of_unequal_windows_are_a_mistake():
    with pytest.raises(ValueError, match=r"\[16, 77\]"):
        TextEncoder([*sd1().parts, *mini().parts], fingerprint="x")
