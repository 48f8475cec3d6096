// Trials of a study: fetch one, decode its images, show them in one frame, send the answer, and so on.
"use strict";

const SHOW_MS = 1000, BETWEEN_MS = 250, FEEDBACK_MS = 1400, GAP = 12, BORDER = 8, LABEL = 24;
const PATIENCE_MS = 500, ANSWER_MS = 15000, IMAGE_MS = 20000; // until it is said that one waits; at most
const SMALLEST = 64; // side of an image in CSS pixels, below which it is not shown smaller than native
const stage = document.getElementById("stage");
const answers = document.getElementById("answers");
const message = document.getElementById("message");
const back = document.getElementById("back");
const asked = JSON.parse(stage.dataset.script), inTurn = asked.inTurn;
const isChoice = (place) => asked.choices.includes(asked.places[place]);
let trial = null, frame = 1000 / 60, listening = false, shownAt = 0, shown = [], scale = 1, showing = 0;
let focused = null, tooSmall = false;

const nextFrame = () => new Promise(requestAnimationFrame);

function say(text, label, action) {
  message.textContent = text;
  if (!label) return;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  button.addEventListener("click", action, { once: true });
  message.append(button);
}

// What the server says to a post, or null where it refused it and that was read.
async function post(path, body) {
  // an answer is kept here until the server has it: a lost connection loses none
  for (let wait = 500; ; wait = Math.min(2 * wait, 10000)) {
    const limit = new AbortController();
    const end = setTimeout(() => limit.abort(), ANSWER_MS);
    const slow = setTimeout(() => say("Waiting for the server …"), PATIENCE_MS);
    let response = null, result = null;
    try {
      response = await fetch(path, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
        signal: limit.signal,
      });
      result = await response.json();
    } catch (error) { /* no connection, no answer in time, or one that another server gave */ }
    clearTimeout(end);
    clearTimeout(slow);
    if (response && response.ok && result) {
      say("");
      return result;
    }
    if (response && response.status === 401) {
      location.replace("/");
      return new Promise(() => {});
    }
    if (response && response.status >= 400 && response.status < 500 && response.status !== 429) {
      const reason = (result && result.error) || `status ${response.status}`;
      await new Promise((resolve) => say(`The server refused this: ${reason}.`, "Go on", resolve));
      return null;
    }
    const retry = new Promise((resolve) => {
      say("Not saved yet: the server does not answer. Trying again.", "Try now", resolve);
      setTimeout(resolve, wait);
    });
    await retry;
  }
}

async function load(url, place) {
  const image = new Image();
  image.alt = isChoice(place) ? "" : asked.labels[place]; // a choice is named by its button
  image.draggable = false;
  image.src = url;
  let end;
  const late = new Promise((_, reject) => { end = setTimeout(reject, IMAGE_MS); });
  try {
    await Promise.race([image.decode(), late]);
  } catch (error) {
    image.src = ""; // else the next try would wait for the same request
    throw error;
  } finally {
    clearTimeout(end);
  }
  return image;
}

// The largest whole multiple that fits, up to the study's; below native only where nothing else fits.
function fit(width, height, across, down) {
  const room = stage.getBoundingClientRect();
  const most = Math.min(
    (room.width - across * BORDER - (across - 1) * GAP) / (across * width),
    (room.height - down * (BORDER + (inTurn ? 0 : LABEL)) - (down - 1) * GAP) / (down * height),
  );
  return most >= 1 ? Math.min(asked.enlarge, Math.floor(most)) : Math.max(most, 0);
}

// Size the images; whether the window is large enough for them.
function layOut() {
  const holder = stage.firstElementChild;
  if (!holder) return true;
  document.body.classList.remove("small"); // which hides what is measured
  const images = holder.querySelectorAll("img");
  const { naturalWidth: width, naturalHeight: height } = images[0];
  scale = fit(width, height, inTurn ? 1 : images.length, 1);
  const stacked = inTurn ? 0 : fit(width, height, 2, 2);
  holder.classList.toggle("stacked", stacked > scale);
  scale = Math.max(scale, stacked);
  for (const image of images) {
    image.style.width = `${width * scale}px`;
    image.style.height = `${height * scale}px`;
    image.classList.toggle("enlarged", scale >= 1);
  }
  const fits = scale >= 1 || Math.min(width, height) * scale >= SMALLEST;
  document.body.classList.toggle("small", !fits);
  return fits;
}

// Take no answer while the window is too small, and begin the trial again once it is not.
function onResize() {
  if (layOut()) {
    if (tooSmall) show(trial);
    return;
  }
  if (tooSmall || !trial) return;
  tooSmall = true;
  listening = false;
  showing++;
  say("This window is too small for the images. Please make it larger, or zoom out.");
}

function build(images) {
  const holder = document.createElement("div");
  holder.className = "trial";
  images.forEach((image, place) => {
    const element = document.createElement(isChoice(place) ? "button" : "div");
    if (isChoice(place)) {
      element.type = "button";
      element.dataset.choice = asked.places[place];
      element.setAttribute("aria-label", `${asked.places[place]} image`);
    } else if (!inTurn) {
      element.className = "middle";
    }
    element.append(image);
    if (!inTurn) {
      const label = document.createElement("span");
      label.textContent = asked.labels[place];
      label.setAttribute("aria-hidden", "true"); // the image's name says it
      element.append(label);
    }
    holder.append(element);
  });
  return holder;
}

