// Asking: the question, the model and preset, what it will cost, and the way to the run.

const ADVANCED = [
  ["num_candidates", "Traces per stage (N)", 1, 256],
  ["tails_per_prompt", "Tails per prompt (C)", 1, 256],
  ["rounds", "Aggregations (T)", 0, 64],
  ["budget_tokens", "Budget of a trace (\u03b2)", 1, 16777216],
  ["tail_tokens", "Tail (\u03c4)", 1, 16777216],
  ["final_budget_tokens", "Final budget (F)", 1, 16777216],
  ["answer_reserve_tokens", "Answer reserve", 16, 16777216],
];
const PREVIEW_WAIT_MS = 250;
const PREVIEW_AGAIN_MS = 2000; // while the server can't answer

// Presets come as a list of objects or as one object by name; both hold the settings.
function presetsOf(body) {
  const list = body.data || body.presets || body;
  const rows = Array.isArray(list) ? list : Object.entries(list).map(([name, config]) => ({ name, config }));
  return rows.map((row) => ({ name: row.name || row.id, note: row.description || row.note || "", config: row.config || row, isDefault: row.is_default === true, context: row.preview?.context_bound ?? 0 }));
}

class AskView {
  constructor() {
    this.node = el("div", { class: "ask" }, el("p", { class: "quiet loading" }, "Loading the models\u2026"));
    this.abort = new AbortController();
    this.overrides = {};
  }

  close() {
    clearTimeout(this.timer);
    this.previewAbort?.abort();
    this.abort.abort();
  }

  async start() {
    try {
      const [models, presets] = await Promise.all([getJson("/v1/models", this.abort.signal), getJson("/v1/ttc/presets", this.abort.signal)]);
      const names = models.data.map((m) => m.id);
      this.models = names.filter((id) => !id.includes(":mrsa-"));
      if (!this.models.length) this.models = names;
      this.presets = presetsOf(presets);
      this.contexts = new Map(models.data.map((m) => [m.id, m.max_model_len || Infinity]));
      const usual = this.presets.find((p) => p.isDefault) || this.presets[0];
      const fits = (p) => p.context <= this.contexts.get(this.models[0]);
      this.preset = (fits(usual) ? usual : this.presets.find(fits) || usual).name;
    } catch (error) {
      if (error.name !== "AbortError") fill(this.node, problem(error.message, () => app.show()));
      return;
    }
    this.build();
    this.previewSoon();
  }

