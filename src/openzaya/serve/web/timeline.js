// The timeline: a bar per call in the lane of its slot, idle time shaded, and the calls in flight.

const TIME = { left: 34, right: 8, top: 58, bottom: 22, curve: 34 };

class Timeline {
  constructor(model, { onOpen }) {
    this.model = model;
    this.root = svg("svg", { class: "timeline", role: "img" });
    this.summary = el("p", { class: "quiet" });
    this.node = el("div", null, el("div", { class: "timeline-box" }, this.root), this.summary);
    this.root.addEventListener("click", (event) => {
      const key = event.target.dataset?.call;
      if (key) onOpen(model.at(...key.split("/").map(Number)));
    });
    this.watcher = new ResizeObserver(() => this.update());
    this.watcher.observe(this.node);
  }

  close() {
    this.watcher.disconnect();
  }

  update() {
    const width = this.node.clientWidth;
    if (!width) return;
    const calls = callsOf(this.model);
    const lanes = lanesOf(calls);
    const end = Math.max(this.model.elapsed, 0.001);
    const x = (s) => TIME.left + ((width - TIME.left - TIME.right) * Math.min(s, end)) / end;
    const tall = lanes.length <= 8 ? 15 : lanes.length <= 16 ? 11 : lanes.length <= 32 ? 7 : 4;
    const height = TIME.top + lanes.length * tall + TIME.bottom;
    const y = (lane) => TIME.top + lane * tall;
    build(this.root, { width, height, viewBox: `0 0 ${width} ${height}` }, []);
    const idle = idleOf(this.model, lanes, end);
    fill(this.root,
      svg("defs", null, svg("pattern", { id: "idle", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, svg("rect", { class: "idle-stripe", width: 1.4, height: 5 }))),
      ticksOf(end, width).map((s) => svg("g", { class: "tick" }, svg("line", { x1: x(s), x2: x(s), y1: TIME.top - 4, y2: height - TIME.bottom + 3 }), svg("text", { x: x(s), y: height - 6, "text-anchor": s === 0 ? "start" : x(s) > width - 40 ? "end" : "middle" }, duration(s).replace(".0 ", " ")))),
      this.curve(calls, end, x),
      svg("text", { class: "axis", x: 0, y: TIME.top + 9 }, "slot"),
      idle.map(({ lane, from, to }) => svg("rect", { class: "idle", x: x(from), y: y(lane), width: Math.max(0, x(to) - x(from)), height: tall - 1 })),
      lanes.map((lane, i) => lane.map((call) => this.bar(call, x, y(i), tall - 1.5))),
    );
    this.describe(calls, idle, end, lanes.length);
  }

  bar({ c, queued, began, first, ended }, x, y, height) {
    const tone = toneName(this.model.classOf(c));
    const part = (name, from, to, least) => to > from || least
      ? svg("rect", { class: name, x: x(from), y, width: Math.max(x(to) - x(from), least), height, "data-call": keyOf(c.stage, c.slot) }) : null;
    const looks = c.state === "failed" ? "failed" : c.state === "running" ? "running" : tone;
    return svg("g", { class: "call" }, svg("title", null, describe(this.model, c)),
      part("wait", queued, began, 0), part("prefill", began, first, 0), part(`decode ${looks}`, first, ended, 1));
  }

  curve(calls, end, x) {
    const changes = calls.flatMap(({ began, ended }) => [[began, 1], [ended, -1]]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    let now = 0;
    const points = [];
    let most = 1;
    for (const [s, change] of changes) {
      points.push([s, now]);
      now += change;
      points.push([s, now]);
      most = Math.max(most, now);
    }
    const base = TIME.curve + 10;
    const y = (n) => (base - (n / most) * TIME.curve).toFixed(1);
    const line = points.map(([s, n]) => `L${x(s).toFixed(1)} ${y(n)}`).join("");
    return svg("g", { class: "flight" },
      svg("path", { d: `M${x(0)} ${base}${line}L${x(end).toFixed(1)} ${base}Z` }),
      svg("text", { x: TIME.left - 5, y: base - TIME.curve + 8, "text-anchor": "end" }, most),
      svg("text", { x: TIME.left - 5, y: base, "text-anchor": "end" }, "0"),
      svg("text", { x: TIME.left + 4, y: 8 }, "calls in flight"));
  }

  describe(calls, idle, end, lanes) {
    const lost = idle.reduce((sum, { from, to }) => sum + to - from, 0);
    const waited = calls.reduce((sum, { queued, began }) => sum + began - queued, 0);
    const share = percent(lost, lanes * end);
    const text = calls.length
      ? `Idle ${share}: a slot that is done waits for the slowest of its stage.${waited > 0.05 * end ? ` Calls queued for ${duration(waited)} in all.` : ""}`
      : "No call has begun yet.";
    setText(this.summary, text);
    this.root.setAttribute("aria-label", `Timeline of ${plural(calls.length, "call")} over ${duration(end)}. ${text}`);
  }
}

function callsOf(model) {
  const now = model.elapsed;
  return model.candidates
    .filter((c) => c.queued_s != null || c.began_s != null)
    .map((c) => {
      const ended = c.ended_s ?? now;
      // The journal learns when a call began from its end; one that has tokens did not wait till now.
      const began = Math.min(c.began_s ?? (c.num_tokens ? c.queued_s : ended), ended);
      const queued = Math.min(c.queued_s ?? began, began);
      const first = Math.min(Math.max(c.first_token_s ?? (c.state === "running" && !c.num_tokens ? ended : began), began), ended);
      return { c, queued, began, first, ended };
    })
    .sort((a, b) => a.queued - b.queued || a.c.stage - b.c.stage || a.c.slot - b.c.slot);
}

// A call stays in the lane of its slot, unless another one of the slot still runs there.
function lanesOf(calls) {
  const lanes = [];
  for (const call of calls) {
    const fits = (lane) => !lane?.length || lane[lane.length - 1].ended <= call.queued + 1e-6;
    let i = call.c.slot;
    if (!fits(lanes[i])) {
      i = lanes.findIndex((lane) => lane?.length && fits(lane));
      if (i < 0) i = lanes.length;
    }
    (lanes[i] ||= []).push(call);
  }
  return Array.from(lanes, (lane) => lane || []);
}

function idleOf(model, lanes, end) {
  const last = Math.max(0, ...model.candidates.map((c) => c.ended_s ?? 0));
  const until = model.isOver ? last : Math.max(last, 0);
  const first = Math.min(...lanes.flat().map((call) => call.queued)); // before it nobody waits for anybody
  const gaps = [];
  lanes.forEach((lane, i) => {
    let from = first;
    for (const { queued, ended } of lane) {
      if (queued > from + 1e-3) gaps.push({ lane: i, from, to: queued });
      from = Math.max(from, ended);
    }
    if (lane.length && until > from + 1e-3) gaps.push({ lane: i, from, to: Math.min(until, end) });
  });
  return gaps;
}

function ticksOf(end, width) {
  const wanted = Math.max(2, Math.floor(width / 110));
  const nice = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200];
  const step = nice.find((s) => end / s <= wanted) || end;
  const ticks = [];
  for (let s = 0; s <= end; s += step) ticks.push(s);
  return ticks;
}
