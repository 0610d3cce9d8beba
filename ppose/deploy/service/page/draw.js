// Draws poses on a canvas above the image.

// Visible on most images; neighbours in the list are easy to distinguish.
const COLOURS = [
  "#ff8c14", "#2da5ff", "#3ce1a5", "#ff5c9a", "#ffe14d", "#a98bff", "#8fdc3a", "#ff6b4a",
];
const RIM = "#ffffff";
const OUTLINE = "rgb(16 18 26 / 0.85)";
const REACH = 14; // maximum distance of the pointer from a joint in CSS pixels

export const colourOf = (person) => COLOURS[person % COLOURS.length];

export class Overlay {
  constructor(canvas) {
    this.canvas = canvas;
    this.spots = []; // joints on the canvas: {x, y, person, joint}
  }

  // people: [{person, keypoints, faint}], keypoints in pixels of an image of sizeWh, which is centered
  // in the canvas and scaled to fit.
  draw(people, skeleton, sizeWh, minScore) {
    const box = this.canvas.getBoundingClientRect();
    const zoom = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(box.width * zoom);
    this.canvas.height = Math.round(box.height * zoom);
    this.spots = [];
    const pen = this.canvas.getContext("2d");
    pen.setTransform(zoom, 0, 0, zoom, 0, 0);
    pen.lineCap = "round";
    if (!sizeWh) return;
    const scale = Math.min(box.width / sizeWh[0], box.height / sizeWh[1]);
    const left = (box.width - scale * sizeWh[0]) / 2;
    const top = (box.height - scale * sizeWh[1]) / 2;
    for (const one of people) {
      const joints = one.keypoints.map(([x, y, score]) => ({
        // Pixel centres have integer coordinates; in a canvas pixel corners have.
        x: left + scale * (x + 0.5),
        y: top + scale * (y + 0.5),
        seen: score >= minScore && score > 0,
      }));
      pen.globalAlpha = one.faint ? 0.2 : 1;
      drawPerson(pen, joints, skeleton.limbs, colourOf(one.person));
      joints.forEach(({ x, y, seen }, joint) => {
        if (seen) this.spots.push({ x, y, person: one.person, joint });
      });
    }
  }

  // The joint nearest to a point of the canvas in CSS pixels; undefined if none is near.
  at(x, y) {
    let best, least = REACH;
    for (const spot of this.spots) {
      const distance = Math.hypot(spot.x - x, spot.y - y);
      if (distance < least) [best, least] = [spot, distance];
    }
    return best;
  }
}

function drawPerson(pen, joints, limbs, colour) {
  const seen = joints.filter((joint) => joint.seen);
  if (!seen.length) return;
  const width = lineWidth(seen);
  const bones = limbs.filter(([a, b]) => joints[a].seen && joints[b].seen);
  for (const [style, extra] of [[OUTLINE, 2], [colour, 0]]) {
    pen.strokeStyle = style;
    pen.lineWidth = width + extra;
    pen.beginPath();
    for (const [a, b] of bones) {
      pen.moveTo(joints[a].x, joints[a].y);
      pen.lineTo(joints[b].x, joints[b].y);
    }
    pen.stroke();
  }
  for (const [style, radius] of [[OUTLINE, width + 1.5], [RIM, width + 0.5], [colour, width - 0.5]]) {
    pen.fillStyle = style;
    for (const { x, y } of seen) {
      pen.beginPath();
      pen.arc(x, y, radius, 0, 2 * Math.PI);
      pen.fill();
    }
  }
}

function lineWidth(points) {
  const span = (values) => Math.max(...values) - Math.min(...values);
  const extent = Math.hypot(span(points.map((p) => p.x)), span(points.map((p) => p.y)));
  return Math.min(Math.max(extent / 70, 1.5), 6);
}
