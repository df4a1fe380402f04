// Tables: the theory beside measurement, the claims, and the runs.

function table(caption, head, rows) {
  const made = element("table", {}, element("caption", { textContent: caption }));
  const lines = rows.map((cells) => cells.map(cell));
  const kind = (place) => (lines.some((line) => line[place].className === "number") ? "number" : "");
  const heads = head.map((text, place) => element("th", { scope: "col", className: kind(place), textContent: text }));
  made.append(element("thead", {}, element("tr", {}, ...heads)));
  made.append(element("tbody", {}, ...lines.map((line) => element("tr", {}, ...line))));
  return element("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": caption }, made);
}

function cell(value) {
  if (value instanceof Node) return value;
  const isNumber = typeof value === "number" || value === null;
  return element("td", { className: isNumber ? "number" : "", textContent: isNumber ? number(value) : value });
}

// Returns a colour from blue (agreement) to orange; they also differ in lightness, and the cell shows the number.
function residualCell(value) {
  const made = element("td", { className: "number", textContent: number(value, 3) });
  if (typeof value !== "number") return made;
  const share = Math.min(1, Math.max(0, (Math.log10(Math.max(value, 1e-12)) + 8) / 8));
  made.style.background =
    share < 0.5 ? `rgb(0 114 178 / ${0.55 * (1 - 2 * share)})` : `rgb(230 159 0 / ${0.75 * (2 * share - 1)})`;
  return made;
}

function showTheory() {
  const target = document.getElementById("theory");
  const run = chosenRun();
  const found = run && content.theory[run.name];
  if (!found) {
    const any = Object.keys(content.theory).length > 0;
    target.replaceChildren(
      element("p", {
        className: "note",
        textContent: any
          ? "This run has no theory table; others have one."
          : "These runs have no theory tables: neurocollapse verify DIR makes them.",
      }),
    );
    return;
  }
  const parts = [
    element("p", {
      className: "note",
      textContent: `The run is ${labelOf(run)}. A residual is relative; blue is agreement, orange is none.`,
    }),
  ];
  for (const note of found.notes || []) parts.push(element("p", { className: "note", textContent: note }));
  for (const [reading, rows] of Object.entries(found.sections)) {
    parts.push(
      table(
        reading,
        ["", "predicted", "measured", "residual", "what it shows", "reference"],
        rows.map((row) => [
          row.name,
          row.predicted,
          row.measured,
          residualCell(row.residual),
          row.tells,
          row.reference,
        ]),
      ),
    );
  }
  target.replaceChildren(...parts);
}

const MARKS = { holds: "●", "holds in part": "◐", "does not hold here": "○", undecided: "?" };

function showClaims() {
  if (!content.claims.length) {
    document.getElementById("claims-section").remove();
    document.querySelector('nav a[href="#claims-section"]').remove();
    return;
  }
  const target = document.getElementById("claims");
  target.append(
    table(
      "Verdicts",
      ["claim", "on", "verdict"],
      content.claims.map((claim) => [
        claim.claim,
        claim.setting,
        element("td", { className: "verdict", textContent: `${MARKS[claim.verdict] || "–"} ${claim.verdict}` }),
      ]),
    ),
  );
  for (const claim of content.claims) {
    const rows = claim.parts.flatMap((part) =>
      part.findings.map((found) => [
        part.quantity,
        found.label,
        found.estimate,
        found.low,
        found.high,
        found.seeds,
        part.verdict,
      ]),
    );
    const details = table(claim.source, ["quantity", "where", "estimate", "from", "to", "seeds", "verdict"], rows);
    target.append(
      element("details", {}, element("summary", { textContent: `${claim.claim} (${claim.setting})` }), details),
    );
  }
}

function showFailures() {
  const bad = [
    ...content.damaged.map((run) => `${run.name}: damaged: ${run.message}`),
    ...content.left_out.map((message) => `left out: ${message}`),
    ...runs.filter((run) => run.status === "diverged").map((run) => `${labelOf(run)}: diverged: ${run.message}`),
    ...runs
      .filter((run) => run.status === "unfinished")
      .map((run) => `${labelOf(run)}: unfinished, at epoch ${run.epoch ?? "–"}${run.epochs ? ` of ${run.epochs}` : ""}`),
  ];
  const target = document.getElementById("failures");
  if (!bad.length) return;
  target.hidden = false;
  const list = element("ul", {}, ...bad.map((text) => element("li", { textContent: text })));
  const count = `${bad.length} runs without an end, or damaged`;
  target.append(bad.length > 5 ? element("details", {}, element("summary", { textContent: count }), list) : list);
}

function showAbout() {
  const target = document.getElementById("about");
  for (const note of content.notes) target.append(element("p", { className: "note", textContent: `Note: ${note}.` }));
  const heads = content.fields.map((field) => LABELS[field.name] || field.name.replaceAll("_", " "));
  const last = (run, split, key) => (run.series[split][key] || []).slice(-1)[0] ?? null;
  target.append(
    table(
      "Runs, and their last records",
      [...heads, "status", "epoch", "train accuracy", "test accuracy", "NC1", "NC3", "time"],
      runs.map((run) => [
        ...content.fields.map((field) => String(run.values[field.name] ?? "none")),
        run.status,
        run.epoch,
        last(run, "train", "accuracy"),
        last(run, "test", "accuracy"),
        last(run, "train", "nc1"),
        last(run, "train", "nc3"),
        element("td", { className: "number", textContent: duration(run.seconds) }),
      ]),
    ),
  );
  const fields = Object.entries(content.common);
  const rows = (wanted) =>
    fields
      .filter(([, field]) => field.default === wanted)
      .map(([name, field]) => [name, String(field.value ?? "none")]);
  target.append(table("What all runs share", ["field", "value"], [...rows(false), ...rows(true)]));
  for (const where of content.provenance) {
    target.append(
      table(
        "Where they ran",
        ["what", "which"],
        Object.entries(where).map(([name, value]) => [name, String(value)]),
      ),
    );
  }
}
