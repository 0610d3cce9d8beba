import threading
import time

import pytest

from ppose.stages import Stages


class Clock(threading.local):
    """Goes on by a second each time a thread looks at it."""

    now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


def test_times_add_up(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", Clock())
    stages = Stages()
    for _ in range(3):
        with stages("network"):
            pass
    with pytest.raises(ValueError), stages("decode"):
        raise ValueError
    assert list(stages.seconds.items()) == [("network", 3.0), ("decode", 1.0)]


def test_threads_lose_nothing(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", Clock())
    stages = Stages()

    def work():
        for _ in range(2000):
            with stages("work"):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stages.seconds == {"work": 8000.0}
