import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from laur.core.errors import AdapterError, CheckpointError, LaurError, NumericalError, ResourceError
from laur.core.recipe import AdapterRef, Recipe
from laur.optimize import ADAPTERS, BaseAdapter, register
from laur.optimize.deltas import Delta, Dense
from laur.optimize.layers import LayerShape
from laur.pipeline.engine import Engine
from laur.pipeline.events import Admitted, Cancelled, Done, Event, Failed, Progress
from laur.render.compare import psnr


def recipe(prompt: str = "a red fox, fluent 3d", **fields: object) -> Recipe:
    """Small and quick: 128 px, 2 steps."""
    return Recipe.from_dict({"prompt": prompt, "seed": 7, "steps": 2, "width": 128, "height": 128, **fields})


MIXED = [
    recipe(),
    recipe("a castle", seed=1, steps=4),
    recipe("birthday cake, plump", seed=2, steps=1, guidance=1.5, negative_prompt="blue"),
    recipe("fox " * 40, seed=3),
    recipe("a (green:1.4) tree, noto", seed=4, width=200, height=120),
    recipe("rocket", seed=5, sampler="ddim", steps=3, guidance=4.0),
    recipe("red heart", seed=6, steps=4, eta=0.0),
]


def pixels(engine: Engine, recipes: list[Recipe]) -> list[np.ndarray]:
    return [picture.pixels for picture in engine.pictures(recipes)]


