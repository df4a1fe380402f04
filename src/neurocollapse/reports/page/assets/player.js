// The controls of one run: they choose the run, its classes and the epoch, and play the epochs in turn.

const motion = { frame: 0, playing: false };

const SECONDS_A_RECORD = 0.7;
const SECONDS_A_RECORD_STILL = 1.5;

class Player {
  constructor(form) {
    this.select = element("select", { id: "run", title: "The run shown below" });
    for (const run of runs) {
      const without = content.motion[run.name] ? "" : " (no samples)";
      this.select.append(element("option", { value: run.name, textContent: labelOf(run) + without }));
    }
    this.classes = element("fieldset", { id: "classes" });
    this.button = element("button", { type: "button", id: "play" });
    this.slider = element("input", { type: "range", id: "epoch", min: 0, value: 0, step: 1, title: "Epoch" });
    this.shown = element("output", { id: "epoch-shown", htmlFor: "epoch" });
    form.append(
      element("label", {}, "run ", this.select),
      this.classes,
      element("fieldset", {}, element("legend", { textContent: "epoch" }), this.button, this.slider, this.shown),
    );
    form.addEventListener("submit", (event) => event.preventDefault());
    this.button.addEventListener("click", () => (motion.playing ? this.pause() : this.play()));
    this.slider.addEventListener("input", () => this.moveTo(Number(this.slider.value)));
    this.select.addEventListener("change", () => this.changeRun(this.select.value));
    this.stop();
    this.begin();
  }

  get last() {
    return moving().epochs.length - 1;
  }

  // Shows the chosen run at the chosen epoch, or at its end if it lacks that epoch.
  begin() {
    const moves = moving();
    const kept = moves ? moves.means[0].length : 0;
    state.run = chosenRun().name;
    this.select.value = state.run;
    this.offerClasses(kept);
    this.slider.max = moves ? this.last : 0;
    this.slider.closest("fieldset").hidden = !moves;
    this.slider.disabled = this.button.disabled = !moves || this.last < 1;
    for (const plot of plots) if (plot.name === "norms") plot.draw();
    const frame = moves ? moves.epochs.indexOf(state.epoch) : 0;
    this.show(frame < 0 ? this.last : frame);
  }

  offerClasses(kept) {
    state.classes = state.classes.filter((c) => c < kept);
    for (let c = 0; state.classes.length < Math.min(3, kept); c += 1)
      if (!state.classes.includes(c)) state.classes.push(c);
    const which = chosenRun().classes > kept ? `the first ${kept} classes` : "the classes";
    this.classes.hidden = kept < 3;
    this.classes.replaceChildren(element("legend", { textContent: `three or four of ${which}:` }));
    for (let c = 0; c < kept; c += 1) {
      const checked = state.classes.includes(c);
      const box = element("input", { type: "checkbox", name: "class", id: `class-${c}`, value: c, checked });
      box.addEventListener("change", () => this.choose(c, box.checked));
      this.classes.append(element("label", {}, box, String(c)));
    }
  }

  // Three or four classes are always chosen: a fifth replaces the first, and none of the last three can be removed.
  choose(c, on) {
    if (on) state.classes = [...state.classes, c].slice(-4);
    else if (state.classes.length > 3) state.classes = state.classes.filter((other) => other !== c);
    state.classes.sort((a, b) => a - b);
    keep();
    this.begin();
    this.classes.querySelectorAll("input")[c].focus(); // the boxes are new
  }

  changeRun(name) {
    this.stop();
    state.run = name;
    keep();
    this.begin();
    showTheory();
  }

  show(frame) {
    motion.frame = frame;
    this.slider.value = frame;
    const moves = moving();
    if (moves) {
      const [before, after] = [Math.floor(frame), Math.ceil(frame)].map((f) => moves.epochs[f]);
      this.shown.textContent =
        before === after ? `${before} of ${chosenRun().epochs}` : `between ${before} and ${after}`;
    } else {
      this.shown.textContent = "";
    }
    this.slider.setAttribute("aria-valuetext", this.shown.textContent);
    for (const plot of plots) if (["motion", ...Object.keys(GRAMS)].includes(plot.name)) plot.draw();
  }

  moveTo(frame) {
    this.stop();
    this.show(frame);
    state.epoch = moving().epochs[frame];
    keep();
  }

  play() {
    motion.playing = true;
    this.button.textContent = "❚❚ pause";
    if (motion.frame >= this.last) this.show(0);
    requestAnimationFrame((now) => {
      this.drawn = now;
      this.step(now);
    });
  }

  step(now) {
    if (!motion.playing) return;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const passed = (now - this.drawn) / 1000;
    if (!still) this.show(Math.min(this.last, motion.frame + passed / SECONDS_A_RECORD));
    else if (passed > SECONDS_A_RECORD_STILL) this.show(Math.min(this.last, Math.floor(motion.frame) + 1));
    if (!still || passed > SECONDS_A_RECORD_STILL) this.drawn = now;
    if (motion.frame >= this.last) this.stop();
    else requestAnimationFrame((next) => this.step(next));
  }

  stop() {
    motion.playing = false;
    this.button.textContent = "▶ play";
  }

  pause() {
    this.moveTo(Math.round(motion.frame));
  }
}

function makeRun() {
  const features = new Plot(document.getElementById("motion"), {
    name: "motion",
    kind: "tall",
    figure: motionFigure,
    table: motionRows,
    title: "Features on the span of the classifier rows",
    hint:
      "Small: samples. Large: class means. Lines: classifier rows. Dashed: the simplex. All seen from μ_G, in units " +
      "of the means’ mean length. Drag to turn four classes.",
  });
  turnable(features);
  new Plot(document.getElementById("norms"), {
    name: "norms",
    kind: "tall",
    figure: normsFigure,
    table: normsRows,
    title: "Norms of the layers",
    hint: "‖W_l‖²: equal for all layers at a critical point with λ > 0",
  });
  for (const [name, title] of Object.entries(GRAMS)) {
    new Plot(document.getElementById("grams"), {
      name,
      title,
      kind: "square",
      figure: () => gramFigure(name),
      table: () => gramRows(name),
    });
  }
  new Player(document.getElementById("chosen"));
}
