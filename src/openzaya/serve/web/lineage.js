// The lineage graph: a column per stage, a circle per trace, a line per tail that was read.

const GRAPH = { head: 50, foot: 14, side: 54, minStep: 96, maxStep: 300 };
const TAU = 2 * Math.PI;

class Lineage {
  constructor(model, { onOpen, onTip }) {
    this.model = model;
    this.onOpen = onOpen;
    this.onTip = onTip;
    this.grouped = false;
    this.pinned = null;
    this.lit = null; // the candidate whose ancestry is lit
    this.focusKey = null;
    this.nodes = new Map();
    this.edges = svg("g", { class: "edges" });
    this.hot = svg("path", { class: "hot" });
    this.direct = svg("path", { class: "hot direct" });
    this.captions = svg("g", { class: "captions" });
    this.marks = svg("g");
    this.root = svg("svg", { class: "graph", role: "group", "aria-label": "Lineage graph; arrow keys walk, Enter opens a trace" },
      this.captions, this.edges, this.hot, this.direct, this.marks);
    this.node = el("div", { class: "scroll-x" }, this.root);
    this.root.addEventListener("keydown", (event) => this.onKey(event));
    this.root.addEventListener("click", (event) => this.withNode(event, (c) => this.onOpen(c)));
    this.root.addEventListener("pointerover", (event) => this.hover(event));
    this.root.addEventListener("pointerleave", () => this.unhover());
    this.root.addEventListener("focusin", (event) => this.withNode(event, (c) => {
      this.setFocusKey(keyOf(c.stage, c.slot));
      this.show(this.model.ancestry(c), c);
    }));
    this.root.addEventListener("focusout", () => this.unhover());
    this.watcher = new ResizeObserver(() => this.update());
    this.watcher.observe(this.node);
  }

  close() {
    this.watcher.disconnect();
  }

  update() {
    const width = this.node.clientWidth;
    if (!width) return;
    this.measure(width);
    this.placeNodes();
    this.drawEdges();
    this.drawCaptions();
    const c = this.lit && this.candidate(keyOf(this.lit.stage, this.lit.slot));
    this.show(c ? this.model.ancestry(c) : this.pinned && this.pinned(), c);
    if (!this.nodes.has(this.focusKey)) this.setFocusKey(this.nodes.keys().next().value || null);
  }

  measure(width) {
    const { plan } = this.model;
    const steps = Math.max(plan.length - 1, 1);
    const rows = Math.max(...plan.map((row) => row.length), 1);
    this.step = Math.min(GRAPH.maxStep, Math.max(GRAPH.minStep, (width - 2 * GRAPH.side) / steps));
    const used = 2 * GRAPH.side + (plan.length - 1) * this.step;
    this.left = GRAPH.side + Math.max(0, (width - used) / 2);
    this.rowHeight = rows <= 8 ? 38 : rows <= 16 ? 29 : rows <= 32 ? 20 : 15;
    this.radius = [this.rowHeight * 0.3, this.rowHeight * 0.46];
    this.height = GRAPH.head + rows * this.rowHeight + GRAPH.foot;
    const size = Math.max(width, used);
    build(this.root, { width: size, height: this.height, viewBox: `0 0 ${size} ${this.height}` }, []);
    this.order = plan.map((row) => (this.grouped ? this.byAnswer(row) : row));
    this.most = Math.max(1, ...this.model.candidates.map((c) => c.num_tokens || 0));
    this.places = new Map();
    this.order.forEach((row, stage) => row.forEach((c, i) => {
      const top = GRAPH.head + ((rows - row.length) * this.rowHeight) / 2;
      const x = this.left + stage * this.step;
      this.places.set(keyOf(c.stage, c.slot), { x, y: top + (i + 0.5) * this.rowHeight, r: this.radiusOf(c) });
    }));
  }

  byAnswer(row) {
    const { rows } = tally(row, this.model.classes);
    const rank = new Map(rows.map((r, i) => [r.answer, i]));
    const late = { done: 0, cut: 0, running: 1, queued: 2, planned: 3, failed: 4 };
    const place = (c) => rank.get(c.answer) ?? 1000 + (late[c.state] || 0);
    return [...row].sort((a, b) => place(a) - place(b) || a.slot - b.slot);
  }