// Resolves with the time of the first frame that begins after `duration` from `start`, to half a frame.
async function until(start, duration) {
  let time = await nextFrame();
  while (time < start + duration - frame / 2) time = await nextFrame();
  return time;
}

async function showInTurn(holder, run) {
  const achieved = [];
  for (const place of asked.places.keys()) {
    let start = await nextFrame();
    if (run !== showing) return null;
    const element = holder.children[place];
    element.classList.add("now");
    const end = await until(start, SHOW_MS);
    element.classList.remove("now");
    achieved.push(end - start);
    if (run !== showing) return null;
    if (place < asked.places.length - 1) achieved.push((await until(end, BETWEEN_MS - frame)) + frame - end);
  }
  return achieved;
}

async function show(next, notice = "") {
  const run = ++showing;
  listening = tooSmall = false;
  say(notice);
  trial = next;
  answers.hidden = !inTurn;
  answers.style.visibility = "hidden";
  if (!trial) {
    location.replace("/thanks");
    return;
  }
  const progress = document.getElementById("progress");
  progress.max = trial.of;
  progress.value = trial.done;
  document.getElementById("count").textContent =
    trial.practice ? "Practice" : `${trial.done + 1} / ${trial.of}`;
  back.hidden = !trial.back;
  let images;
  const slow = setTimeout(() => {
    if (run !== showing) return;
    stage.replaceChildren(); // nobody shall answer what was asked before
    say("Loading …");
  }, PATIENCE_MS);
  try {
    images = await Promise.all(trial.images.map(load));
  } catch (error) {
    if (run === showing) say("An image could not be loaded.", "Try again", begin);
    return;
  } finally {
    clearTimeout(slow);
  }
  if (run !== showing) return;
  say(notice);
  const holder = build(images);
  stage.replaceChildren(holder);
  onResize();
  if (run !== showing) return;
  await nextFrame(); // laid out and decoded, still invisible
  if (inTurn) {
    holder.classList.add("shown");
    shown = await showInTurn(holder, run);
    if (!shown || run !== showing) return;
    answers.style.visibility = "visible";
    shownAt = performance.now();
  } else {
    shownAt = await nextFrame();
    if (run !== showing) return;
    holder.classList.add("shown");
    shown = [];
  }
  listening = true;
  // who answers with Tab and Enter stays where they are
  if (focused) document.querySelector(`[data-choice="${focused}"]`)?.focus();
}

async function answer(choice, time) {
  if (!listening || !trial) return;
  listening = false;
  const response = Math.max(0, time - shownAt);
  const chosen = document.querySelector(`[data-choice="${choice}"]`);
  if (chosen) chosen.classList.add("chosen");
  focused = document.activeElement.dataset.choice || null;
  const vote = {
    token: trial.token,
    attempt: trial.attempt,
    choice,
    response_ms: response,
    shown_ms: inTurn ? shown : [response],
    frame_ms: frame,
    window_width: Math.round(innerWidth),
    window_height: Math.round(innerHeight),
    pixel_ratio: devicePixelRatio,
    scale,
  };
  back.hidden = true;
  const result = await post("/api/vote", vote);
  if (chosen) chosen.classList.remove("chosen");
  if (!result) {
    begin();
    return;
  }
  if (result.right !== undefined) {
    say(result.right ? "Correct." : asked.wrong);
    await new Promise((resolve) => setTimeout(resolve, FEEDBACK_MS));
  }
  show(result.trial, result.said);
}

async function begin() {
  say("");
  const result = await post("/api/next", {});
  if (result) show(result.trial);
  else begin();
}

async function goBack() {
  if (!listening || back.hidden) return;
  listening = false;
  if (document.activeElement === back) focused = asked.choices[0]; // this button goes
  const result = await post("/api/back", { token: trial.token });
  if (result) show(result.trial);
  else begin();
}

// The median time between frames.
async function measureFrame() {
  const times = [];
  for (let i = 0; i < 20; i++) times.push(await nextFrame());
  const gaps = times.slice(1).map((time, i) => time - times[i]).sort((a, b) => a - b);
  frame = gaps[gaps.length >> 1] || frame;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-choice]");
  if (button) answer(button.dataset.choice, event.timeStamp);
});
document.addEventListener("keydown", (event) => {
  if (event.repeat && ["Enter", " "].includes(event.key)) event.preventDefault(); // one answer each
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const [first, ...others] = asked.choices;
  const keys = { ArrowLeft: first, ArrowRight: others.pop(), ArrowDown: others[0] };
  if (!keys[event.key]) return;
  event.preventDefault();
  answer(keys[event.key], event.timeStamp);
});
back.addEventListener("click", goBack);
addEventListener("resize", onResize);
addEventListener("pageshow", (event) => { if (event.persisted) begin(); });
measureFrame().then(begin);
