// Answers per stage: how the classes grow, shrink and agree.

function answersPanel(model, { lit = null, onClass, compact = false } = {}) {
  const stages = model.plan.map((row) => tally(row, model.classes));
  const last = stages.length - 1;
  const bars = stages.map((counts, stage) => stageBar(model, counts, stage));
  const table = el("div", { class: "stage-bars" }, bars);
  return [table, compact ? null : legend(model, stages, last, { lit, onClass })];
}

function stageBar(model, { rows, rest, total, entropy }, stage) {
  const size = model.stage(stage).length || 1;
  const pieces = rows.map((r) => segment(r.votes, size, toneName(r), r.letter, `${r.letter}: ${clip(r.answer, 80)} (${r.votes})`));
  pieces.push(
    segment(rest.unfinished, size, "seg-unfinished", "", `${rest.unfinished} unfinished`),
    segment(rest.silent, size, "seg-silent", "\u2013", `${rest.silent} without an answer`),
    segment(rest.failed, size, "seg-failed", "\u00d7", `${rest.failed} failed`),
    segment(rest.open, size, "seg-open", "", `${rest.open} to come`),
  );
  const spread = total ? `${rows.length} distinct \u00b7 ${entropy.toFixed(2)} bit` : rest.open ? "to come" : "no answers";
  const spoken = rows.map((r) => `${r.letter} ${r.votes}`).join(", ");
  return el("div", { class: "stage-bar", role: "img", "aria-label": `Stage ${stage}: ${spoken || "no answers"}; ${rest.unfinished} unfinished, ${rest.failed} failed; ${spread}` },
    el("span", { class: "label" }, `Stage ${stage}`),
    el("div", { class: "stack" }, pieces),
    el("span", { class: "spread" }, spread));
}

function segment(n, size, tone, letter, title) {
  if (!n) return null;
  return el("i", { class: tone, title, css: { width: `${(100 * n) / size}%` } }, n / size > 0.05 ? letter : "");
}

const MOST_CLASSES = 8;

function legend(model, stages, last, { lit, onClass }) {
  const all = [...model.classes.values()];
  const votesIn = (stage, answer) => stages[stage].rows.find((r) => r.answer === answer)?.votes || 0;
  const weight = (c) => stages.reduce((sum, _, stage) => sum + votesIn(stage, c.answer) * (stage + 1), 0);
  all.sort((a, b) => votesIn(last, b.answer) - votesIn(last, a.answer) || weight(b) - weight(a));
  if (!all.length) return el("p", { class: "quiet" }, model.isOver ? "No trace gave an answer that could be read." : "The first answers appear when a trace ends by itself.");
  const row = (c) => el("li", null,
    el("button", { type: "button", class: "class-row", "aria-pressed": String(lit === `answer ${c.answer}`), onclick: () => onClass?.(c) },
      chip(c),
      el("bdi", { class: "answer-text", title: clip(c.answer, 400) }, answerNodes(c.answer, 90)),
      el("span", { class: "votes", title: "votes by stage" }, stages.map((_, s) => String(votesIn(s, c.answer) || "\u00b7").padStart(3)).join(""))));
  const rest = all.slice(MOST_CLASSES);
  return [
    el("p", { class: "legend-head" }, el("span", null, "Answer"), el("span", null, "votes in stage", el("span", { class: "votes" }, stages.map((_, s) => String(s).padStart(3)).join("")))),
    el("ul", { class: "classes" }, all.slice(0, MOST_CLASSES).map(row)),
    rest.length ? el("details", null, el("summary", null, `${plural(rest.length, "more answer")}`), el("ul", { class: "classes" }, rest.map(row))) : null,
  ];
}
