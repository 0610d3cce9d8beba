"""fp16's loss scaling on a CPU: Paddle keeps it to GPUs, though its operators run anywhere."""

import pytest


@pytest.fixture
def fp16_on_cpu(monkeypatch):
    """Lets fp16 be chosen: the loss is scaled, the network computes in float32."""

    class Place:
        def is_gpu_place(self):
            return True

    class Tracer:
        _expected_place = Place()

    monkeypatch.setattr("ppose.engine.amp.on_gpu", lambda: True)
    monkeypatch.setattr("paddle.amp.grad_scaler._dygraph_tracer", Tracer)