  build() {
    this.question = el("textarea", { id: "question", rows: 7, placeholder: "A hard question with one answer, e.g. a competition problem.", "aria-describedby": "question-hint" });
    this.question.value = app.draft || "";
    this.question.addEventListener("input", () => { app.draft = this.question.value; this.previewSoon(); });
    this.question.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); this.send(); }
    });
    this.model = el("select", { id: "model" }, this.models.map((id) => el("option", { value: id }, id)));
    this.model.addEventListener("change", () => this.previewSoon());
    this.sendButton = el("button", { type: "button", class: "primary", onclick: () => this.send() }, "Send");
    this.cancelButton = el("button", { type: "button", hidden: true, onclick: () => this.sending?.abort() }, "Cancel");
    this.status = el("p", { class: "quiet", role: "status" });
    this.refusal = el("p", { class: "error-text", role: "alert" });
    this.cost = el("div", { class: "cost" });
    this.fields = {};
    fill(this.node,
      el("form", { class: "ask-form", onsubmit: (event) => { event.preventDefault(); this.send(); } },
        el("h1", null, "Ask"),
        el("label", { for: "question" }, "Question"), this.question,
        el("p", { class: "quiet", id: "question-hint" }, "Ask for a short final answer, best in \\boxed{}: traces that agree on it are counted together."),
        this.models.length > 1 ? [el("label", { for: "model" }, "Model"), this.model] : el("p", { class: "quiet" }, "Model ", el("b", null, this.models[0])),
        el("fieldset", { class: "presets" }, el("legend", null, "Preset"), this.presets.map((p) => this.presetCard(p))),
        this.advanced()),
      el("aside", { class: "ask-side", "aria-label": "What this will do" },
        el("h2", null, "Before you send"), this.refusal, this.cost,
        el("div", { class: "send-row" }, this.sendButton, this.cancelButton, el("kbd", null, "Ctrl"), el("kbd", null, "Enter")), this.status));
    if (innerWidth > 700) this.question.focus();
  }

  presetCard({ name, note, config }) {
    const { num_candidates: n, rounds, tails_per_prompt: c, budget_tokens: beta, tail_tokens: tau, final_candidates: last } = config;
    const calls = rounds === undefined ? null : n * rounds + (last || n);
    const input = el("input", { type: "radio", name: "preset", value: name, checked: name === this.preset });
    input.addEventListener("change", () => { this.preset = name; this.showDefaults(); this.previewSoon(); });
    return el("label", { class: "preset", title: note || null }, input,
      el("span", { class: "preset-name" }, name),
      n === undefined ? el("span", { class: "quiet" }, note) : [planGlyph(n, rounds),
        el("span", { class: "quiet" }, `${plural(calls, "call")} of ${tokensK(beta)}${rounds ? ` \u00b7 ${plural(c, "tail")} of ${tokensK(tau)}` : ""}`)]);
  }

  advanced() {
    const number = ([name, label, least, most]) => {
      const input = el("input", { type: "number", id: `field-${name}`, min: least, max: most, inputmode: "numeric" });
      input.addEventListener("input", () => {
        if (input.value === "") delete this.overrides[name];
        else this.overrides[name] = Number(input.value);
        this.previewSoon();
      });
      this.fields[name] = input;
      return el("div", null, el("label", { for: `field-${name}` }, label), input);
    };
    this.seed = el("input", { type: "number", id: "field-seed", min: 0, placeholder: "random" });
    this.temperature = el("input", { type: "number", id: "field-temperature", min: 0, max: 2, step: 0.1, placeholder: "1.0" });
    const prices = readPrices() || {};
    const price = (name, label) => {
      const input = el("input", { type: "number", id: `price-${name}`, min: 0, step: "any", placeholder: "0", value: prices[name] });
      input.addEventListener("input", () => {
        const told = { ...(readPrices() || {}), [name]: Number(input.value) || 0 };
        inBrowser.setItem(PRICES, JSON.stringify(told));
        this.drawCost();
      });
      return el("div", null, el("label", { for: `price-${name}` }, label), input);
    };
    const box = el("details", { class: "advanced" }, el("summary", null, "Advanced"),
      el("div", { class: "fields" }, ADVANCED.map(number),
        el("div", null, el("label", { for: "field-temperature" }, "Temperature"), this.temperature),
        el("div", null, el("label", { for: "field-seed" }, "Seed"), this.seed)),
      el("p", { class: "quiet" }, "Prices in dollars per million tokens; they stay in this browser."),
      el("div", { class: "fields" }, price("input", "Prompt"), price("output", "Generated")));
    this.showDefaults();
    return box;
  }

  showDefaults() {
    const config = this.presets.find((p) => p.name === this.preset)?.config || {};
    for (const [name] of ADVANCED) this.fields[name].placeholder = config[name] ?? "\u2013";
  }

  body() {
    const ttc = { preset: this.preset, ...this.overrides };
    if (this.temperature.value !== "") ttc.temperature = Number(this.temperature.value);
    const body = { model: this.model.value || this.models[0], messages: [{ role: "user", content: this.question.value }], ttc };
    if (this.seed.value !== "") body.seed = Number(this.seed.value);
    return body;
  }

  previewSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.preview(), PREVIEW_WAIT_MS);
  }

  async preview() {
    this.previewAbort?.abort();
    this.previewAbort = new AbortController();
    const body = this.body();
    if (!this.question.value.trim()) body.messages[0].content = "?";
    try {
      const told = await postJson("/v1/ttc/preview", body, this.previewAbort.signal);
      this.told = told.preview || told;
      this.refused = told.is_allowed === false ? `This may generate ${whole(told.decode_cap)} tokens, more than the ${whole(told.max_run_tokens)} that your key allows for one run; choose a smaller preset.` : null;
    } catch (error) {
      if (error.name === "AbortError") return;
      this.told = null;
      const isOurs = error.status === 0 || error.status === 429 || error.status >= 500;
      this.refused = isOurs ? `No preview: ${error.message}. The page asks again by itself; you can send once there is an answer.` : error.message;
      if (isOurs) this.timer = setTimeout(() => this.preview(), PREVIEW_AGAIN_MS);
    }
    this.drawCost();
  }

  // The server has the last word; its own bound is a little lower.
  warning() {
    const model = this.model.value || this.models[0];
    const holds = this.contexts.get(model);
    if (!this.told || this.told.context_bound <= holds) return "";
    return `The longest call may need more than the ${whole(holds)} tokens that ${model} holds, and the run be refused: choose a smaller preset or budget.`;
  }

  drawCost() {
    const p = this.told;
    this.sendButton.disabled = Boolean(this.refused) || Boolean(this.sending);
    setText(this.refusal, visible(this.refused || this.warning()));
    if (!p) {
      fill(this.cost);
      return;
    }
    const config = { ...this.presets.find((x) => x.name === this.preset)?.config, ...this.overrides };
    const prices = readPrices();
    const rows = [
      ["calls", whole(p.calls), `${plural(p.stages, "stage")}`],
      ["generated, at most", whole(p.decode_cap), "tokens"],
      p.expected_decode ? ["generated, expected", whole(p.expected_decode), "tokens"] : null,
      ["prompts, at most", whole(p.prefill_cap), `tokens, ${short(p.tail_prefill_cap)} in tails`],
      p.expected_prefill ? ["prompts, expected", whole(p.expected_prefill), "tokens"] : null,
      ["longest call", whole(p.context_bound), "tokens of context"],
      prices ? ["cost, at most", money(costOf({ generated: p.decode_cap, prefill: p.prefill_cap }, prices)), p.expected_decode ? `expected ${money(costOf({ generated: p.expected_decode, prefill: p.expected_prefill || 0 }, prices))}` : ""] : null,
    ].filter(Boolean);
    refresh(this.cost, el("p", { class: "plan-text" }, planText(config)),
      el("dl", { class: "figures" }, rows.map(([name, value, unit]) => el("div", null, el("dt", null, name), el("dd", null, el("b", { class: "num" }, value), el("span", { class: "quiet" }, unit))))));
  }

  // In the background: the run goes on when this page is left or loaded again, and holds none of the
  // browser's few connections. Its own page follows the journal, and can cancel it.
  async send() {
    if (this.sending || this.refused) return;
    if (!this.question.value.trim()) {
      this.status.textContent = "Write a question first.";
      this.question.focus();
      return;
    }
    this.sending = new AbortController();
    this.sendButton.disabled = true;
    this.cancelButton.hidden = false;
    this.status.textContent = "Sent; the run begins\u2026";
    try {
      const body = { ...this.body(), stream: true };
      body.ttc.background = true;
      const headers = { "Idempotency-Key": crypto.getRandomValues(new Uint32Array(4)).join("-") };
      const response = await request("/v1/chat/completions", { method: "POST", body, headers, signal: this.sending.signal });
      response.body.cancel();
      app.draft = "";
      location.hash = `#/runs/${encodeURIComponent(response.headers.get("X-Run-Id"))}`;
    } catch (error) {
      this.status.textContent = error.name === "AbortError" ? "Cancelled." : visible(error.message);
    } finally {
      this.sending = null;
      this.cancelButton.hidden = true;
      this.drawCost();
    }
  }
}