@pytest.mark.parametrize(("name", "least"), [("engine32", 80.0), ("engine16", 50.0)])
def test_a_picture_is_the_same_alone_or_in_any_batch(name: str, least: float, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(name)
    alone = [pixels(engine, [one])[0] for one in MIXED]
    together = pixels(engine, MIXED)
    reversed_ = pixels(engine, MIXED[::-1])[::-1]
    for one, two, three in zip(alone, together, reversed_, strict=True):
        assert psnr(one, two) >= least
        assert psnr(one, three) >= least


def test_a_late_arrival_changes_nobody(engine32: Engine) -> None:
    first, second = engine32.resolve(recipe(steps=4)), engine32.resolve(recipe("a castle", seed=1))
    alone = pixels(engine32, [first.recipe])[0]
    early = engine32.submit(first.plan, first.recipe)
    events = engine32.step()
    late = engine32.submit(second.plan, second.recipe)
    while engine32.busy:
        events += engine32.step()
    done = {event.ticket: event.picture for event in events if isinstance(event, Done)}
    assert set(done) == {early, late}
    assert psnr(done[early].pixels, alone) >= 80
    kinds = [type(event) for event in events if event.ticket is late]
    assert kinds == [Admitted, Progress, Progress, Done]
    # it was finished while the first was still drawing: nobody waits for a batch to end
    order = [event.ticket for event in events if isinstance(event, Done)]
    assert order == [late, early]


def test_lcm_with_less_fresh_noise_begins_as_the_paper_s_does_and_is_written_down(engine32: Engine) -> None:
    paper, kept = recipe(steps=3), recipe(steps=3, eta=0.0)
    assert engine32.resolve(paper).recipe.eta is None  # as ever
    assert engine32.resolve(kept).recipe.eta == 0.0
    assert np.array_equal(pixels(engine32, [recipe(steps=3, eta=1.0)])[0], pixels(engine32, [paper])[0])
    seen = {}
    for one in (paper, kept):
        drawing = Engine("mini", library=engine32.library, previews=True)
        seen[one.eta] = [event.preview() for event in drawing.stream([one]) if isinstance(event, Progress)]
    first, last = ([psnr(a, b) for a, b in zip(*seen.values(), strict=True)][at] for at in (1, 2))
    assert first > 60  # fresh noise after the first step in both
    assert last < 60


def test_progress_counts_and_previews(engine32: Engine) -> None:
    engine = Engine("mini", library=engine32.library, previews=True)
    events = [event for event in engine.stream([recipe(steps=3)]) if isinstance(event, Progress)]
    assert [(event.step, event.steps) for event in events] == [(1, 3), (2, 3), (3, 3)]
    preview = events[-1].preview()
    assert preview is not None
    assert preview.shape == (16, 16, 3)
    picture = pixels(engine, [recipe(steps=3)])[0]
    small = np.asarray(Image.fromarray(picture).resize((16, 16), Image.Resampling.BOX))
    assert psnr(preview, small) > 12  # a flat grey would give some 5 dB


def test_cancel_is_honoured_between_steps(engine32: Engine) -> None:
    jobs = [engine32.resolve(recipe(seed=seed, steps=4)) for seed in (1, 2)]
    goes, stays = (engine32.submit(job.plan, job.recipe) for job in jobs)
    events: list[Event] = engine32.step()
    assert engine32.cancel(goes)
    while engine32.busy:
        events += engine32.step()
    assert not engine32.cancel(goes)
    assert [type(event) for event in events if event.ticket is goes] == [Admitted, Progress, Cancelled]
    assert isinstance(events[-1], Done)
    assert events[-1].ticket is stays


def test_replace_draws_the_new_plan_only(engine32: Engine) -> None:
    old, new = engine32.resolve(recipe(steps=4)), engine32.resolve(recipe("a castle", seed=1))
    ticket = engine32.submit(old.plan, old.recipe)
    engine32.step()
    fresh = engine32.replace(ticket, new.plan, new.recipe)
    assert fresh.number == ticket.number
    done = [event for event in iter_until_idle(engine32) if isinstance(event, Done)]
    assert [event.ticket for event in done] == [fresh]
    assert psnr(done[0].picture.pixels, pixels(engine32, [new.recipe])[0]) >= 80


def iter_until_idle(engine: Engine) -> list[Event]:
    events: list[Event] = []
    while engine.busy:
        events += engine.step()
    return events


def test_closing_a_stream_leaves_nothing_behind(engine32: Engine) -> None:
    stream = engine32.stream([recipe(steps=4), recipe(seed=9)])
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not engine32.busy


def test_run_keeps_the_order(engine32: Engine) -> None:
    images = engine32.run([recipe(steps=3), recipe("a castle", steps=1), recipe("tree", width=96, height=64)])
    assert [image.size for image in images] == [(128, 128), (128, 128), (96, 64)]


@pytest.mark.parametrize("size", [(16, 16), (300, 200), (257, 40), (24, 136)])
def test_any_size_is_exactly_that(engine32: Engine, size: tuple[int, int]) -> None:
    (image,) = engine32.run([recipe(width=size[0], height=size[1], steps=1)])
    assert image.size == size


class Poison(BaseAdapter):
    """Damages one layer of its own network."""

    def deltas(self, layers: Mapping[str, LayerShape]) -> Mapping[str, Delta]:
        name = "unet.mid_block.resnets.0.conv1"
        return {name: Dense(torch.full(layers[name].weight, float("nan")))} if name in layers else {}


def test_nan_fails_its_own_ticket_and_names_a_layer(engine32: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = Poison()
    real = engine32.library.adapter
    monkeypatch.setattr(engine32.library, "adapter", lambda name, *_: adapter if name == "poison" else real(name))
    engine32.library._adapters[adapter.sha256] = adapter
    bad = recipe(steps=3, adapters=[AdapterRef(name="lcm-lora-mini"), AdapterRef(name="poison")])
    events = list(engine32.stream([bad, recipe(seed=9, steps=3)]))
    failed = [event for event in events if isinstance(event, Failed)]
    assert len(failed) == 1
    assert isinstance(failed[0].error, NumericalError)
    assert "step 1 gave NaN or infinity, first in mid_block.resnets.0.conv1" in str(failed[0].error)
    assert len([event for event in events if isinstance(event, Done)]) == 1
    assert not engine32.busy


class Darken(BaseAdapter):
    """Moves the predicted picture a little at every step."""

    def on_x0(self, step: int, total: int, x0: torch.Tensor) -> torch.Tensor:
        return x0 * 0.8


def test_an_x0_hook_changes_its_own_picture_alone(engine32: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = Darken()
    real = engine32.library.adapter
    monkeypatch.setattr(engine32.library, "adapter", lambda name, *_: adapter if name == "darken" else real(name))
    engine32.library._adapters[adapter.sha256] = adapter
    hooked = recipe(adapters=[AdapterRef(name="lcm-lora-mini"), AdapterRef(name="darken")])
    plain = recipe(seed=9)
    alone = pixels(engine32, [plain])[0]
    changed, unchanged = pixels(engine32, [hooked, plain])
    assert psnr(unchanged, alone) >= 80
    assert psnr(changed, pixels(engine32, [recipe()])[0]) < 40
    nothing = recipe(adapters=[AdapterRef(name="lcm-lora-mini"), AdapterRef(name="darken", weight=0.0)])
    assert psnr(pixels(engine32, [nothing])[0], pixels(engine32, [recipe()])[0]) >= 80


def test_replacing_within_a_stream_ends_with_the_replacement(engine32: Engine) -> None:
    fresh = engine32.resolve(recipe("a castle", seed=3, steps=1))
    events: list[Event] = []
    for event in engine32.stream([recipe(steps=4), recipe(seed=8)]):
        if isinstance(event, Progress) and event.ticket.number == events[0].ticket.number and event.step == 1:
            engine32.replace(event.ticket, fresh.plan, fresh.recipe)
        events.append(event)
        assert len(events) < 50, "the stream waits for a ticket that is gone"
    done = {event.ticket.number: event.picture.recipe.prompt for event in events if isinstance(event, Done)}
    assert done == {events[0].ticket.number: "a castle", events[1].ticket.number: recipe().prompt}


def test_running_leaves_other_tickets_alone(engine32: Engine) -> None:
    other = engine32.resolve(recipe(seed=9, steps=4))
    ticket = engine32.submit(other.plan, other.recipe)
    assert len(engine32.run([recipe()])) == 1
    events: list[Event] = []
    while engine32.busy:
        events += engine32.step()
    assert [event.ticket for event in events if isinstance(event, Done)] == [ticket]


def test_events_print_in_a_line(engine32: Engine) -> None:
    for event in engine32.stream([recipe()]):
        assert len(repr(event)) < 200


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ADAPTERS, "_sources", {})


def with_own(name: str, **fields: object) -> Recipe:
    return recipe(adapters=[AdapterRef(name="lcm-lora-mini"), AdapterRef(name=name)], **fields)


def failures(engine: Engine, *recipes: Recipe) -> list[LaurError]:
    """What failed; everything else must have been finished."""
    events = list(engine.stream(recipes))
    failed = [event.error for event in events if isinstance(event, Failed)]
    assert len([event for event in events if isinstance(event, Done)]) == len(recipes) - len(failed)
    assert not engine.busy
    return failed


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("hook", ["on_x0", "rows"])
def test_a_hook_that_raises_fails_its_own_ticket(engine32: Engine, hook: str) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such thing")

    register("broken", type("Broken", (BaseAdapter,), {hook: fail}))
    (error,) = failures(engine32, with_own("broken"), recipe(seed=9))
    assert isinstance(error, AdapterError)
    assert "'broken' failed in" in str(error)


@pytest.mark.usefixtures("registered")
def test_deltas_that_raise_fail_their_own_ticket(engine32: Engine) -> None:
    def fail(*_: object) -> None:
        raise KeyError("no such layer")

    register("broken", type("Broken", (BaseAdapter,), {"deltas": fail}))
    (error,) = failures(engine32, with_own("broken"), recipe(seed=9))
    assert isinstance(error, AdapterError)
    assert "'broken' failed in deltas: KeyError" in str(error)


def test_memory_that_runs_out_as_a_ticket_begins_is_its_own_end(
    engine32: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engine32.library.encode

    def encode(checkpoint: str, uses: Any, text: Any) -> Any:
        if "too much" in str(text):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(checkpoint, uses, text)

    monkeypatch.setattr(engine32.library, "encode", encode)
    (error,) = failures(engine32, recipe(prompt="too much"), recipe(seed=9))
    assert isinstance(error, ResourceError)
    assert "memory ran out" in str(error)


def test_a_fault_as_a_ticket_begins_leaves_the_others_where_they_are(
    engine32: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engine32.library.encode

    def encode(checkpoint: str, uses: Any, text: Any) -> Any:
        if "unheard" in str(text):
            raise RuntimeError("unheard of")
        return real(checkpoint, uses, text)

    monkeypatch.setattr(engine32.library, "encode", encode)
    jobs = [engine32.resolve(recipe(prompt=prompt)) for prompt in ("a fox", "unheard", "a boat")]
    tickets = [engine32.submit(job.plan, job.recipe) for job in jobs]
    with pytest.raises(RuntimeError, match="unheard of"):
        engine32.step()
    events: list[Event] = []
    while engine32.busy:
        events += engine32.step()
    told = {kind: [event.ticket for event in events if isinstance(event, kind)] for kind in (Admitted, Done)}
    assert told == {kind: [tickets[0], tickets[2]] for kind in (Admitted, Done)}


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    "given",
    [
        lambda self, row: (torch.zeros(3, 5, 7),),
        lambda self, row: (torch.zeros(1),) * 3,
        lambda self, row: (torch.zeros(128, 16, 16),) if row.context.mean() > self.mean else (torch.zeros(1),),
    ],
    ids=["wrong shape", "wrong number", "differing"],
)
def test_residuals_that_the_network_cannot_take_fail_their_own_pictures(engine32: Engine, given: Any) -> None:
    register("broken", type("Broken", (BaseAdapter,), {"residuals": given, "mean": 0.0}))
    errors = failures(engine32, with_own("broken"), recipe(seed=9), with_own("broken", prompt="a blue bird"))
    assert len(errors) == 2
    assert all(isinstance(error, AdapterError) for error in errors)


@pytest.mark.usefixtures("registered")
def test_nan_in_the_last_step_is_no_picture(engine32: Engine) -> None:
    register("last", type("Last", (BaseAdapter,), {"on_x0": lambda self, step, total, x0: x0 * float("nan")}))
    (error,) = failures(engine32, with_own("last", steps=1), recipe(seed=9))
    assert isinstance(error, NumericalError)


def test_nan_from_the_decoder_is_no_picture(engine32: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """SDXL's autoencoder overflows in float16: then the pixels are NaN and would come out black."""
    decoder = engine32.library.decoder(engine32.library.checkpoint("mini").key)
    monkeypatch.setattr(decoder, "_decode", lambda z: torch.full((1, 3, 128, 128), float("nan")))
    (error,) = failures(engine32, recipe())
    assert isinstance(error, NumericalError)
    assert "the decoder gave NaN or infinity in float32" in str(error)


@pytest.mark.usefixtures("registered")
def test_a_step_at_timestep_0_is_no_division_by_zero(engine32: Engine) -> None:
    register("darken", Darken)
    assert failures(engine32, with_own("darken", steps=None, timesteps=[999, 0])) == []


def test_a_fault_on_entering_the_next_stage_fails_its_own_ticket(
    engine32: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, other = engine32.resolve(recipe(steps=1)), engine32.resolve(recipe(seed=9))
    plan = dataclasses.replace(job.plan, stages=job.plan.stages * 2)
    entered: list[str] = []
    encode = engine32.library.encode

    def fail_at_third(*args: object) -> object:
        entered.append("")
        if len(entered) == 3:  # two tickets were admitted before
            raise CheckpointError("changed on disk")
        return encode(*args)

    monkeypatch.setattr(engine32.library, "encode", fail_at_third)
    engine32.submit(plan, job.recipe)
    engine32.submit(other.plan, other.recipe)
    events = iter_until_idle(engine32)
    assert [str(event.error) for event in events if isinstance(event, Failed)] == ["changed on disk"]
    assert len([event for event in events if isinstance(event, Done)]) == 1


@pytest.mark.usefixtures("registered")
def test_an_adapter_registered_anew_is_drawn_with(engine32: Engine) -> None:
    def define(factor: float) -> None:
        space = {"BaseAdapter": BaseAdapter, "__name__": "__main__"}
        exec(f"class Own(BaseAdapter):\n    def on_x0(self, step, total, x0):\n        return x0 * {factor}", space)
        register("own", space["Own"])  # type: ignore[arg-type]

    pictures: list[np.ndarray] = []
    for factor in (0.2, 0.9):
        define(factor)
        pictures += pixels(engine32, [with_own("own")])
    assert psnr(*pictures) < 40


def test_a_picture_says_what_arithmetic_made_it(engine32: Engine) -> None:
    (picture,) = engine32.pictures([recipe(steps=1)])
    made_by = picture.provenance
    assert (made_by.device, made_by.dtype, made_by.threads) == ("cpu", "float32", torch.get_num_threads())
    assert made_by.checkpoint_sha256 == picture.recipe.checkpoint_sha256
    assert type(made_by).from_dict(made_by.to_dict()) == made_by


def test_when_memory_runs_out_the_batch_is_halved(engine32: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    wishes = [recipe(seed=seed, steps=1) for seed in range(3)]
    alone = [pixels(engine32, [wish])[0] for wish in wishes]
    stage = engine32.resolve(wishes[0]).plan.stages[0]
    denoiser = engine32.library.denoiser(stage.checkpoint, stage.adapters)
    real, sizes = denoiser.predict, []

    def tight(rows: list[object]) -> torch.Tensor:
        sizes.append(len(rows))
        if len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(rows)

    monkeypatch.setattr(denoiser, "predict", tight)
    together = pixels(engine32, wishes)
    assert sizes == [3, 1, 2, 1, 1]
    assert all(psnr(one, two) >= 80 for one, two in zip(alone, together, strict=True))


def test_a_picture_too_large_for_memory_fails_alone(engine32: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = engine32.resolve(recipe()).plan.stages[0]
    denoiser = engine32.library.denoiser(stage.checkpoint, stage.adapters)

    def never(rows: list[object]) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(denoiser, "predict", never)
    (failed,) = [event for event in engine32.stream([recipe()]) if isinstance(event, Failed)]
    assert isinstance(failed.error, ResourceError)
    assert not engine32.busy
