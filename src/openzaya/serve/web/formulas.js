// Formulas: TeX becomes MathML by Temml, which stands beside this file as its author made it. A model may
// write anything: of what Temml makes, only the elements and attributes named here are built, without
// colours, links and ids. What is refused, too large, or no TeX stays as it was written.

const TYPESET = "openzaya.typeset";
const MATHML = "http://www.w3.org/1998/Math/MathML";
const MOST_TEX = 3000; // characters of one formula
const MOST_PARTS = 3000; // elements of one formula
const DEEPEST = 60; // a browser lays out deeper ones slowly, or dies of them
const MOST_KEPT = 500;
const SLICE_MS = 10; // how long typesetting may hold up the page at a stretch

const ELEMENTS = new Set("math menclose mfrac mi mmultiscripts mn mo mover mpadded mphantom mprescripts mroot mrow mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover none".split(" "));
const ATTRIBUTES = new Set("accent columnalign depth display displaystyle fence form height largeop linethickness lspace mathsize mathvariant maxsize minsize movablelimits notation rowspacing rspace scriptlevel separator stretchy symmetric voffset width".split(" "));
const PROPERTIES = new Set("border borderBottom borderLeft borderRight borderTop bottom display font-family font-style font-weight fontWeight height justifyContent left marginLeft math-depth mathDepth padding paddingBottom paddingLeft paddingRight paddingTop position right textAlign transform width".split(" "));

