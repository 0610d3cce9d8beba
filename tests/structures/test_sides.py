"""Sides of the body are read from the names of joints."""

import pytest

from ppose.structures.sides import missing_side, misspelt_sides, other_side, side_of

PAIRS = [
    *(("left_eye", "right_eye"), ("L_Eye", "R_Eye"), ("eye_l", "eye_r"), ("hip.L", "hip.R")),
    *(("LEye", "REye"), ("eyeL", "eyeR"), ("leftEye", "rightEye"), ("EyeLeft", "EyeRight")),
    *(("lhip", "rhip"), ("hipl", "hipr"), ("lefthip", "righthip"), ("hipleft", "hipright")),
    *(("LEFT EYE", "RIGHT EYE"), ("left", "right"), ("l", "r"), ("forelegL1", "forelegR1")),
    *(("left_eye_r", "right_eye_l"), ("left_hand_left_thumb", "right_hand_right_thumb")),
    *(("leftmost_point", "rightmost_point"), ("lt-ear", "rt-ear"), ("Left_1", "right_1")),
]


@pytest.mark.parametrize(("left", "right"), PAIRS, ids=lambda name: name)
def test_names_that_differ_in_their_side_are_a_pair(left, right):
    assert other_side(["nose", right, left, "tail"]) == {left: right, right: left}
    assert (side_of(left, right), side_of(right, left)) == ("left", "right")
    assert misspelt_sides([left, right]) == {}


@pytest.mark.parametrize(
    "names",
    [
        ["lip", "rib", "ear", "girl", "collar"],
        ["cleft", "upright", "light", "height"],
        ["left_eye", "right_ear"],
        ["left_eye", "r_eye"],
        ["face-0", "face-1", "kpt_16"],
    ],
)
def test_other_names_are_no_pairs(names):
    assert other_side(names) == {}


def test_a_side_is_missing():
    """Words tell of a side alone, letters only beside a pair of letters, joined letters never."""
    assert missing_side(["left_hand", "nose"]) == {"left_hand": "right_hand"}
    assert missing_side(["L_Hand", "R_Hand", "L_Foot"]) == {"L_Foot": "R_Foot"}
    assert missing_side(["LEFTHIP"]) == {"LEFTHIP": "RIGHTHIP"}
    assert missing_side(["L_Foot", "lhip", "cleft"]) == {}
    assert missing_side(["left_hand", "right_hand", "chart"]) == {}


def test_misspelt_sides():
    names = ["letf_eye", "right_eye", "LEFT_ear", "RIGTH_ear", "felt"]
    assert misspelt_sides(names) == {"letf_eye": "left_eye", "RIGTH_ear": "right_ear"}
