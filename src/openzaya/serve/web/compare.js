// Two runs side by side: settings, answers per stage, tokens and time.

class CompareView {
  constructor(a, b) {
    this.ids = [a, b];
    this.abort = new AbortController();
    this.node = el("div", { class: "compare" }, el("p", { class: "quiet loading" }, "Loading both runs\u2026"));
  }

  close() {
    this.abort.abort();
  }

  async start() {
    try {
      const details = await Promise.all(this.ids.map((id) => loadRun(id, this.abort.signal)));
      this.models = details.map((detail) => new RunModel(detail));
    } catch (error) {
      if (error.name !== "AbortError") fill(this.node, problem(error.message, () => app.show()));
      return;
    }
    this.shareClasses();
    this.draw();
  }

  retype() {
    if (this.models) this.draw();
  }

  // The same answer has the same letter and colour on both sides.
  shareClasses() {
    const both = this.models.flatMap((m) => m.candidates);
    const classes = classesOf(both, this.models.map((m) => m.run.answer).filter((a) => a !== null && a !== undefined));
    for (const model of this.models) model.classes = classes;
  }

  draw() {
    const [a, b] = this.models;
    const isSame = this.isSameQuestion;
    fill(this.node,
      el("h1", null, "Two runs"),
      isSame ? el("p", { class: "compare-question" }, el("bdi", null, questionNodes(a.run.question, 200))) : el("p", { class: "connection" }, "The questions differ."),
      el("p", { class: "story-text" }, this.summary(a, b)),
      el("div", { class: "pair" }, this.models.map((model, i) => this.head(model, i))),
      el("section", { class: "panel" }, el("div", { class: "panel-head" }, el("h2", null, "Figures")), this.figures(a, b)),
      el("div", { class: "pair" }, this.models.map((model, i) => el("section", { class: "panel", "aria-label": `Answers per stage of run ${i + 1}` },
        el("div", { class: "panel-head" }, el("h2", null, "Answers per stage"), mark(i)), answersPanel(model, { compact: true }), classKey(model)))),
      el("section", { class: "panel" }, el("div", { class: "panel-head" }, el("h2", null, "Settings that differ")), this.settings(a, b)));
  }

  // The list clips questions: two long ones can begin alike.
  get isSameQuestion() {
    const [a, b] = this.models.map((model) => JSON.stringify(model.detail.question ?? model.run.question));
    return a === b;
  }

  // In words: what each says, how sure it is, and what it took.
  summary(a, b) {
    const answers = [a, b].map((m) => m.run.answer ?? null);
    const open = [a, b].flatMap((m, i) => (m.isOver ? [] : [`Run ${i + 1} is not over yet.`]));
    const none = answers.flatMap((answer, i) => (answer === null && [a, b][i].isOver ? [`Run ${i + 1} has no answer.`] : []));
    const says = answers.includes(null) ? [] : answers[0] === answers[1]
      ? [`Both answer ${clip(answers[0], 60)}.`]
      : [`Run 1 answers ${clip(answers[0], 60)}, run 2 ${clip(answers[1], 60)}.`];
    const agree = says.length ? [`In the last stage ${percent(agreement(a), 1)} of run 1 and ${percent(agreement(b), 1)} of run 2 agree; that is a hint, and no proof, that they are right.`] : [];
    const tokens = ratio(usageOf(a).generated, usageOf(b).generated);
    const time = ratio(a.elapsed, b.elapsed);
    const took = tokens && time ? [`Run 2 generated ${tokens} the tokens of run 1 and took ${time} its time.`] : [];
    return [...open, ...none, ...says, ...agree, ...took].join(" ");
  }

  head(model, i) {
    const { run } = model;
    return el("section", { class: "card", "aria-label": `Run ${i + 1}` },
      el("div", { class: "run-line" }, mark(i), stateBadge(run.state), run.degraded ? el("span", { class: "badge warn" }, "degraded") : null, el("span", { class: "quiet" }, `${modelName(run)} \u00b7 ${moment(run.created)}`)),
      this.isSameQuestion ? null : el("p", null, el("bdi", null, questionNodes(run.question || "", 200))),
      el("div", { class: "answer-line" }, model.classes.get(run.answer) ? chip(model.classes.get(run.answer)) : null,
        el("p", { class: "answer" }, el("bdi", null, run.answer === null || run.answer === undefined ? run.error ? clip(run.error, 120) : "No answer" : answerNodes(run.answer, 200)))),
      el("p", { class: "quiet" }, visible(run.why || "")),
      el("a", { href: `#/runs/${encodeURIComponent(run.id)}` }, "Open this run"));
  }

