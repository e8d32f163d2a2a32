// The list of runs: filter by state, search, pages, and two to compare.

const PAGE = 50;
const FILTERS = ["all", "running", "done", "failed", "cancelled", "interrupted"];
const SEARCH_PAGES = 10;
const RELOAD_MS = 3000; // while a run of the list is not over

class RunsView {
  constructor(params) {
    this.state = params.get("state") || "all";
    this.words = params.get("q") || "";
    this.chosen = params.get("compare") ? [params.get("compare")] : [];
    this.runs = [];
    this.more = false;
    this.trouble = "";
    this.abort = new AbortController();
    this.node = el("div", { class: "runs" });
  }

  close() {
    this.abort.abort();
    clearTimeout(this.timer);
    clearTimeout(this.again);
  }

  async start() {
    this.build();
    await this.show();
  }

  async show() {
    await this.load();
    await this.searchOn();
  }

  build() {
    this.search = el("input", { type: "search", id: "search", placeholder: "Question, answer, model, id", value: this.words });
    this.search.addEventListener("input", () => {
      this.words = this.search.value;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => { this.remember(); this.draw(); this.searchOn(); }, 150);
    });
    const radio = (name) => {
      const input = el("input", { type: "radio", name: "state", value: name, checked: name === this.state });
      input.addEventListener("change", () => { this.state = name; this.runs = []; this.remember(); this.show(); });
      return el("label", null, input, el("span", null, STATES[name]?.[0] || name));
    };
    this.bar = el("div", { class: "compare-bar", role: "status" });
    this.list = el("div", { class: "run-list" });
    this.news = el("p", { class: "connection", role: "status" });
    this.foot = el("div", { class: "run-foot" });
    fill(this.node, el("h1", null, "Runs"),
      el("div", { class: "run-tools" },
        el("fieldset", { class: "segmented" }, el("legend", { class: "offscreen" }, "State"), FILTERS.map(radio)),
        el("label", { class: "offscreen", for: "search" }, "Search"), this.search),
      this.news, this.bar, this.list, this.foot);
  }

  remember() {
    const params = new URLSearchParams();
    if (this.state !== "all") params.set("state", this.state);
    if (this.words) params.set("q", this.words);
    app.setHash(`#/runs${params.size ? `?${params}` : ""}`);
  }

  async load(before = null) {
    const query = new URLSearchParams({ limit: PAGE });
    if (this.state !== "all") query.set("state", this.state);
    if (before) query.set("before", before);
    const asked = this.state;
    try {
      const page = await getJson(`/v1/ttc/runs?${query}`, this.abort.signal);
      if (asked !== this.state) return false;
      this.trouble = "";
      this.take(page, before);
      this.draw();
      return true;
    } catch (error) {
      if (error.name === "AbortError" || asked !== this.state) return false;
      if (!this.runs.length) fill(this.list, problem(error.message, () => this.load(before)));
      else {
        this.trouble = `Not up to date: ${error.message}; asking again\u2026`;
        this.draw();
        clearTimeout(this.again);
        this.again = setTimeout(() => this.load(), RELOAD_MS);
      }
      return false;
    }
  }

  // The newest page replaces what it spans; older ones go below it. A run stands in the list once.
  take(page, before) {
    const told = new Set(page.data.map((run) => run.id));
    const end = page.has_more ? page.data.at(-1).created : -Infinity;
    const kept = this.runs.filter((run) => !told.has(run.id) && (before || run.created <= end));
    this.runs = before ? [...kept, ...page.data] : [...page.data, ...kept];
    if (before || !kept.length) this.more = page.has_more;
    if (before) return;
    clearTimeout(this.again);
    if (page.data.some((run) => !OVER.has(run.state))) this.again = setTimeout(() => this.load(), RELOAD_MS);
  }

  // A search reads on by itself until it has a page of finds.
  async searchOn() {
    const words = this.words;
    for (let i = 0; i < SEARCH_PAGES && words && words === this.words && this.more && this.found().length < PAGE; i++) {
      if (!(await this.load(this.runs.at(-1).id))) return;
    }
  }

  found() {
    const words = this.words.toLowerCase().split(/\s+/).filter(Boolean);
    return this.runs.filter((r) => {
      const text = [r.question, r.answer, r.model, r.preset, r.id].join(" ").toLowerCase();
      return words.every((w) => text.includes(w));
    });
  }

  retype() {
    this.draw();
  }

  draw() {
    const found = this.found();
    refresh(this.list, found.length ? this.table(found) : el("p", { class: "empty" }, this.runs.length ? "No run matches." : this.state === "all" ? "There are no runs yet. Ask something first." : "There are no such runs."));
    setText(this.news, this.trouble);
    refresh(this.foot,
      this.words ? el("span", { class: "quiet" }, `${plural(found.length, "match", "matches")} among the newest ${plural(this.runs.length, "run")}.`) : el("span", { class: "quiet" }, plural(this.runs.length, "run")),
      this.more ? el("button", { type: "button", onclick: () => this.load(this.runs.at(-1).id) }, "Load older runs") : null);
    this.drawBar();
  }

  drawBar() {
    const [a, b] = this.chosen;
    refresh(this.bar,
      this.chosen.length === 1 ? el("span", null, "Choose a second run to compare with ", el("b", null, a)) : null,
      this.chosen.length === 2 ? el("a", { class: "button primary", href: `#/compare/${encodeURIComponent(a)}/${encodeURIComponent(b)}` }, "Compare the two") : null,
      this.chosen.length ? el("button", { type: "button", class: "small", onclick: () => { this.chosen = []; this.draw(); } }, "Clear") : null);
  }

  table(runs) {
    const head = ["", "State", "Question", "Answer", "Model", "Generated", "Time", "Begun"];
    return el("table", null,
      el("caption", { class: "offscreen" }, "Runs, newest first"),
      el("thead", null, el("tr", null, head.map((name) => el("th", { scope: "col" }, name || el("span", { class: "offscreen" }, "Compare"))))),
      el("tbody", null, runs.map((run) => this.row(run))));
  }

  row(run) {
    const isChosen = this.chosen.includes(run.id);
    const cap = run.preview?.decode_cap || run.usage?.cap;
    const choose = (event) => {
      this.chosen = event.target.checked ? [...this.chosen, run.id] : this.chosen.filter((id) => id !== run.id);
      this.draw();
    };
    const box = el("input", { type: "checkbox", "aria-label": `Compare the run ${run.id}`, checked: isChosen, disabled: !isChosen && this.chosen.length === 2, onchange: choose });
    const cell = (name, ...content) => el("td", { class: `cell-${name}` }, content);
    return el("tr", { "data-run": run.id },
      cell("box", box),
      cell("state", stateBadge(run.state), run.degraded ? el("span", { class: "badge warn" }, "degraded") : null),
      cell("question", el("a", { href: `#/runs/${encodeURIComponent(run.id)}` }, el("bdi", null, questionNodes(run.question || "(no text)", 140)))),
      cell("answer", run.answer !== null && run.answer !== undefined ? el("bdi", null, answerNodes(run.answer, 40)) : el("span", { class: "quiet" }, run.error ? clip(run.error, 60) : "\u2013")),
      cell("model", modelName(run)),
      cell("tokens", el("span", { class: "num", title: cap ? `${percent(run.usage?.generated, cap)} of the cap of ${whole(cap)}` : null }, short(run.usage?.generated ?? 0))),
      cell("time", el("span", { class: "num" }, duration(run.elapsed_s))),
      cell("begun", moment(run.created)));
  }
}
