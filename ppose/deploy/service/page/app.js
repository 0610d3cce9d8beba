// Sends images and camera frames to POST /pose, one at a time; draws and lists the results.

import { Overlay, colourOf } from "./draw.js";

const MAX_SHOWN = 2048; // maximum side of the displayed image in pixels
const FRAME_SIDE = 640; // longer side of camera frames in pixels

const get = (id) => document.getElementById(id);
const stage = get("stage");
const imageCanvas = get("image");
const overlay = new Overlay(get("overlay"));
const sliders = { person: get("person-score"), joint: get("joint-score") };

let skeleton = { joints: [], limbs: [] };
let result = null;
let selected = null; // index of the person whose joints are listed
let hovered = null; // index of the person under the pointer
let pendingRequest = null; // AbortController of the active request
let camera = null; // MediaStream
let generation = 0; // incremented by each action; results of older actions are ignored

class ServiceError extends Error {
  constructor(message, status = 0, retryAfter = 1) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

// The service

async function fetchJson(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("The service does not respond. Is it running?");
  }
  const content = await response.json().catch(() => null);
  if (response.ok && content) return content;
  throw new ServiceError(
    describeError(response.status, content?.error?.message),
    response.status,
    Number(response.headers.get("Retry-After")) || 1,
  );
}

function describeError(status, message) {
  const words = {
    408: "The upload took too long",
    413: "This image is too large",
    415: "Unsupported image format",
    422: "This image cannot be used",
    429: "The service is busy",
    503: "The service is not available now",
  }[status] ?? `The service failed (${status})`;
  return message ? `${words}: ${message}.` : `${words}.`;
}

async function estimatePoses(blob) {
  const current = (pendingRequest = new AbortController());
  // The service detects the format from the content, but rejects non-image content types.
  const kind = blob.type.startsWith("image/") ? blob.type : "application/octet-stream";
  const headers = { "Content-Type": kind };
  try {
    return await fetchJson("/pose", { method: "POST", body: blob, headers, signal: current.signal });
  } finally {
    if (pendingRequest === current) pendingRequest = null;
  }
}

// Images

async function showImage(file) {
  const current = reset();
  get("mirror").checked = false;
  stage.classList.add("busy");
  setStatus(`Sending ${file.name || "the image"}…`);
  const started = performance.now();
  try {
    const [bitmap, found] = await Promise.all([toBitmap(file), estimatePoses(file)]);
    if (current !== generation) return;
    showPixels(bitmap, found.size_wh);
    result = found;
    const took = Math.round(performance.now() - started);
    const hidden = bitmap ? "" : " This browser cannot show the image itself.";
    setStatus(`${took} ms (network ${network(found)}) · ${size(found)}.${hidden}`);
    render();
  } catch (error) {
    if (current !== generation) return;
    showError(error.message);
  }
  stage.classList.remove("busy");
}

async function toBitmap(blob) {
  try {
    return await createImageBitmap(blob);
  } catch {
    return null; // not supported by the browser, such as TIFF, or not an image
  }
}

function showPixels(source, [width, height]) {
  const scale = Math.min(1, MAX_SHOWN / Math.max(width, height));
  imageCanvas.width = Math.max(1, Math.round(scale * width));
  imageCanvas.height = Math.max(1, Math.round(scale * height));
  if (source) imageCanvas.getContext("2d").drawImage(source, 0, 0, imageCanvas.width, imageCanvas.height);
  get("invitation").hidden = true;
}

// Stops the camera and the active request, and clears the page.
function reset() {
  stopCamera();
  pendingRequest?.abort();
  stage.classList.remove("busy");
  result = selected = hovered = null;
  imageCanvas.width = imageCanvas.height = 1;
  get("invitation").hidden = false;
  showError("");
  render();
  return ++generation;
}

// The camera

async function startCamera() {
  if (!navigator.mediaDevices) {
    showError("Browsers allow camera access only over HTTPS or from this machine (localhost).");
    return;
  }
  const current = reset();
  setStatus("Waiting for the camera…");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
  } catch (error) {
    if (current === generation) showError(describeCameraError(error));
    return;
  }
  if (current !== generation) {
    end(stream);
    return;
  }
  camera = stream;
  get("mirror").checked = true;
  updateCameraButton(true);
  stream.getVideoTracks()[0].addEventListener("ended", () => {
    if (camera !== stream) return;
    stopCamera();
    showError("The camera stopped.");
  });
  try {
    await processCamera(stream);
  } catch (error) {
    if (camera !== stream) return;
    stopCamera();
    showError(error.message);
  }
}

