// The report's values, and what the reader has chosen to see, which survives a reload.

const content = JSON.parse(document.getElementById("content").textContent);
const runs = content.runs;
const varied = content.fields.filter((field) => field.values.length > 1);
const KEPT = `neurocollapse ${location.pathname}`;

const state = {
  hidden: {}, // field -> the values that are switched off
  split: "train",
  logEpochs: true,
  layers: null, // the measure of layers that is shown
  linear: {}, // panel -> whether its values are on a linear axis
  run: null, // name of the one run
  classes: [0, 1, 2],
  epoch: null, // the epoch shown of that run
  scroll: 0,
  focus: "", // the element that has the keyboard's focus
};

function restore() {
  try {
    Object.assign(state, JSON.parse(sessionStorage.getItem(KEPT) || "{}"));
  } catch {
    return; // the browser keeps nothing
  }
}

function keep() {
  try {
    sessionStorage.setItem(
      KEPT,
      JSON.stringify({ ...state, scroll: window.scrollY, focus: document.activeElement?.id }),
    );
  } catch {
    return;
  }
}

function isShown(run) {
  return varied.every((field) => !(state.hidden[field.name] || []).includes(run.values[field.name]));
}

function chosenRun() {
  const decayed = (run) => run.status === "finished" && run.values.weight_decay > 0 && run.recorded.length > 1;
  return runs.find((run) => run.name === state.run) || runs.find(decayed) || runs[0];
}

const LABELS = { weight_decay: "λ", seed: "seed" };

function labelOf(run, named = varied.length ? varied : content.fields) {
  return named
    .map((field) => {
      const value = run.values[field.name];
      const name = LABELS[field.name] || field.name.replaceAll("_", " ");
      return field.name === "weight_decay" ? `λ = ${value}` : `${name} ${value}`;
    })
    .join(", ");
}

// Runs that differ in the seed alone look the same. The colours are Okabe and Ito's palette, which the colour-blind can
// distinguish, with a symbol for each; green is λ = 0.

const settings = [];

function settingOf(run) {
  return JSON.stringify(content.fields.filter((field) => field.name !== "seed").map((field) => run.values[field.name]));
}

for (const run of [...runs].sort((a, b) => a.values.weight_decay - b.values.weight_decay)) {
  if (!settings.includes(settingOf(run))) settings.push(settingOf(run));
}

const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star"];
const GLYPHS = ["●", "■", "◆", "▲", "✚", "✖", "★"];

function lookOf(run) {
  const undecayed = runs.some((other) => other.values.weight_decay === 0);
  const colours = [
    "#009e73",
    "#e69f00",
    isDark() ? "#3fa0e0" : "#0072b2",
    "#cc79a7",
    "#d55e00",
    "#56b4e9",
    isDark() ? "#f0e442" : "#000000",
    isDark() ? "#dd5588" : "#882255",
  ];
  const place = settings.indexOf(settingOf(run)) + (undecayed ? 0 : 1);
  return {
    colour: colours[place % colours.length],
    symbol: SYMBOLS[(place + Math.floor(place / colours.length)) % SYMBOLS.length],
  };
}

function isDark() {
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

// Creates an element. Text is set as text, so that no name or message is ever read as markup.

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// Returns a formula with the letter after each _ as a subscript. The part between two norms stays on one line.
function formula(text) {
  const parts = text.replaceAll(" − ", "\u00a0−\u00a0").split(/_(\w)/u);
  return parts.map((part, place) => (place % 2 ? element("sub", { textContent: part }) : part));
}

function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(digits - 2);
  return String(Number(value.toPrecision(digits)));
}

function duration(seconds) {
  if (seconds === null) return "–";
  if (seconds < 60) return `${seconds < 10 ? number(seconds, 2) : Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
