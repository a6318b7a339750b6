"use strict";

const MOST_SHOWN = 10;
const form = document.getElementById("form");
const answer = document.getElementById("answer");
let asked = 0;

// Control characters, and those that turn the direction of the text around them.
const STEERING =
  /[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

function visible(text) {
  return text.replace(STEERING, (found) => "\\u" + found.charCodeAt().toString(16).padStart(4, "0"));
}

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = visible(text);
  if (kind) made.className = kind;
  return made;
}

function show(...children) {
  answer.replaceChildren(...children);
}

async function ask(item) {
  const number = ++asked;
  let body;
  try {
    const response = await fetch("predict", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ [form.dataset.kind]: [item] }),
    });
    body = await response.json();
  } catch (error) {
    body = { errors: [{ message: "the service does not answer: " + error.message }] };
  }
  if (number !== asked) return; // a newer question has been asked
  if (body.errors) show(...body.errors.map((problem) => element("p", problem.message, "bad")));
  else showPrediction(body.predictions[0]);
}

function showPrediction(prediction) {
  if (prediction.text !== null) return show(element("pre", prediction.text || "(nothing)"));
  if (prediction.values !== null) {
    return show(...prediction.values.map((value) => element("p", shortest(value), "label")));
  }
  const shares = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
  const table = element("div", undefined, "shares");
  table.append(...shares.slice(0, MOST_SHOWN).map(share));
  show(element("p", prediction.label, "label"), table);
}

function shortest(value) {
  return value === null ? "not finite" : String(Number(value.toPrecision(6)));
}

function share([name, probability]) {
  const line = element("div", undefined, "share");
  const bar = element("progress");
  bar.max = 1;
  bar.value = probability;
  bar.setAttribute("aria-label", visible(name));
  line.append(element("span", name), bar, element("span", (100 * probability).toFixed(1) + "%"));
  return line;
}

function encoded(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

function row() {
  const values = {};
  for (const field of form.querySelectorAll("[data-column]")) {
    values[field.dataset.column] = field.type === "number" ? field.valueAsNumber : field.value;
  }
  return values;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (form.dataset.kind === "texts") ask(document.getElementById("text").value);
  if (form.dataset.kind === "rows") ask(row());
});

const file = document.getElementById("file");
if (file) file.addEventListener("change", async () => file.files[0] && ask(await encoded(file.files[0])));

// ---------------------------------------------------------------- drawing

const pad = document.getElementById("pad");
if (pad) {
  const brush = pad.getContext("2d", { willReadFrequently: true });
  const { ground, ink } = pad.dataset;
  let last = null;

  const clear = () => {
    brush.fillStyle = ground;
    brush.fillRect(0, 0, pad.width, pad.height);
    asked++; // an answer on its way is of no interest any more
    show(element("p", "Draw something.", "soft"));
  };
  const place = (event) => {
    const box = pad.getBoundingClientRect();
    const scale = pad.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };
  const stroke = (event) => {
    const [x, y] = place(event);
    brush.strokeStyle = ink;
    brush.lineWidth = pad.width / 12;
    brush.lineCap = brush.lineJoin = "round";
    brush.beginPath();
    brush.moveTo(...(last || [x, y]));
    brush.lineTo(x, y);
    brush.stroke();
    last = [x, y];
  };
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    last = null;
    stroke(event);
  });
  pad.addEventListener("pointermove", (event) => {
    if (last) stroke(event);
  });
  pad.addEventListener("pointerup", () => {
    last = null;
    ask(centred().toDataURL("image/png"));
  });
  pad.addEventListener("pointercancel", () => (last = null));
  document.getElementById("clear").addEventListener("click", clear);
  clear();

  // As MNIST's digits are: 20 of 28 pixels high or wide, their centre of mass in the middle.
  function centred() {
    const { width, height } = pad;
    const pixels = brush.getImageData(0, 0, width, height).data;
    const box = { left: width, top: height, right: 0, bottom: 0 };
    let mass = 0, massX = 0, massY = 0;
    const dark = ground === "#000";
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const value = pixels[4 * (y * width + x)];
        const weight = dark ? value : 255 - value;
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
    const sheet = document.createElement("canvas");
    sheet.width = width;
    sheet.height = height;
    const context = sheet.getContext("2d");
    context.fillStyle = ground;
    context.fillRect(0, 0, width, height);
    context.translate(width / 2, height / 2);
    context.scale(scale, scale);
    context.translate(-massX / mass, -massY / mass);
    context.drawImage(pad, 0, 0);
    return sheet;
  }
} else {
  show(element("p", "The answer will stand here.", "soft"));
}
