// Talking to the server: one way to ask, one way to listen, and the key when one is wanted.

const KEY_NAME = "openzaya.key";

class Failure extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function keyHeaders() {
  const key = inTab.getItem(KEY_NAME);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function failureOf(response) {
  let told = "";
  try {
    const body = await response.json();
    told = body.error?.message || body.detail || "";
  } catch {
    // Not JSON: a proxy answered. The status has to do.
  }
  return new Failure(response.status, told || `the server answered ${response.status}`);
}

// Every request goes through here. A 401 opens the key dialog once; the request is then repeated.
async function request(path, { method = "GET", body, signal, headers } = {}) {
  for (;;) {
    let response;
    const sent = { Accept: "application/json", ...keyHeaders(), ...headers };
    if (body !== undefined) sent["Content-Type"] = "application/json";
    try {
      response = await fetch(path, { method, headers: sent, body: body && JSON.stringify(body), signal, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failure(0, "the server can't be reached");
    }
    if (response.ok) return response;
    const failure = await failureOf(response);
    if (response.status !== 401 || !(await askForKey(failure.message))) throw failure;
  }
}

// Seeds have 63 bits: integers that JavaScript would round stay as they are written.
function parseJson(text) {
  return JSON.parse(text, (_name, value, told) => (Number.isInteger(value) && !Number.isSafeInteger(value) ? told?.source ?? value : value));
}

async function getJson(path, signal) {
  return parseJson(await (await request(path, { signal })).text());
}

async function postJson(path, body, signal) {
  return parseJson(await (await request(path, { method: "POST", body, signal })).text());
}

// What comes next; a connection that a sleeping machine or a network lost may never say so.
function heard(reader) {
  let timer;
  const silence = new Promise((_, reject) => { timer = setTimeout(() => reject(new Failure(0, "the server is silent")), SILENCE_MS); });
  return Promise.race([reader.read(), silence]).finally(() => clearTimeout(timer));
}

// Server-sent events by hand: EventSource can't send a key, and can't be told where to go on.
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await heard(reader);
      if (done) return;
      const blocks = (rest + value).replace(/\r\n?/g, "\n").split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = { id: null, name: "message", data: "" };
        for (const line of block.split("\n")) {
          const [, field, text] = /^([^:]*):? ?(.*)$/s.exec(line);
          if (field === "id") event.id = text;
          else if (field === "event") event.name = text;
          else if (field === "data") event.data += (event.data ? "\n" : "") + text;
        }
        if (event.data) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

const RECONNECT_FIRST_MS = 500;
const RECONNECT_MOST_MS = 10000;
const SILENCE_MS = 35000; // the server says something every ten seconds

function pause(ms, signal) {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      removeEventListener("online", end);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    addEventListener("online", end);
    signal.addEventListener("abort", end);
  });
}

// Follow a run until it is done or `signal` aborts; a lost connection goes on where it stopped.
async function follow(id, { signal, onEvent, onState, isOver }) {
  let last = null;
  let wait = RECONNECT_FIRST_MS;
  while (!signal.aborted) {
    try {
      const headers = { Accept: "text/event-stream", ...(last === null ? {} : { "Last-Event-ID": last }) };
      const response = await request(`/v1/ttc/runs/${encodeURIComponent(id)}/events`, { signal, headers });
      onState("live");
      for await (const event of eventsOf(response)) {
        if (event.name === "error") throw new Failure(500, JSON.parse(event.data).error?.message || "the server failed");
        if (event.id !== null) last = event.id;
        wait = RECONNECT_FIRST_MS;
        onEvent(event.name, parseJson(event.data));
        if (event.name === "done") return;
      }
      // The server had no more to say: nobody works on the run any more, or the connection broke.
      if (await isOver()) return;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Failure && error.status >= 400 && error.status < 500 && error.status !== 429) {
        onState("lost", error.message);
        return;
      }
      if (!(error instanceof Failure) && !(error instanceof TypeError)) console.error(error);
    }
    if (signal.aborted) return;
    onState("reconnecting");
    await pause(wait, signal);
    wait = Math.min(RECONNECT_MOST_MS, wait * 2);
  }
}

// A run inside the page takes the place of the server.
const RECORDED = parseJson(document.getElementById("recorded").textContent);

async function loadRun(id, signal) {
  if (RECORDED) return RECORDED.run;
  return getJson(`/v1/ttc/runs/${encodeURIComponent(id)}`, signal);
}

async function loadCandidate(id, stage, slot, signal) {
  if (RECORDED) {
    const found = RECORDED.candidates.find((c) => c.stage === stage && c.slot === slot);
    if (!found) throw new Failure(404, "this file holds no such candidate");
    return found;
  }
  return getJson(`/v1/ttc/runs/${encodeURIComponent(id)}/candidates/${stage}/${slot}`, signal);
}
