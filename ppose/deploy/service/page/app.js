// Pictures and camera frames go to POST /pose, one at a time; what comes back is drawn and listed.

import { Overlay, colourOf } from "./draw.js";

const MAX_SHOWN = 2048; // pixels of a side of the picture on the page
const FRAME_SIDE = 640; // pixels of the longer side of a camera frame

const get = (id) => document.getElementById(id);
const stage = get("stage");
const picture = get("picture");
const overlay = new Overlay(get("overlay"));
const sliders = { person: get("person-score"), joint: get("joint-score") };

let skeleton = { joints: [], limbs: [] };
let answer = null;
let chosen = null; // person whose joints are listed
let pointed = null; // person under the pointer
let sending = null; // AbortController of the request under way
let camera = null; // MediaStream
let turn = 0; // counts what was begun: what is not the latest any more shows nothing

class ServiceError extends Error {
  constructor(message, status = 0, retryAfter = 1) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

// The service

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("The service does not answer. Is it still running?");
  }
  const content = await response.json().catch(() => null);
  if (response.ok && content) return content;
  throw new ServiceError(
    inWords(response.status, content?.error?.message),
    response.status,
    Number(response.headers.get("Retry-After")) || 1,
  );
}

function inWords(status, message) {
  const words = {
    408: "The upload took too long",
    413: "This picture is too large",
    415: "This is no picture that the service can read",
    422: "This picture cannot be used",
    429: "The service is busy",
    503: "The service cannot answer now",
  }[status] ?? `The service failed (${status})`;
  return message ? `${words}: ${message}.` : `${words}.`;
}

async function findPeople(blob) {
  const mine = (sending = new AbortController());
  // The content decides; a type that is none of a picture would be refused before a look at it.
  const kind = blob.type.startsWith("image/") ? blob.type : "application/octet-stream";
  const headers = { "Content-Type": kind };
  try {
    return await ask("/pose", { method: "POST", body: blob, headers, signal: mine.signal });
  } finally {
    if (sending === mine) sending = null;
  }
}

// A picture

async function usePicture(file) {
  const mine = begin();
  get("mirror").checked = false;
  stage.classList.add("busy");
  say(`Sending ${file.name || "the picture"}…`);
  const started = performance.now();
  try {
    const [bitmap, found] = await Promise.all([toBitmap(file), findPeople(file)]);
    if (mine !== turn) return;
    showPixels(bitmap, found.size_wh);
    answer = found;
    const took = Math.round(performance.now() - started);
    const hidden = bitmap ? "" : " This browser cannot show the picture itself.";
    say(`${took} ms (network ${network(found)}) · ${size(found)}.${hidden}`);
    render();
  } catch (error) {
    if (mine !== turn) return;
    complain(error.message);
  }
  stage.classList.remove("busy");
}

async function toBitmap(blob) {
  try {
    return await createImageBitmap(blob);
  } catch {
    return null; // a TIFF, say, or no picture at all, which the service explains
  }
}

function showPixels(source, [width, height]) {
  const scale = Math.min(1, MAX_SHOWN / Math.max(width, height));
  picture.width = Math.max(1, Math.round(scale * width));
  picture.height = Math.max(1, Math.round(scale * height));
  if (source) picture.getContext("2d").drawImage(source, 0, 0, picture.width, picture.height);
  get("invitation").hidden = true;
}

// Ends what was going on and empties the page.
function begin() {
  stopCamera();
  sending?.abort();
  stage.classList.remove("busy");
  answer = chosen = pointed = null;
  picture.width = picture.height = 1;
  get("invitation").hidden = false;
  complain("");
  render();
  return ++turn;
}

// The camera

async function startCamera() {
  if (!navigator.mediaDevices) {
    complain("Browsers give the camera only to pages over HTTPS or from this machine (localhost).");
    return;
  }
  const mine = begin();
  say("Waiting for the camera…");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
  } catch (error) {
    if (mine === turn) complain(cameraTrouble(error));
    return;
  }
  if (mine !== turn) {
    end(stream);
    return;
  }
  camera = stream;
  get("mirror").checked = true;
  markCamera(true);
  stream.getVideoTracks()[0].addEventListener("ended", () => {
    if (camera !== stream) return;
    stopCamera();
    complain("The camera stopped.");
  });
  try {
    await followCamera(stream);
  } catch (error) {
    if (camera !== stream) return;
    stopCamera();
    complain(error.message);
  }
}

function cameraTrouble(error) {
  return {
    NotAllowedError: "This page may not use the camera; allow it in the browser's address bar.",
    NotFoundError: "There is no camera.",
    NotReadableError: "Another program uses the camera.",
  }[error.name] ?? `The camera cannot be used: ${error.message}.`;
}

async function followCamera(stream) {
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
    const found = await findUnlessBusy(blob);
    if (camera !== stream) return;
    if (!found) continue;
    showPixels(frame, found.size_wh);
    answer = found;
    const now = performance.now();
    pace = pace ? 0.9 * pace + 0.1 * (now - last) : now - last;
    last = now;
    complain("");
    say(`${(1000 / pace).toFixed(1)} frames/s (network ${network(found)}) · ${size(found)}.`);
    render();
  }
}

