"""The museum source against a server on this machine that answers as https://metmuseum.github.io says theirs does."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from fake_server import Answer, Asked, Server, quick
from tiny_pictures import picture

from laur.core.errors import DataError, UnavailableError
from laur.train.data.picture import Skip
from laur.train.data.sources.museum import Museum, captions_of
from laur.train.data.sources.museum_objects import Object

API = "/public/collection/v1"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAUR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def jpeg(number: int, size: tuple[int, int] = (160, 120)) -> bytes:
    buffer = io.BytesIO()
    picture(number, size).save(buffer, "JPEG")
    return buffer.getvalue()


def answer(values: Any) -> Answer:
    return Answer(json.dumps(values).encode(), "application/json; charset=utf-8")


def record(server: Server, number: int, **changes: Any) -> dict[str, Any]:
    """As the API gives an object; some of its fields."""
    return {
        "objectID": number,
        "isHighlight": False,
        "isPublicDomain": True,
        "primaryImage": f"{server.address}/original/{number}.jpg",
        "primaryImageSmall": f"{server.address}/web-large/{number}.jpg",
        "additionalImages": [],
        "department": "European Paintings",
        "objectName": "Painting",
        "title": f"Sunflowers {number}",
        "culture": "",
        "period": "",
        "artistDisplayName": "Vincent van Gogh",
        "objectDate": "1887",
        "medium": "Oil on canvas",
        "classification": "Paintings",
        "tags": [{"term": "Flowers", "AAT_URL": "…"}, {"term": "Still Life", "AAT_URL": "…"}],
        **changes,
    }


def collection(server: Server, *numbers: int, **changes: dict[int, Any]) -> None:
    """A museum with these objects, each with both its pictures. `changes`: field to values by number."""
    server.answers[f"{API}/search"] = [answer({"total": len(numbers), "objectIDs": list(numbers)})]
    for number in numbers:
        mine = {name: values[number] for name, values in changes.items() if number in values}
        server.answers[f"{API}/objects/{number}"] = [answer(record(server, number, **mine))]
        server.answers[f"/web-large/{number}.jpg"] = [Answer(jpeg(number), "image/jpeg")]
        server.answers[f"/original/{number}.jpg"] = [Answer(jpeg(number, (640, 480)), "image/jpeg")]


def museum(server: Server, words: str = "sunflowers", **options: Any) -> Museum:
    settings = {"limit": 10, "base": f"{server.address}{API}", "web": quick(tries=3), **options}
    return Museum(words, **settings)


def test_pictures_in_the_public_domain_with_captions(server: Server) -> None:
    collection(server, 11, 12)
    found = list(museum(server).records(0, 2))
    assert [(work.name, work.licence, work.style) for work in found] == [
        ("11 Sunflowers 11", "CC0-1.0", "museum"),
        ("12 Sunflowers 12", "CC0-1.0", "museum"),
    ]
    drawn = found[0].draw(256)
    assert drawn.image.size == (160, 120)
    assert drawn.captions == (
        "Sunflowers 11",
        "Sunflowers 11 by Vincent van Gogh",
        "painting of flowers, still life",
        "Sunflowers 11 by Vincent van Gogh, painting, oil on canvas, 1887, flowers, still life",
    )
    assert server.asked[0].query == {"hasImages": "true", "q": "sunflowers"}


def test_captions_say_what_there_is() -> None:
    bare = {"number": 1, "picture": "p", "small": ""}
    assert captions_of(Object(**bare)) == ()
    assert captions_of(Object(**bare, tags=("Horses",))) == ("artwork of horses", "horses")
    vase = Object(**bare, title="Vase", period="Ming dynasty", date="15th century", medium="Porcelain", kind="Vase")
    assert captions_of(vase) == ("Vase", "Vase, porcelain, Ming dynasty, 15th century")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"isPublicDomain": {1: False}}, "not in the public domain"),
        ({"isPublicDomain": {1: None}}, "not in the public domain"),
        ({"isPublicDomain": {1: "true"}}, "not in the public domain"),
        ({"primaryImage": {1: ""}, "primaryImageSmall": {1: ""}}, "without a picture"),
    ],
)
def test_other_objects_are_passed_over_and_counted(change: dict[str, Any], reason: str, server: Server) -> None:
    collection(server, 1, 2, **change)
    found = museum(server)
    assert [work.object.number for work in found.records(0, len(found))] == [2]
    assert found.passed == {reason: 1}
    assert found.describe()["passed over"] == {reason: 1}
    assert "/web-large/1.jpg" not in server.paths()


def test_an_object_without_the_flag_is_not_open(server: Server) -> None:
    collection(server, 1)
    bare = record(server, 1)
    del bare["isPublicDomain"]
    server.answers[f"{API}/objects/1"] = [answer(bare)]
    with pytest.raises(
        DataError, match="nothing that 'sunflowers' finds may be learned from: 1 not in the public domain"
    ):
        museum(server)


def test_objects_that_are_not_to_be_had(server: Server) -> None:
    """404, 500 for good, no JSON, a list where an object should be; and 500 once, which is asked again."""
    collection(server, 1, 2, 3, 4, 5)
    del server.answers[f"{API}/objects/1"]
    server.answers[f"{API}/objects/2"] = [Answer(status=500)]
    server.answers[f"{API}/objects/3"] = [Answer(b"<html>", "text/html")]
    server.answers[f"{API}/objects/4"] = [answer([1])]
    server.answers[f"{API}/objects/5"] = [Answer(status=500), answer(record(server, 5))]
    found = museum(server)
    assert [work.object.number for work in found.records(0, 9)] == [5]
    assert found.passed == {"not to be had": 4}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Answer(b"no", "text/html", 404), "cannot be fetched: the server answers 404"),
        (Answer(status=500), "cannot be fetched: the server answers 500 each time"),
        (Answer(b"<html>sign in</html>", "text/html"), "no picture: the server sends text/html"),
        (Answer(jpeg(1)[:900], "image/jpeg"), "cannot be read: image file is truncated"),
        (Answer(jpeg(1), "image/jpeg", cut=500), "cannot be fetched: its download is cut off each time"),
        (Answer(b"\x00" * 500, "image/jpeg"), "cannot be read"),
        (Answer(jpeg(1, (40, 30)), "image/jpeg"), "40x30 is too small"),
    ],
)
def test_pictures_that_cannot_be_had_are_skipped(bad: Answer, reason: str, server: Server, cache: Path) -> None:
    collection(server, 1)
    server.answers["/web-large/1.jpg"] = [bad]
    (work,) = museum(server).records(0, 1)
    with pytest.raises(Skip, match=reason):
        work.draw(256)
    if "small" not in reason:
        assert not list(cache.rglob("pictures/*"))


def test_a_picture_that_fails_once_is_asked_for_again(server: Server) -> None:
    collection(server, 1)
    good = Answer(jpeg(1), "image/jpeg")
    server.answers["/web-large/1.jpg"] = [Answer(status=500), Answer(jpeg(1), "image/jpeg", cut=99), good]
    (work,) = museum(server).records(0, 1)
    assert work.draw(256).image.size == (160, 120)


def test_a_museum_that_is_away_stops_the_work(server: Server) -> None:
    """What was asked stays known, and no picture is marked as bad."""
    collection(server, 1, 2, 3)
    server.answers[f"{API}/objects/2"] = [Answer(status=503)]
    with pytest.raises(UnavailableError, match=r"is busy .* which goes on"):
        museum(server)
    server.answers[f"{API}/objects/2"] = [answer(record(server, 2))]
    server.asked.clear()
    found = museum(server)
    assert server.paths() == [f"{API}/objects/2", f"{API}/objects/3"]  # neither the search nor the first again
    server.answers["/web-large/1.jpg"] = [Answer(status=429)]
    with pytest.raises(UnavailableError):
        next(found.records(0, 1)).draw(256)
    with pytest.raises(UnavailableError, match="cannot reach"):
        museum(server, base="http://127.0.0.1:9/v1")


def test_nothing_is_fetched_twice(server: Server) -> None:
    collection(server, 1, 2, isPublicDomain={2: False})
    first = museum(server)
    next(first.records(0, 1)).draw(256)
    server.asked.clear()
    second = museum(server)
    next(second.records(0, 1)).draw(256)
    assert server.asked == []
    assert second.describe() == first.describe()


def test_a_list_cut_off_by_a_kill_goes_on(server: Server, cache: Path) -> None:
    collection(server, 1, 2, 3)
    told = museum(server).describe()
    (path,) = cache.rglob("objects.jsonl")
    whole = path.read_bytes()
    for left in (len(whole) - 40, len(whole) - 1):
        path.write_bytes(whole[:left])
        server.asked.clear()
        assert museum(server).describe() == told
        assert server.paths() == [f"{API}/objects/3"]
        assert path.read_bytes() == whole


def test_a_limit_stops_asking(server: Server) -> None:
    collection(server, *range(1, 30), isPublicDomain={2: False})
    seen: list[tuple[int, int]] = []
    found = museum(server, limit=3, report=lambda found, looked: seen.append((found, looked)))
    assert [work.object.number for work in found.records(0, 9)] == [1, 3, 4]
    assert len(server.asked) == 5
    assert seen == [(1, 1), (1, 2), (2, 3), (3, 4)]


def test_large_sets_take_large_pictures(server: Server) -> None:
    collection(server, 1, 2, primaryImageSmall={2: ""})
    one, two = museum(server).records(0, 2)
    assert one.draw(512).image.width == 160
    assert one.draw(1024).image.width == 640
    assert two.draw(256).image.width == 640


def test_filters_of_the_search(server: Server) -> None:
    collection(server, 1)
    museum(server, filters={"medium": "Paintings", "departmentId": "11"})
    assert server.asked[0].query == {
        "hasImages": "true",
        "medium": "Paintings",
        "departmentId": "11",
        "q": "sunflowers",
    }
    with pytest.raises(DataError, match="no filter 'size'; known are artistOrCulture"):
        museum(server, filters={"size": "large"})
    with pytest.raises(DataError, match="give --query"):
        museum(server, "  ")


@pytest.mark.parametrize(
    ("says", "message"),
    [
        (answer({"total": 0, "objectIDs": None}), "nothing with pictures for 'sunflowers'; try other words"),
        (answer({"total": 1, "objectIDs": ["a"]}), "does not answer a search as the Met's API does"),
        (Answer(b"<html>", "text/html"), "does not answer with JSON"),
        (Answer(status=404), "no address of the Met's API"),
    ],
)
def test_a_search_that_finds_nothing_or_no_museum(says: Answer, message: str, server: Server) -> None:
    server.answers[f"{API}/search"] = [says]
    with pytest.raises(DataError, match=message):
        museum(server)


def test_requests_keep_their_distance(server: Server) -> None:
    sleeps: list[float] = []
    collection(server, *range(1, 9))
    museum(server, web=quick(sleeps, per_second=8, clock=lambda: 50.0))
    assert sleeps == [
        pytest.approx(number / 8) for number in range(1, 9)
    ]  # the clock stands still: each waits its turn


def test_each_question_has_a_list_of_its_own(server: Server) -> None:
    collection(server, 1, 2)
    museum(server)

    def other(asked: Asked) -> Answer:
        return answer({"total": 1, "objectIDs": [2] if asked.query["q"] == "irises" else [1]})

    server.answers[f"{API}/search"] = other
    assert [work.object.number for work in museum(server, "irises").records(0, 9)] == [2]
    assert len(museum(server)) == 2
