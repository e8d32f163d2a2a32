// The parts of a run's view that only show: heading, verdict, figures, and the story so far.

const STATES = {
  queued: ["waiting", "idle"], running: ["running", "live"], done: ["done", "good"], failed: ["failed", "bad"],
  cancelled: ["cancelled", "warn"], interrupted: ["interrupted", "warn"],
};

function stateBadge(state) {
  const [name, tone] = STATES[state] || [state, ""];
  return el("span", { class: `badge ${tone}` }, name);
}

function modelName(run) {
  const strategy = run.strategy && run.strategy !== run.preset ? run.strategy : null;
  return [run.model, run.preset, strategy].filter(Boolean).map((name) => clip(name, 60)).join(" \u00b7 ");
}

function runHead(view) {
  const { run, detail } = view.model;
  const question = (detail.question || []).filter((m) => m.role === "user").at(-1)?.content || run.question || "";
  const cancel = async (event) => {
    event.currentTarget.disabled = true;
    try {
      await postJson(`/v1/ttc/runs/${encodeURIComponent(view.id)}/cancel`, {});
    } catch (error) {
      view.connection = error.message;
      view.drawSoon();
    }
  };
  return [
    el("div", { class: "run-line" }, stateBadge(run.state), run.degraded ? el("span", { class: "badge warn", title: "Some candidate was lost" }, "degraded") : null,
      el("span", { class: "quiet" }, `${modelName(run)} \u00b7 ${moment(run.created)}`),
      el("span", { class: "tools" },
        asWrittenButton(),
        view.model.isOver ? null : el("button", { type: "button", class: "small danger", onclick: cancel }, "Cancel run"),
        RECORDED ? null : el("a", { class: "button small", href: `#/runs?compare=${encodeURIComponent(view.id)}` }, "Compare"))),
    el("h1", { class: question.length > 160 ? "long" : null }, el("bdi", null, questionNodes(question, 700))),
  ];
}

function verdict(model, detail, view) {
  const { run } = model;
  if (run.state === "failed") return el("div", { class: "card bad" }, el("h2", null, "This run failed"), el("p", null, visible(run.error || "The journal holds no reason.")), el("p", { class: "quiet" }, "What was generated before is kept below."));
  if (!model.isOver) return null;
  const isOpen = run.answer === null || run.answer === undefined;
  if (isOpen && run.state !== "done") return el("div", { class: "card" }, el("h2", null, `This run was ${STATES[run.state]?.[0] || run.state} before it chose an answer`),
    el("p", null, "What was generated before is kept below.", run.state === "interrupted" ? [" To go on: ", el("code", null, `openzaya runs resume ${run.id}`)] : null));
  const found = model.classes.get(run.answer);
  const title = run.state === "done" ? "Answer" : `Best answer before it was ${STATES[run.state]?.[0] || run.state}`;
  const reply = detail && !detail.failure ? detail.answer_text : "";
  const isPlain = reply.trim() === String(run.answer || "").trim();
  return el("div", { class: "card" },
    el("div", { class: "answer-line" }, found ? chip(found) : null,
      el("div", { class: "answer-main" }, el("h2", null, title), el("p", { class: String(run.answer || "").length > 80 ? "answer long" : "answer" }, el("bdi", null, isOpen ? "No answer could be read." : answerNodes(run.answer, 1200)))),
      el("p", { class: "why" }, visible(run.why || ""))),
    reply && !isPlain ? el("div", { class: "reply", tabindex: "0", role: "region", "aria-label": "Reply" }, typesetting.isOn || reply.length > LONG_TEXT ? longText(reply, typesetting.isOn) : withCode(reply)) : null,
    detail?.thinking ? reasoning(detail) : null,
    detail?.failure ? el("p", { class: "quiet" }, detail.failure) : null,
    el("div", { class: "actions" },
      reply ? el("button", { type: "button", class: "small", onclick: (event) => copyText(reply, event.currentTarget) }, "Copy reply") : null,
      model.winner ? el("button", { type: "button", class: "small", onclick: () => view.openCandidate(model.at(model.winner.stage, model.winner.slot)) }, `Open its trace: stage ${model.winner.stage}, slot ${model.winner.slot}`) : null));
}

// Most readers want the answer alone, so what was thought is drawn when it is opened.
function reasoning(detail) {
  const text = el("div", { class: "reasoning-text", tabindex: "0", role: "region", "aria-label": "Reasoning" });
  const show = () => text.firstChild || fill(text, longText(detail.thinking, typesetting.isOn));
  return el("details", { class: "reasoning", ontoggle: show }, el("summary", null, `Reasoning of the chosen trace, ${plural(detail.num_tokens, "token")}`), text);
}

// As the model wrote it; only what it fenced as code gets a font in which columns stand below each other.
function withCode(text) {
  const parts = text.split(/^(```[^\n]*\n[^]*?^```[ \t]*$\n?)/m).filter(Boolean);
  return parts.map((part) => (part.startsWith("```") ? el("pre", { class: "code" }, visible(part)) : el("pre", { dir: "auto" }, visible(part))));
}

