"""Index tables are derived from joint names."""

import numpy as np
import pytest
import yaml
from pycocotools.cocoeval import Params

from ppose.config import ConfigError, build
from ppose.data.transforms import Transform
from ppose.structures.skeleton import COCO17, SKELETONS, Joint, Skeleton


@pytest.mark.parametrize("skeleton", [Skeleton.named(name) for name in SKELETONS], ids=SKELETONS)
def test_tables_are_consistent(skeleton):
    mirror = skeleton.mirror_index
    assert (mirror[mirror] == np.arange(len(skeleton))).all()
    assert {*skeleton.upper_index, *skeleton.lower_index} == set(range(len(skeleton)))
    assert skeleton.sigmas.shape == (len(skeleton),)
    names = np.array(skeleton.joint_names)
    assert [tuple(pair) for pair in names[skeleton.limb_index]] == list(skeleton.limbs)
    swapped = {"left": "right", "right": "left", "middle": "middle"}
    assert [skeleton.sides[i] for i in mirror] == [swapped[s] for s in skeleton.sides]


def test_coco17_matches_coco():
    assert COCO17.joint_names[:3] == ("nose", "left_eye", "right_eye")
    assert COCO17.index("right_ankle") == 16
    assert COCO17.mirror_index.tolist() == [
        0,
        2,
        1,
        4,
        3,
        6,
        5,
        8,
        7,
        10,
        9,
        12,
        11,
        14,
        13,
        16,
        15,
    ]
    assert np.allclose(COCO17.sigmas, Params("keypoints").kpt_oks_sigmas)


@pytest.mark.parametrize(
    ("joints", "limbs", "message"),
    [
        ([], [], "has no joints"),
        ([Joint("a", 1), Joint("a", 1)], [], "has duplicate joint names"),
        ([Joint("a", 1, "b"), Joint("b", 1)], [], "mirror"),
        ([Joint("head", 1)], [("head", "haed")], "no joint 'haed'; did you mean 'head'"),
        ([Joint("left_a", 1, "left_a")], [], "is itself; write mirror: right_a"),
        ([Joint("a", 1, "b"), Joint("c", 1)], [], "no such joint"),
        (
            [Joint("left_a", 1, "rigth_a"), Joint("right_a", 1)],
            [],
            "no such joint; did you mean 'right_a'",
        ),
        ([Joint("a", 1, "b"), Joint("b", 0.5)], [], r"write {name: b, sigma: 0.5, mirror: a}$"),
        (
            [Joint("a", 1, "b"), Joint("b", 1, "a"), Joint("c", 1, "a")],
            [],
            "'c' has the mirror 'a', whose mirror is not 'c' but 'b'",
        ),
        (
            [Joint("a", 1), Joint("b", 1)],
            [(0, 1)],
            r"pairs of joint names, found indices; counted from 0: limbs: \[\[a, b\]\]$",
        ),
        (
            [Joint("a", 1), Joint("b", 1)],
            [(2, 1)],
            r"found indices; counted from 1, as in COCO's files: limbs: \[\[b, a\]\]$",
        ),
        (
            [Joint(n, 1) for n in "abc"],
            [(1, 2)],
            r"from 0: limbs: \[\[b, c\]\]; .* from 1, .*: limbs: \[\[a, b\]\]$",
        ),
        ([Joint("a", 1)], [(0, 5)], "the indices do not fit 1 joints"),
    ],
)
def test_wrong_skeletons(joints, limbs, message):
    with pytest.raises(ValueError, match=message):
        Skeleton("wrong", joints, limbs)


@pytest.mark.parametrize("name", ["coco_17", "halpe26"])
def test_an_unknown_name_tells_how_a_skeleton_is_written(name):
    written = r"no skeleton is named .*a skeleton is the name of one that ships \(coco17\), or {"
    with pytest.raises(ValueError, match=written) as error:
        Skeleton.named(name)
    assert ("did you mean 'coco17'" in str(error.value)) == (name == "coco_17")
    node = yaml.safe_load(str(error.value).partition("ships (coco17), or ")[2])
    assert build(node, Skeleton).joint_names == ("wrist", "thumb")


@pytest.mark.parametrize("node", [17, None, [[1, 2]]])
def test_what_is_no_skeleton_tells_how_one_is_written(node):
    with pytest.raises(ConfigError, match=r"skeleton: expected Skeleton, found .*; a skeleton is"):
        build(node, Skeleton, "skeleton")
    with pytest.raises(ConfigError, match=r"joints.0: .* a joint is written as {name: wrist"):
        build({"name": "a", "joints": ["wrist"], "limbs": []}, Skeleton)


def of_names(names, **mirrors):
    return Skeleton("mine", [Joint(n, 0.5, mirrors.get(n)) for n in names.split()], [])


def test_pairs_are_found_in_the_names_if_none_is_given():
    plain = [Joint(j.name, j.sigma, part=j.part) for j in COCO17.joints]
    found = Skeleton("mine", plain, COCO17.limbs)
    assert found.mirror_is_guessed and not COCO17.mirror_is_guessed
    assert [j.mirror for j in found.joints] == [j.mirror for j in COCO17.joints]
    found.check_flip()
    assert found.about_mirror().startswith(
        "skeleton 'mine': mirror pairs found in the names: left_eye/right_eye, left_ear/right_ear,"
    )
    assert found.about_mirror().endswith("; without a partner: nose")
    again = build(found.node(), Skeleton)
    assert again.joints == found.joints and not again.mirror_is_guessed