  radiusOf(c) {
    const [least, most] = this.radius;
    if (c.state === "planned") return Math.max(2, least * 0.35);
    return least + (most - least) * Math.sqrt((c.num_tokens || 0) / this.most);
  }

  placeNodes() {
    const gone = new Set(this.nodes.keys());
    for (const row of this.order) for (const c of row) {
      const key = keyOf(c.stage, c.slot);
      gone.delete(key);
      let node = this.nodes.get(key);
      if (!node) {
        node = svg("g", { role: "button", tabindex: "-1", "data-key": key });
        this.nodes.set(key, node);
        this.marks.append(node);
      }
      const { x, y, r } = this.places.get(key);
      const looks = this.looks(c, r);
      if (node.looks !== looks.id) {
        node.looks = looks.id;
        node.setAttribute("class", `node ${looks.classes}${node.classList.contains("on") ? " on" : ""}`);
        node.setAttribute("aria-label", describe(this.model, c));
        fill(node, looks.parts());
      }
      node.setAttribute("transform", `translate(${x} ${y})`);
    }
    for (const key of gone) {
      this.nodes.get(key).remove();
      this.nodes.delete(key);
    }
  }

  // What a candidate looks like: filled with its answer's letter, hollow when unfinished.
  looks(c, r) {
    const found = this.model.classOf(c);
    const isWinner = this.model.isWinner(c);
    const kind = found ? `filled ${toneName(found)}` : { done: "hollow", cut: "hollow", running: "running", queued: "queued", failed: "failed", planned: "planned" }[c.state] || "planned";
    const budget = this.model.budgetAt(c.stage);
    const share = c.state === "running" && budget ? Math.min(1, (c.num_tokens || 0) / budget) : 0;
    const id = [kind, isWinner, r.toFixed(1), share.toFixed(2), found?.letter, c.is_looping, c.is_finished, c.state].join();
    return { id, parts: () => this.nodeParts(c, r, share), classes: `${kind}${isWinner ? " won" : ""}` };
  }

  nodeParts(c, r, share) {
    const found = this.model.classOf(c);
    const size = r.toFixed(1);
    const parts = [svg("circle", { class: "hit", r: (this.rowHeight / 2).toFixed(1) }), this.model.isWinner(c) ? svg("circle", { class: "winner", r: (r + 3.5).toFixed(1) }) : null, svg("circle", { class: "body", r: size })];
    if (share > 0) parts.push(svg("path", { class: "arc", d: arc(r, share) }));
    const mark = found ? found.letter : c.state === "failed" ? "\u00d7" : c.is_looping ? "\u221e" : c.state === "done" && c.is_finished ? "\u2013" : "";
    if (mark) parts.push(svg("text", { "font-size": (r * (mark.length > 1 ? 0.95 : 1.25)).toFixed(1), dy: "0.35em" }, mark));
    return parts;
  }

  edge(parent, child) {
    const a = this.places.get(parent);
    const b = this.places.get(child);
    if (!a || !b) return "";
    const bend = (b.x - a.x) * 0.45;
    const n = (value) => value.toFixed(1);
    return `M${n(a.x + a.r)} ${n(a.y)}C${n(a.x + bend)} ${n(a.y)} ${n(b.x - bend)} ${n(b.y)} ${n(b.x - b.r - 1)} ${n(b.y)}`;
  }

  drawEdges() {
    const byTone = new Map();
    for (const c of this.model.candidates) for (const p of this.model.parentsOf(c)) {
      const tone = toneName(this.model.classOf(p));
      byTone.set(tone, (byTone.get(tone) || "") + this.edge(keyOf(p.stage, p.slot), keyOf(c.stage, c.slot)));
    }
    fill(this.edges, [...byTone].map(([tone, d]) => svg("path", { class: `edge ${tone}`, d })));
  }

