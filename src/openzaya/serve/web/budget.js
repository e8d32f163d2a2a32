// What a run cost against its caps and its preview, and what went differently than asked.

const PRICES = "openzaya.prices";

// Dollars per million tokens, as the reader typed them; null when there are none.
function readPrices() {
  try {
    const told = JSON.parse(inBrowser.getItem(PRICES) || "null");
    return told && (told.input > 0 || told.output > 0) ? told : null;
  } catch {
    return null;
  }
}

function costOf({ generated = 0, prefill = 0, cached = 0 }, prices) {
  const fresh = Math.max(0, prefill - cached);
  const kept = prices.cached ?? prices.input ?? 0;
  return (generated * (prices.output || 0) + fresh * (prices.input || 0) + cached * kept) / 1e6;
}

function usageOf(model) {
  const sum = (name) => model.candidates.reduce((all, c) => all + (c[name] || 0), 0);
  const usage = model.run.usage || {};
  return {
    generated: model.generated,
    prefill: Math.max(usage.prefill || 0, sum("num_prompt_tokens")),
    cached: Math.max(usage.cached || 0, sum("cached_tokens")),
    byStage: model.plan.map((row, stage) => Math.max(usage.generated_by_stage?.[stage] || 0, row.reduce((all, c) => all + (c.num_tokens || 0), 0))),
  };
}

function budgetPanel(model) {
  const { preview = {}, usage = {} } = model.run;
  const used = usageOf(model);
  const cap = preview?.decode_cap || usage.cap || 0;
  const calls = Math.max(model.run.calls || 0, model.candidates.filter((c) => c.began_s != null || c.state === "running").length);
  const stages = used.byStage.map((value, stage) => ({ value, tone: `part${stage % 2}`, title: `stage ${stage}: ${whole(value)} tokens` }));
  const expected = preview?.expected_decode || null;
  const versus = expected ? ` \u00b7 ${percent(used.generated, expected)} of expected` : "";
  const prices = readPrices();
  return [
    meter("Generated", used.generated, cap, { parts: stages, expected, note: `${short(used.generated)} of ${short(cap)} at most${versus}` }),
    meter("Prompts read", used.prefill, preview?.prefill_cap, {
      parts: [{ value: used.cached, tone: "cached", title: `${whole(used.cached)} cached` }, { value: used.prefill - used.cached, tone: "", title: `${whole(used.prefill - used.cached)} read anew` }],
      expected: preview?.expected_prefill,
      note: `${short(used.prefill)} of ${short(preview?.prefill_cap)}${used.cached ? ` \u00b7 ${percent(used.cached, used.prefill)} cached` : ""}`,
    }),
    meter("Calls", calls, preview?.calls, { note: `${whole(calls)} of ${whole(preview?.calls)}` }),
    el("p", { class: "quiet" },
      `By stage ${used.byStage.map(short).join(" + ")}. `,
      prices ? `At your prices ${money(costOf(used, prices))}, at most ${money(costOf({ generated: cap, prefill: preview?.prefill_cap || 0 }, prices))}.` : null),
  ];
}

// A straggler takes more than twice the median time of its stage's finished calls.
const STRAGGLER = 2;

function stragglersOf(model) {
  return model.plan.flatMap((row) => {
    const ended = row.filter((c) => c.ended_s != null && c.began_s != null);
    const times = ended.map((c) => c.ended_s - c.began_s).sort((a, b) => a - b);
    const median = times[Math.floor(times.length / 2)];
    return times.length < 4 ? [] : ended.filter((c) => c.ended_s - c.began_s > STRAGGLER * median);
  });
}

