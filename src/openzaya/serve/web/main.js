// The frame: navigation, theme, key, shortcuts, and which view the address means.

const THEME = "openzaya.theme";
const THEMES = ["auto", "light", "dark"];

function unescaped(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // typed or cut by hand
  }
}

// One dialog at a time; null when it is dismissed.
let askedForKey = null;

function askForKey(reason) {
  askedForKey ||= new Promise((resolve) => {
    const had = inTab.getItem(KEY_NAME);
    const input = el("input", { type: "password", id: "key", autocomplete: "off", required: true });
    const dialog = el("dialog", { class: "key-dialog", "aria-labelledby": "key-title" },
      el("form", { method: "dialog" },
        el("h2", { id: "key-title" }, "API key"),
        el("p", null, had ? "The server refused the key." : "This server wants a key.", " It is kept for this tab only."),
        reason ? el("p", { class: "quiet" }, clip(reason, 200)) : null,
        el("label", { for: "key" }, "Key"), input,
        el("div", { class: "send-row" }, el("button", { value: "use", class: "primary" }, "Use this key"), el("button", { value: "no", formnovalidate: true }, "Not now"))));
    dialog.addEventListener("close", () => {
      const isGiven = dialog.returnValue === "use" && input.value.trim() !== "";
      if (isGiven) inTab.setItem(KEY_NAME, input.value.trim());
      dialog.remove();
      askedForKey = null;
      resolve(isGiven);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
  return askedForKey;
}

const app = {
  view: null,
  draft: "",
  main: el("main", { id: "main", tabindex: "-1" }),

  start() {
    document.body.append(this.header(), this.main, this.help());
    this.setTheme(inBrowser.getItem(THEME) || "auto");
    addEventListener("hashchange", () => this.show());
    document.addEventListener("keydown", (event) => this.onKey(event));
    this.show();
  },

  header() {
    const link = (href, name) => el("a", { href, "data-nav": name.toLowerCase() }, name);
    this.themeButton = el("button", { type: "button", class: "icon-text", onclick: () => this.nextTheme() });
    return el("header", { class: "top" },
      el("a", { class: "skip", href: "#main", onclick: (event) => { event.preventDefault(); this.main.focus(); } }, "Skip to the content"),
      el("a", { class: "brand", href: RECORDED ? "#/run" : "#/" }, svg("svg", { width: 18, height: 18, viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: "M3 3 8 8 13 8M3 8H13M3 13 8 8" }), svg("circle", { cx: 13, cy: 8, r: 2.5 })), "openzaya"),
      el("nav", { "aria-label": "Pages" }, RECORDED ? el("span", { class: "quiet" }, "one recorded run") : [link("#/", "Ask"), link("#/runs", "Runs")]),
      el("span", { class: "spacer" }),
      el("button", { type: "button", class: "icon-text", "aria-label": "Keyboard shortcuts", title: "Keyboard shortcuts (?)", onclick: () => this.helpDialog.showModal() }, "?"),
      this.themeButton);
  },

  help() {
    const rows = [["Ctrl Enter", "send the question"], ["Arrow keys", "walk through the traces, in the graph and in the drawer"], ["Enter", "open the trace"], ["Escape", "close the drawer"], ["a", "ask"], ["r", "list of runs"], ["/", "search the runs"], ["f", "formulas and tables, or the text as written"], ["t", "light, dark, or as the system"], ["?", "this help"]];
    this.helpDialog = el("dialog", { "aria-labelledby": "help-title" }, el("form", { method: "dialog" },
      el("h2", { id: "help-title" }, "Keys"), el("dl", { class: "keys" }, rows.map(([keys, what]) => el("div", null, el("dt", null, keys.split(" ").length === 2 && keys.startsWith("Ctrl") ? keys.split(" ").map((k) => el("kbd", null, k)) : el("kbd", null, keys)), el("dd", null, what)))), el("button", null, "Close")));
    return this.helpDialog;
  },

  setTheme(theme) {
    this.theme = THEMES.includes(theme) ? theme : "auto";
    document.documentElement.dataset.theme = this.theme;
    inBrowser.setItem(THEME, this.theme);
    const next = THEMES[(THEMES.indexOf(this.theme) + 1) % THEMES.length];
    setText(this.themeButton, { auto: "\u25d0 Auto", light: "\u25cb Light", dark: "\u25cf Dark" }[this.theme]);
    this.themeButton.setAttribute("aria-label", `Theme: ${this.theme}. Change to ${next}`);
  },

  toggleTypesetting() {
    typesetting.toggle();
    this.view.retype?.();
  },

  nextTheme() {
    this.setTheme(THEMES[(THEMES.indexOf(this.theme) + 1) % THEMES.length]);
  },

  setHash(hash) {
    if (location.hash !== hash) history.replaceState(null, "", hash);
  },

  route() {
    if (RECORDED) return { view: new RunView(RECORDED.run.run.id), nav: "", title: "run" };
    const [path, query] = location.hash.replace(/^#/, "").split("?");
    const [first, ...rest] = path.split("/").filter(Boolean).map(unescaped);
    const params = new URLSearchParams(query || "");
    if (first === "runs" && rest.length >= 3) return { view: new RunView(rest[0]), nav: "runs", title: "run", at: [Number(rest[1]), Number(rest[2])] };
    if (first === "runs" && rest.length) return { view: new RunView(rest[0]), nav: "runs", title: "run" };
    if (first === "runs") return { view: new RunsView(params), nav: "runs", title: "runs" };
    if (first === "compare" && rest.length === 2) return { view: new CompareView(...rest), nav: "runs", title: "two runs" };
    return { view: new AskView(), nav: "ask", title: "ask" };
  },

  show() {
    this.view?.close();
    const { view, nav, title, at = [] } = this.route();
    this.view = view;
    document.title = `${title} \u00b7 openzaya`;
    for (const link of document.querySelectorAll("[data-nav]")) {
      if (link.dataset.nav === nav) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    fill(this.main, view.node);
    view.start(...at).then(() => this.refreshTitle(view));
  },

  refreshTitle(view) {
    const run = view === this.view && view.model?.run;
    if (run) document.title = `${run.state === "running" ? "\u25b6 " : ""}${clip(run.question || run.id, 50)} \u00b7 openzaya`;
  },

  onKey(event) {
    const isTyping = event.target.closest?.("input:not([type=radio]):not([type=checkbox]), textarea, select, dialog");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && this.view.drawer?.isOpen) this.view.drawer.close();
    else if (event.key === "?") this.helpDialog.showModal();
    else if (event.key === "t") this.nextTheme();
    else if (event.key === "f") this.toggleTypesetting();
    else if (RECORDED) return;
    else if (event.key === "a") location.hash = "#/";
    else if (event.key === "r") location.hash = "#/runs";
    else if (event.key === "/" ) {
      location.hash = "#/runs";
      setTimeout(() => document.getElementById("search")?.focus());
    } else return;
    event.preventDefault();
  },
};

app.start();
