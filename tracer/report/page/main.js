// The page: what is typed, clicked and pressed, and where it leads.

const by = (id) => document.getElementById(id);

const VIEWS = [
  ["accesses", "Accesses"], ["phases", "Phases"], ["waits", "Waits"], ["queues", "Queues"],
  ["statistics", "Statistics"], ["registers", "Registers"], ["audit", "Audit"],
  ["difference", "Difference"],
];

async function main() {
  const which = new URLSearchParams(location.hash.slice(1)).get("of") === "2" ? 2 : 1;
  const told = JSON.parse((by(`trace-${which}`) || by("trace-1")).textContent);
  told.difference = by("differences") ? JSON.parse(by("differences").textContent) : null;
  const { language: words, trace } = told;
  const accesses = await Accesses.of(told.accesses);
  Object.assign(accesses, { phaseMark: words.phase, parts: words.registers });
  const audit = {
    ...told.audit, rows: new Map(told.audit.sites.map((row) => [`${row.rip} ${row.code}`, row])),
  };

  if (told.queues) told.queues = await unpackedObject(told.queues);
  const doorbells = new Map();
  for (const each of told.queues || [])
    doorbells.set(each.seq, [...(doorbells.get(each.seq) || []), each]);
  describe(trace, accesses);
  if (told.difference) offer(told.difference.names, which);
  const everything = Uint32Array.from({ length: accesses.count }, (_, i) => i);
  let shown = everything;
  let chosen = -1;

  const list = new List(by("rows"), accesses, (i) => choose(i));
  const lanes = new Lanes(by("plot"), by("ruler"), accesses, {
    onPick: (i) => {
      openView("accesses");
      list.goTo(i);
    },
    onUnder: under,
    onLanes: label,
  });

  async function choose(i) {
    if (i === chosen) return;
    chosen = i;
    lanes.choose(i);
    keep();
    const parts = await detail(accesses, i, {
      goTo, filter, audit, doorbells, foretold: told.foretold,
    });
    if (i === chosen) {
      by("detail").replaceChildren(...parts);
      by("detail").scrollTop = 0;
    }
  }

  // Goes to an access; where the condition leaves it out, that is taken away.
  function goTo(i) {
    openView("accesses");
    if (list.goTo(i)) return;
    by("condition").value = "";
    apply("");
    list.goTo(i);
  }

  function goToSeq(seq, of = which) {
    if (of !== which) return turnTo(of, seq);
    const i = accesses.seq.indexOf(seq);
    if (i >= 0) goTo(i);
  }

  function filter(text) {
    by("condition").value = text;
    openView("accesses");
    return apply(text);
  }

  // --- The condition --------------------------------------------------------------------------

  async function matching(text) {
    const condition = parseCondition(text, words, accesses);
    await accesses.ready(condition.names);
    const found = [];
    const possible = [];
    for (let i = 0; i < accesses.count; i++) {
      const region = accesses.shapes.region[accesses.shape[i]];
      possible[region] ??= condition.canBeIn(i);
      try {
        if (possible[region] && condition.holds(i)) found.push(i);
      } catch (reason) {
        if (reason instanceof Refusal) reason.message = `access ${accesses.seq[i]}: ${reason.message}`;
        throw reason;
      }
    }
    return { condition, found: Uint32Array.from(found) };
  }

  let turn = 0;
  async function apply(text) {
    const mine = ++turn;
    let [found, wrong] = [everything, ""];
    if (text.trim()) {
      try {
        const made_ = await matching(text);
        found = made_.found;
        if (!found.length) wrong = unknownName(made_.condition, accesses);
      } catch (reason) {
        if (!(reason instanceof Refusal)) throw reason;
        found = null;
        wrong = `${reason.message}\n${reason.text}\n${" ".repeat(reason.column - 1)}^`;
      }
    }
    if (mine !== turn) return;
    by("wrong").hidden = !wrong;
    by("wrong").textContent = printableLines(wrong);
    by("condition").setAttribute("aria-invalid", String(found === null));
    if (found === null) return; // what was shown stays
    shown = found;
    by("shown").textContent = shown.length === accesses.count
      ? plural(shown.length, "access", "accesses")
      : `${count(shown.length)} of ${count(accesses.count)}`;
    list.show(shown, !text.trim());
    lanes.show(shown);
    keep();
  }

  let typing = 0;
  by("condition").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => apply(by("condition").value), 150);
  });
  by("search").addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(typing);
    apply(by("condition").value);
  });
  by("clear").addEventListener("click", () => filter(""));

  // --- The timeline ---------------------------------------------------------------------------

  function label(regions) {
    by("regions").replaceChildren(...regions.map(({ name }) =>
      made("li", { title: printable(name) }, link(name || "(none)", () =>
        filter(`region == ${quoted(name)}`)))));
  }

  function under(found, x) {
    if (!found) {
      by("under").textContent = Number.isFinite(x) ? `${x.toFixed(6)} s` : "";
      return;
    }
    const { number, bar } = found;
    const told_ = toldOf(accesses, number);
    const phase = accesses.phase[number] ? `, ${accesses.phases[accesses.phase[number] - 1]}` : "";
    const more = bar ? ` ↻ ${count(bar.count)} times in ${duration(bar.to - bar.from)}` : "";
    by("under").textContent = printable(
      `${seconds(told_.time)} ${told_.how} ${told_.place} ${told_.register} ${told_.value}` +
        `${more} ${told_.site}${phase}`);
  }

  by("closer").addEventListener("click", () => lanes.zoom(0.5));
  by("wider").addEventListener("click", () => lanes.zoom(2));
  by("whole").addEventListener("click", () => lanes.all());
  by("within").addEventListener("click", () => {
    const [start, end] = [lanes.range.start, lanes.range.end];
    const ns = (time) => Math.max(Math.round(time * 1e9), 0);
    filter(`time in ${ns(start)}ns..${ns(end)}ns`);
  });
  by("plot").addEventListener("keydown", (event) => {
    const acts = {
      ArrowLeft: () => lanes.pan(-0.2), ArrowRight: () => lanes.pan(0.2),
      "+": () => lanes.zoom(0.5), "=": () => lanes.zoom(0.5), "-": () => lanes.zoom(2),
      0: () => lanes.all(), Home: () => lanes.pan(-1e9), End: () => lanes.pan(1e9),
      Enter: () => next(1), n: () => next(1), p: () => next(-1),
    };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (!Object.hasOwn(acts, event.key)) return;
    acts[event.key]();
    event.preventDefault();
  });

  // The next access that is shown, or the first in the time shown.
  function next(step) {
    const at = lowest(shown, chosen, (i) => i);
    let n = shown[at] === chosen ? at + step : step > 0 ? at : at - 1;
    if (chosen < 0)
      n = Math.max(shown.findIndex((i) => accesses.time[i] / 1e9 >= lanes.range.start), 0);
    if (n >= 0 && n < shown.length) goTo(shown[n]);
  }

  // --- The views ------------------------------------------------------------------------------

  const views = VIEWS.filter(([name]) => !["difference", "queues"].includes(name) || told[name]);
  const filled = new Set(["accesses"]);
  const makers = {
    waits: waitsView, queues: queuesView, phases: phasesView, statistics: statisticsView, registers: registersView, audit: auditView,
    difference: differenceView,
  };
  const context = { ...told, accesses, audit, filter, goToSeq };
  const tabs = views.map(([name, title]) => {
    const tab = made("button", {
      type: "button", role: "tab", id: `tab-${name}`, "aria-controls": name,
    }, title);
    tab.addEventListener("click", () => openView(name));
    return tab;
  });
  by("tabs").append(...tabs);
  by("tabs").addEventListener("keydown", (event) => {
    const at = tabs.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    const tab = tabs[(to + tabs.length) % tabs.length];
    openView(views[tabs.indexOf(tab)][0]);
    tab.focus();
    event.preventDefault();
  });

  let view = "accesses";
  function openView(name) {
    view = name;
    views.forEach(([each], n) => {
      tabs[n].setAttribute("aria-selected", String(each === name));
      tabs[n].tabIndex = each === name ? 0 : -1;
      by(each).hidden = each !== name;
    });
    if (!filled.has(name)) {
      filled.add(name);
      makers[name](by(name), context);
    }
    if (name === "accesses") list.draw();
    keep();
  }

  // --- Keys, colours, and the address -----------------------------------------------------------

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing_ = event.target.matches("input[type=text]");
    if (typing_ && event.key === "Escape") return by("rows").focus();
    if (typing_ || by("keys").open) return;
    if (event.key === "/") by("condition").focus();
    else if (event.key === "?") help();
    else if (event.key === "[" || event.key === "]") {
      const to = chosen < 0 ? -1 : neighbour(accesses, chosen, event.key === "[" ? -1 : 1);
      if (to >= 0) goTo(to);
    } else return;
    event.preventDefault();
  });

  function help() {
    fillHelp(by("keys"), words);
    by("keys").showModal();
  }
  by("help").addEventListener("click", help);

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const remembered_ = () => {
    try {
      return localStorage.getItem("vetrace-theme");
    } catch {
      return null; // a browser may have no memory for files
    }
  };
  function paint(theme = remembered_() || (dark.matches ? "dark" : "light")) {
    document.documentElement.dataset.theme = theme;
    lanes.paint();
  }
  dark.addEventListener("change", () => paint());
  by("theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("vetrace-theme", theme);
    } catch {
      // then it is dark until the page is left
    }
    paint(theme);
  });

  // The address has what is shown, so that a link or a reload leads there again.
  let settled_ = false;
  function keep() {
    if (!settled_) return;
    const state = new URLSearchParams();
    if (which > 1) state.set("of", which);
    if (by("condition").value.trim()) state.set("if", by("condition").value);
    if (view !== "accesses") state.set("view", view);
    if (chosen >= 0) state.set("at", accesses.seq[chosen]);
    history.replaceState(null, "", `#${state}`);
  }
  async function restore() {
    settled_ = false;
    const state = new URLSearchParams(location.hash.slice(1));
    if ((state.get("of") === "2" ? 2 : 1) !== which) return location.reload();
    by("condition").value = state.get("if") || "";
    await apply(by("condition").value);
    const name = state.get("view");
    const at = state.has("at") ? accesses.seq.indexOf(Number(state.get("at"))) : -1;
    if (at >= 0) list.goTo(at);
    openView(views.some(([each]) => each === name) ? name : "accesses");
    settled_ = true;
  }
  addEventListener("hashchange", restore);

  paint();
  await lanes.start();
  by("detail").append(made("p", { className: "soft" },
    "Choose an access: it is told here in full."));
  if (told.difference && !location.hash) location.hash = "view=difference";
  await restore();
  document.documentElement.dataset.ready = "true";
  globalThis.vetrace = { accesses, words, lanes, list, matching, apply, chained, Refusal };
}