const CHECKS = [
  ["finished", "ended by themselves", (m) => m.candidates.filter((c) => c.is_finished), "good"],
  ["unfinished", "cut at the budget; their tails still count", (m) => m.candidates.filter((c) => c.state === "done" && !c.is_finished), ""],
  ["cut early", "ended by the scheduler, with a partial tail", (m) => m.candidates.filter((c) => c.state === "cut"), ""],
  ["failed", "given up after all tries", (m) => m.candidates.filter((c) => c.state === "failed"), "bad"],
  ["retried", "needed more than one try", (m) => m.candidates.filter((c) => c.attempts > 1 && c.state !== "failed"), "warn"],
  ["looping", "repeat themselves; shown to the next stage only for want of others", (m) => m.candidates.filter((c) => c.is_looping), "warn"],
  ["stragglers", "took over twice the median time of their stage", stragglersOf, "warn"],
];

function healthPanel(model, lit, onPick) {
  const { run, detail } = model;
  const rows = CHECKS.map(([name, meaning, choose, tone]) => {
    const found = choose(model);
    const keys = () => new Set(choose(model).map((c) => keyOf(c.stage, c.slot)));
    return el("button", {
      type: "button", class: `check ${found.length ? tone : ""}`, title: meaning, disabled: !found.length, "aria-pressed": String(lit === `check ${name}`),
      onclick: () => onPick(`check ${name}`, keys),
    }, el("b", { class: "num" }, whole(found.length)), ` ${name}`);
  });
  const facts = [
    ["tails cut by", detail.tail_method || "\u2013"],
    ["degraded", run.degraded ? "yes" : "no"],
    ["failed calls", whole(run.failed_calls)],
    ["seed", detail.seed ?? "\u2013"],
    ["prompt template", (detail.template_sha256 || "\u2013").slice(0, 12)],
  ];
  const notes = [...(detail.notes ?? []), ...(detail.damage ?? [])];
  const upstreams = [...new Set(model.candidates.map((c) => c.upstream).filter(Boolean))];
  if (upstreams.length) facts.push([upstreams.length > 1 ? "upstreams" : "upstream", upstreams.join(", ")]);
  return [
    el("div", { class: "checks" }, rows),
    el("dl", { class: "facts" }, facts.map(([name, value]) => el("div", null, el("dt", null, name), el("dd", { class: name === "degraded" && run.degraded ? "bad" : null }, visible(value))))),
    notes.length ? el("ul", { class: "notes" }, notes.map((note) => el("li", null, visible(note)))) : null,
  ];
}

const LETTERS = {
  num_candidates: "N", tails_per_prompt: "C", rounds: "T", budget_tokens: "\u03b2", tail_tokens: "\u03c4", final_budget_tokens: "F",
};

function settingName(name) {
  return name.replace(/_/g, " ") + (LETTERS[name] ? ` (${LETTERS[name]})` : "");
}

function settingValue(value) {
  if (value === null || value === undefined) return "\u2013";
  return typeof value === "number" ? value.toLocaleString("en-US") : typeof value === "object" ? JSON.stringify(value) : String(value);
}

// What the run changed comes first, then the letters of the paper; what is as usual is folded away.
function settingsPanel(model) {
  const { config, detail, run } = model;
  const changed = detail.changed ?? {};
  const usual = run.preset ? `the preset ${run.preset}` : "the defaults";
  const row = (name) => el("div", { class: name in changed ? "changed" : null }, el("dt", null, settingName(name)),
    el("dd", null, el("b", null, visible(settingValue(config[name]))), name in changed ? el("span", { class: "quiet" }, " instead of ", visible(settingValue(changed[name]))) : null));
  const rows = (names) => el("dl", { class: "facts" }, names.map(row));
  const names = Object.keys(config);
  const own = names.filter((name) => name in changed);
  const main = names.filter((name) => name in LETTERS && !(name in changed));
  const rest = names.filter((name) => !(name in LETTERS || name in changed));
  return [
    el("p", { class: "quiet" }, own.length ? `${plural(own.length, "setting differs", "settings differ")} from ${usual}.` : `All as in ${usual}.`),
    own.length ? rows(own) : null,
    rows(main),
    rest.length ? el("details", null, el("summary", null, `${plural(rest.length, "more setting")} as in ${usual}`), rows(rest)) : null,
  ];
}
