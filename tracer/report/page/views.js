// The views beside the list: waits, queues, phases, statistics, registers, audit, difference.

function waitsView(box, { waits, filter, goToSeq }) {
  box.append(made("h2", {}, "What code waited for"));
  if (!waits.length) {
    box.append(made("p", { className: "soft" },
      "No loop is known to wait for what it reads. What is read again and again is looked at as the guest runs."));
    return;
  }
  const last = waits.filter((row) => row.goes_on);
  if (last.length)
    box.append(made("p", { className: "bad" }, `At its end the guest still waited for ${
      last.map((row) => `${row.region} ${row.register ?? row.offset}`).join(", ")}.`));
  const name = (row) => row.register || `+${row.offset}`;
  const lasted = (row) => row.until_ns - row.since_ns;
  box.append(table([
    ["from", (row) => link(seconds(row.since_ns), () => goToSeq(row.first)), (row) => row.since_ns],
    ["lasted", (row) => duration(lasted(row)), lasted],
    ["reads", (row) => count(row.turns), (row) => row.turns],
    ["of", (row) => link(`${row.region} ${name(row)}`, () => filter(row.register
      ? `region == ${quoted(row.region)} and register == ${quoted(row.register)}`
      : `region == ${quoted(row.region)} and offset == ${row.offset}`)), name],
    ["until", (row) => row.until, (row) => row.until],
    ["loop", (row) => row.loop || row.site, (row) => row.loop || row.site],
    ["gives up", (row) => row.ends, (row) => row.ends],
    ["last read", (row) => link(row.value === null ? "?" : padded(BigInt(row.value), row.width),
      () => goToSeq(row.last)), (row) => row.value ?? ""],
  ], waits, { classOf: (row) => (row.goes_on ? "goes-on" : "") }));
}

// What doorbells told devices, and those were done with; a name leads to its access.
function queuesView(box, { queues, goToSeq }) {
  box.append(made("h2", {}, "What doorbells told their devices, and what those were done with"));
  box.append(table([
    ["time", (row) => link(seconds(row.time_ns), () => goToSeq(row.seq)), (row) => row.time_ns],
    ["queue", (row) => `${row.queue}[${row.number}]`, (row) => `${row.queue}[${row.number}]`],
    ["entries", (row) => count(row.entries.length), (row) => row.entries.length],
    ["what they say", (row) => made("div", {},
      ...row.entries.map((entry) => made("div", { title: fieldsTold(entry) },
        made("span", { className: "soft" }, `${entryName(entry)} `), entry.text || entry.bytes)),
      ...queueNotes(row).map((text) => made("div", { className: "soft" }, text))),
    (row) => row.entries.map((entry) => entry.text || entry.bytes).join()],
  ], queues));
}

function phasesView(box, { accesses, filter }) {
  const rows = new Map();
  for (let i = 0; i < accesses.count; i++) {
    const name = accesses.phase[i] ? accesses.phases[accesses.phase[i] - 1] : "";
    let row = rows.get(name);
    if (!row) rows.set(name, (row = {
      name, number: 0, from: accesses.time[i], to: accesses.time[i], regions: new Map(),
    }));
    row.number++;
    row.from = Math.min(row.from, accesses.time[i]);
    row.to = Math.max(row.to, accesses.time[i]);
    const region = accesses.regionOf(i);
    row.regions.set(region, (row.regions.get(region) || 0) + 1);
  }
  box.append(made("h2", {}, "Phases of the run"));
  const marks = accesses.marks.filter(([, , kind]) => kind === 1);
  box.append(table([
    ["phase", (row) => link(row.name || "(not known)", () => filter(`phase == ${quoted(row.name)}`)), (row) => row.name],
    ["from", (row) => seconds(row.from), (row) => row.from],
    ["to", (row) => seconds(row.to), (row) => row.to],
    ["accesses", (row) => count(row.number), (row) => row.number],
    ["regions", (row) => [...row.regions].sort((a, b) => b[1] - a[1])
      .map(([name, number]) => `${name} ${count(number)}`).join(", "), (row) => [...row.regions.keys()].join()],
  ], [...rows.values()]));
  if (marks.length) {
    box.append(made("h2", {}, "Marks"));
    box.append(table([
      ["time", ([, , , ns]) => seconds(ns), ([, , , ns]) => ns],
      ["mark", ([, text]) => link(text, () => filter(`mark == ${quoted(text)}`)), ([, text]) => text],
    ], marks));
  }
}

function link(text, act) {
  const button = made("button", { type: "button", className: "link" }, text);
  button.addEventListener("click", act);
  return button;
}

