"""Shapes of a clothed body, grouped into pieces by depth."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ppose.synthetic.body import PosedBody
from ppose.synthetic.canvas import CIRCLE, Part, Shape, capsule
from ppose.synthetic.head import HeadView, head_shapes
from ppose.synthetic.look import Colour, Look, mixed, shaded
from ppose.synthetic.postures import OUTWARD, SIDES

_RING = np.stack([CIRCLE[:, 0], np.zeros(len(CIRCLE)), CIRCLE[:, 1]], axis=1)


@dataclass
class Piece:
    """Shapes that are drawn together; larger depth is nearer to the camera."""

    depth: float
    shapes: list[Shape]


class ClothedBody:
    """A body in the camera frame with clothes, as pieces."""

    def __init__(self, posed: PosedBody, look: Look):
        self.posed = posed
        self.look = look
        self.size = posed.body.size
        self.thick = posed.body.size * posed.body.girth
        self.facing = float(posed.chest_frame[2, 2])
        self.trunk_depth = float((posed.chest[2] + posed.root[2]) / 2)
        self.has_bottom = look.top != "dress"

    def pieces(self) -> list[Piece]:
        pieces = [self._trunk(), self._hips(), self._neck(), *self._head()]
        for side in SIDES:
            pieces += self._leg(side)
            pieces += self._arm(side)
        if self.look.bottom == "skirt" or not self.has_bottom:
            pieces.append(self._skirt())
        if self.look.backpack:
            pieces.append(self._backpack())
        return pieces

    def _ring(
        self, centre: np.ndarray, frame: np.ndarray, half_width: float, half_depth: float
    ) -> np.ndarray:
        """(14, 3) horizontal cross-section of the trunk."""
        return centre + (_RING * (half_width, 0, half_depth)) @ frame.T

    def _sections(self) -> list[np.ndarray]:
        """Cross-sections of the trunk from the hem up to the neck."""
        p, k, t = self.posed, self.size, self.thick
        up_pelvis, up_chest = p.pelvis_frame[:, 1] * k, p.chest_frame[:, 1] * k
        hip = p.body.hip + 0.078 * t
        heavy = max(0.0, p.body.girth - 1.0) * 0.1 * k
        hem = -0.05 if self.look.top in ("jacket", "dress") else -0.01
        chest = p.body.shoulder * 0.9
        waist = (p.chest + p.root) / 2 - 0.02 * up_pelvis
        middle = (p.pelvis_frame + p.chest_frame) / 2
        loose = self.look.loose
        return [
            self._ring(p.root + hem * up_pelvis, p.pelvis_frame, hip + loose, 0.108 * t + loose),
            self._ring(waist, middle, 0.128 * t + heavy + loose, 0.095 * t + heavy),
            self._ring(p.chest + 0.04 * up_chest, p.chest_frame, chest + 0.01, 0.112 * t),
            self._ring(p.chest + 0.125 * up_chest, p.chest_frame, chest + 0.008, 0.095 * t),
            self._ring(p.chest + 0.155 * up_chest, p.chest_frame, chest * 0.99, 0.07 * t),
            self._ring(p.chest + 0.2 * up_chest, p.chest_frame, 0.058 * t, 0.055 * t),
        ]

    def _trunk(self) -> Piece:
        look, sections = self.look, self._sections()
        shapes: list[Shape] = []
        if look.top != "jacket" and look.pattern == "stripes":
            shapes = self._stripes(sections)
        else:
            for i, (low, high) in enumerate(pairwise(sections)):
                upper = look.pattern == "two-tone" and look.top != "jacket" and i >= 2
                colour = look.top_second if upper else look.top_colour
                points = np.concatenate([low, high])[:, :2]
                shapes.append(Shape(points, colour, Part.TORSO))
        if self.facing > 0.15:
            shapes += self._front(sections)
        return Piece(self.trunk_depth, shapes)

    def _stripes(self, sections: list[np.ndarray]) -> list[Shape]:
        """Bands of equal height, alternating in colour."""
        look = self.look
        shapes: list[Shape] = []
        for low, high, bands in zip(sections[:-1], sections[1:], (3, 3, 2, 1, 1), strict=True):
            for band in range(bands):
                ends = [low + (high - low) * (band + j) / bands for j in (0, 1)]
                colour = look.top_colour if len(shapes) % 2 else look.top_second
                shapes.append(Shape(np.concatenate(ends)[:, :2], colour, Part.TORSO))
        return shapes

    def _on_front(self, across: float, up: float, radius: float = 0.115) -> np.ndarray:
        """(3,) point on the front of the chest; `across` in shoulder widths, `up` in metres."""
        p = self.posed
        depth = radius * self.thick * np.sqrt(max(0.0, 1 - across**2))
        offset = (across * p.body.shoulder, up * self.size, depth)
        return p.chest + p.chest_frame @ offset

    def _front(self, sections: list[np.ndarray]) -> list[Shape]:
        """Details that are visible only from the front: open jacket, print, zip."""
        look, p = self.look, self.posed
        shapes = []
        hem = p.root + p.pelvis_frame @ [0, 0.0, 0.11 * self.thick]
        collar = self._on_front(0, 0.185, 0.06)
        if look.top == "jacket":
            across = p.chest_frame[:, 0] * 0.05 * self.size
            belly = self._on_front(0, 0.03)
            for low, high in ((hem, belly), (belly, collar)):
                strip = np.array([low - across, low + across, high + across, high - across])
                shapes.append(Shape(strip[:, :2], look.inner, Part.TORSO))
        elif look.pattern == "print":
            middle = self._on_front(0, 0.02)
            disc = middle + (_RING[:, [0, 2, 1]] * 0.055 * self.size) @ p.chest_frame.T
            shapes.append(Shape(disc[:, :2], look.top_second, Part.TORSO))
        elif look.top == "long sleeves":
            line = np.array([hem, self._on_front(0, 0.03), collar])[:, :2]
            shapes.append(Shape(line, shaded(look.top_colour, 0.8), Part.TORSO, 0.008))
        return shapes

    def _hips(self) -> Piece:
        p, t = self.posed, self.thick
        up = p.pelvis_frame[:, 1] * self.size
        half_width = p.body.hip + 0.066 * t
        top = self._ring(p.root + 0.1 * up, p.pelvis_frame, half_width * 0.93, 0.1 * t)
        low = self._ring(p.root - 0.035 * up, p.pelvis_frame, half_width, 0.1 * t)
        colour = self.look.bottom_colour if self.has_bottom else self.look.top_colour
        shape = Shape(np.concatenate([top, low])[:, :2], colour, Part.HIPS)
        return Piece(self.trunk_depth - 0.03, [shape])

    def _neck(self) -> Piece:
        p, look = self.posed, self.look
        drop = 0.0 if self.facing < 0.2 else 0.035 * self.facing
        if look.top in ("sleeveless", "dress"):
            drop *= 1.6
        base = p.neck + p.chest_frame @ [0, -drop * self.size, 0.02]
        top = p.head + p.head_frame @ [0, -0.05 * p.body.head, -0.02]
        radius = 0.05 * self.thick**0.5 * self.size**0.5
        ends = np.array([base, top])
        shapes = [capsule(ends, [radius, radius * 0.95], shaded(look.skin, 0.88), Part.NECK)]
        return Piece(min(self.trunk_depth + 0.005, self._head_depth() - 0.001), shapes)

    def _head(self) -> list[Piece]:
        p = self.posed
        view = HeadView(p.head, p.head_frame, p.body.head)
        shapes, hanging = head_shapes(view, self.look)
        pieces = [Piece(self._head_depth(), shapes)]
        if hanging:
            depth = float(view.to_camera(np.array([[0, -0.1, -0.13]]))[0, 2])
            pieces.append(Piece(depth, hanging))
        return pieces

    def _head_depth(self) -> float:
        """A head bent away from the camera is drawn before the trunk, any other after it."""
        depth = float(self.posed.head[2])
        bent_away = depth < self.trunk_depth - 0.2 * self.size
        return depth if bent_away else max(depth, self.trunk_depth + 0.01)

    def _dimmed(self, colour: Colour, depth: float) -> Colour:
        """The colour, slightly darker for limbs on the far side of the trunk."""
        distance = np.clip((self.trunk_depth - depth) / (0.25 * self.size), 0, 1)
        return shaded(colour, 1 - 0.2 * float(distance))

    def _arm(self, side: int) -> list[Piece]:
        p, look, t = self.posed, self.look, self.thick
        part = Part.LEFT_ARM.of(side)
        shoulder, elbow, wrist, palm = (j[side] for j in (p.shoulder, p.elbow, p.wrist, p.palm))
        upper, fore = (shoulder + elbow)[2] / 2, (elbow + wrist)[2] / 2
        folded = float(np.dot(elbow - shoulder, wrist - elbow)) < 0.4 * (0.26 * self.size) ** 2
        fore_part = Part.LEFT_FOREARM.of(side) if folded else part
        sleeve = look.top_colour
        if look.pattern == "two-tone" and look.top != "jacket":
            sleeve = look.top_second
        skin, sleeve = (self._dimmed(c, upper) for c in (look.skin, sleeve))
        loose = look.loose
        radii = np.array([0.044, 0.041, 0.034, 0.038]) * t
        bones = np.array([shoulder, elbow, wrist, palm])
        arm, forearm = [], []
        if look.top in ("long sleeves", "jacket"):
            arm.append(capsule(bones[:2], radii[:2] + loose, sleeve, part))
            cuff = wrist + 0.03 * (elbow - wrist)
            hand = capsule(bones[2:], radii[2:] * (0.9, 1.2), skin, fore_part)
            cloth = capsule(np.array([elbow, cuff]), radii[1:3] + loose * 0.9, sleeve, fore_part)
            forearm += [hand, self._thumb(side, skin, fore_part), cloth]
        else:
            arm.append(capsule(bones[:2], radii[:2], skin, part))
            reach = 0.6 if look.top == "t-shirt" else 0.08
            end = shoulder + reach * (elbow - shoulder)
            ends = np.array([shoulder, end])
            arm.append(capsule(ends, [radii[0] + 0.5 * loose, radii[0] + loose], sleeve, part))
            forearm.append(capsule(bones[1:3], radii[1:3], skin, fore_part))
            forearm.append(capsule(bones[2:], radii[2:] * (0.9, 1.2), skin, fore_part))
            forearm.append(self._thumb(side, skin, fore_part))
        near = 0.03 * self.size
        return [
            Piece(self._arm_depth(float(upper), 0.1) + near, arm),
            Piece(self._arm_depth(float(fore), 0.03) + 1.2 * near, forearm),
        ]

    def _arm_depth(self, depth: float, slack: float) -> float:
        """An arm next to the trunk is drawn over it, as its sleeve overlaps the trunk's edge."""
        beside = self.trunk_depth - slack * self.size < depth <= self.trunk_depth
        return self.trunk_depth if beside else depth

    def _thumb(self, side: int, skin: Colour, part: int) -> Shape:
        p = self.posed
        palm, wrist = p.palm[side], p.wrist[side]
        along = (palm - wrist) / np.linalg.norm(palm - wrist)
        inward = -OUTWARD[side] * p.chest_frame[:, 0] + p.chest_frame[:, 2]
        tip = palm + 0.042 * self.size * (inward - along * (inward @ along)) * 0.8
        ends = np.array([wrist + 0.3 * (palm - wrist), tip])
        return capsule(ends, [0.02 * self.thick, 0.014 * self.thick], skin, part)

    def _leg(self, side: int) -> list[Piece]:
        p, look, t = self.posed, self.look, self.thick
        hip, knee, ankle = p.hip[side], p.knee[side], p.ankle[side]
        thigh_depth, shin_depth = float((hip + knee)[2] / 2), float((knee + ankle)[2] / 2)
        part = Part.LEFT_LEG.of(side)
        folded = float(np.dot(knee - hip, ankle - knee)) < 0.6 * (0.42 * self.size) ** 2
        shin_part = Part.LEFT_SHIN.of(side) if folded else part
        cloth = look.bottom_colour if self.has_bottom else look.top_colour
        skin, cloth = (self._dimmed(c, thigh_depth) for c in (look.skin, cloth))
        thigh_radii = np.array([0.076, 0.06]) * t
        shin_radii = np.array([0.058, 0.04]) * t
        loose = look.loose
        thigh: list[Shape] = []
        shin: list[Shape] = []
        if look.bottom == "trousers" and self.has_bottom:
            end = ankle + 0.02 * (ankle - knee)
            thigh.append(capsule(np.array([hip, knee]), thigh_radii + loose, cloth, part))
            radii = shin_radii + (loose, 1.4 * loose)
            shin.append(capsule(np.array([knee, end]), radii, cloth, shin_part))
        else:
            thigh.append(capsule(np.array([hip, knee]), thigh_radii, skin, part))
            shin.append(capsule(np.array([knee, ankle]), shin_radii, skin, shin_part))
            if look.bottom == "shorts" and self.has_bottom:
                end = hip + 2 * look.bottom_length * (knee - hip)
                wide = (thigh_radii[0] + loose, thigh_radii[0] * 0.95 + 1.5 * loose)
                thigh.append(capsule(np.array([hip, end]), wide, cloth, part))
        shoe = self._shoe(side)
        shin = [*shin, shoe] if p.foot[side][2] > 0.25 else [shoe, *shin]
        near = 0.02 * self.size
        return [
            Piece(self._leg_depth(thigh_depth), thigh),
            Piece(min(shin_depth, thigh_depth + near) - near, shin)
            if shin_depth < thigh_depth
            else Piece(shin_depth + near, shin),
        ]

    def _leg_depth(self, depth: float) -> float:
        """A thigh that points down is drawn before the trunk, as the hem of the top covers it."""
        over_lap = depth > self.trunk_depth + 0.12 * self.size
        return depth if over_lap else min(depth, self.trunk_depth - 0.005)

    def _shoe(self, side: int) -> Shape:
        p, k = self.posed, self.size
        ankle, toes = p.ankle[side], p.foot[side]
        down = toes[1] * toes - [0.0, 1.0, 0.0]
        down = down / max(1e-6, float(np.linalg.norm(down)))
        spots = [(-0.035, 0.035), (0.0, 0.0), (0.1, 0.038), (0.165, 0.042)]
        centres = np.array([ankle + k * (along * toes + drop * down) for along, drop in spots])
        colour = self._dimmed(self.look.shoes, float(ankle[2]))
        radii = np.array([0.036, 0.036, 0.034, 0.028]) * k
        return capsule(centres, radii, colour, Part.LEFT_SHOE.of(side))

    def _skirt(self) -> Piece:
        p, look, t = self.posed, self.look, self.thick
        up = p.pelvis_frame[:, 1] * self.size
        length = look.bottom_length if self.has_bottom else max(0.36, look.bottom_length)
        if float(np.linalg.norm(p.knee[0] - p.knee[1])) > 0.5 * self.size:
            length = min(length, 0.3)
        waist = self._ring(p.root + 0.1 * up, p.pelvis_frame, 0.135 * t, 0.1 * t)
        hips = self._ring(p.root, p.pelvis_frame, p.body.hip + 0.085 * t, 0.115 * t)
        hem = []
        for side in SIDES:
            hip, knee, ankle = p.hip[side], p.knee[side], p.ankle[side]
            end = hip + min(1.0, 2 * length) * (knee - hip)
            hem.append(end + _RING * (0.115 * t))
            if length > 0.5:
                low = knee + (2 * length - 1) * (ankle - knee)
                hem.append(low + _RING * (0.125 * t))
        colour = look.bottom_colour if self.has_bottom else look.top_colour
        points = np.concatenate([waist, hips, *hem])[:, :2]
        joints = [p.hip, p.knee, p.ankle] if length > 0.5 else [p.hip, p.knee]
        depth = max(self._leg_depth(float(joint[:, 2].max())) for joint in joints)
        return Piece(depth + 0.03 * self.size, [Shape(points, colour, Part.SKIRT)])

    def _backpack(self) -> Piece:
        p, k = self.posed, self.size
        corners = np.array(
            [[x, y, z] for x in (-0.1, 0.1) for y in (-0.13, 0.12) for z in (-0.16, -0.24)]
        )
        centres = p.chest + (corners * k) @ p.chest_frame.T
        colour = mixed(self.look.hat, (60, 64, 72), 0.35)
        bag = capsule(centres, [0.035 * k] * 8, colour, Part.BAG)
        pocket = np.array([[x, y, -0.27] for x in (-0.07, 0.07) for y in (-0.1, -0.02)])
        shapes = [bag]
        if self.facing < -0.2:
            spots = p.chest + (pocket * k) @ p.chest_frame.T
            shapes.append(capsule(spots, [0.02 * k] * 4, shaded(colour, 0.85), Part.BAG))
        depth = float(centres[:, 2].mean())
        away = self.trunk_depth - 0.08 if depth < self.trunk_depth else depth
        return Piece(away, shapes)