// Definitions make short texts long, and Temml's limit counts steps, not what a step makes.
const DEFINES = /\\(?:[egx]?def|let|futurelet|global|(?:re|provide)?(?:new)?command|definecolor|DeclareMathOperator)(?![A-Za-z])/;
// What stands in these Temml builds twice or more, so 2^n times what stands n deep; chemistry is made of them.
const DOUBLES = /\\(?:(?:math)?llap|cancelto|equilibrium[A-Za-z]*)(?![A-Za-z])/g;
const MOST_DOUBLES = 3;
const CHEMISTRY = /\\(?:ce|pu)(?![A-Za-z])/;
const DEEPEST_CHEMISTRY = 8;
const NEEDS_DISPLAY = /\\begin\{(?:align|alignat|equation|gather|multline|flalign|split|CD)\*?\}/;
const NAMES = /\\(?:text[a-z]*|math[a-z]+|mbox|operatorname\*?|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+/g;
const PROSE = /(?<!\p{L})(?:(?:and|or|to|per|for|from|the|is|are|of|with)(?!\p{L})|\p{L}{3,}\s+\p{L}{3,})/u;

// Whether formulas and Markdown are shown as what they mean, or as the model wrote them.
const typesetting = {
  isOn: inBrowser.getItem(TYPESET) !== "no",
  toggle() {
    this.isOn = !this.isOn;
    inBrowser.setItem(TYPESET, this.isOn ? "yes" : "no");
  },
};

function asWrittenButton() {
  return el("button", { type: "button", class: "small as-written", title: "Formulas, tables and lists as the model wrote them (f)", "aria-pressed": String(!typesetting.isOn), onclick: () => app.toggleTypesetting() }, "As written");
}

// Dollars that mean money, or the wrong one of a pair, leave words between them.
function isProse(tex) {
  return PROSE.test(tex.replace(NAMES, " "));
}

let temml = null;
const kept = new Map();

// The MathML of a formula, or null. Formulas come again and again while a run is drawn anew.
function mathOf(tex, isDisplay) {
  const name = `${isDisplay ? "block" : "inline"} ${tex}`;
  if (!kept.has(name)) {
    if (kept.size >= MOST_KEPT) kept.clear();
    kept.set(name, made(tex, isDisplay));
  }
  return kept.get(name)?.cloneNode(true) ?? null;
}

function made(tex, isDisplay) {
  if (tex.length > MOST_TEX || !tex.trim() || isCostly(tex) || isProse(tex)) return null;
  temml ||= loadTemml(); // a % begins a comment in TeX, but a model that writes 50% means it
  try {
    const displayMode = isDisplay || NEEDS_DISPLAY.test(tex);
    const tree = temml.__renderToMathMLTree(tex.replace(/(?<!\\)%/g, "\\%"), { displayMode, throwOnError: true, trust: false, maxExpand: 1000, maxSize: [20, 200], wrap: "tex" });
    return mathNode(tree, { left: MOST_PARTS }, DEEPEST);
  } catch {
    return null; // no TeX, or more than a browser should bear
  }
}

function isCostly(tex) {
  const deepest = CHEMISTRY.test(tex) ? DEEPEST_CHEMISTRY : DEEPEST / 2;
  return DEFINES.test(tex) || depthOf(tex) > deepest || (tex.match(DOUBLES)?.length ?? 0) > MOST_DOUBLES;
}

function depthOf(tex) {
  let [depth, most] = [0, 0];
  for (const [mark] of tex.matchAll(/\\[{}]|[{}]|\\left(?![a-z])|\\right(?![a-z])|\\begin|\\end/g)) {
    if (mark === "{" || mark === "\\left" || mark === "\\begin") most = Math.max(most, ++depth);
    else if (mark === "}" || mark === "\\right" || mark === "\\end") depth -= 1;
  }
  return most;
}

function mathNode(part, room, depth) {
  if (depth < 0 || room.left-- <= 0) throw new RangeError("too large");
  if (typeof part.text === "string") return document.createTextNode(seen(part.text));
  const isElement = ELEMENTS.has(part.type);
  // Temml groups what needs no element, and numbers equations by an empty one; a link or a picture is refused.
  if (!isElement && (part.type !== undefined || part.href !== undefined || part.src !== undefined)) throw new RangeError("not allowed");
  const node = isElement ? document.createElementNS(MATHML, part.type) : document.createDocumentFragment();
  if (isElement) {
    for (const [name, value] of Object.entries(part.attributes)) if (ATTRIBUTES.has(name)) node.setAttribute(name, value);
    for (const [name, value] of Object.entries(part.style)) if (PROPERTIES.has(name)) node.style[name] = value;
    if (part.classes.length) node.setAttribute("class", part.classes.filter(Boolean).join(" "));
  }
  for (const child of Array.isArray(part.children) ? part.children : []) node.append(mathNode(child, room, depth - 1));
  return node;
}

// \char can make characters that the text did not have.
function seen(text) {
  if (text.replace(/[\u2061-\u2064]/g, "").search(HIDDEN) >= 0) throw new RangeError("not visible");
  return text;
}

// How a text is typeset: some of its formulas at once, the others when they are about to be seen.
function patience() {
  return { until: performance.now() + SLICE_MS, left: 2000, hasMarks: true };
}

// For short texts that are drawn anew many times a second.
function atOnce() {
  return { until: Infinity, left: 100, hasMarks: false };
}

function formula(tex, source, isDisplay, setting) {
  if (setting.left-- <= 0) return source;
  const node = el("span", { class: isDisplay ? "tex display" : "tex" }, source);
  node.typeset = () => {
    unseen.unobserve(node);
    node.typeset = null;
    const math = mathOf(tex, isDisplay);
    if (math) node.replaceChildren(math);
    else node.classList.remove("display");
  };
  if (performance.now() < setting.until) node.typeset();
  else unseen.observe(node);
  return node;
}

const coming = new Set();

const unseen = new IntersectionObserver((entries) => {
  const isIdle = coming.size === 0;
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) coming.add(target);
    else coming.delete(target);
  }
  if (isIdle && coming.size) typesetComing();
}, { rootMargin: "600px", scrollMargin: "600px" });

function typesetComing() {
  const until = performance.now() + SLICE_MS;
  for (const node of coming) {
    coming.delete(node);
    node.typeset?.();
    if (performance.now() > until) break;
  }
  if (coming.size) requestAnimationFrame(typesetComing);
}

addEventListener("beforeprint", () => {
  for (const node of document.querySelectorAll(".tex")) node.typeset?.();
});

// An answer is often TeX without dollars around it: \frac{3}{4}, x^2 + 1, a_1.
const IS_TEX = /\\[A-Za-z]|\^|(?<![A-Za-z])[A-Za-z]_[A-Za-z0-9{]/;
const HAS_TEX = /\$|\\[([]|\\boxed/;

function answerNodes(answer, most) {
  const text = clip(answer, most);
  if (!typesetting.isOn) return text;
  if (HAS_TEX.test(text)) return inline(text, atOnce());
  return IS_TEX.test(text) ? formula(text, text, false, atOnce()) : text;
}

function questionNodes(question, most) {
  const text = clip(question, most);
  return typesetting.isOn ? inline(text, atOnce()) : text;
}
