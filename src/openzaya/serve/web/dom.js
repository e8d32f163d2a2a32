// Building blocks: elements, and numbers and texts as they are shown.
// Text of a model only ever becomes a text node or an attribute, never markup.

// Where the page remembers: a sandboxed frame, or a browser without cookies, has only its own memory.
function storage(kind) {
  try {
    return window[kind];
  } catch {
    const held = new Map();
    return { getItem: (name) => held.get(name) ?? null, setItem: (name, value) => held.set(name, value) };
  }
}

const inBrowser = storage("localStorage");
const inTab = storage("sessionStorage");

function build(node, props, children) {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node[name] = value;
    else if (name === "css") for (const key of Object.keys(value)) node.style.setProperty(key, value[key]);
    else node.setAttribute(name, value === true ? "" : value);
  }
  const kept = children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false);
  node.append(...kept);
  return node;
}

function el(name, props, ...children) {
  return build(document.createElement(name), props, children);
}

function svg(name, props, ...children) {
  return build(document.createElementNS("http://www.w3.org/2000/svg", name), props, children);
}

function fill(node, ...children) {
  node.replaceChildren();
  return build(node, null, children);
}

// Bring `node` to what `children` say, touching only what differs: a pressed button is not taken from
// under the mouse, the focus stays, and a fold that was opened stays open. What is marked as whole is put
// there as it is.
function refresh(node, ...children) {
  align(node, build(node.cloneNode(false), null, children));
}

function align(old, fresh) {
  const was = [...old.childNodes];
  const wanted = [...fresh.childNodes];
  wanted.forEach((next, i) => {
    const now = was[i];
    if (!now) old.append(next);
    else if (now.nodeName !== next.nodeName || next.isWhole) now.replaceWith(next);
    else if (now.nodeType === Node.TEXT_NODE) setText(now, next.data);
    else {
      for (const { name } of [...now.attributes]) if (name !== "open" && !next.hasAttribute(name)) now.removeAttribute(name);
      for (const { name, value } of next.attributes) {
        if (now.getAttribute(name) === value) continue;
        if (name === "style") now.style.cssText = value; // the policy forbids the attribute
        else now.setAttribute(name, value);
      }
      if (next.nodeName === "INPUT") now.checked = next.checked;
      now.onclick = next.onclick;
      now.onchange = next.onchange;
      align(now, next);
    }
  });
  for (const extra of was.slice(wanted.length)) extra.remove();
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Controls that are invisible or turn the direction of what follows are shown by their number; not
// the joiners of an emoji, and of scripts that are written with them.
const HIDDEN = /(?![\t\n]|(?<=[\p{Extended_Pictographic}\p{Emoji_Modifier}\ufe0f])[\u200d\ufe0f]|(?<=[\p{Script=Arabic}\p{Script=Devanagari}\p{Script=Bengali}\p{Script=Malayalam}\p{Script=Sinhala}])[\u200c\u200d])[\p{Cc}\p{Default_Ignorable_Code_Point}\u2028\u2029]/gu;

function visible(text) {
  return String(text).replace(
    HIDDEN,
    (c) => `\u27e8U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`,
  );
}

function clip(text, most) {
  const shown = visible(String(text).slice(0, most + 1).replace(/\s+/g, " ")).trim();
  return shown.length > most ? `${shown.slice(0, most - 1).replace(/\p{Surrogate}$/u, "")}\u2026` : shown;
}

function whole(n) {
  return n === null || n === undefined ? "\u2013" : Math.round(n).toLocaleString("en-US");
}

function short(n) {
  if (n === null || n === undefined) return "\u2013";
  if (n < 10000) return whole(n);
  const [unit, name] = n < 999500 ? [1e3, "K"] : [1e6, "M"];
  const value = n / unit;
  return `${value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : value.toFixed(0)}${name}`;
}

function percent(part, all) {
  if (!all) return "\u2013";
  const value = (100 * part) / all;
  return value > 0 && value < 1 ? "<1%" : `${value.toFixed(0)}%`;
}

function duration(s) {
  if (s === null || s === undefined) return "\u2013";
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 119.5) return `${s.toFixed(0)} s`;
  const rounded = Math.round(s);
  const [large, small, unit, part] = rounded < 7200 ? [60, 1, "min", "s"] : [3600, 60, "h", "min"];
  const rest = Math.floor((rounded % large) / small);
  return `${Math.floor(rounded / large)} ${unit}${rest ? ` ${rest} ${part}` : ""}`;
}

function moment(unixS) {
  const then = new Date(unixS * 1000);
  const isToday = then.toDateString() === new Date().toDateString();
  const clock = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  if (isToday) return clock;
  return `${then.toLocaleDateString([], { month: "short", day: "numeric" })} ${clock}`;
}

function plural(n, one, many) {
  return `${whole(n)} ${n === 1 ? one : many || `${one}s`}`;
}

function money(dollars) {
  if (dollars < 0.995) return `$${dollars.toFixed(dollars < 0.01 ? 4 : 3)}`;
  return `$${dollars.toFixed(2)}`;
}

// What an element says about a fraction, for eyes and for screen readers.
function meter(label, value, cap, { parts = null, expected = null, note = "" } = {}) {
  const scale = Math.max(cap || 0, value || 0, expected || 0, 1);
  const pieces = parts || [{ value: value || 0, tone: "" }];
  const bar = el(
    "div",
    { class: "bar", "aria-hidden": "true" },
    pieces.map((p) => el("i", { class: p.tone || null, title: p.title, css: { width: `${(100 * p.value) / scale}%` } })),
    expected ? el("b", { class: "tick", title: `expected ${whole(expected)}`, css: { left: `${(100 * expected) / scale}%` } }) : null,
  );
  return el(
    "div",
    { class: "meter" },
    el("div", { class: "meter-text" }, el("span", null, label), el("span", { class: "num" }, note)),
    bar,
  );
}

function panel(id, title, aside, ...children) {
  return el(
    "section",
    { class: `panel ${id}`, "aria-labelledby": `${id}-title` },
    el("div", { class: "panel-head" }, el("h2", { id: `${id}-title` }, title), aside),
    children,
  );
}

async function copyText(text, button) {
  let worked = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without a secure context the clipboard is only reachable through a selection.
    const area = el("textarea", { class: "offscreen" });
    area.value = text;
    document.body.append(area);
    area.select();
    worked = document.execCommand("copy");
    area.remove();
  }
  const before = button.textContent;
  button.textContent = worked ? "Copied" : "Could not copy";
  setTimeout(() => { button.textContent = before; }, 1200);
}
