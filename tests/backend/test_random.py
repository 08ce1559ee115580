"""Random streams are functions of their key: the same on every machine and for every order of calls."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from dtrain.backend.random import Key, Purpose, key, manual_seed, next_stream, stream


@pytest.fixture(autouse=True)
def _start():
    manual_seed(0)
    yield
    manual_seed(0)


def philox4x64(counter: list[int], words: list[int]) -> list[int]:
    """Philox4x64-10 as Salmon et al. define it."""
    mask = 2**64 - 1
    c, k = list(counter), list(words)
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(b >> 64) ^ c[1] ^ k[0], b & mask, (a >> 64) ^ c[3] ^ k[1], a & mask]
        k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
    return c


def test_stream_is_philox_with_key_and_counter():
    assert philox4x64([0] * 4, [0, 0])[0] == 0x16554D9ECA36314C  # the authors' known answer
    raw = stream(5, Purpose.GRAPH, 7, 8, 9).bit_generator.random_raw(8)
    # NumPy counts up before it draws.
    want = philox4x64([1, 7, 8, 9], [5, Purpose.GRAPH]) + philox4x64([2, 7, 8, 9], [5, Purpose.GRAPH])
    assert raw.tolist() == want


def test_known_values():
    """A change here would change every run that was ever made."""
    assert stream(0, Purpose.GRAPH).bit_generator.random_raw(2).tolist() == philox4x64([1, 0, 0, 0], [0, 0])[:2]
    assert [int(p) for p in Purpose] == list(range(len(Purpose)))
    assert [p.name for p in list(Purpose)[:5]] == ["GRAPH", "NO_GRAD", "INIT", "SHUFFLE", "AUGMENT"]


def test_streams_differ_in_every_part_of_the_key():
    draws = {
        stream(seed, purpose, *counter).random()
        for seed, purpose, counter in itertools.product(
            (0, 1, -1, 2**63), Purpose, ((), (1,), (0, 1), (0, 0, 1), (1, 0, 0), (-1,))
        )
        if counter != (1, 0, 0)  # is (1,)
    }
    assert len(draws) == 4 * len(Purpose) * 5
    assert stream(3, Purpose.INIT, 1).random() == stream(3, Purpose.INIT, 1, 0, 0).random()


def test_next_stream_counts_calls_of_each_purpose():
    first = next_stream(Purpose.GRAPH).random()
    next_stream(Purpose.NO_GRAD), next_stream(Purpose.INIT)
    second = next_stream(Purpose.GRAPH).random()
    assert first == stream(0, Purpose.GRAPH, 0, 0, 1).random()
    assert second == stream(0, Purpose.GRAPH, 0, 0, 2).random()
    assert next_stream(Purpose.INIT).random() == stream(0, Purpose.INIT, 2).random()


def test_moving_starts_the_calls_again_but_not_those_of_init():
    next_stream(Purpose.GRAPH), next_stream(Purpose.INIT)
    key.move_to(0, 0)
    assert key.calls == 1
    key.move_to(3, 2)
    assert next_stream(Purpose.GRAPH).random() == stream(0, Purpose.GRAPH, 3, 2, 1).random()
    assert next_stream(Purpose.NO_GRAD).random() == stream(0, Purpose.NO_GRAD, 3, 2, 1).random()
    assert key.calls_of_init == 1


def test_a_new_thread_starts_from_the_last_seed_at_the_beginning():
    manual_seed(9)
    key.move_to(4, 4)
    seen = []
    thread = threading.Thread(target=lambda: seen.append((key.seed, key.step, next_stream(Purpose.GRAPH).random())))
    thread.start()
    thread.join()
    assert seen == [(9, 0, stream(9, Purpose.GRAPH, 0, 0, 1).random())]
    assert (Key.first_seed, key.step) == (9, 4)


def test_numpys_global_generator_is_never_touched():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    manual_seed(3)
    next_stream(Purpose.GRAPH).random(100)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