// Shows the other trace: all of the page is of one.
function turnTo(of, seq = null) {
  const state = new URLSearchParams(of > 1 ? { of } : {});
  if (seq !== null) state.set("at", seq);
  location.hash = state;
  location.reload();
}

// Lets a reader choose which of two traces the page is of.
function offer(names, which) {
  const choice = made("select", { id: "which" }, names.map((name, n) =>
    made("option", { value: n + 1, selected: n + 1 === which }, name)));
  choice.addEventListener("change", () => turnTo(Number(choice.value)));
  by("title").replaceChildren(made("label", { htmlFor: "which" }, "Accesses of "), choice);
}

function describe(trace, accesses) {
  const name = trace.name.split("/").pop();
  document.title = `${printable(name)} - vetrace`;
  by("title").append(printable(trace.name));
  const { header } = trace;
  const span = accesses.count
    ? `${seconds(accesses.time[accesses.count - 1])} s of guest time` : "no access";
  by("about").append(printable([
    `Linux ${header.kernel}`.trim(), plural(accesses.count, "access", "accesses"),
    plural(accesses.regions.length, "region"), span, trace.outcome,
    trace.condition ? `only: ${trace.condition}` : null,
  ].filter(Boolean).join(" · ")));
  by("about").title = printable(Object.entries(header).filter(([, text]) => text !== "")
    .map(([key, text]) => `${key}: ${text}`).join("; "));
  by("missing").hidden = !trace.missing.length;
  by("missing").textContent = trace.missing.map(printable).join("\n");
}