function statisticsView(box, { statistics, accesses, filter }) {
  const numeric = (head, member) => [head, (row) => count(row[member]), (row) => row[member]];
  const region = ["region", (row) => link(row.region, () => filter(`region == ${quoted(row.region)}`)), (row) => row.region];
  const busy = [...statistics.regions].sort(
    (a, b) => b.reads + b.writes + b.unknown - a.reads - a.writes - a.unknown);
  box.append(made("h2", {}, "Regions"));
  const ways = ["reads", "writes", "unknown", "emulated", "compiled", "stepped", "guest", "monitor"];
  const some = ways.filter((way, n) => n < 2 || statistics.regions.some((row) => row[way]));
  box.append(table([region, ...some.map((way) => [way, (row) => count(row[way] || 0), (row) => row[way] || 0]),
    numeric("call sites", "call_sites")], busy));
  box.append(made("h2", {}, "Registers"));
  box.append(table([
    region,
    ["offset", (row) => row.offset, (row) => Number(row.offset) || 0],
    ["register", (row) => row.register
      ? link(row.register, () => filter(`region == ${quoted(row.region)} and register == ${quoted(row.register)}`))
      : "", (row) => row.register || ""],
    numeric("accesses", "accesses"),
    ["against its access right", (row) => (row.breaches ? count(row.breaches) : ""), (row) => row.breaches],
  ], statistics.registers));
  box.append(made("h2", {}, "Call sites"));
  box.append(table([
    ["call site", (row) => /^0x/.test(row.site) ? row.site
      : link(row.site, () => filter(`symbol == ${quoted(bareSite(row.site))}`)), (row) => row.site],
    region, numeric("accesses", "accesses"),
  ], statistics.call_sites));
  box.append(made("h2", {}, "Instruction forms"));
  box.append(table([
    ["form", (row) => row.form, (row) => row.form],
    ["carried out", (row) => row.via, (row) => row.via],
    numeric("intercepts", "intercepts"),
  ], statistics.forms));
  for (const [title, member] of [["Calls of the guest", "calls"], ["RAM that it shares", "shared"]]) {
    const rows = Object.entries(statistics[member]);
    if (!rows.length) continue;
    box.append(made("h2", {}, title));
    box.append(table([["call", ([name]) => name, ([name]) => name],
      ["times", ([, number]) => count(number), ([, number]) => number]], rows));
  }
}

// What the driver never touched, beside what it did.
function registersView(box, { coverage, filter, goToSeq }) {
  const only = made("input", { type: "checkbox", id: "untouched" });
  box.append(made("h2", {}, "Registers that the maps name"),
    made("p", {}, only, made("label", { htmlFor: "untouched" }, " only those never accessed")));
  if (!coverage.length)
    box.append(made("p", { className: "soft" }, "No map names the registers of these regions."));
  const place = made("div");
  box.append(place);
  const accessed = (row) => row.reads + row.writes + row.unknown;
  const fill = () => {
    place.replaceChildren(...coverage.map((each) => {
      const touched = each.registers.filter(accessed).length;
      const rows = only.checked ? each.registers.filter((row) => !accessed(row)) : each.registers;
      const head = `${each.region}: ${count(touched)} of ${plural(each.registers.length, "register")} accessed`;
      return made("details", { open: coverage.length < 4 || touched > 0 },
        made("summary", {}, made("strong", {}, head), made("span", { className: "soft" },
          ` ${each.title}${each.specification ? `, ${each.specification}` : ""}`)),
        table([
          ["register", (row) => accessed(row)
            ? link(row.name, () => goToSeq(row.first)) : row.name, (row) => row.name],
          ["place", (row) => row.place, (row) => parseInt(row.place.slice(1), 16)],
          ["bytes", (row) => String(row.width), (row) => row.width],
          ["access", (row) => row.access, (row) => row.access],
          ["reads", (row) => count(row.reads), (row) => row.reads],
          ["writes", (row) => count(row.writes), (row) => row.writes],
          ["what it is", (row) => row.description, (row) => row.description],
        ], rows, { classOf: (row) => (accessed(row) ? "" : "none") }));
    }));
  };
  only.addEventListener("change", fill);
  fill();
}

