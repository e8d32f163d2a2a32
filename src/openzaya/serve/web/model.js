// One run as the page knows it: the journal's record, kept up to date by events.

const OVER = new Set(["done", "failed", "cancelled", "interrupted"]);
const ENDED = new Set(["done", "cut", "failed"]); // of a candidate

function keyOf(stage, slot) {
  return `${stage}/${slot}`;
}

class RunModel {
  constructor(detail) {
    this.load(detail);
  }

  load(detail) {
    this.detail = detail;
    this.run = detail.run;
    this.config = detail.config || {};
    this.winner = detail.winner || null;
    this.stageFacts = new Map((detail.stages || []).map((s) => [s.stage, s]));
    this.known = new Map();
    for (const c of detail.candidates || []) this.known.set(keyOf(c.stage, c.slot), c);
    this.loadedAt = Date.now();
    this.isStale = true;
    this.settle();
  }

  // Events come by the hundred between two drawings; `settle` works them in.
  apply(name, data) {
    if (name === "run" || name === "done") {
      // The first event is as old as the run; what was loaded may know more of the time.
      const elapsed = this.elapsed;
      this.run = { ...this.run, ...data, elapsed_s: name === "done" ? data.elapsed_s : Math.max(elapsed, data.elapsed_s || 0) };
      this.loadedAt = Date.now();
    } else if (name === "candidate") {
      this.known.set(keyOf(data.stage, data.slot), data);
    } else if (name === "progress") {
      const key = keyOf(data.stage, data.slot);
      const found = this.known.get(key) || blank(data.stage, data.slot);
      if (ENDED.has(found.state)) return;
      this.known.set(key, { ...found, state: "running", num_tokens: data.num_tokens });
    } else if (name === "stage") {
      this.stageFacts.set(data.stage, data);
    }
    this.isStale = true;
  }

  settle() {
    if (!this.isStale) return;
    this.isStale = false;
    this.candidates = [...this.known.values()];
    this.classes = classesOf(this.candidates, this.run.answer ? [this.run.answer] : []);
    this.plan = [];
    const stages = this.numStages;
    for (let stage = 0; stage < stages; stage++) {
      const here = this.candidates.filter((c) => c.stage === stage);
      const planned = this.isOver ? 0 : this.countAt(stage);
      const most = Math.max(planned, ...here.map((c) => c.slot + 1), 0);
      const row = [];
      for (let slot = 0; slot < most; slot++) row.push(this.at(stage, slot) || blank(stage, slot));
      this.plan.push(row);
    }
  }

  get isOver() {
    return OVER.has(this.run.state);
  }

  get numStages() {
    const seen = this.candidates.reduce((most, c) => Math.max(most, c.stage + 1), 0);
    const planned = this.config.rounds === undefined ? this.run.stages || 1 : this.config.rounds + 1;
    return this.isOver ? Math.max(seen, 1) : Math.max(seen, planned);
  }

  get plannedStages() {
    return this.config.rounds === undefined ? this.numStages : this.config.rounds + 1;
  }

  // While a run goes on its clock does too, also while this machine sleeps.
  get elapsed() {
    const last = this.candidates.reduce((most, c) => Math.max(most, c.ended_s ?? c.began_s ?? 0), 0);
    const told = Math.max(this.run.elapsed_s || 0, last);
    return this.isOver ? told : Math.max(told, (this.run.elapsed_s || 0) + (Date.now() - this.loadedAt) / 1000);
  }

  get generated() {
    const sum = this.candidates.reduce((all, c) => all + (c.num_tokens || 0), 0);
    return Math.max(sum, this.run.usage?.generated || 0);
  }

  get inFlight() {
    return this.candidates.filter((c) => c.state === "running").length;
  }

  // The stage that is worked on: the newest one with a candidate.
  get stageNow() {
    return this.candidates.reduce((most, c) => Math.max(most, c.stage), 0);
  }

  at(stage, slot) {
    return this.known.get(keyOf(stage, slot)) || null;
  }

  stage(stage) {
    return this.plan[stage] || [];
  }

  countAt(stage) {
    const { num_candidates: n, final_candidates: last } = this.config;
    return (stage === this.plannedStages - 1 && last) || n || 1;
  }

  budgetAt(stage) {
    const { budget_tokens: beta, final_budget_tokens: last } = this.config;
    return (stage === this.plannedStages - 1 && last) || beta || 0;
  }

  classOf(candidate) {
    return this.classes.get(candidate.answer) || null;
  }

  isWinner(c) {
    return this.winner !== null && this.winner.stage === c.stage && this.winner.slot === c.slot;
  }

  parentsOf(c) {
    return (c.parents || []).map((slot) => this.at(c.stage - 1, slot)).filter(Boolean);
  }

  readersOf(c) {
    return this.stage(c.stage + 1).filter((d) => (d.parents || []).includes(c.slot));
  }

  // The candidate and all whose tails reached it, as keys.
  ancestry(c) {
    const reached = new Set([keyOf(c.stage, c.slot)]);
    let row = [c];
    while (row.length) {
      const next = new Map();
      for (const child of row) for (const p of this.parentsOf(child)) next.set(keyOf(p.stage, p.slot), p);
      for (const key of next.keys()) reached.add(key);
      row = [...next.values()];
    }
    return reached;
  }
}

function blank(stage, slot) {
  return { stage, slot, state: "planned", parents: [], answer: null, num_tokens: 0, is_finished: false };
}

const FINISHES = { length: "cut at its budget", abort: "cut before its end", error: "failed" };

// One sentence on a candidate: the tooltip, the drawer and the screen reader say the same.
function describe(model, c) {
  const found = model.classOf(c);
  const where = `Stage ${c.stage}, slot ${c.slot}`;
  const tokens = `${plural(c.num_tokens || 0, "token")}`;
  if (c.state === "planned") return `${where}: not started`;
  if (c.state === "queued") return `${where}: waiting for a place`;
  if (c.state === "running") return `${where}: thinking, ${tokens} so far`;
  if (c.state === "failed") return `${where}: failed after ${plural(c.attempts || 1, "try", "tries")}`;
  const parts = [tokens];
  if (found) parts.unshift(`answer ${found.letter}, ${clip(c.answer, 60)}`);
  else if (c.is_finished) parts.unshift("finished without an answer");
  if (!c.is_finished) parts.push(c.state === "cut" ? FINISHES.abort : FINISHES[c.finish_reason] || "unfinished");
  if (c.is_looping) parts.push("looping");
  if (model.isWinner(c)) parts.push("the winner");
  return `${where}: ${parts.join(", ")}`;
}