const printableLines = (text) => text.split("\n").map(printable).join("\n");

// What a condition names that the trace does not have, in words; empty where it has all.
function unknownName({ mentions }, accesses) {
  for (const { fact, sign, word } of mentions) {
    const known = new Set();
    const get = accesses.of(fact);
    let fits = false;
    const named = sign === "is" ? accesses.named(fact, word) : null;
    const glob = sign === "~" ? globbed(word) : null;
    for (let i = 0; i < accesses.count && !fits; i++) {
      const told = get(i);
      if (told === null) continue;
      if (named) fits = named(i);
      for (const text of Array.isArray(told) ? told : [told]) {
        known.add(text);
        fits ||= sign === "==" ? text === word : glob !== null && glob.test(text);
      }
    }
    if (!fits && word !== "") return `no ${fact} here is called ${word}${hint(word, [...known])}`;
  }
  return "";
}

function fillHelp(box, words) {
  const keys = [
    ["/", "the condition"], ["Esc", "from there to the list"],
    ["↑ ↓ j k, Page, Home, End", "in the list"], ["Enter →", "unfold a loop"], ["←", "fold it"],
    ["[ ]", "the access before or after to the same register"],
    ["← → + - 0 n p", "in the timeline: move, zoom, fit, next and previous access"],
    ["← →", "between the views"], ["?", "this"],
  ];
  const close = made("button", { type: "button" }, "Close (Esc)");
  close.addEventListener("click", () => box.close());
  const rows = (of) => made("table", {}, made("tbody", {}, of.map(([name, text]) =>
    made("tr", {}, made("td", {}, name), made("td", {}, text)))));
  box.replaceChildren(
    close, made("h2", { id: "keys-title" }, "Keys"), rows(keys),
    made("h2", {}, "What a condition can ask"),
    made("p", {}, "The language of `vetrace show --if`: docs/conditions.md."),
    rows(Object.entries(words.names).filter(([name]) => name !== "count")
      .map(([name, [, text]]) => [name, text])));
}

main().catch((reason) => {
  by("wrong").hidden = false;
  by("wrong").textContent = `This page failed: ${reason.stack || reason}`;
  document.documentElement.dataset.ready = "failed";
  throw reason;
});