// Null where the service asked to come back later, after waiting for as long as it said.
async function findUnlessBusy(blob) {
  try {
    return await findPeople(blob);
  } catch (error) {
    if (error.name === "AbortError") return null;
    if (error.status !== 429 && error.status !== 503) throw error;
    complain(error.message);
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
  sending?.abort();
  end(stream);
  markCamera(false);
  say("The camera is off.");
}

function end(stream) {
  for (const track of stream.getTracks()) track.stop();
}

function markCamera(on) {
  const button = get("camera");
  button.textContent = on ? "Stop camera" : "Start camera";
  button.setAttribute("aria-pressed", on);
  // A screen reader would read out every frame.
  get("status").setAttribute("aria-live", on ? "off" : "polite");
}

// What is shown

function render() {
  for (const [name, slider] of Object.entries(sliders)) {
    get(`${name}-score-value`).textContent = Number(slider.value).toFixed(2);
  }
  stage.classList.toggle("mirrored", get("mirror").checked);
  const [minPerson, minJoint] = [Number(sliders.person.value), Number(sliders.joint.value)];
  const found = (answer?.people ?? []).map((one, person) => ({ ...one, person }));
  const shown = found.filter((one) => one.score >= minPerson);
  if (!shown.some((one) => one.person === chosen)) chosen = null;
  const marked = pointed ?? chosen;
  const drawn = shown.map((one) => ({ ...one, faint: marked !== null && one.person !== marked }));
  overlay.draw(drawn, skeleton, answer?.size_wh, minJoint);
  const hidden = found.length - shown.length;
  const heading = count(shown.length) + (hidden ? `, ${hidden} below ${minPerson.toFixed(2)}` : "");
  overlay.canvas.setAttribute(
    "aria-label",
    answer ? `Picture with ${count(shown.length)} drawn on it` : "No picture yet",
  );
  get("people").hidden = !answer;
  get("people").caption.textContent = heading;
  get("people").tHead.hidden = !shown.length;
  listPeople(shown, minJoint);
  listJoints(found[chosen], minJoint);
}

// Rows stay while frames come in, so that they keep the focus.
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
    row.classList.toggle("chosen", person === chosen);
    row.querySelector("button").setAttribute("aria-pressed", person === chosen);
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
    chosen = chosen === person() ? null : person();
    render();
  });
  row.addEventListener("pointerenter", () => point(person()));
  row.addEventListener("pointerleave", () => point(null));
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

function point(person) {
  if (pointed === person) return;
  pointed = person;
  render();
}

function showTip(event) {
  const box = stage.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left - stage.clientLeft, event.clientY - box.top - stage.clientTop];
  const mirrored = stage.classList.contains("mirrored");
  const spot = overlay.at(mirrored ? stage.clientWidth - x : x, y);
  const tip = get("tip");
  tip.hidden = !spot;
  point(spot ? spot.person : null);
  if (!spot) return;
  const one = answer.people[spot.person];
  const score = one.keypoints[spot.joint][2].toFixed(2);
  tip.textContent = `${nameOf(spot.joint)} ${score} · person ${spot.person + 1}, ${one.score.toFixed(2)}`;
  tip.style.left = `${Math.min(x + 14, stage.clientWidth - tip.offsetWidth - 6)}px`;
  tip.style.top = `${Math.min(y + 14, stage.clientHeight - tip.offsetHeight - 6)}px`;
}

const nameOf = (joint) => (skeleton.joints[joint] ?? `joint ${joint + 1}`).replaceAll("_", " ");
const count = (number) => (number === 1 ? "1 person" : `${number || "no"} people`);
const network = (found) => `${Math.round(1000 * found.seconds.network)}\u00a0ms`;
const size = (found) => found.size_wh.join("\u00a0×\u00a0");

function say(text) {
  get("status").textContent = text;
}

function complain(text) {
  if (text) say("");
  get("error").textContent = text;
  get("error").hidden = !text;
}

// What one does

function useFirst(files) {
  const file = [...files].find((one) => one.type.startsWith("image/")) ?? files[0];
  if (file) usePicture(file);
}

get("choose").addEventListener("click", () => get("file").click());
get("file").addEventListener("change", (event) => {
  useFirst(event.target.files);
  event.target.value = ""; // the same file may be chosen again
});
get("camera").addEventListener("click", () => (camera ? stopCamera() : startCamera()));
get("mirror").addEventListener("change", render);
for (const slider of Object.values(sliders)) slider.addEventListener("input", render);
stage.addEventListener("pointermove", showTip);
stage.addEventListener("pointerleave", () => {
  get("tip").hidden = true;
  point(null);
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
  useFirst(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => useFirst(event.clipboardData.files));

get("curl").textContent = `curl -F image=@photo.jpg ${location.origin}/pose`;
render();
try {
  skeleton = await ask("/skeleton");
  render();
} catch (error) {
  complain(error.message);
}
