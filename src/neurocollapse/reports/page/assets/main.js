// The page: its title and summary, its switches, and when it is drawn.

function makeSwitches() {
  const form = document.getElementById("switches");
  form.addEventListener("submit", (event) => event.preventDefault());
  const changed = () => {
    keep();
    redraw();
  };
  for (const field of varied) {
    const group = element("fieldset", { className: field.values.length > 12 ? "many" : "", "data-field": field.name });
    group.append(element("legend", { textContent: LABELS[field.name] || field.name.replaceAll("_", " ") }));
    const hidden = () => state.hidden[field.name] || [];
    const boxes = field.values.map((value, place) => {
      const checked = !hidden().includes(value);
      const box = element("input", { type: "checkbox", id: `${field.name}-${place}`, checked, value: String(value) });
      box.addEventListener("change", () => {
        state.hidden[field.name] = box.checked ? hidden().filter((other) => other !== value) : [...hidden(), value];
        changed();
      });
      group.append(element("label", {}, box, ...swatch(field, value), String(value ?? "none")));
      return box;
    });
    if (field.values.length > 3) {
      const all = element("button", { type: "button", textContent: "all / none" });
      all.addEventListener("click", () => {
        state.hidden[field.name] = hidden().length ? [] : [...field.values];
        for (const box of boxes) box.checked = !state.hidden[field.name].length;
        changed();
      });
      group.querySelector("legend").after(all);
    }
    form.append(group);
  }
  const splits = element("fieldset", {}, element("legend", { textContent: "samples" }));
  const tested = runs.some((run) => Object.keys(run.series.test).length);
  if (!tested) state.split = "train";
  for (const split of ["train", "test", "both"]) {
    const checked = state.split === split;
    const disabled = split !== "train" && !tested;
    const radio = element("input", { type: "radio", name: "split", id: `split-${split}`, value: split, checked, disabled });
    radio.addEventListener("change", () => {
      state.split = split;
      changed();
    });
    splits.append(element("label", {}, radio, split));
  }
  const log = element("input", { type: "checkbox", id: "log-epochs", checked: state.logEpochs });
  log.addEventListener("change", () => {
    state.logEpochs = log.checked;
    changed();
  });
  form.append(splits, element("label", {}, log, "log epochs"));
}

// Returns the look of a value's lines. A value has one if λ, or one other field, is the only one that varies.
function swatch(field, value) {
  const varying = varied.filter((other) => other.name !== "seed");
  if (varying.length !== 1 || varying[0] !== field) return [];
  return [stroke(lookOf(runs.find((run) => run.values[field.name] === value)).colour)];
}

function stroke(shade) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  made.setAttribute("width", 22);
  made.setAttribute("height", 10);
  made.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", "M0 5 H22");
  line.setAttribute("stroke", shade);
  line.setAttribute("stroke-width", 4);
  made.append(line);
  return made;
}

// If several fields vary, the legend has a line for each setting.
function showLegend() {
  const varying = varied.filter((field) => field.name !== "seed");
  if (varying.length < 2) return;
  const items = settings.map((setting) => {
    const run = runs.find((each) => settingOf(each) === setting);
    const look = lookOf(run);
    const symbol = element("span", { textContent: GLYPHS[SYMBOLS.indexOf(look.symbol)], "aria-hidden": "true" });
    symbol.style.color = look.colour;
    return element("li", {}, stroke(look.colour), symbol, ` ${labelOf(run, varying)}`);
  });
  const list = element("ul", { id: "legend" }, ...items);
  const summary = element("summary", { textContent: `Colours and symbols of ${settings.length} settings` });
  const details = element("details", { open: settings.length <= 12 }, summary, list);
  document.getElementById("panels").before(details);
}

function showHead() {
  document.getElementById("title").textContent = content.title;
  const ended = runs.filter((run) => run.status === "finished").length;
  const seconds = runs.reduce((sum, run) => sum + (run.seconds || 0), 0);
  const values = (name) => content.fields.find((field) => field.name === name)?.values ?? [];
  const [decays, seeds] = [values("weight_decay"), values("seed")];
  const parts = [
    `${runs.length} run${runs.length === 1 ? "" : "s"}, ${ended} finished`,
    ...(decays.length ? [`λ = ${decays.join(", ")}`] : []),
    ...(seeds.length ? [`${seeds.length} seed${seeds.length === 1 ? "" : "s"}`] : []),
    ...(seconds ? [`${duration(seconds)} of training and measuring`] : []),
  ];
  document.getElementById("summary").textContent = runs.length
    ? `${parts.join("; ")}.`
    : "There are no runs here yet.";
}

// A page of runs in training reloads itself, unless the reader is in the middle of something.
function reloadLater() {
  if (!content.reload) return;
  const live = document.getElementById("live");
  live.hidden = false;
  const box = element("input", { type: "checkbox", checked: true, id: "reload" });
  live.append(element("label", {}, box, `kept current: this page reloads itself every ${content.reload} s`));
  let busy = false;
  let typed = -Infinity;
  addEventListener("pointerdown", () => {
    busy = true;
  });
  for (const end of ["pointerup", "pointercancel"]) {
    addEventListener(end, () => {
      busy = false;
    });
  }
  addEventListener("keydown", () => {
    typed = performance.now();
  });
  setInterval(() => {
    if (!box.checked || busy || motion.playing || performance.now() - typed < 5000) return;
    keep();
    location.reload();
  }, content.reload * 1000);
}

// A heading that a link leads to must not be hidden under the switches, which stay visible.
function clearOfSwitches() {
  const bar = document.getElementById("switches");
  const stays = getComputedStyle(bar).position === "sticky";
  document.documentElement.style.scrollPaddingTop = stays ? `${bar.offsetHeight + 16}px` : "";
}

restore();
new ResizeObserver(clearOfSwitches).observe(document.getElementById("switches"));
showHead();
showFailures();
makeSwitches();
if (runs.length) {
  showLegend();
  makePanels();
  makeLayers();
  makeRun();
} else {
  const empty = ["#switches", "#panels-section", "#run-section", "#theory-section", "nav"];
  for (const selector of empty) document.querySelector(selector).hidden = true;
}
showTheory();
showClaims();
showAbout();
reloadLater();
addEventListener("pagehide", keep);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
if (state.scroll) scrollTo(0, state.scroll);
if (state.focus) document.getElementById(state.focus)?.focus({ preventScroll: true });