function describeCameraError(error) {
  return {
    NotAllowedError: "This page may not use the camera; allow it in the browser's address bar.",
    NotFoundError: "There is no camera.",
    NotReadableError: "Another program uses the camera.",
  }[error.name] ?? `The camera cannot be used: ${error.message}.`;
}

async function processCamera(stream) {
  const video = document.createElement("video");
  video.muted = video.playsInline = true;
  video.srcObject = stream;
  await video.play();
  let pace = 0;
  let last = performance.now();
  while (camera === stream) {
    await visible();
    const frame = grab(video);
    const blob = await new Promise((done) => frame.toBlob(done, "image/jpeg", 0.85));
    const found = await estimateUnlessBusy(blob);
    if (camera !== stream) return;
    if (!found) continue;
    showPixels(frame, found.size_wh);
    result = found;
    const now = performance.now();
    pace = pace ? 0.9 * pace + 0.1 * (now - last) : now - last;
    last = now;
    showError("");
    setStatus(`${(1000 / pace).toFixed(1)} frames/s (network ${network(found)}) · ${size(found)}.`);
    render();
  }
}

// Returns null if the service is busy, after waiting for the Retry-After time.
async function estimateUnlessBusy(blob) {
  try {
    return await estimatePoses(blob);
  } catch (error) {
    if (error.name === "AbortError") return null;
    if (error.status !== 429 && error.status !== 503) throw error;
    showError(error.message);
    await new Promise((done) => setTimeout(done, 1000 * error.retryAfter));
    return null;
  }
}

function grab(video) {
  const scale = Math.min(1, FRAME_SIDE / Math.max(video.videoWidth, video.videoHeight));
  const frame = document.createElement("canvas");
  frame.width = Math.round(scale * video.videoWidth);
  frame.height = Math.round(scale * video.videoHeight);
  frame.getContext("2d").drawImage(video, 0, 0, frame.width, frame.height);
  return frame;
}

async function visible() {
  while (document.hidden) {
    await new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
  }
}

function stopCamera() {
  if (!camera) return;
  const stream = camera;
  camera = null;
  pendingRequest?.abort();
  end(stream);
  updateCameraButton(false);
  setStatus("The camera is off.");
}

function end(stream) {
  for (const track of stream.getTracks()) track.stop();
}

function updateCameraButton(on) {
  const button = get("camera");
  button.textContent = on ? "Stop camera" : "Start camera";
  button.setAttribute("aria-pressed", on);
  // Otherwise screen readers announce every frame.
  get("status").setAttribute("aria-live", on ? "off" : "polite");
}

// Display

function render() {
  for (const [name, slider] of Object.entries(sliders)) {
    get(`${name}-score-value`).textContent = Number(slider.value).toFixed(2);
  }
  stage.classList.toggle("mirrored", get("mirror").checked);
  const [minPerson, minJoint] = [Number(sliders.person.value), Number(sliders.joint.value)];
  const found = (result?.people ?? []).map((one, person) => ({ ...one, person }));
  const shown = found.filter((one) => one.score >= minPerson);
  if (!shown.some((one) => one.person === selected)) selected = null;
  const marked = hovered ?? selected;
  const drawn = shown.map((one) => ({ ...one, faint: marked !== null && one.person !== marked }));
  overlay.draw(drawn, skeleton, result?.size_wh, minJoint);
  const hidden = found.length - shown.length;
  const heading = count(shown.length) + (hidden ? `, ${hidden} below ${minPerson.toFixed(2)}` : "");
  overlay.canvas.setAttribute(
    "aria-label",
    result ? `Image with ${count(shown.length)} drawn on it` : "No image yet",
  );
  get("people").hidden = !result;
  get("people").caption.textContent = heading;
  get("people").tHead.hidden = !shown.length;
  listPeople(shown, minJoint);
  listJoints(found[selected], minJoint);
}

