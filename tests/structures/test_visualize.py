"""Drawing of people, heatmaps and grids, and saving images."""

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ppose.structures import Poses
from ppose.structures.skeleton import COCO17, Joint, Skeleton
from ppose.structures.visualize import draw_grid, draw_maps, save_image, track_colour
from ppose.utils.errors import PposeError

PAIR = Skeleton(
    "pair",
    [
        Joint("left_end", 0.1, "right_end"),
        Joint("right_end", 0.1, "left_end"),
        Joint("middle", 0.1),
    ],
    [("left_end", "middle"), ("right_end", "middle")],
)
POINT = Skeleton("point", [Joint("tip", 0.1)], [])


def grey(height=120, width=160):
    return np.full((height, width, 3), 90, np.uint8)


def poses(keypoints, skeleton=PAIR):
    keypoints = np.asarray(keypoints, np.float32)
    boxes = np.tile(np.float32([20, 30, 100, 60]), (len(keypoints), 1))
    return Poses(keypoints, np.ones(len(keypoints), np.float32), boxes, "given", skeleton)


def pair(left=(130, 60), right=(30, 60), middle=(80, 60), scores=(1, 1, 1)):
    return poses([np.column_stack([[left, right, middle], scores])])


def changed(image, drawn):
    return (image != drawn).any(-1)


def is_orange(pixel):
    red, green, blue = pixel.astype(int)
    return red > green + 40 > blue + 80


def is_blue(pixel):
    red, green, blue = pixel.astype(int)
    return blue > green + 40 > red + 80


def test_draws_on_a_copy():
    image = grey()
    drawn = pair().draw(image)
    assert (image == 90).all()
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert not changed(image, drawn)[:40].any()
    assert not changed(image, drawn)[80:].any()


def test_joints_and_limbs_have_the_colour_of_their_side():
    drawn = pair().draw(grey())
    assert is_orange(drawn[60, 130]) and is_orange(drawn[60, 105])
    assert is_blue(drawn[60, 30]) and is_blue(drawn[60, 55])
    middle = drawn[60, 80]
    assert not is_orange(middle) and not is_blue(middle) and (middle != 90).any()


def test_sides_come_from_the_mirrors_whatever_the_names():
    joints = [Joint("L_End", 0.1), Joint("R_End", 0.1), Joint("middle", 0.1)]
    skeleton = Skeleton("pair", joints, [("L_End", "middle"), ("R_End", "middle")])
    found = pair()
    np.testing.assert_array_equal(poses(found.keypoints, skeleton).draw(grey()), found.draw(grey()))


def test_groups_of_a_skeleton_without_pairs_have_colours_of_their_own():
    """A hand with three fingers and a bridge to a fourth, which is drawn as the middle."""
    places = {
        **{"wrist": (80, 100), "a": (20, 60), "b": (60, 20), "c": (110, 20), "hub": (140, 80)},
        **{"d": (155, 20), "e": (155, 110)},
    }
    limbs = [("wrist", "a"), ("wrist", "b"), ("wrist", "c"), ("wrist", "hub")]
    limbs += [("hub", "d"), ("hub", "e")]
    hand = Skeleton("hand", [Joint(name, 0.1) for name in places], limbs)
    drawn = poses([[[*at, 1] for at in places.values()]], hand).draw(grey())
    middles = [np.mean([places[a], places[b]], axis=0).astype(int) for a, b in limbs]
    hues = np.array([hue(drawn[y, x]) for x, y in middles])
    apart = np.abs((hues[:, None] - hues + 90) % 180 - 90)
    assert apart[~np.eye(len(limbs), dtype=bool)].min() >= 10
    assert abs(hues[3] - hue((60, 225, 165))) <= 4


def test_limbs_of_a_joint_below_the_threshold_are_not_drawn():
    image = grey()
    drawn = pair(scores=(0.29, 0.3, 0.9)).draw(image, min_score=0.3)
    assert not changed(image, drawn)[:, 90:].any()
    assert changed(image, drawn)[60, 30] and changed(image, drawn)[60, 55]
    assert changed(image, pair(scores=(0.29, 1, 1)).draw(image, min_score=0.2))[60, 130]


@pytest.mark.parametrize("extent", [10, 120, 400, 1500])
@pytest.mark.parametrize("x", [0.0, 0.25, 0.5, 0.875])
def test_a_joint_is_centred_at_its_coordinates(x, extent):
    """At each drawing resolution; two more joints only set the size of the person."""
    skeleton = Skeleton("three", [Joint(n, 0.1) for n in "abc"], [])
    image = np.zeros((200, 1700, 3), np.uint8)
    place = np.array([100 + x, 100 + x])
    keypoints = [[*place, 1], [place[0] + extent, place[1], 1], [place[0] + extent, 99, 1]]
    drawn = poses([keypoints], skeleton).draw(image)
    radius = 50 if extent > 100 else 4
    window = drawn[100 - radius : 101 + radius, 100 - radius : 101 + radius].sum(-1).astype(float)
    ys, xs = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    centroid = np.array([(window * xs).sum(), (window * ys).sum()]) / window.sum()
    np.testing.assert_allclose(centroid, [x, x], atol=0.1)