function auditView(box, { audit, filter }) {
  box.append(made("h2", {}, "In a confidential guest"));
  box.append(made("p", { className: "soft" },
    "What the handlers of these kernels would make of each instruction that accesses a device."));
  box.append(made("ul", {}, audit.profiles.map((profile) => made("li", {},
    made("strong", {}, profile.name), ` (${profile.kernels}): `,
    profile.exits
      ? made("span", { className: profile.fatal ? "bad" : "good" }, profile.fatal
          ? `${plural(profile.fatal, "call site")} would oops` : "no call site would oops")
      : "no exit",
    profile.exits ? `, ${plural(profile.exits, "exit")}` : "",
    profile.unjudged ? `, ${count(profile.unjudged)} not judged, as their instructions are not known` : ""))));
  box.append(table([
    ["exits", (row) => count(row.exits), (row) => row.exits],
    ["call site", (row) => row.function
      ? link(`${row.function}+${row.offset}${row.module ? ` [${row.module}]` : ""}`,
          () => filter(`symbol == ${quoted(`${row.function}+${row.offset}`)}`))
      : link(row.rip, () => filter(`$rip == ${row.rip}`)), (row) => row.function || row.rip],
    ["instruction", (row) => row.text, (row) => row.text],
    ["regions", (row) => row.regions.join(", "), (row) => row.regions.join()],
    ...audit.profiles.map((profile, n) => [profile.name, (row) => {
      const [outcome, reason, note] = row.verdicts[n];
      return made("span", { className: outcome === "oops" ? "bad" : "", title: printable(note || reason) },
        outcome + (note ? " *" : ""));
    }, (row) => row.verdicts[n][0]]),
  ], audit.sites));
  const noted = new Set();
  for (const row of audit.sites)
    for (const [outcome, reason, note] of row.verdicts)
      if (outcome === "oops" || note)
        noted.add(`${row.function ? `${row.function}+${row.offset}` : row.rip}: ${row.text}: ${outcome === "oops" ? reason : note}`);
  box.append(...[...noted].map((text) => made("p", { className: "mono" }, text)));
}

const SIGNS = { same: " ", changed: "~", first: "-", second: "+" };

function differenceView(box, { difference, goToSeq }) {
  const [one, other] = difference.names;
  const differs = (each) => each.changed + each.first + each.second > 0;
  const some = difference.regions.filter(differs);
  box.append(made("h2", {}, some.length
    ? `${plural(some.length, "region")} of ${count(difference.regions.length)} differ`
    : "Nothing differs"));
  box.append(made("p", {}, made("span", { className: "bad" }, `- ${one}`), ", ",
    made("span", { className: "good" }, `+ ${other}`), ", aligned by direction, place, width and value."));
  if (difference.left_out)
    box.append(made("p", { className: "soft" },
      `${plural(difference.left_out, "access", "accesses")} that only tell of time left out.`));
  for (const each of [...some, ...difference.regions.filter((one) => !differs(one))]) {
    const body = made("div", { className: "wide diff" });
    const unknown = each.unknown ? `, ${count(each.unknown)} of them of unknown value` : "";
    const head = differs(each)
      ? `${each.region}: ${count(each.changed)} changed, ${count(each.first)} only in the first, ` +
        `${count(each.second)} only in the second, ${count(each.same)} alike${unknown}`
      : `${each.region}: ${count(each.same)} alike${unknown}`;
    const told = made("details", { open: differs(each) }, made("summary", {}, head), body);
    hunks(body, each, goToSeq, difference.names);
    box.append(told);
  }
}

// A few hunks at a time: a trace may differ in every line.
function hunks(body, region, goToSeq, names) {
  const FEW = 20;
  const rows = made("tbody");
  const more = made("button", { type: "button" });
  let done = 0;
  const next = () => {
    for (const hunk of region.hunks.slice(done, done + FEW)) {
      if (rows.childElementCount)
        rows.append(made("tr", {}, made("td", { colSpan: 6, className: "soft" }, "⋯")));
      rows.append(...hunk.map((line) => lineOf(line, goToSeq)));
    }
    done += FEW;
    const left = Math.max(region.hunks.length - done, 0);
    more.hidden = !left;
    more.textContent = `${plural(left, "more place")}`;
  };
  more.addEventListener("click", next);
  next();
  if (!region.hunks.length) return;
  body.append(made("table", {}, made("thead", {}, made("tr", {},
    ["", "how", "place", ...names.map((name) => name.split("/").pop()), "call site"].map((head) =>
      made("th", { scope: "col" }, head)))), rows), more);
  if (region.more)
    body.append(made("p", { className: "soft" },
      `${plural(region.more, "more place")} left out: \`vetrace diff --limit 0\` shows all.`));
}

function lineOf({ kind, sides, fields }, goToSeq) {
  const [first, second] = sides;
  const step = first || second;
  const value = (side) => {
    if (!side) return "";
    const text = side.value + (side.turns > 1 ? ` x${count(side.turns)}` : "") +
      (side.touched ? " (changed by a person)" : "");
    return link(text, () => goToSeq(side.seq, side === first ? 1 : 2));
  };
  return made("tr", { className: kind },
    made("td", {}, SIGNS[kind]), made("td", {}, step.how),
    made("td", {}, `${step.place} ${step.register}`.trim()),
    made("td", {}, value(first)),
    made("td", {}, value(second), fields ? made("div", { className: "soft" }, fields) : null),
    made("td", {}, `${step.site} #${count(step.seq)}`));
}
