// What stands in a line of Markdown: formulas, code and emphasis, as nodes. One pass over the text: what
// closes is looked for from where the last search ended, so that a long line costs what it is long.

const MARKS = /\\[()[\]]|\\\\|\\[*_`$#~%&.+-]|\\boxed *\{|\\begin\{([a-z]+\*?)\}|`+|\$\$?|\*\*?|__?|~~/g;
const EMPHASIS = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "s" };
const MOST_BOXED = 400;
const MOST_IN_LINE = 300; // formulas: a browser lays out a paragraph anew for every few that are typeset
const MOST_TICKS = 8;
const SPACE = /\s/;
const WORD = /[A-Za-z0-9]/;

function inline(text, setting) {
  return new Inline(text, setting).read();
}

class Inline {
  constructor(text, setting) {
    Object.assign(this, { text, setting });
    this.from = 0; // what stands before it is in `frames`
    this.frames = [{ mark: "", nodes: [] }];
    this.found = new Map();
    this.left = MOST_IN_LINE;
  }

  read() {
    const { text } = this;
    const marks = new RegExp(MARKS);
    for (let m; (m = marks.exec(text)); ) marks.lastIndex = this.take(m, m.index) ?? m.index + m[0].length;
    this.until(text.length, text.length);
    while (this.frames.length > 1) this.unwind();
    return this.frames[0].nodes;
  }

  // Where reading goes on; null when the mark means nothing here.
  take([mark, environment], at) {
    if (environment) return this.formula(at, at, `\\end{${environment}}`, true, true);
    if (mark === "\\(") return this.formula(at, at + 2, "\\)", false);
    if (mark === "\\[") return this.formula(at, at + 2, "\\]", true);
    if (mark === "$$") return this.formula(at, at + 2, "$$", true);
    if (mark === "$") return this.dollar(at);
    if (mark.startsWith("\\boxed")) return this.boxed(at, at + mark.length);
    if (!this.setting.hasMarks || mark === "\\\\") return null;
    if (mark[0] === "`") return this.code(at, mark);
    if (mark[0] === "\\") return mark === "\\)" || mark === "\\]" ? null : this.escape(at);
    return this.emphasis(at, mark);
  }

  // The text from where reading stood to `at`, and then `nodes`; reading goes on at `end`.
  until(at, end, ...nodes) {
    const { nodes: here } = this.frames.at(-1);
    if (at > this.from) here.push(this.text.slice(this.from, at));
    here.push(...nodes);
    this.from = end;
    return end;
  }

  // Where `end` stands next at or behind `from`; -1 when nowhere. `from` only grows.
  next(end, from) {
    let at = this.found.get(end);
    if (at === undefined || (at >= 0 && at < from)) this.found.set(end, (at = this.text.indexOf(end, from)));
    return at;
  }

  typeset(tex, source, isDisplay) {
    return this.left-- > 0 ? formula(tex, source, isDisplay, this.setting) : source;
  }

  formula(at, begin, end, isDisplay, isWhole = false) {
    const close = this.next(end, begin);
    if (close < 0 || close - begin > MOST_TEX) return null;
    const after = close + end.length;
    const tex = isWhole ? this.text.slice(at, after) : this.text.slice(begin, close);
    if (!tex.trim()) return null;
    let behind = after; // a line of its own needs no space behind it
    while (isDisplay && this.text[behind] === " ") behind += 1;
    return this.until(at, behind, this.typeset(tex, this.text.slice(at, behind), isDisplay));
  }

  // Pandoc's rule: $5 and $6 are no formula. No space inside of the dollars, no digit behind them.
  dollar(at) {
    const { text } = this;
    let close = this.next("$", at + 1);
    while (close > 0 && text[close - 1] === "\\") close = this.next("$", close + 1);
    const isPair = close > at + 1 && close - at <= MOST_TEX && !SPACE.test(text[at + 1]) && !SPACE.test(text[close - 1]) && !/\d/.test(text[close + 1] ?? "");
    if (!isPair) return null;
    return this.until(at, close + 1, this.typeset(text.slice(at + 1, close), text.slice(at, close + 1), false));
  }

  // The box of a final answer needs no dollars.
  boxed(at, begin) {
    const { text } = this;
    const last = Math.min(text.length, begin + MOST_BOXED);
    for (let i = begin, open = 1; i < last; i++) {
      if (text[i] === "\\") i += 1;
      else if (text[i] === "{") open += 1;
      else if (text[i] === "}" && --open === 0) {
        const source = text.slice(at, i + 1);
        return this.until(at, i + 1, this.typeset(source, source, false));
      }
    }
    return null;
  }

  code(at, ticks) {
    const begin = at + ticks.length;
    if (ticks.length > MOST_TICKS) return null;
    let close = this.next(ticks, begin);
    while (close >= 0 && this.text[close + ticks.length] === "`") {
      let behind = close;
      while (this.text[behind] === "`") behind += 1;
      close = this.next(ticks, behind);
    }
    if (close < 0) return null;
    const inside = this.text.slice(begin, close).replace(/^ (.*[^ ].*) $/s, "$1");
    return this.until(at, close + ticks.length, el("code", null, inside));
  }

  escape(at) {
    this.until(at, at + 1);
    return at + 2;
  }

  emphasis(at, told) {
    const { text, frames } = this;
    const isTriple = told === "**" && text[at + 2] === "*" && frames.at(-1).mark === "*";
    const mark = isTriple ? "*" : told;
    const [before, after] = [text[at - 1] ?? " ", text[at + mark.length] ?? " "];
    const isOpen = frames.some((frame) => frame.mark === mark); // there are no more frames than marks
    if (isOpen && !SPACE.test(before) && !WORD.test(after)) {
      this.until(at, at + mark.length);
      while (frames.at(-1).mark !== mark) this.unwind();
      const { nodes } = frames.pop();
      frames.at(-1).nodes.push(grown(EMPHASIS[mark], null, nodes));
    } else if (!isOpen && !SPACE.test(after) && !WORD.test(before)) {
      this.until(at, at + mark.length);
      frames.push({ mark, nodes: [] });
    }
    return at + mark.length;
  }

  // A mark that nothing closes is only text.
  unwind() {
    const { mark, nodes } = this.frames.pop();
    const here = this.frames.at(-1).nodes;
    here.push(mark);
    for (const node of nodes) here.push(node);
  }
}

// `el` for any number of children.
function grown(name, props, nodes) {
  const node = el(name, props);
  for (const child of nodes) node.append(child);
  return node;
}