def test_line_thickness_grows_with_the_size_of_the_person():
    image = grey(400, 1000)
    widths = []
    for reach in (30, 150, 400):
        drawn = pair((500 + reach, 200), (500 - reach, 200), (500, 200)).draw(image)
        widths.append(int(changed(image, drawn)[:, 500 + reach // 2].sum()))
    assert widths[0] < widths[1] < widths[2]
    assert widths[0] >= 2


@pytest.mark.parametrize("height", [10, 20, 40])
def test_a_small_person_is_not_covered_by_the_drawing(height):
    """The drawing grows with the person: it changes about as much of 20 as of 200 pixels."""

    def drawn_part(height):
        spread = np.random.default_rng(1).uniform(0, (0.4 * height, height), (17, 2))
        keypoints = np.column_stack([40 + spread, np.ones(17)])[None]
        image = grey(300, 300)
        difference = np.abs(poses(keypoints, COCO17).draw(image).astype(int) - image).max(-1)
        assert difference.max() > 40, "it is visible"
        return difference.sum() / height**2

    assert drawn_part(height) < 1.25 * drawn_part(200)


def test_smaller_people_are_drawn_over_larger_ones():
    small = [[300, 200, 1], [300, 170, 1], [300, 185, 1]]
    large = [[590, 200, 1], [10, 200, 1], [300, 200, 1]]
    image = grey(400, 600)
    for order in ([small, large], [large, small]):
        assert is_orange(poses(order).draw(image)[200, 300])


def hue(pixel):
    return cv2.cvtColor(np.uint8([[pixel]]), cv2.COLOR_RGB2HSV)[0, 0, 0].astype(int)


@pytest.mark.parametrize("track_id", [0, 1, 2, 17, 123456])
def test_limbs_have_the_colour_of_the_track_and_its_id_is_above(track_id):
    image = grey(200, 160)
    lower = pair((130, 150), (30, 150), (80, 150))
    drawn = lower.draw(image, track_ids=np.array([track_id]))
    wanted = hue(track_colour(track_id))
    for x in (55, 105):
        assert abs((hue(drawn[150, x]) - wanted + 90) % 180 - 90) <= 4
    assert is_orange(drawn[150, 130]) and is_blue(drawn[150, 30])
    assert (drawn[:140] == track_colour(track_id)).all(-1).sum() > 20
    plain = lower.draw(image)
    np.testing.assert_array_equal(lower.draw(image, track_ids=np.array([-1])), plain)


def test_track_colours_are_distinct():
    hues = np.array([hue(track_colour(n)) for n in range(1, 7)])
    apart = np.abs((hues[:, None] - hues + 90) % 180 - 90)
    assert apart[~np.eye(6, dtype=bool)].min() >= 15


@pytest.mark.parametrize("size", [(20, 20), (9, 300)])
@pytest.mark.parametrize("place", [(0, 0), (19, 19), (300, 8)])
def test_an_id_is_drawn_inside_the_image(size, place):
    image = grey(*size)
    one = poses([[[*place, 1], [place[0] - 3, place[1] + 2, 1], [*place, 1]]])
    assert one.draw(image, track_ids=np.array([10**9])).shape == image.shape


def test_no_people_leave_the_image_unchanged():
    image = grey()
    assert (Poses.empty(COCO17).draw(image) == image).all()
    assert (pair(scores=(0, 0, 0)).draw(image) == image).all()


wild = st.floats(width=32) | st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e30, 70000, -1])


@settings(deadline=None, max_examples=60)
@given(
    arrays(np.float32, (2, 17, 3), elements=wild),
    arrays(np.float32, (2, 4), elements=wild),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_no_coordinate_crashes(keypoints, boxes, shape):
    found = Poses(keypoints, np.ones(2, np.float32), boxes, "given", COCO17)
    image = np.zeros((*shape, 3), np.uint8)
    assert found.draw(image).shape == image.shape


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e9, 1e30])
def test_a_joint_far_outside_is_not_drawn(value):
    image = grey()
    drawn = pair(left=(value, 60)).draw(image)
    assert not changed(image, drawn)[:, 90:].any()
    assert changed(image, drawn)[60, 30]


def test_a_limb_to_a_joint_outside_is_drawn_to_the_border():
    image = grey()
    assert is_orange(pair(left=(200, 60)).draw(image)[60, 159])


