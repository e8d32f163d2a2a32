// Answer classes: every different answer of a run gets a letter, frequent ones also a colour.

const NUM_TONES = 8;

function letterOf(index) {
  const last = String.fromCharCode(65 + (index % 26));
  return index < 26 ? last : letterOf(Math.floor(index / 26) - 1) + last;
}

// Letters follow the order in which answers came, so they never change while a run is watched. A
// colour goes to an answer that was given twice, or won; the others stay grey.
function classesOf(candidates, finalAnswers = []) {
  const came = candidates
    .filter((c) => c.answer !== null && c.answer !== undefined)
    .sort((a, b) => (a.ended_s ?? 0) - (b.ended_s ?? 0) || a.stage - b.stage || a.slot - b.slot);
  const known = new Map();
  let tones = 0;
  const colour = (found) => {
    if (found.tone === 0 && tones < NUM_TONES) found.tone = ++tones;
  };
  for (const { answer } of came) {
    let found = known.get(answer);
    if (!found) {
      found = { answer, letter: letterOf(known.size), tone: 0, votes: 0 };
      known.set(answer, found);
    }
    found.votes += 1;
    if (found.votes === 2) colour(found);
  }
  for (const answer of finalAnswers) {
    const found = known.get(answer);
    if (!found) continue;
    colour(found);
    if (found.tone === 0) found.tone = NUM_TONES;
  }
  return known;
}

function toneName(found) {
  return found ? `tone${found.tone}` : "tone-none";
}

function chip(found, title) {
  return el("span", { class: `chip ${toneName(found)}`, title }, found ? found.letter : "\u2013");
}

// What a stage's candidates say, counted: classes by votes, then those without an answer.
function tally(candidates, classes) {
  const votes = new Map();
  const rest = { unfinished: 0, silent: 0, failed: 0, open: 0 };
  for (const c of candidates) {
    if (c.answer !== null && c.answer !== undefined) votes.set(c.answer, (votes.get(c.answer) || 0) + 1);
    else if (c.state === "failed") rest.failed += 1;
    else if (c.state !== "done" && c.state !== "cut") rest.open += 1;
    else if (c.is_finished) rest.silent += 1;
    else rest.unfinished += 1;
  }
  const rows = [...votes].map(([answer, n]) => ({ ...classes.get(answer), answer, votes: n }));
  rows.sort((a, b) => b.votes - a.votes || a.letter.length - b.letter.length || (a.letter < b.letter ? -1 : 1));
  const total = rows.reduce((sum, r) => sum + r.votes, 0);
  const entropy = rows.reduce((sum, r) => sum - (r.votes / total) * Math.log2(r.votes / total), 0);
  return { rows, rest, total, entropy: Math.abs(entropy) };
}