  figures(a, b) {
    const used = [a, b].map(usageOf);
    const prices = readPrices();
    const most = Math.max(used[0].byStage.length, used[1].byStage.length);
    const rows = [
      ["Time", a.elapsed, b.elapsed, duration],
      ["Generated", used[0].generated, used[1].generated, whole],
      ...Array.from({ length: most }, (_, s) => [`\u2003stage ${s}`, used[0].byStage[s], used[1].byStage[s], whole]),
      ["Prompts read", used[0].prefill, used[1].prefill, whole],
      prices ? ["Cost at your prices", costOf(used[0], prices), costOf(used[1], prices), money] : null,
      ["Calls", a.run.calls, b.run.calls, whole],
      ["Failed calls", a.run.failed_calls, b.run.failed_calls, whole],
      ["Agreement of the last stage", agreement(a), agreement(b), (v) => percent(v, 1)],
      ["Distinct answers at the end", lastTally(a).rows.length, lastTally(b).rows.length, whole],
    ].filter(Boolean);
    const scale = Math.max(used[0].generated, used[1].generated, 1);
    return [
      el("div", { class: "versus" }, used.map((u, i) => meter(`Run ${i + 1}`, u.generated, scale, { parts: u.byStage.map((value, s) => ({ value, tone: `part${s % 2}`, title: `stage ${s}` })), note: `${short(u.generated)} tokens` }))),
      diffTable(rows.map(([name, x, y, show]) => [name, show(x ?? null), show(y ?? null), ratio(x, y)]), "Figure"),
    ];
  }

  settings(a, b) {
    const names = [...new Set([...Object.keys(a.config), ...Object.keys(b.config)])];
    const differ = names.filter((n) => JSON.stringify(a.config[n]) !== JSON.stringify(b.config[n]));
    const rows = differ.map((n) => [settingName(n), settingValue(a.config[n]), settingValue(b.config[n]), ratio(a.config[n], b.config[n])]);
    for (const [name, x, y] of [["model", a.run.model, b.run.model], ["preset", a.run.preset, b.run.preset], ["strategy", a.run.strategy, b.run.strategy], ["tails cut by", a.detail.tail_method, b.detail.tail_method], ["seed", a.detail.seed, b.detail.seed]]) {
      if (x !== y) rows.unshift([name, settingValue(x), settingValue(y), ""]);
    }
    const same = names.length - differ.length;
    return [rows.length ? diffTable(rows, "Setting") : el("p", { class: "quiet" }, "None."), el("p", { class: "quiet" }, `${plural(same, "setting")} are the same.`)];
  }
}

function lastTally(model) {
  return tally(model.stage(model.numStages - 1), model.classes);
}

// The share of the last stage that gives its most frequent answer.
function agreement(model) {
  const [top] = lastTally(model).rows;
  return top ? top.votes / model.stage(model.numStages - 1).length : 0;
}

function mark(i) {
  return el("span", { class: `mark mark${i}` }, `Run ${i + 1}`);
}

function ratio(x, y) {
  if (typeof x !== "number" || typeof y !== "number" || !x || x === y) return "";
  return `${(y / x).toFixed(2)}x`;
}

function diffTable(rows, what) {
  return el("table", { class: "diff" },
    el("thead", null, el("tr", null, [what, "Run 1", "Run 2", "2 : 1"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", null, rows.map(([name, x, y, r]) => el("tr", null, el("th", { scope: "row" }, name), el("td", { class: "num" }, visible(x)), el("td", { class: "num" }, visible(y)), el("td", { class: "num quiet" }, r)))));
}

function classKey(model) {
  const seen = new Set(model.candidates.map((c) => c.answer));
  const shown = [...model.classes.values()].filter((c) => c.tone && seen.has(c.answer));
  return el("p", { class: "key" }, shown.map((c) => el("span", null, chip(c), el("bdi", null, answerNodes(c.answer, 30)))));
}
