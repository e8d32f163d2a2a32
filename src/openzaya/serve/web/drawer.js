// The drawer: one candidate in full, and the arrow keys to walk from one to the next.

const LONG_TEXT = 24000;
const MOST_TYPESET = 200000;
const MEANT = new Set(["tail", "thinking", "answer"]); // a prompt and the raw text are always as written

class Drawer {
  constructor({ model, runId, onMove, onClose, onLight }) {
    Object.assign(this, { model, runId, onMove, onClose, onLight });
    this.details = new Map();
    this.tab = "tail";
    this.head = el("div", { class: "drawer-head" });
    this.tabs = el("div", { class: "tabs", role: "tablist", "aria-label": "Parts of the trace" });
    this.body = el("div", { class: "drawer-body", role: "tabpanel", id: "trace-part", tabindex: "0", "aria-live": "off" });
    this.node = el("aside", { class: "drawer", role: "dialog", "aria-modal": "false", "aria-label": "Trace", tabindex: "-1", hidden: true },
      this.head, this.tabs, this.body);
    this.node.addEventListener("keydown", (event) => this.onKey(event));
  }

  get isOpen() {
    return !this.node.hidden;
  }

  async open(c) {
    const wasOpen = this.isOpen;
    const isOther = !this.candidate || keyOf(this.candidate.stage, this.candidate.slot) !== keyOf(c.stage, c.slot);
    this.candidate = c;
    this.node.hidden = false;
    document.body.classList.add("has-drawer");
    if (isOther) this.body.scrollTop = 0;
    this.drawHead();
    if (!wasOpen) this.node.focus({ preventScroll: true });
    if (isOther && !this.details.has(keyOf(c.stage, c.slot))) this.drawBody({ wait: "Loading\u2026" });
    await this.load();
  }

  // What a newer call fetches takes the place of what an older one does.
  async load() {
    const asked = this.asked = {};
    const detail = await this.detailOf(this.candidate);
    if (this.asked !== asked) return;
    this.asked = null;
    this.drawBody(detail);
  }

  close() {
    if (!this.isOpen) return;
    this.node.hidden = true;
    document.body.classList.remove("has-drawer");
    this.onClose(this.candidate);
    this.candidate = this.asked = null;
  }

  // The record has changed: what is shown follows. New text of a trace waits for what is under way.
  update() {
    if (!this.candidate) return;
    const { stage, slot } = this.candidate;
    const before = this.candidate;
    this.candidate = this.model.at(stage, slot) || before;
    this.drawHead();
    const { state, num_tokens: written } = this.candidate;
    if (before.state !== state || (before.num_tokens !== written && !this.asked)) this.load();
  }

  // Details of a candidate that is over never change, so they are kept.
  async detailOf(c) {
    const key = keyOf(c.stage, c.slot);
    if (this.details.has(key)) return this.details.get(key);
    if (c.state === "planned") return { wait: "This trace has not started." };
    try {
      const detail = await loadCandidate(this.runId, c.stage, c.slot);
      if (ENDED.has(c.state)) this.details.set(key, detail);
      return detail;
    } catch (error) {
      return { failure: error.message };
    }
  }

  link(c, tail) {
    return el("button", { type: "button", class: "slot-link", title: describe(this.model, c), onclick: () => this.onMove(c) }, chip(this.model.classOf(c)), ` ${tail}`);
  }

  drawHead() {
    const { model, candidate: c } = this;
    const parents = (c.parents || []).map((slot) => model.at(c.stage - 1, slot) || blank(c.stage - 1, slot));
    const readers = model.readersOf(c);
    const time = c.ended_s != null && c.began_s != null ? duration(c.ended_s - c.began_s) : null;
    const facts = [
      stateName(c), `${whole(c.num_tokens)} tokens`, c.num_prompt_tokens ? `${whole(c.num_prompt_tokens)} read` : null,
      c.cached_tokens ? `${whole(c.cached_tokens)} cached` : null, time, c.attempts > 1 ? `${c.attempts} tries` : null,
      c.is_looping ? "looping" : null, model.isWinner(c) ? "the winner" : null, c.upstream ? clip(c.upstream, 40) : null, c.seed != null ? `seed ${c.seed}` : null,
    ];
    refresh(this.head,
      el("div", { class: "drawer-title" },
        chip(model.classOf(c)), el("h2", null, `Stage ${c.stage}, slot ${c.slot}`),
        el("button", { type: "button", class: "icon", "aria-label": "Close (Escape)", title: "Close (Escape)", onclick: () => this.close() }, "\u00d7")),
      c.answer !== null && c.answer !== undefined ? el("p", { class: "drawer-answer" }, el("bdi", null, answerNodes(c.answer, 300))) : null,
      el("p", { class: "quiet" }, facts.filter(Boolean).join(" \u00b7 ")),
      c.error ? el("p", { class: "error-text" }, clip(c.error, 600)) : null,
      el("div", { class: "kin" }, el("span", null, parents.length ? "reads tails of" : "reads the question only"), parents.map((p) => this.link(p, p.slot))),
      readers.length ? el("div", { class: "kin" }, el("span", null, "its tail is read by"), readers.map((r) => this.link(r, r.slot))) : null);
  }