@pytest.mark.parametrize("skeleton", [COCO17, POINT], ids=lambda s: s.name)
def test_any_skeleton(skeleton):
    keypoints = np.ones((1, len(skeleton), 3))
    keypoints[..., :2] = np.random.default_rng(0).uniform(20, 100, (1, len(skeleton), 2))
    image = grey()
    drawn = poses(keypoints, skeleton).draw(image)
    x, y = keypoints[0, :, :2].round().astype(int).T
    assert changed(image, drawn)[y, x].all()


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)],
)
def test_other_images_are_errors(image):
    with pytest.raises(ValueError, match=r"expected \(H, W, 3\) uint8 RGB, found"):
        pair().draw(image)


def coloured(value, height, width):
    return np.full((height, width, 3), value, np.uint8)


def test_grid_of_equal_images():
    grid = draw_grid([coloured(v, 40, 60) for v in (50, 100, 150, 200, 250)], 2, width=132, gap=4)
    assert grid.shape == (4 + 3 * 44, 132, 3)
    for value, y, x in ((50, 4, 4), (100, 4, 68), (150, 48, 4), (200, 48, 68), (250, 92, 4)):
        assert (grid[y : y + 40, x : x + 60] == value).all()
    assert (grid[92:, 68:] == grid[0, 0]).all() and (grid[:, 64:68] == grid[0, 0]).all()


def test_images_of_a_grid_row_have_the_same_height():
    grid = draw_grid([coloured(100, 200, 100), coloured(200, 50, 100)], 2, width=262, gap=4)
    assert grid.shape == (108, 262, 3)
    assert (grid[4:104, 4:54] == 100).all() and (grid[4:104, 58:258] == 200).all()


@settings(deadline=None, max_examples=100)
@example(shapes=[(1, 300)] + [(300, 1)] * 11, columns=12, gap=0, spare=60)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=12),
    st.integers(1, 12),
    st.integers(0, 3),
    st.integers(0, 300),
)
def test_grid_of_any_image_sizes(shapes, columns, gap, spare):
    width = columns + gap * (columns + 1) + spare
    grid = draw_grid([coloured(255, *shape) for shape in shapes], columns, width=width, gap=gap)
    rows = -(-len(shapes) // min(columns, len(shapes)))
    assert grid.shape[1] == width
    assert grid.shape[0] <= rows * (width + gap) + gap
    assert (grid == 255).all(-1).sum() >= len(shapes)


def test_grid_without_images_or_space_is_an_error():
    with pytest.raises(ValueError, match="found 0 images"):
        draw_grid([])
    with pytest.raises(ValueError, match="too few for 9 columns"):
        draw_grid([grey()] * 9, 9, width=40)


def test_a_saved_image_can_be_read(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    path = tmp_path / "new" / "größe.png"
    save_image(path, image)
    back = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(back, image)


@pytest.mark.parametrize("name", ["image.txt", "image"])
def test_an_unknown_extension_is_an_error(tmp_path, name):
    with pytest.raises(PposeError, match=r"use .jpg, .png or .webp"):
        save_image(tmp_path / "new" / name, grey())
    assert not (tmp_path / "new").exists()


def test_an_image_too_large_for_its_format_is_an_error(tmp_path):
    with pytest.raises(PposeError, match="70000 by 1 pixels cannot be written as '.jpg'"):
        save_image(tmp_path / "wide.jpg", np.zeros((1, 70000, 3), np.uint8))


def test_a_folder_that_is_a_file_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        save_image(tmp_path / "file" / "image.png", grey())


def test_heatmaps_are_bright_where_they_are_high():
    maps = np.zeros((3, 30, 40), np.float32)
    maps[1, 9:12, 19:22] = 1
    maps[2, 24:27, 4:7] = 0.5
    image = grey()
    drawn = draw_maps(image, maps).astype(int).sum(-1)
    assert (image == 90).all()
    y, x = np.unravel_index(drawn.argmax(), drawn.shape)
    assert 36 <= y < 48 and 76 <= x < 88
    low = drawn[maps.max(0).repeat(4, 0).repeat(4, 1) == 0].min()
    assert drawn.max() > 600 > drawn[4 * 25 + 1, 4 * 5 + 1] > low
    assert low < 3 * 90


def test_heatmaps_are_clipped_and_nan_is_0():
    wild = np.array([[[-3, np.nan], [7, np.inf]]], np.float32)
    tame = np.array([[[0, 0], [1, 1]]], np.float32)
    assert np.array_equal(draw_maps(grey(2, 2), wild), draw_maps(grey(2, 2), tame))


@given(
    arrays(np.float32, st.tuples(*[st.integers(1, 5)] * 3), elements=st.floats(width=32)),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_heatmaps_of_any_size_fit_any_image(maps, height, width):
    drawn = draw_maps(grey(height, width), maps)
    assert drawn.shape == (height, width, 3) and drawn.dtype == np.uint8


@pytest.mark.parametrize("shape", [(30, 40), (0, 30, 40), (3, 0, 40), (1, 3, 30, 40)])
def test_heatmaps_of_another_shape_are_errors(shape):
    with pytest.raises(ValueError, match="expected \\(C, h, w\\), found"):
        draw_maps(grey(), np.zeros(shape, np.float32))
