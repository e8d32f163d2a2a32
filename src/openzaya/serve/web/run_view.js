// One run: the question, the answer, and every panel, live or from the journal.

const REDRAW_MS = 200;
const TIMELINE_MS = 1000;

class RunView {
  constructor(id) {
    this.id = id;
    this.node = el("article", { class: "run", "aria-busy": "true" }, el("p", { class: "quiet loading" }, "Loading the run\u2026"));
    this.abort = new AbortController();
    this.timer = null;
    this.connection = "";
    this.timed = -Infinity;
    this.lit = null;
  }

  async start(stage, slot) {
    try {
      this.model = new RunModel(await loadRun(this.id, this.abort.signal));
    } catch (error) {
      if (error.name !== "AbortError") fill(this.node, problem(error.status === 404 ? "There is no such run." : error.message, () => app.show()));
      return;
    }
    this.build();
    this.draw();
    if (stage !== undefined) this.openCandidate(this.model.at(stage, slot) || blank(stage, slot));
    if (!this.model.isOver) this.listen();
  }

  close() {
    this.abort.abort();
    clearTimeout(this.timer);
    clearInterval(this.clock);
    this.lineage?.close();
    this.timeline?.close();
    document.body.classList.remove("has-drawer");
    this.tip?.remove();
  }

  listen() {
    this.clock = setInterval(() => this.drawSoon(), 1000);
    follow(this.id, {
      signal: this.abort.signal,
      onEvent: (name, data) => {
        this.model.apply(name, data);
        if (name === "stage" || name === "done") this.announce();
        if (name === "done") this.reload();
        this.drawSoon();
      },
      onState: (state, why) => {
        this.connection = state === "live" ? "" : why || state;
        this.drawSoon();
      },
      isOver: async () => {
        await this.reload();
        return this.model.isOver;
      },
    });
  }

  // The journal has the last word: winner, notes and usage are complete there.
  async reload() {
    try {
      this.model.load(await loadRun(this.id, this.abort.signal));
      if (this.model.isOver) clearInterval(this.clock);
      this.draw();
      app.refreshTitle(this);
    } catch (error) {
      if (error.name !== "AbortError") this.connection = error.message;
    }
  }

  build() {
    const open = (c) => this.openCandidate(c);
    this.tip = el("div", { class: "tip", role: "tooltip", hidden: true });
    document.body.append(this.tip);
    this.lineage = new Lineage(this.model, { onOpen: open, onTip: (c, node) => this.showTip(c, node) });
    this.timeline = new Timeline(this.model, { onOpen: open });
    this.drawer = new Drawer({
      model: this.model, runId: this.id, onMove: open, onLight: this.lineage,
      onClose: (c) => { app.setHash(`#/runs/${this.id}`); this.lineage.focus(keyOf(c.stage, c.slot)); },
    });
    this.parts = {};
    for (const name of ["head", "verdict", "tiles", "story", "answers", "budget", "health", "settings"]) this.parts[name] = el("div", { class: name });
    this.live = el("p", { class: "offscreen", role: "status", "aria-live": "polite" });
    const winner = el("button", { type: "button", class: "small", onclick: () => this.pick("winner", () => this.winnerLine()) }, "Winner\u2019s ancestry");
    this.winnerButton = winner;
    const group = el("button", { type: "button", class: "small", "aria-pressed": "false", onclick: (event) => {
      this.lineage.grouped = !this.lineage.grouped;
      event.currentTarget.setAttribute("aria-pressed", String(this.lineage.grouped));
      this.lineage.update();
    } }, "Group by answer");
    const isWide = this.model.numStages > 5 && "wide-lineage";
    fill(this.node, this.parts.head, this.parts.verdict, this.parts.tiles, this.live,
      el("div", { class: `panels ${isWide || ""}` },
        panel("lineage", "Lineage", el("div", { class: "tools" }, winner, group), this.parts.story, this.lineage.node, graphKey()),
        el("div", { class: "beside" }, panel("answers", "Answers per stage", null, this.parts.answers), panel("budget", "Budget", null, this.parts.budget)),
        panel("timeline-panel", "Timeline", timeKey(), this.timeline.node),
        panel("health", "Health", null, this.parts.health),
        panel("settings", "Settings", null, this.parts.settings)),
      this.drawer.node);
    this.node.setAttribute("aria-busy", "false");
  }

