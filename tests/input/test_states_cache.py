import threading

import pytest
import torch

from laur.core.plan import AdapterUse, TextSpec
from laur.input.cache import StatesCache, StatesKey
from laur.input.vectorize import States


def states(size: int = 10) -> States:
    """4 · size bytes."""
    return States(torch.zeros(size, 1))


def key(prompt: str, **changes) -> StatesKey:
    return StatesKey("weights/float32/cpu", TextSpec(prompt=prompt, **changes))


def test_what_was_put_is_got_and_counted():
    cache, fox = StatesCache(), states()
    assert cache.get(key("fox")) is None
    cache.put(key("fox"), fox)
    assert cache.get(key("fox")) is fox
    stats = cache.stats
    assert (stats.hits, stats.misses, stats.entries, stats.nbytes) == (1, 1, 1, 40)


@pytest.mark.parametrize(
    "other",
    [
        key("fox "),
        key("fox", clip_skip=2),
        key("fox", windows=2),
        key("fox", zeros=True),
        StatesKey("weights/bfloat16/cpu", TextSpec(prompt="fox")),
        StatesKey("weights/float32/cpu", TextSpec(prompt="fox"), (AdapterUse(sha256="ab", weight=1.0),)),
    ],
)
def test_whatever_states_depend_on_is_in_the_key(other):
    cache = StatesCache()
    cache.put(key("fox"), states())
    assert cache.get(other) is None


def test_the_least_recently_used_leaves_first():
    cache = StatesCache(max_bytes=120)
    for prompt in "abc":
        cache.put(key(prompt), states())
    cache.get(key("a"))
    cache.put(key("d"), states())
    assert [cache.get(key(prompt)) is not None for prompt in "abcd"] == [True, False, True, True]
    assert cache.stats.nbytes == 120


def test_bytes_are_bounded_and_pooled_text_counts():
    cache = StatesCache(max_bytes=100)
    cache.put(key("pooled"), States(torch.zeros(10, 2), torch.zeros(5)))
    assert cache.stats.nbytes == 100
    cache.put(key("too large"), states(26))
    assert cache.get(key("too large")) is None
    assert cache.stats.entries == 1


def test_putting_again_replaces():
    cache = StatesCache(max_bytes=100)
    cache.put(key("a"), states(20))
    cache.put(key("a"), states(5))
    assert (cache.stats.entries, cache.stats.nbytes) == (1, 20)


def test_clear_lets_go_of_everything():
    cache = StatesCache()
    cache.put(key("a"), states())
    cache.clear()
    assert (cache.stats.entries, cache.stats.nbytes) == (0, 0)
    assert cache.get(key("a")) is None


def test_a_cache_of_no_bytes_keeps_nothing():
    cache = StatesCache(0)
    assert cache.get_or_make(key("a"), states).nbytes == 40
    assert cache.stats.entries == 0
    with pytest.raises(ValueError, match="-1"):
        StatesCache(-1)


def test_made_once_then_held():
    cache, made = StatesCache(), []

    def make() -> States:
        made.append(1)
        return states()

    assert cache.get_or_make(key("a"), make) is cache.get_or_make(key("a"), make)
    assert len(made) == 1


def test_a_failed_make_leaves_nothing():
    cache = StatesCache()
    with pytest.raises(ZeroDivisionError):
        cache.get_or_make(key("a"), lambda: 1 / 0)  # pyright: ignore
    assert cache.stats.entries == 0


def test_threads_share_it():
    cache = StatesCache(max_bytes=40 * 7)

    def work(seed: int) -> None:
        for step in range(300):
            cache.get_or_make(key(str((seed * 7 + step * step) % 11)), states)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = cache.stats
    assert stats.hits + stats.misses == 1200
    assert stats.nbytes == 40 * stats.entries <= 280
