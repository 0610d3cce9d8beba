"""Tracing to Paddle's old format."""

import pytest
from paddle.jit.dy2static.program_translator import ProgramTranslator
from tiny_branching_network import SIZE_WH, branching_network

from ppose.export.pdmodel import TraceError, trace


def recorded():
    return len(ProgramTranslator.get_instance()._params_recorder.params_dict)


def test_a_trace_leaves_nothing_in_paddle():
    """What it left was found by a later trace whose program had the same id."""
    network, (width, height) = branching_network(), SIZE_WH
    before = recorded()
    trace(network.eval(), (1, 3, height, width))
    assert recorded() == before
    network.forward = lambda *_: (_ for _ in ()).throw(TypeError("no such operator"))
    with pytest.raises(TraceError, match="no such operator"):
        trace(network, (1, 3, height, width))
    assert recorded() == before