  drawCaptions() {
    const { model } = this;
    const { tails_per_prompt: c, tail_tokens: tau } = model.config;
    fill(this.captions, this.order.map((row, stage) => {
      const x = this.left + stage * this.step;
      const over = row.filter((r) => ENDED.has(r.state)).length;
      const what = stage === 0 ? "think alone" : c === 1 ? "continue a tail" : `read ${c ?? "some"} tails`;
      const title = stage === 0 ? "Only the question is in these prompts" : `The question and ${c} tails of at most ${whole(tau)} tokens, from the stage before and no other`;
      return svg("g", { "text-anchor": "middle" }, svg("title", null, title),
        svg("text", { class: "stage-name", x, y: 14 }, `Stage ${stage}`),
        svg("text", { class: "stage-what", x, y: 29 }, `${row.length} ${what}`),
        over === row.length ? null : svg("text", { class: "stage-live", x, y: 43 }, `${over} of ${row.length} done`));
    }));
  }

  withNode(event, use) {
    const node = event.target.closest?.("[data-key]");
    if (node) use(this.candidate(node.dataset.key), node);
  }

  candidate(key) {
    const [stage, slot] = key.split("/").map(Number);
    return this.model.at(stage, slot) || blank(stage, slot);
  }

  hover(event) {
    const node = event.target.closest?.("[data-key]");
    if (!node) {
      this.unhover();
      return;
    }
    const c = this.candidate(node.dataset.key);
    this.show(this.model.ancestry(c), c);
    this.onTip(c, node);
  }

  unhover() {
    this.onTip(null);
    if (this.pinned) this.show(this.pinned());
    else this.show(null);
  }

  // Keep a set of candidates lit until another is pinned; null lights all.
  pin(choose) {
    this.pinned = choose;
    this.show(choose && choose());
  }

  show(keys, direct = null) {
    this.lit = direct;
    this.root.classList.toggle("dimmed", keys !== null && keys.size > 0);
    for (const [key, node] of this.nodes) node.classList.toggle("on", keys !== null && keys.has(key));
    let path = "";
    let reads = "";
    for (const key of keys || []) {
      const c = this.candidate(key);
      for (const p of this.model.parentsOf(c)) {
        const from = keyOf(p.stage, p.slot);
        if (!keys.has(from)) continue;
        if (direct && direct.stage === c.stage && direct.slot === c.slot) reads += this.edge(from, key);
        else path += this.edge(from, key);
      }
    }
    this.hot.setAttribute("d", path);
    this.direct.setAttribute("d", reads);
  }

  setFocusKey(key) {
    this.nodes.get(this.focusKey)?.setAttribute("tabindex", "-1");
    this.focusKey = key;
    this.nodes.get(key)?.setAttribute("tabindex", "0");
  }

  focus(key) {
    const node = this.nodes.get(key);
    if (node) node.focus();
  }

  neighbour(c, name) {
    const row = this.order[c.stage] || [];
    const index = row.findIndex((r) => r.slot === c.slot);
    if (name === "ArrowUp") return row[index - 1];
    if (name === "ArrowDown") return row[index + 1];
    if (name === "Home") return row[0];
    if (name === "End") return row[row.length - 1];
    const side = this.order[c.stage + (name === "ArrowRight" ? 1 : -1)];
    return side && side[Math.min(index, side.length - 1)];
  }

  onKey(event) {
    const key = event.target.closest?.("[data-key]")?.dataset.key;
    if (!key || event.ctrlKey || event.metaKey || event.altKey) return;
    const c = this.candidate(key);
    if (event.key === "Enter" || event.key === " ") this.onOpen(c);
    else if (["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) {
      const next = this.neighbour(c, event.key);
      if (next) this.focus(keyOf(next.stage, next.slot));
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

function arc(r, share) {
  if (share >= 0.999) return `M0 ${-r}A${r} ${r} 0 1 1 -0.01 ${-r}`;
  const end = share * TAU;
  const x = (r * Math.sin(end)).toFixed(2);
  const y = (-r * Math.cos(end)).toFixed(2);
  return `M0 ${-r.toFixed(2)}A${r.toFixed(2)} ${r.toFixed(2)} 0 ${share > 0.5 ? 1 : 0} 1 ${x} ${y}`;
}