function tile(name, value, note) {
  return el("div", { class: "tile" }, el("span", { class: "tile-name" }, name), el("b", { class: "num" }, value), el("span", { class: "quiet" }, note));
}

function tiles(model) {
  const { run } = model;
  const cap = run.preview?.decode_cap || run.usage?.cap;
  const used = usageOf(model);
  const over = model.candidates.filter((c) => ENDED.has(c.state)).length;
  const all = model.plan.reduce((sum, row) => sum + row.length, 0);
  const single = Math.max(0, ...model.candidates.map((c) => c.num_tokens || 0));
  return [
    tile("time", duration(model.elapsed), model.isOver ? `stage ${model.stageNow} was the last` : `stage ${model.stageNow} of ${model.numStages - 1}`),
    tile("traces", `${whole(over)}\u2009/\u2009${whole(all)}`, model.isOver ? plural(model.numStages, "stage") : `${model.inFlight} thinking now`),
    tile("generated", short(used.generated), cap ? `${percent(used.generated, cap)} of the cap` : "tokens"),
    tile("prompts read", short(used.prefill), used.cached ? `${percent(used.cached, used.prefill)} cached` : "tokens"),
    tile("longest trace", short(single), used.generated ? `${(used.generated / Math.max(single, 1)).toFixed(0)}x that in all` : "tokens"),
  ];
}

function storyText(model) {
  const { tails_per_prompt: c, tail_tokens: tau } = model.config;
  const stage = model.stageNow;
  const row = model.stage(stage);
  const over = row.filter((r) => ENDED.has(r.state)).length;
  if (model.run.state === "queued" && !model.candidates.length) return "The run waits for its turn.";
  if (model.isOver) {
    const last = tally(model.stage(model.numStages - 1), model.classes);
    const first = tally(model.stage(0), model.classes);
    const top = last.rows[0];
    if (model.run.state === "failed") return `${plural(model.candidates.filter((d) => d.state === "failed").length, "trace")} failed, so there was nothing to go on with.`;
    if (!top || model.numStages === 1) return `${plural(row.length, "trace")} thought about the question alone.`;
    const before = first.rows.find((r) => r.answer === top.answer)?.votes || 0;
    return `${top.letter} had ${plural(before, "vote")} of ${model.stage(0).length} in stage 0 and has ${top.votes} of ${model.stage(model.numStages - 1).length} now. Each new trace read ${plural(c, "tail")} of at most ${whole(tau)} tokens, never a whole trace.`;
  }
  const doing = stage === 0
    ? `${plural(row.length, "trace")} think about the question, each alone, for at most ${whole(model.budgetAt(0))} tokens`
    : `${row.length} new traces each read the question and ${plural(c, "tail")} of stage ${stage - 1}, the last ${whole(tau)} tokens of a trace, and nothing older`;
  return `Stage ${stage} of ${model.numStages - 1}: ${doing}. ${over} of ${row.length} are done.`;
}

function story(model, connection) {
  return [el("p", { class: "story-text" }, storyText(model)), connection ? el("p", { class: "connection", role: "status" }, connection === "reconnecting" ? "Connection lost; trying again\u2026" : `Live updates stopped: ${connection}`) : null];
}

function key(name, ...marks) {
  return el("span", null, svg("svg", { width: 18, height: 14, viewBox: "-9 -7 18 14", "aria-hidden": "true" }, marks), name);
}

function graphKey() {
  const node = (classes, ...more) => svg("g", { class: `node ${classes}` }, svg("circle", { class: "body", r: 5 }), more);
  return el("p", { class: "key" },
    key("answer A", node("filled tone1", svg("text", { "font-size": 7, dy: "0.35em" }, "A"))), key("unfinished", node("hollow")),
    key("thinking", node("running", svg("path", { class: "arc", d: arc(5, 0.6) }))), key("failed", node("failed", svg("text", { "font-size": 8, dy: "0.35em" }, "\u00d7"))),
    key("winner", svg("g", { class: "node filled tone1" }, svg("circle", { class: "winner", r: 6 }), svg("circle", { class: "body", r: 3.6 }))),
    el("span", null, "line: a tail that was read, in its answer\u2019s colour"), el("span", null, "size: tokens"));
}

function timeKey() {
  return el("p", { class: "key" }, ["wait queued", "prefill reading the prompt", "decode generating", "idle idle"].map((both) => {
    const [tone, ...name] = both.split(" ");
    return el("span", null, el("i", { class: `swatch ${tone}`, "aria-hidden": "true" }), name.join(" "));
  }));
}

function problem(message, retry) {
  return el("div", { class: "card bad", role: "alert" }, el("p", null, visible(message)), retry ? el("button", { type: "button", onclick: retry }, "Try again") : null);
}
