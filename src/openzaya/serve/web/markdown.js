// A small part of Markdown as elements: headings, lists, tables, quotes, fenced code, rules, paragraphs. HTML,
// links and pictures stay text. What a model wrote only ever becomes text nodes.

const DEEPEST_BLOCK = 6; // lists in lists, quotes in quotes
const MOST_ROWS = 100; // lines of a formula
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(\S.*)$/;
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;
const QUOTE = /^ {0,3}>/;
const DISPLAYS = [[/^\s*\$\$/, "$$"], [/^\s*\\\[/, "\\]"], [/^\s*\\begin\{([a-z]+\*?)\}/, null]];
const CELL = /\\[^]|`[^`]*`|\$(?=[^\s$])[^$]*(?<=\S)\$(?!\d)|\|/g;

// A text as it is meant. The element watches its own formulas, so it is put into the page as it is.
function typesetText(text) {
  const lines = visible(text.replace(/\r\n?/g, "\n")).split("\n");
  const node = grown("div", { class: "typeset" }, blocks(lines, patience(), 0));
  node.isWhole = true;
  return node;
}

function blocks(lines, setting, depth) {
  const nodes = [];
  for (let i = 0; i < lines.length; ) {
    if (isBlank(lines[i])) {
      i += 1;
      continue;
    }
    const [node, next] = fence(lines, i) || display(lines, i, setting) || heading(lines, i, setting) || rule(lines, i) || table(lines, i, setting)
      || (depth < DEEPEST_BLOCK && (quote(lines, i, setting, depth) || list(lines, i, setting, depth))) || paragraph(lines, i, setting, depth);
    nodes.push(node);
    i = next;
  }
  return nodes;
}

function isBlank(line) {
  return line.trim() === "";
}

function begins(lines, i, depth) {
  const line = lines[i];
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || DISPLAYS.some(([begin]) => begin.test(line)) || isTable(lines, i)
    || (depth < DEEPEST_BLOCK && (QUOTE.test(line) || ITEM.test(line)));
}

function paragraph(lines, i, setting, depth) {
  let next = i + 1;
  while (next < lines.length && !isBlank(lines[next]) && !begins(lines, next, depth)) next += 1;
  return [words("p", lines.slice(i, next).join("\n"), setting), next];
}

function words(name, text, setting) {
  return grown(name, { dir: "auto" }, inline(text, setting));
}

function fence(lines, i) {
  const found = FENCE.exec(lines[i]);
  if (!found) return null;
  const [, ticks] = found;
  const isEnd = (line) => line.trim().length >= ticks.length && line.trim() === ticks[0].repeat(line.trim().length);
  let end = i + 1;
  while (end < lines.length && !isEnd(lines[end])) end += 1;
  return [el("pre", { class: "code" }, lines.slice(i + 1, end).join("\n")), end + 1];
}

// A formula on lines of its own; + and - at the begin of one of them make no list.
function display(lines, i, setting) {
  for (const [begin, told] of DISPLAYS) {
    const found = begin.exec(lines[i]);
    if (!found) continue;
    const end = told ?? `\\end{${found[1]}}`;
    let from = found[0].length;
    for (let last = i; last < Math.min(lines.length, i + MOST_ROWS) && !isBlank(lines[last]); last++) {
      if (lines[last].includes(end, from)) return [words("p", lines.slice(i, last + 1).join("\n").trim(), setting), last + 1];
      from = 0;
    }
  }
  return null;
}

function heading(lines, i, setting) {
  const found = HEADING.exec(lines[i]);
  return found && [words(`h${Math.min(6, found[1].length + 2)}`, found[2], setting), i + 1];
}

function rule(lines, i) {
  return RULE.test(lines[i]) && [el("hr"), i + 1];
}

function quote(lines, i, setting, depth) {
  let next = i;
  while (next < lines.length && QUOTE.test(lines[next])) next += 1;
  if (next === i) return null;
  const inside = lines.slice(i, next).map((line) => line.replace(/^ {0,3}> ?/, ""));
  return [grown("blockquote", null, blocks(inside, setting, depth + 1)), next];
}

// What is indented deeper than an item's mark belongs to the item.
function list(lines, i, setting, depth) {
  const first = ITEM.exec(lines[i]);
  if (!first) return null;
  const isNumbered = /\d/.test(first[2]);
  const items = [];
  let next = i;
  for (let item; (item = next < lines.length && ITEM.exec(lines[next])) && /\d/.test(item[2]) === isNumbered && item[1].length <= first[1].length + 1 && !RULE.test(lines[next]); ) {
    const inside = [lines[next].slice(item[0].length)];
    const indent = item[1].length;
    for (next += 1; next < lines.length; next++) {
      const line = lines[next];
      const isDeeper = indentOf(line) > indent;
      const isGoingOn = isBlank(line) ? next + 1 < lines.length && !isBlank(lines[next + 1]) && indentOf(lines[next + 1]) > indent : isDeeper || (!isBlank(lines[next - 1]) && !begins(lines, next, depth));
      if (!isGoingOn) break;
      inside.push(line.slice(Math.min(indentOf(line), item[0].length)));
    }
    items.push(grown("li", { value: isNumbered ? parseInt(item[2], 10) : null }, blocks(inside, setting, depth + 1)));
    while (next < lines.length && isBlank(lines[next])) next += 1;
  }
  return [grown(isNumbered ? "ol" : "ul", null, items), next];
}

function indentOf(line) {
  return line.length - line.trimStart().length;
}

function isTable(lines, i) {
  if (!lines[i].includes("|") || !lines[i + 1]?.includes("-")) return false;
  const marks = cellsOf(lines[i + 1]);
  return marks.every((mark) => /^:?-+:?$/.test(mark)) && marks.length === cellsOf(lines[i]).length;
}

function table(lines, i, setting) {
  if (!isTable(lines, i)) return null;
  const sides = cellsOf(lines[i + 1]).map((mark) => (mark.endsWith(":") ? (mark.startsWith(":") ? "middle" : "right") : null));
  let next = i + 2;
  while (next < lines.length && lines[next].includes("|")) next += 1;
  const row = (line, name) => {
    const told = cellsOf(line);
    return el("tr", null, sides.map((side, k) => grown(name, { class: side, dir: "auto", scope: name === "th" ? "col" : null }, inline((k < sides.length - 1 ? told[k] : told.slice(k).join(" | ")) ?? "", setting))));
  };
  const body = grown("tbody", null, lines.slice(i + 2, next).map((line) => row(line, "td")));
  return [el("div", { class: "scroll-x" }, el("table", null, el("thead", null, row(lines[i], "th")), body)), next];
}

// Bars inside of formulas and code are no borders.
function cellsOf(line) {
  const text = line.trim();
  const cells = [];
  let from = text.startsWith("|") ? 1 : 0;
  for (const { 0: mark, index } of text.matchAll(CELL)) {
    if (mark !== "|" || index < from) continue;
    cells.push(text.slice(from, index));
    from = index + 1;
  }
  if (from < text.length || !cells.length) cells.push(text.slice(from));
  return cells.map((cell) => cell.trim().replaceAll("\\|", "|"));
}