  drawSoon() {
    if (this.timer) return;
    this.timer = setTimeout(() => { this.timer = null; this.draw(); }, REDRAW_MS);
  }

  draw() {
    const { model, parts } = this;
    model.settle();
    refresh(parts.head, runHead(this));
    this.drawVerdict();
    refresh(parts.tiles, tiles(model));
    refresh(parts.story, story(model, this.connection));
    refresh(parts.answers, answersPanel(model, { lit: this.lit, onClass: (c) => this.pick(`answer ${c.answer}`, () => new Set(model.candidates.filter((d) => d.answer === c.answer).map((d) => keyOf(d.stage, d.slot)))) }));
    refresh(parts.budget, budgetPanel(model));
    refresh(parts.health, healthPanel(model, this.lit, (name, keys) => this.pick(name, keys)));
    if (!parts.settings.firstChild) fill(parts.settings, settingsPanel(model)); // they never change
    this.winnerButton.hidden = !model.winner;
    this.winnerButton.setAttribute("aria-pressed", String(this.lit === "winner"));
    this.lineage.update();
    if (model.isOver || performance.now() - this.timed > TIMELINE_MS) {
      this.timed = performance.now();
      this.timeline.update();
    }
    this.drawer.update();
  }

  // The reply is fetched once, when there is a winner.
  async drawVerdict() {
    const { model } = this;
    const mark = `${typesetting.isOn}|${model.run.state}|${model.run.answer}|${model.winner && keyOf(model.winner.stage, model.winner.slot)}`;
    if (this.verdict === mark) return;
    this.verdict = mark;
    const isRead = this.parts.verdict.querySelector("details")?.open;
    fill(this.parts.verdict, verdict(model, null, this));
    if (!model.winner) return;
    const detail = await this.drawer.detailOf(model.at(model.winner.stage, model.winner.slot) || blank(model.winner.stage, model.winner.slot));
    if (this.verdict !== mark) return;
    fill(this.parts.verdict, verdict(model, detail, this));
    if (isRead) this.parts.verdict.querySelector("details").open = true;
  }

  // Formulas and tables, or the text as written.
  retype() {
    if (!this.model) return;
    this.draw();
    this.drawer.retype();
  }

  winnerLine() {
    const { winner } = this.model;
    return winner ? this.model.ancestry(this.model.at(winner.stage, winner.slot) || blank(winner.stage, winner.slot)) : new Set();
  }

  // One thing is lit at a time; pressing its button again lights all.
  pick(name, choose) {
    this.lit = this.lit === name ? null : name;
    this.lineage.pin(this.lit && choose);
    this.draw();
  }

  openCandidate(c) {
    app.setHash(`#/runs/${this.id}/${c.stage}/${c.slot}`);
    this.drawer.open(c);
    this.lineage.setFocusKey(keyOf(c.stage, c.slot));
    this.lineage.show(this.model.ancestry(c), c);
    this.showTip(null);
  }

  announce() {
    this.model.settle();
    setText(this.live, storyText(this.model));
  }

  async showTip(c, anchor) {
    clearTimeout(this.tipTimer);
    this.tip.hidden = true;
    this.tipFor = c;
    if (!c || this.drawer.isOpen) return;
    const box = anchor.getBoundingClientRect();
    const tail = el("p", { class: "tip-tail" });
    fill(this.tip, el("b", null, describe(this.model, c)), c.parents?.length ? el("p", null, `Reads the tails of slots ${c.parents.join(", ")}.`) : null, tail);
    this.tip.hidden = false;
    const left = box.right + 10 + this.tip.offsetWidth > innerWidth ? Math.max(6, box.left - this.tip.offsetWidth - 10) : box.right + 10;
    Object.assign(this.tip.style, { left: `${left}px`, top: `${Math.max(6, Math.min(innerHeight - this.tip.offsetHeight - 120, box.top - 8))}px` });
    this.tipTimer = setTimeout(async () => {
      const detail = c.state === "planned" || c.state === "queued" ? {} : await this.drawer.detailOf(c);
      if (this.tipFor === c && detail.tail) setText(tail, `\u2026${clip(detail.tail.slice(-260), 260)}`);
    }, 140);
  }
}