function tokensK(n) {
  return n >= 1024 && n % 1024 === 0 ? `${n / 1024}K` : short(n);
}

function planText({ num_candidates: n, rounds, tails_per_prompt: c, tail_tokens: tau, budget_tokens: beta }) {
  if (n === undefined) return "";
  const first = `${plural(n, "trace")} of at most ${whole(beta)} tokens ${n === 1 ? "thinks" : "think"} about your question.`;
  if (!rounds) return n === 1 ? first : `${first} The most frequent answer wins.`;
  const times = rounds === 1 ? "Once" : rounds === 2 ? "Twice" : `${rounds} times`;
  const tails = c === 1 ? `the last ${whole(tau)} tokens of one of them` : `the last ${whole(tau)} tokens of ${c} of them`;
  return `${first} ${times}, ${n} new traces read ${tails} and try again. Then the last ones vote.`;
}

// A column of dots per stage, as the lineage graph will draw them.
function planGlyph(n, rounds) {
  const stages = (rounds || 0) + 1;
  const rows = Math.min(n, 8);
  const marks = [];
  for (let s = 0; s < stages; s++) for (let i = 0; i < rows; i++) marks.push(svg("circle", { cx: 4 + s * 9, cy: 4 + i * 5 + ((8 - rows) * 5) / 2, r: 1.7 }));
  return svg("svg", { class: "glyph", width: 8 + (stages - 1) * 9, height: 43, "aria-hidden": "true" }, marks);
}
