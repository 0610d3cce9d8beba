import threading
import time

import pytest

from ppose.stages import Stages


def test_times_add_up():
    stages = Stages()
    for _ in range(3):
        with stages("network"):
            time.sleep(0.01)
    with pytest.raises(ValueError), stages("decode"):
        raise ValueError
    assert list(stages.seconds) == ["network", "decode"]
    assert stages.seconds["network"] >= 0.03 > stages.seconds["decode"]


def test_threads_lose_nothing(monkeypatch):
    clock = iter(range(1_000_000))
    monkeypatch.setattr(time, "perf_counter", lambda: 0)
    stages = Stages()

    def work():
        for _ in range(500):
            with stages("work"):
                next(clock)

    stages.seconds["work"] = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: float(threading.get_ident() % 1) or 1.0)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stages.seconds == {"work": 0.0}
