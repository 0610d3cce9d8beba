"""ppose config: builds and checks all that needs no data."""

import re

import pytest
import yaml

from ppose.commands import main
from ppose.config import load_config, shipped_configs

SKELETON = (
    "{{name: two, limbs: [], joints: ["
    "{{name: left_x, sigma: 0.1, mirror: {}}}, {{name: right_x, sigma: 0.1}}]}}"
)


def config(capsys, name, *overrides):
    with pytest.raises(SystemExit) as stopped:
        main(["config", "-c", name, *(["-o", *overrides] if overrides else [])])
    out, err = capsys.readouterr()
    return stopped.value.code, out, err


@pytest.mark.parametrize(
    "name",
    ["quickstart", "imhn_quickstart", "hrnet_w32_256x192_teacher", "tinypose_256x192_pact",
     "lite_hrnet_30_256x192_coco", "compress/quickstart_pact"],
)  # fmt: skip
def test_a_shipped_config_is_printed(capsys, name):
    code, out, err = config(capsys, name)
    assert (code, err) == (0, "")
    assert yaml.safe_load(out)["name"] == load_config(name)["name"]


def test_shipped_configs_are_known():
    assert {"quickstart", "compress/quickstart_pact"} <= set(shipped_configs())


TOPDOWN = [
    # The learning rate and its schedule.
    ("optimizer.lr=-1", "optimizer.lr: expected float above 0 and at most 100, found int -1"),
    ("optimizer.lr=.nan", "optimizer.lr: expected float above 0 .*found float nan"),
    ("optimizer.lr=fast", "optimizer.lr: expected float above 0 .*found str 'fast'"),
    ("optimizer.lr=true", "optimizer.lr: expected float above 0 .*found bool True"),
    ("optimizer.weight_decay=-0.01", "optimizer.weight_decay: expected float in 0..1"),
    ("optimizer={type: SGD, lr: 1, momentum: 1.0}", "optimizer.momentum: expected float .*below 1"),
    ("optimizer.betas=[0.9, 1.0]", "optimizer.betas: AdamW has no argument 'betas'"),
    ("optimizer.clip_norm=0", "optimizer.clip_norm: expected float above 0"),
    ("optimizer.lr_factors={bakcbone: 0.1}", "optimizer.lr_factors: no name begins with"),
    ("optimizer.lr_factors={backbone: 0}", "optimizer.lr_factors.backbone: expected float above"),
    ("schedule.warmup_steps=-1", "schedule.warmup_steps: expected int in 0.."),
    ("schedule.warmup_factor=2", "schedule.warmup_factor: expected float in 0..1"),
    ("schedule={type: StepDecay, milestones: [6, 3]}", "schedule: milestones: expected ascending"),
    ("schedule={type: StepDecay, milestones: [-1]}", "schedule.milestones.0: expected float in"),
    ("schedule={type: StepDecay, milestones: [1], gamma: 10}", "schedule.gamma: expected float"),
    # Sizes.
    ("input_size=[100, 130]", r"codec: input size \(100, 130\) is not a multiple of the stride 4"),
    ("input_size=[100, 100]", "input_size: expected multiples of 32"),
    ("input_size=[-96, 128]", "input_size.0: expected int in 1..8192, found int -96"),
    ("input_size=[96]", "input_size: expected 2 values, found 1"),
    ("input_size=[96.0, 128]", "input_size.0: expected int in 1..8192, found float 96.0"),
    ("input_size=[96, 1000000]", "input_size.1: expected int in 1..8192"),
    ("codec.stride=0", "codec.stride: expected int in 1..256"),
    ("model.backbone.width=100000000", "model.backbone.width: expected int in 1..256"),
    ("train_transforms.0={type: BoxCrop, size_wh: [64, 64]}", "train_transforms.0.size_wh: exp"),
    # The codec, and the crop.
    ("codec.sigma=0", "codec.sigma: expected float above 0"),
    ("codec.sigma=500", "codec: sigma: 500.0 cells do not fit into maps of"),
    ("codec.sigma=-.inf", "codec.sigma: expected float above 0"),
    ("codec.sigma=[2]", "codec.sigma: expected float above 0 .*found list"),
    ("codec.blur=4", "codec.blur: expected int in 1..99 and odd"),
    ("codec.alignment=utp", "codec.alignment: expected one of 'classic', 'udp', 'tinypose'"),
    ("crop.padding=-2", "crop.padding: expected float above 0"),
    ("crop.padding=1e308", "crop.padding: expected float above 0 and at most 100"),
    ("crop.udp=1", "crop.udp: expected bool, found int 1"),
    ("normalize.std=[0.2, 0, 0.2]", "normalize.std.1: expected float above 0"),
    ("normalize.mean=[123, 116, 103]", "normalize.mean.0: expected float in 0..1"),
    # The skeleton, and what flips.
    (f"skeleton={SKELETON.format('right_x')}", "skeleton.*right_x"),
    (f"skeleton={SKELETON.format('right_y')}", "skeleton.*right_y"),
    ("skeleton={name: a, joints: [], limbs: []}", "skeleton"),
    ("skeleton={name: a, joints: [{name: x, sigma: 0}], limbs: []}", "joints.0.sigma: expected"),
    ("codec.skeleton={name: a, joints: [{name: x, sigma: 1}], limbs: []}", "codec"),
    # Transforms.
    ("train_transforms.1.p=1.5", "train_transforms.1.p: expected float in 0..1"),
    ("train_transforms=['${crop}']", "train_transforms: expected one Warp, found BoxCrop"),
    ("train_transforms=[{type: Warp}]", "train_transforms: expected one crop, found Warp"),
    ("train_transforms=['${crop}', {type: Warp}, {type: RandomFlip, skeleton: coco17}]",
     r"train_transforms.2: RandomFlip \(geometry\) has to come before Warp \(warp\)"),
    ("train_transforms=['${crop}', {type: HalfBody, skeleton: coco17}, {type: Warp}]",
     r"train_transforms.1: HalfBody \(box\) has to come before BoxCrop"),
    ("train_transforms=['${crop}', {type: RandomScale, spread: 1}, {type: Warp}]",
     "train_transforms.1.spread: expected float at least 0 and below 1"),
    ("train_transforms=['${crop}', {type: Warp}, {type: InformationDropping, radius: [0.3, 0.1]}]",
     "train_transforms.2: radius: expected the minimum first"),
    # The run.
    ("epochs=-1", "epochs: expected int in 1.."),
    ("epochs=2.5", "epochs: expected int in 1..1000000, found float 2.5"),
    ("batch_size=0", "batch_size: expected int in 1.."),
    ("workers=-1", "workers: expected int in 0.."),
    ("save_every=0", "save_every: expected float above 0"),
    ("accumulate='2'", "accumulate: expected int in 1..1000000000, found str '2'"),
    ("seed=-5", "seed: expected int in 0.."),
    ("amp=half", "amp: expected one of 'off', 'fp16', 'bf16'"),
    ("freeze=[bakcbone]", "freeze: no name begins with 'bakcbone'"),
    ("freeze=['.']", "freeze: .* leave nothing to train"),
    ("freeze=['(']", r"freeze: '\(' is not a regular expression"),
    ("ema={type: EMA, decay: 1}", "ema.decay: expected float above 0 and below 1"),
    ("swa={type: SWA, start_epoch: 8}", "swa: the first weights would be taken after epoch 9"),
    ("swa={type: SWA, start_epoch: 1, every: 2, lr: [1e-4, 1e-3]}", "swa: lr: expected the high"),
    ("early_stop={type: EarlyStop, patience: 0}", "early_stop.patience: expected int in 1.."),
    ("quantize={exclude: [head]}", "quantize.exclude: no name begins with 'head'"),
    ("quantize={moving_rate: 1}", "quantize.moving_rate: expected float at least 0 and below 1"),
    ("distill=[{student: a, teacher: b, weight: 0}]", "distill.0.weight: expected float above 0"),
    # Losses, and how people are scored.
    ("loss={type: HeatmapOHKM, joints: 20}", "loss.joints: HeatmapOHKM uses the hardest 20 joints"),
    ("loss.scale=0", "loss.scale: expected float above 0"),
    ("postprocess.oks_nms=90", "postprocess.oks_nms: expected float in 0..1"),
    ("val_dataset.min_box_score=30", "val_dataset.min_box_score: expected float in 0..1"),
]  # fmt: skip
BOTTOMUP = [
    ("loss.stack_weights=[1, 1]", "loss.stack_weights: 2 weights, but the network has 1 stacks"),
    ("loss.scale_weights=[1, 1]", "loss.scale_weights: 2 weights, but the network has 5 scales"),
    ("loss.scale_weights=[0, 0, 0, 0, 0]", "loss: scale_weights: expected not only 0"),
    ("loss.gamma=0.5", "loss: gamma: expected 0, or at least 1"),
    ("model.width=40", "model.width: expected int in 16..1024 and a multiple of 16"),
    ("model.stacks=1000", "model.stacks: expected int in 1..16"),
    ("crop.scales=[]", "crop.scales: expected list .*of 1..16 items"),
    ("crop.scales=[1, -1]", "crop.scales.1: expected float above 0"),
    ("crop.max_side=10", "crop: max_side: expected at least the size"),
    ("crop.border=256", "crop.border: expected int in 0..255"),
    ("codec.grouping.min_joints=30", "codec: grouping.min_joints: nobody can have 30 of 18 joints"),
    ("codec.grouping.samples=1", "codec.grouping.samples: expected int in 2..1000"),
    ("codec.cut=0", "codec.cut: expected float above 0 and below 1"),
    ("train_dataset.min_area=-1", "train_dataset.min_area: expected float in 0.."),
    ("train_dataset={type: CocoDataset, image_dir: a, anno_path: b, skeleton: coco17}",
     "train_dataset.type: bottom-up training needs everybody"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [("quickstart", *row) for row in TOPDOWN] + [("imhn_quickstart", *row) for row in BOTTOMUP],
)
def test_a_mistake_is_named_before_training(capsys, name, override, message):
    code, out, err = config(capsys, name, override)
    assert (code, out) == (1, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert re.search(message, err), err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["schedule={type: StepDecay, milestones: [3, 8, 10]}"],
         r"no effect: schedule.milestones: \[8.0, 10.0\] are not before the end of 8 epochs"),
        (["amp_level=O2"], "no effect: amp_level: O2 needs amp: fp16 or bf16"),
        (["early_stop={type: EarlyStop, patience: 9}"], "no effect: early_stop.patience: 9 eval"),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_named(capsys, overrides, message):
    code, out, err = config(capsys, "quickstart", *overrides)
    assert code == 0 and out
    assert re.match(message, err), err
