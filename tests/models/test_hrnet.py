import paddle
import pytest

from ppose.models import HRNet

SMALL = {"width": 4, "modules": (1, 1, 1), "blocks": 1, "stem_width": 8, "stage1_width": 4}


@pytest.mark.parametrize(
    "arguments",
    [
        {"stage1_blocks": 1},
        {"width": 8, "blocks": 2},
        {"modules": (2, 1, 2)},
        {"width": 16, "stem_width": 16},
    ],
)
def test_every_parameter_of_a_small_variant_gets_a_gradient(arguments):
    network = HRNet(**SMALL | arguments)
    features = network(paddle.randn([2, 3, 64, 64]))
    assert features.shape == [2, arguments.get("width", 4), 16, 16]
    features.square().mean().backward()
    parameters = [(n, p) for n, p in network.named_parameters() if not p.stop_gradient]
    assert [n for n, p in parameters if p.grad is None or not p.grad.numpy().any()] == []


def test_shortcuts_and_transitions_are_projected_only_where_the_width_changes():
    projections = {"la1.block_layer2_1.conv_down", "tr1.transition_tr1_layer_1"}
    same_width = HRNet(**SMALL | {"width": 16, "stem_width": 16})
    assert projections <= convolutions(HRNet(**SMALL))
    assert not projections & convolutions(same_width)


def test_the_last_module_outputs_only_the_highest_resolution():
    names = convolutions(HRNet(**SMALL | {"modules": (1, 1, 2)}))
    fusion = "st4.stage_st4_{0}.fuse_func.residual_st4_{0}_layer_"
    assert any(name.startswith(fusion.format(1) + "4_1") for name in names)
    last = {name for name in names if "st4_2.fuse_func" in name}
    assert last == {fusion.format(2) + f"1_{branch}" for branch in (2, 3, 4)}


def convolutions(network: HRNet) -> set[str]:
    names = network.state_dict()
    return {n.removesuffix(".conv.weight") for n in names if n.endswith(".conv.weight")}