  drawBody(detail) {
    this.detail = detail;
    const prompt = (detail.prompt || []).map((m) => `[${m.role}]\n${m.content}`).join("\n\n");
    const parts = [["tail", "Tail", detail.tail], ["prompt", "Prompt", prompt], ["thinking", "Thinking", detail.thinking], ["answer", "Reply", detail.answer_text], ["text", "Raw", detail.text]];
    this.parts = parts.map(([id, name, text]) => ({ id, name, text: text || "" }));
    this.drawTab();
  }

  drawTab() {
    const shown = this.parts.find((p) => p.id === this.tab) || this.parts[0];
    refresh(this.tabs, this.parts.map((p) => el("button", {
      type: "button", role: "tab", id: `tab-${p.id}`, "aria-selected": String(p === shown), "aria-controls": "trace-part", tabindex: p === shown ? "0" : "-1",
      onclick: () => this.select(p.id),
    }, p.name)));
    this.body.setAttribute("aria-labelledby", `tab-${shown.id}`);
    const { wait, failure } = this.detail;
    if (wait) fill(this.body, el("p", { class: "quiet" }, wait));
    else if (failure) fill(this.body, problem(failure, () => this.load()));
    else refresh(this.body,
      el("div", { class: "body-head" }, el("span", { class: "quiet" }, this.meaning(shown.id), shown.text ? ` ${plural(shown.text.length, "character")}.` : ""),
        shown.text ? el("span", { class: "tools" }, MEANT.has(shown.id) ? asWrittenButton() : null,
          el("button", { type: "button", class: "small", onclick: (event) => copyText(shown.text, event.currentTarget) }, "Copy")) : null),
      shown.text ? longText(shown.text, typesetting.isOn && MEANT.has(shown.id)) : el("p", { class: "quiet" }, ENDED.has(this.candidate.state) ? "Empty." : "Not yet; Raw shows what the trace has written so far."));
  }

  retype() {
    if (!this.isOpen || !this.detail) return;
    this.drawHead();
    this.drawTab();
  }

  meaning(id) {
    const { model, candidate: c } = this;
    const { tail_tokens: tau } = model.config;
    if (id === "tail") {
      if (c.stage >= model.plannedStages - 1) return "The end of this trace. No stage follows that could read it.";
      return `The last ${tau ? `${whole(tau)} ` : ""}tokens at most: all that the next stage may see of this trace.`;
    }
    const { parents = [] } = c;
    return {
      prompt: parents.length ? `All that this trace was given: the question, then the ${plural(parents.length, "tail")} of stage ${c.stage - 1} from ${parents.length === 1 ? "slot" : "slots"} ${parents.join(", ")}, in this order.` : "All that this trace was given: the question.",
      thinking: "What stands inside the think block.", answer: "What follows the think block.", text: "Everything as the model wrote it.",
    }[id];
  }

  select(id) {
    this.tab = id;
    this.body.scrollTop = 0;
    this.drawTab();
    document.getElementById(`tab-${id}`)?.focus();
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") this.close();
    else if (event.target.closest("[role=tab]") && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
      const index = this.parts.findIndex((p) => p.id === this.tab);
      this.select(this.parts.at((index + (event.key === "ArrowRight" ? 1 : -1)) % this.parts.length).id);
    } else if (["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"].includes(event.key) && !event.target.closest(".drawer-body pre")) {
      const next = this.onLight.neighbour(this.candidate, event.key);
      if (next) this.onMove(next);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

function stateName(c) {
  if (c.state === "done") return c.is_finished ? "finished" : FINISHES[c.finish_reason] || "unfinished";
  return c.state === "cut" ? FINISHES.abort : c.state;
}

// A long text shows both ends first: the end is what became the tail.
function longText(text, isTypeset = false) {
  const block = (part) => (isTypeset && part.length <= MOST_TYPESET ? typesetText(part) : el("pre", { dir: "auto" }, visible(part)));
  if (text.length <= LONG_TEXT) return block(text);
  const [begin, end] = isTypeset ? wholeLines(text) : [LONG_TEXT / 2, text.length - LONG_TEXT / 2];
  const box = el("div");
  box.isWhole = true;
  fill(box, block(text.slice(0, begin)),
    el("button", { type: "button", class: "gap", onclick: () => fill(box, block(text)) }, `Show the ${whole(end - begin)} characters between`),
    block(text.slice(end)));
  return box;
}

// Where the first part ends and the last one begins, so that no formula is cut where lines are not endless.
function wholeLines(text) {
  const half = LONG_TEXT / 2;
  const [begin, end] = [text.lastIndexOf("\n", half) + 1, text.indexOf("\n", text.length - half) + 1];
  return [begin > half / 2 ? begin : half, end && end < text.length - half / 2 ? end : text.length - half];
}