// Rows are reused between frames, so that they keep the focus.
function listPeople(shown, minJoint) {
  const body = get("people").tBodies[0];
  while (body.rows.length > shown.length) body.lastElementChild.remove();
  while (body.rows.length < shown.length) body.append(personRow());
  shown.forEach(({ person, score, keypoints }, i) => {
    const row = body.rows[i];
    const [swatch, number] = row.querySelectorAll("span");
    const joints = keypoints.filter((joint) => joint[2] >= minJoint && joint[2] > 0).length;
    row.dataset.person = person;
    swatch.style.background = colourOf(person);
    number.textContent = person + 1;
    row.cells[1].textContent = score.toFixed(2);
    row.cells[2].textContent = `${joints} of ${keypoints.length}`;
    row.classList.toggle("chosen", person === selected);
    row.querySelector("button").setAttribute("aria-pressed", person === selected);
  });
}

function personRow() {
  const row = document.createElement("tr");
  const button = document.createElement("button");
  const swatch = document.createElement("span");
  const person = () => Number(row.dataset.person);
  button.type = "button";
  button.className = "person";
  swatch.className = "swatch";
  button.append(swatch, document.createElement("span"));
  row.append(...[0, 1, 2].map(() => document.createElement("td")));
  row.cells[0].append(button);
  row.addEventListener("click", () => {
    selected = selected === person() ? null : person();
    render();
  });
  row.addEventListener("pointerenter", () => hover(person()));
  row.addEventListener("pointerleave", () => hover(null));
  return row;
}

function listJoints(one, minJoint) {
  get("joints").hidden = !one;
  if (!one) return;
  get("joints").querySelector("h2").textContent = `Person ${one.person + 1}`;
  const items = one.keypoints.flatMap(([, , score], joint) => {
    const [name, value] = [document.createElement("dt"), document.createElement("dd")];
    name.textContent = nameOf(joint);
    value.textContent = score.toFixed(2);
    for (const item of [name, value]) item.classList.toggle("missing", score < minJoint || !score);
    return [name, value];
  });
  get("joints").querySelector("dl").replaceChildren(...items);
}

function hover(person) {
  if (hovered === person) return;
  hovered = person;
  render();
}

function updateTooltip(event) {
  const box = stage.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left - stage.clientLeft, event.clientY - box.top - stage.clientTop];
  const mirrored = stage.classList.contains("mirrored");
  const spot = overlay.at(mirrored ? stage.clientWidth - x : x, y);
  const tip = get("tip");
  tip.hidden = !spot;
  hover(spot ? spot.person : null);
  if (!spot) return;
  const one = result.people[spot.person];
  const score = one.keypoints[spot.joint][2].toFixed(2);
  tip.textContent = `${nameOf(spot.joint)} ${score} · person ${spot.person + 1}, ${one.score.toFixed(2)}`;
  tip.style.left = `${Math.min(x + 14, stage.clientWidth - tip.offsetWidth - 6)}px`;
  tip.style.top = `${Math.min(y + 14, stage.clientHeight - tip.offsetHeight - 6)}px`;
}

const nameOf = (joint) => (skeleton.joints[joint] ?? `joint ${joint + 1}`).replaceAll("_", " ");
const count = (number) => (number === 1 ? "1 person" : `${number || "no"} people`);
const network = (found) => `${Math.round(1000 * found.seconds.network)}\u00a0ms`;
const size = (found) => found.size_wh.join("\u00a0×\u00a0");

function setStatus(text) {
  get("status").textContent = text;
}

function showError(text) {
  if (text) setStatus("");
  get("error").textContent = text;
  get("error").hidden = !text;
}

// User input

function showFirst(files) {
  const file = [...files].find((one) => one.type.startsWith("image/")) ?? files[0];
  if (file) showImage(file);
}

get("choose").addEventListener("click", () => get("file").click());
get("file").addEventListener("change", (event) => {
  showFirst(event.target.files);
  event.target.value = ""; // so that the same file can be selected again
});
get("camera").addEventListener("click", () => (camera ? stopCamera() : startCamera()));
get("mirror").addEventListener("change", render);
for (const slider of Object.values(sliders)) slider.addEventListener("input", render);
stage.addEventListener("pointermove", updateTooltip);
stage.addEventListener("pointerleave", () => {
  get("tip").hidden = true;
  hover(null);
});
new ResizeObserver(render).observe(stage);

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  stage.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) stage.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("dropping");
  showFirst(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => showFirst(event.clipboardData.files));

get("curl").textContent = `curl -F image=@photo.jpg ${location.origin}/pose`;
render();
try {
  skeleton = await fetchJson("/skeleton");
  render();
} catch (error) {
  showError(error.message);
}
