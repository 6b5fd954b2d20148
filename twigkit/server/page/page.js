"use strict";

const at = (id) => document.getElementById(id);
const canvas = at("picture");
const pen = canvas.getContext("2d");
const state = { url: null, image: null, kept: null, running: null, finished: false };

// -- the picture ------------------------------------------------------------------------------

/** Reads a file as a data URL and shows it. */
function show(file) {
  if (!file || !file.type.startsWith("image/")) return;
  const reader = new FileReader();
  reader.onload = () => {
    const image = new Image();
    image.onload = () => {
      state.url = reader.result;
      state.image = image;
      state.kept = null;
      at("clear").disabled = false;
      draw();
    };
    image.onerror = () => tell("This picture cannot be shown.");
    image.src = reader.result;
  };
  reader.readAsDataURL(file);
}

function clear() {
  state.url = state.image = state.kept = null;
  at("clear").disabled = true;
  at("kept").textContent = "";
  draw();
}

/** Draws the picture; visual tokens that were dropped are faded, kept ones outlined. */
function draw() {
  const image = state.image;
  at("hint").hidden = Boolean(image);
  if (!image) {
    canvas.width = 480;
    canvas.height = 360;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    return;
  }
  const scale = Math.max(1, 480 / image.width);
  canvas.width = image.width * scale;
  canvas.height = image.height * scale;
  pen.imageSmoothingEnabled = scale < 2;
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  const kept = state.kept;
  if (!kept || !kept.grid || !at("overlay").checked) return;
  const [rows, columns] = kept.grid;
  const [left, top, width, height] = area(kept.crop);
  const wide = width / columns;
  const high = height / rows;
  const stays = new Set(kept.tokens);
  for (let token = 0; token < rows * columns; token++) {
    const x = left + (token % columns) * wide;
    const y = top + Math.floor(token / columns) * high;
    if (stays.has(token)) {
      pen.strokeStyle = "#d6286e";
      pen.lineWidth = Math.max(1, wide / 16);
      pen.strokeRect(x + 0.5, y + 0.5, wide - 1, high - 1);
    } else {
      pen.fillStyle = "rgba(250, 250, 252, 0.78)";
      pen.fillRect(x, y, wide, high);
    }
  }
}

/** The part of the canvas that the model saw: all of it, or its middle square. */
function area(crop) {
  const { width, height } = canvas;
  if (!crop) return [0, 0, width, height];
  const edge = Math.min(width, height);
  return [(width - edge) / 2, (height - edge) / 2, edge, edge];
}

// -- asking -----------------------------------------------------------------------------------

function body() {
  const content = [];
  if (state.url) content.push({ type: "image_url", image_url: { url: state.url } });
  content.push({ type: "text", text: at("question").value });
  return {
    messages: [{ role: "user", content }],
    max_tokens: Number(at("tokens").value),
    stream: true,
    twigkit: { budget: at("budget").value || null, trace: true },
  };
}

/** Asks, and takes the events of the stream as they come. */
async function ask() {
  const stopper = new AbortController();
  state.running = stopper;
  at("ask").disabled = true;
  at("stop").disabled = false;
  at("answer").textContent = at("kept").textContent = at("speed").textContent = "";
  tell("");
  state.kept = null;
  state.finished = false;
  draw();
  try {
    const key = at("key").value;
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) },
      body: JSON.stringify(body()),
      signal: stopper.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    await read(response.body.getReader());
  } catch (error) {
    if (error.name !== "AbortError") tell(error.message);
  } finally {
    state.running = null;
    at("ask").disabled = false;
    at("stop").disabled = true;
  }
}

async function read(reader) {
  const decoder = new TextDecoder();
  const began = performance.now();
  let tokens = 0;
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + decoder.decode(value, { stream: true })).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data !== "[DONE]") tokens += take(JSON.parse(data));
    }
    const seconds = (performance.now() - began) / 1000;
    if (!state.finished && tokens > 1) at("speed").textContent = `${(tokens / seconds).toFixed(1)} tokens/s`;
  }
}

/** Shows what a chunk tells; returns how many tokens it holds. */
function take(chunk) {
  if (chunk.error) throw new Error(chunk.error.message);
  const own = chunk.twigkit || {};
  if (own.begun) keep(own.begun);
  if (own.prompts) finish(own.prompts[0]);
  for (const token of own.tokens || []) {
    const span = document.createElement("span");
    span.textContent = token.text;
    if (token.accepted) span.className = "accepted";
    at("answer").append(span);
  }
  return (own.tokens || []).length;
}

function keep(begun) {
  if (!begun.visual_tokens) return;
  state.kept = { tokens: begun.kept, grid: begun.grid, crop: begun.crop };
  at("kept").textContent =
    `${begun.kept.length} of ${begun.visual_tokens} visual tokens kept, ` +
    `${begun.visual_per_layer.toFixed(1)} per layer`;
  draw();
}

function finish(facts) {
  state.finished = true;
  at("speed").textContent =
    `${facts.tokens_per_second.toFixed(1)} tokens/s, ` +
    `accepted length ${facts.accepted_length.toFixed(2)}, ` +
    `prefill ${(1000 * facts.prefill_seconds).toFixed(0)} ms`;
}

function tell(problem) {
  at("error").textContent = problem;
}

// -- events -----------------------------------------------------------------------------------

at("drop").addEventListener("click", () => at("file").click());
at("drop").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") at("file").click();
});
at("file").addEventListener("change", () => show(at("file").files[0]));
at("drop").addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
at("drop").addEventListener("dragleave", () => at("drop").classList.remove("over"));
at("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  show(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files][0];
  if (file) show(file);
});
at("clear").addEventListener("click", clear);
at("overlay").addEventListener("change", draw);
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!state.running) ask();
});
at("stop").addEventListener("click", () => state.running && state.running.abort());
fetch("health").then((response) => {
  at("model").textContent = response.ok ? "ready" : "not ready";
});
draw();
