import paddle
import pytest

from ppose.engine.graph import network_graph
from ppose.experiment import Experiment


@pytest.fixture(params=["top-down", "bottom-up"])
def run(request):
    names = {"top-down": ("quickstart", "small_run")}
    path, overrides = names.get(request.param, ("imhn_quickstart", "small_bottomup"))
    return Experiment.from_file(request.getfixturevalue(path), request.getfixturevalue(overrides))


def test_each_layer_and_its_weights_have_their_place(run):
    network = run.model
    graph = network_graph(network, run.codec.size_wh)
    root = type(network).__name__
    nodes = {node["name"]: node for node in graph["nodes"]}
    layers = dict(network.named_sublayers())
    seen = 0
    for node in nodes.values():
        if node["type"] != "conv2d":
            continue
        *path, _ = node["name"].removeprefix(f"/{root}/").split("/")
        layer = layers[".".join(path)]
        assert isinstance(layer, paddle.nn.Conv2D)
        assert f"{'.'.join(path)}.weight" in node["input_vars"]["X"]
        assert node["attrs"]["strides"] == list(layer._stride)
        seen += 1
    assert seen > 20


def test_what_flows_in_flows_out_again(run):
    graph = network_graph(run.model, run.codec.size_wh)
    leaves = {n["name"]: n for n in graph["nodes"] if n["is_leaf_node"]}
    (start,) = (name for name, n in leaves.items() if n["type"] == "data")
    reached, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += leaves[name]["output_nodes"]
    weights = {v["name"] for v in graph["vars"] if v["persistable"]}
    for name in set(leaves) - reached:  # a bias gets its shape
        assert set(leaves[name]["input_vars"]["X"]) <= weights
    assert len(reached) > 0.9 * len(leaves)
    ends = [n for n in leaves.values() if not n["output_nodes"]]
    width, height = run.codec.size_wh
    stride = run.codec.stride
    shapes = {v["name"]: v["shape"] for v in graph["vars"]}
    assert [1, run.codec.channels, height // stride, width // stride] in [
        shapes[name] for n in ends for name in n["output_vars"]["Out"]
    ]


def test_the_network_stays_as_it_is(run):
    network = run.model
    network.train()
    hooks = [len(layer._forward_pre_hooks) for layer in network.sublayers(include_self=True)]
    before = {k: v.numpy().copy() for k, v in network.state_dict().items()}
    network_graph(network, run.codec.size_wh)
    assert network.training
    assert hooks == [
        len(layer._forward_pre_hooks) for layer in network.sublayers(include_self=True)
    ]
    assert all((before[k] == v.numpy()).all() for k, v in network.state_dict().items())
    assert paddle.in_dynamic_mode()