def test_none_says_that_there_is_no_partner():
    alone = of_names("left_a right_a tip", left_a="none", right_a="none")
    assert alone.mirror_index.tolist() == [0, 1, 2] and alone.sides == ("middle",) * 3
    alone.check_sides()
    with pytest.raises(ValueError, match="no mirror pairs"):
        alone.check_flip()
    whole = Skeleton("hand", [Joint("left_a", 1), Joint("right_a", 1)], [], mirror="none")
    whole.check_flip()
    assert whole.mirror_index.tolist() == [0, 1]
    assert build(whole.node(), Skeleton).joints == whole.joints, "what is said is kept"
    with pytest.raises(ValueError, match="mirror: none, but 'a' has the mirror 'b'"):
        Skeleton("hand", [Joint("a", 1, "b"), Joint("b", 1, "a")], [], mirror="none")
    of_names("nose l r", nose="nose").check_flip()


@pytest.mark.parametrize(
    ("skeleton", "message"),
    [
        (
            of_names("tip base"),
            r"a flip would leave .* {name: tip, sigma: 0.5, mirror: NAME.* or write mirror: none",
        ),
        (
            of_names("left_a right_a left_b right_b", left_a="right_a", right_a="left_a"),
            "write {name: left_b, sigma: 0.5, mirror: right_b}, {name: right_b, .* left_b}; a",
        ),
        (
            of_names("left_a right_a left_b"),
            "'left_b' tells of a side, but there is no 'right_b'; without a partner, write "
            "{name: left_b, sigma: 0.5, mirror: none}",
        ),
        (of_names("left_a left_b"), "'left_a' tells of a side, but there is no 'right_a'"),
        (
            of_names("left_hand right_hnd"),
            "no 'right_hand'; if that is 'right_hnd', write {name: left_hand, sigma: 0.5, mirror: "
            "right_hnd}, {name: right_hnd, sigma: 0.5, mirror: left_hand}; without",
        ),
        (of_names("left_eye r_eye"), "if that is 'r_eye', write {name: left_eye, .* r_eye}"),
        (of_names("letf_a right_a l_b r_b"), "'letf_a' has no mirror and looks like 'left_a'"),
        (of_names("l_a r_a l_b"), "'l_b' tells of a side, but there is no 'r_b'"),
        (of_names("left_a left_b", left_a="left_b", left_b="left_a"), "both are on the left"),
        (
            of_names("right_a left_a left_b", left_a="left_b", left_b="left_a"),
            "write {name: left_a, sigma: 0.5, mirror: right_a}, {name: right_a,",
        ),
        (
            of_names(
                "left_a left_b right_b right_a",
                **{"left_a": "right_b", "right_b": "left_a"},
                **{"left_b": "right_a", "right_a": "left_b"},
            ),
            "'left_a' has the mirror 'right_b', but there is 'right_a'",
        ),
    ],
)
def test_sides_that_are_not_known_cannot_be_flipped(skeleton, message):
    with pytest.raises(ValueError, match=message) as error:
        skeleton.check_flip()
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=f"node: .*{message}"):
        build({"type": "RandomFlip", "skeleton": skeleton.node()}, Transform, "node")


def test_a_given_mirror_goes_before_letters_that_are_part_of_a_word():
    given = of_names("lock rock key key2", lock="key", key="lock", rock="key2", key2="rock")
    given.check_flip()
    assert given.mirror_index.tolist() == [2, 3, 0, 1]


def test_sides_come_from_the_mirrors():
    assert of_names("R_Eye L_Eye nose").sides == ("right", "left", "middle")
    assert of_names("a b c", a="c", c="a").sides == ("left", "middle", "right")
    assert of_names("right_a other", right_a="other", other="right_a").sides == ("right", "left")
    assert of_names("other right_a", right_a="other", other="right_a").sides == ("left", "right")


HAND = Skeleton(
    "hand",
    [Joint(n, 0.1) for n in ("wrist", "a1", "a2", "b1", "b2", "c1", "d", "e", "f", "g")],
    [
        *(("wrist", "a1"), ("a1", "a2"), ("wrist", "b1"), ("b1", "b2"), ("wrist", "c1")),
        *(("e", "f"), ("f", "g"), ("g", "e")),
    ],
)


def test_limbs_are_grouped_in_chains_and_rings():
    joints, limbs = HAND.groups
    assert joints.tolist() == [-1, 0, 0, 1, 1, 2, 3, 4, 4, 4]
    assert limbs.tolist() == [0, 0, 1, 1, 2, 4, 4, 4]
    bridge = Skeleton(
        "bridge",
        [Joint(n, 0.1) for n in ("hub", "x", "y", "spine", "other", "z", "w")],
        [
            *(("hub", "x"), ("hub", "y"), ("hub", "spine"), ("spine", "other")),
            *(("other", "z"), ("other", "w")),
        ],
    )
    assert bridge.groups[0].tolist() == [-1, 0, 1, -1, -1, 2, 3]
    assert bridge.groups[1].tolist() == [0, 1, -1, -1, 2, 3]
