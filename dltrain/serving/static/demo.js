"use strict";

const MAX_CLASSES = 10;
const form = document.getElementById("form");
const result = document.getElementById("result");
const canvas = document.getElementById("canvas");
let lastRequest = 0;

// Control characters, and those that change the direction of the text around them.
const UNSAFE = /[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

function visible(text) {
  return text.replace(UNSAFE, (found) => "\\u" + found.charCodeAt().toString(16).padStart(4, "0"));
}

function element(name, text, kind) {
  const created = document.createElement(name);
  if (text !== undefined) created.textContent = visible(text);
  if (kind) created.className = kind;
  return created;
}

function show(...children) {
  result.replaceChildren(...children);
  // The canvas must not move between the strokes of a drawing.
  if (!canvas) result.parentElement.scrollIntoView({ block: "nearest" });
}

async function predict(item) {
  const request = ++lastRequest;
  let body;
  try {
    const response = await fetch("predict", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ [form.dataset.kind]: [item] }),
    });
    body = await response.json();
  } catch (error) {
    body = { errors: [{ message: "The service does not respond: " + error.message }] };
  }
  if (request !== lastRequest) return; // a newer request has been sent
  if (body.errors) show(...body.errors.map((problem) => element("p", problem.message, "bad")));
  else showPrediction(body.predictions[0]);
}

function showPrediction(prediction) {
  if (prediction.text !== null) return show(element("pre", prediction.text || "(empty)"));
  if (prediction.values !== null) {
    return show(...prediction.values.map((value) => element("p", formatValue(value), "label")));
  }
  const classes = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
  const shown = classes.slice(0, MAX_CLASSES);
  const table = element("table", undefined, "probabilities");
  const omitted = classes.length > shown.length ? `, the highest ${MAX_CLASSES} of ${classes.length}` : "";
  table.append(element("caption", "Class probabilities" + omitted), element("tbody"));
  table.tBodies[0].append(...shown.map(classRow));
  show(element("p", prediction.label, "label"), table);
}

function formatValue(value) {
  return value === null ? "not finite" : String(Number(value.toPrecision(6)));
}

function classRow([name, probability]) {
  const row = element("tr");
  const header = element("th", name);
  header.scope = "row";
  const bar = element("progress");
  bar.max = 1;
  bar.value = probability;
  bar.setAttribute("aria-label", "Probability of " + visible(name));
  const cell = element("td");
  cell.append(bar);
  row.append(header, cell, element("td", (100 * probability).toFixed(1) + "%"));
  return row;
}

function readAsDataURL(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

function tableRow() {
  const values = {};
  for (const field of form.querySelectorAll("[data-column]")) {
    values[field.dataset.column] = field.type === "number" ? field.valueAsNumber : field.value;
  }
  return values;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (form.dataset.kind === "texts") predict(document.getElementById("text").value);
  if (form.dataset.kind === "rows") predict(tableRow());
});

const file = document.getElementById("file");
const preview = document.getElementById("preview");
const brush = canvas?.getContext("2d", { willReadFrequently: true });

function eraseDrawing() {
  if (!canvas) return;
  brush.fillStyle = canvas.dataset.background;
  brush.fillRect(0, 0, canvas.width, canvas.height);
}

function forgetFile() {
  file.value = "";
  preview.hidden = true;
}

if (file) {
  file.addEventListener("change", async () => {
    preview.hidden = !file.files[0];
    if (preview.hidden) return;
    eraseDrawing();
    preview.src = await readAsDataURL(file.files[0]);
    predict(preview.src);
  });
}

// ---------------------------------------------------------------- drawing

if (canvas) {
  const { background, ink } = canvas.dataset;
  const initial = [...result.childNodes];
  let last = null;

  const clear = () => {
    eraseDrawing();
    forgetFile();
    lastRequest++; // ignore the response that is still expected
    result.replaceChildren(...initial);
  };
  const position = (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };
  const stroke = (event) => {
    const [x, y] = position(event);
    brush.strokeStyle = ink;
    brush.lineWidth = canvas.width / 12;
    brush.lineCap = brush.lineJoin = "round";
    brush.beginPath();
    brush.moveTo(...(last || [x, y]));
    brush.lineTo(x, y);
    brush.stroke();
    last = [x, y];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    forgetFile();
    last = null;
    stroke(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (last) stroke(event);
  });
  canvas.addEventListener("pointerup", () => {
    last = null;
    predict(centered().toDataURL("image/png"));
  });
  canvas.addEventListener("pointercancel", () => (last = null));
  document.getElementById("clear").addEventListener("click", clear);
  clear();

  // Like a digit of MNIST: 20 of 28 pixels high or wide, with the center of mass in the middle.
  function centered() {
    const { width, height } = canvas;
    const pixels = brush.getImageData(0, 0, width, height).data;
    const box = { left: width, top: height, right: 0, bottom: 0 };
    let mass = 0, massX = 0, massY = 0;
    const isDark = background === "#000";
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const value = pixels[4 * (y * width + x)];
        const weight = isDark ? value : 255 - value;
        if (!weight) continue;
        mass += weight;
        massX += weight * (x + 0.5);
        massY += weight * (y + 0.5);
        box.left = Math.min(box.left, x);
        box.right = Math.max(box.right, x + 1);
        box.top = Math.min(box.top, y);
        box.bottom = Math.max(box.bottom, y + 1);
      }
    }
    const size = Math.max(box.right - box.left, box.bottom - box.top);
    const scale = ((20 / 28) * width) / size;
    const copy = document.createElement("canvas");
    copy.width = width;
    copy.height = height;
    const context = copy.getContext("2d");
    context.fillStyle = background;
    context.fillRect(0, 0, width, height);
    context.translate(width / 2, height / 2);
    context.scale(scale, scale);
    context.translate(-massX / mass, -massY / mass);
    context.drawImage(canvas, 0, 0);
    return copy;
  }
}
