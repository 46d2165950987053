"""A batch on a Ray cluster of two nodes on this machine, one of which is killed on the way."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_batch import pictures, recipes

from helpers.tiny import tiny_folder
from laur.core.errors import UnavailableError
from laur.serve.batch import on_ray
from laur.serve.batch.folder import Folder
from laur.serve.batch.local import Tally
from laur.serve.batch.wishes import Wishes

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

COUNT = 24


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    found = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "node_ip_address": "127.0.0.2",  # Ray takes 127.0.0.1 for another name of the machine's outer address
            "object_store_memory": 100 * 2**20,
            "include_dashboard": False,
        },
    )
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("sd1", tmp_path_factory.mktemp("checkpoint") / "sd1")


def test_a_machine_that_dies_loses_nothing(
    cluster: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "LOOK_EVERY", 0.5)
    second = cluster.add_node(num_cpus=1, node_ip_address="127.0.0.3", object_store_memory=100 * 2**20)
    wishes = Wishes(recipes(tmp_path / "r.jsonl", COUNT, steps=6))
    tally = Tally(len(wishes))
    options = on_ray.EngineOptions(str(checkpoint), "png", "cpu", "float32")
    killed = threading.Event()

    def report(now: Tally) -> None:
        if now.drawn >= 4 and not killed.is_set():
            killed.set()
            cluster.remove_node(second, allow_graceful=False)

    with Folder(tmp_path / "out") as folder:
        on_ray.run(cluster.address, options, iter(wishes), folder, tally, report=report)
    assert killed.is_set()
    assert (tally.drawn, tally.failed, tally.there) == (COUNT, 0, 0)
    found = pictures(tmp_path / "out")
    assert len(found) == COUNT
    assert all(content.startswith(b"\x89PNG") for content in found.values())


def test_the_same_pictures_as_here_and_what_is_wrong_by_line(cluster: Any, checkpoint: Path, tmp_path: Path) -> None:
    from laur.pipeline.engine import Engine
    from laur.serve.batch import local

    path = recipes(tmp_path / "r.jsonl", 3)
    path.write_text(path.read_text() + '{"prompt": "x", "adapters": ["nowhere"]}\n')
    options = on_ray.EngineOptions(str(checkpoint), "png", "cpu", "float32")
    found: list[dict[str, bytes]] = []
    for name in ("ray", "here"):
        with Folder(tmp_path / name) as folder:
            tally = Tally(4)
            wishes = iter(Wishes(path))
            if name == "ray":
                on_ray.run(cluster.address, options, wishes, folder, tally)
            else:
                local.run(Engine(str(checkpoint), device="cpu", dtype="float32"), wishes, folder, tally)
        assert (tally.drawn, tally.failed) == (3, 1)
        failure = json.loads((tmp_path / name / "failures.jsonl").read_text())
        assert failure["line"] == 4
        assert "nowhere" in failure["error"]
        found.append(pictures(tmp_path / name))
    assert found[0] == found[1]


def test_a_checkpoint_that_is_not_there(cluster: Any, tmp_path: Path) -> None:
    wishes = Wishes(recipes(tmp_path / "r.jsonl", 1))
    options = on_ray.EngineOptions("no-such-model", "png", "cpu")
    with Folder(tmp_path / "out") as folder, pytest.raises(UnavailableError, match=r"painter .*no-such-model"):
        on_ray.run(cluster.address, options, iter(wishes), folder, Tally(1))
