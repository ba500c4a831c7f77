// One access in full: register and bits, instruction, call chain, plan.

async function detail(accesses, i, { goTo, filter, audit, doorbells, foretold }) {
  const { shapes, chains } = accesses;
  const s = accesses.shape[i];
  const told = toldOf(accesses, i);
  const site = accesses.siteOf(i);
  const [changes, further] = [
    (await accesses.part("changed", i)) || {}, (await accesses.part("further", i)) || {},
  ];
  await accesses.ready([...Object.keys(accesses.registers.values)].map((name) => `$${name}`));
  const named = shapes.named[s] < 0 ? null : accesses.names[shapes.named[s]];
  return [
    heading(accesses, i, told, named),
    actions(accesses, i, told, { goTo, filter }),
    named ? fieldTable(accesses, i, named) : null,
    ...(doorbells.get(accesses.seq[i]) || []).map(doorbell),
    facts(accesses, i, site, further),
    made("h3", {}, "Call chain"),
    accesses.chain[i]
      ? chainOf(chained(site.symbol || site.rip, chains[accesses.chain[i] - 1]))
      : made("p", { className: "soft" },
          "not recorded: `vetrace boot --stacks` records it"),
    ...plan(accesses, i, site, changes, further, { audit, foretold }),
  ].filter(Boolean);
}

const WAYS = { read: "read", write: "written", unknown: "read or written" };

function heading(accesses, i, told, named) {
  const { shapes, shape } = accesses;
  const s = shape[i];
  const described = named ? named.registers.map(([, , text]) => text).filter(Boolean) : [];
  const width = shapes.width[s];
  const breach = named && BREACHES[`${named.right} ${told.direction}`];
  return made("div", {},
    made("h2", {}, `${told.place} ${told.register}`.trim()),
    described.length ? made("p", { className: "soft" }, described.join("; ")) : null,
    made("p", {}, made("span", { className: "value" }, told.value),
      ` ${WAYS[told.direction]}${width ? `, ${plural(Number(width), "byte")}` : ""}`,
      told.touch ? made("strong", {}, told.touch) : null),
    breach ? made("p", { className: "bad" }, `The register is ${breach}.`) : null);
}

const BREACHES = { "ro write": "read-only", "wo read": "write-only" };

function actions(accesses, i, told, { goTo, filter }) {
  const button = (text, title, act, disabled = false) => {
    const made_ = made("button", { type: "button", title, disabled }, text);
    made_.addEventListener("click", act);
    return made_;
  };
  const [before, after] = [neighbour(accesses, i, -1), neighbour(accesses, i, 1)];
  const region = accesses.regionOf(i);
  const what = told.register
    ? `region == ${quoted(region)} and register == ${quoted(told.register)}`
    : `region == ${quoted(region)} and offset == ${hex(accesses.shapes.offset[accesses.shape[i]] ?? 0n)}`;
  const name = accesses.siteOf(i).function;
  return made("div", { className: "actions" },
    button("← before ([)", "The access before this one to the same place", () =>
      goTo(before), before < 0),
    button("after → (])", "The access after this one to the same place", () =>
      goTo(after), after < 0),
    button("only this register", "Show accesses to it alone", () => filter(what)),
    name ? button("only this function", "Show accesses that it makes alone", () =>
      filter(`function == ${quoted(name)}`)) : null);
}

// The nearest access to the same place, whatever is shown.
function neighbour(accesses, i, step) {
  const { shapes, shape, count: number } = accesses;
  const same = (one, other) =>
    shapes.region[one] === shapes.region[other] && shapes.offset[one] === shapes.offset[other];
  for (let at = i + step; at >= 0 && at < number; at += step)
    if (same(shape[at], shape[i])) return at;
  return -1;
}

function fieldTable(accesses, i, named) {
  const value = accesses.valueOf(i);
  if (value === null || !named.fields.length) return null;
  const before = neighbour(accesses, i, -1);
  const old = before < 0 || accesses.registerOf(accesses.shape[before]) !== named.text
    ? null : accesses.valueOf(before);
  const olds = old === null ? null : fieldsOf(named, old);
  const rows = fieldsOf(named, value).map(([name, number, meaning, bits, description, at], n) =>
    made("tr", { className: number ? "" : "is-zero" },
      made("td", {}, bits > 1 ? `${at + bits - 1}:${at}` : String(at)),
      made("td", {}, name),
      made("td", {}, shownNumber(number) + (meaning === null ? "" : ` ${meaning}`)),
      made("td", {}, olds && olds[n][1] !== number ? `was ${olds[n][2] ?? shownNumber(olds[n][1])}` : ""),
      made("td", {}, description)));
  return made("div", { className: "wide" }, made("h3", {}, "Bits"),
    made("table", { className: "fields" },
      made("thead", {}, made("tr", {},
        ["bits", "field", "value", "before", ""].map((head) => made("th", { scope: "col" }, head)))),
      made("tbody", {}, rows.reverse())));
}

const shownNumber = (number) => (number < 10n ? String(number) : hex(number));

function pairs(rows) {
  return made("table", { className: "pairs" }, made("tbody", {},
    rows.filter(([, text]) => text).map(([name, text]) =>
      made("tr", {}, made("th", { scope: "row" }, name), made("td", {}, text)))));
}

function facts(accesses, i, site, further) {
  const { shapes, shape } = accesses;
  const s = shape[i];
  const memory = shapes.space[s] === "memory";
  const device = accesses.peculiar[i]?.device;
  const named = shapes.named[s] < 0 ? null : accesses.names[shapes.named[s]];
  return made("div", {}, made("h3", {}, "Access"), pairs([
    ["number", count(accesses.seq[i])],
    ["time", `${seconds(accesses.time[i])} s`],
    ["phase", accesses.phase[i] ? accesses.phases[accesses.phase[i] - 1] : ""],
    ["mark", accesses.marker[i]],
    ["vCPU", String(shapes.vcpu[s])],
    ["sent by", [...shapes.cause[s], ...shapes.source[s]].join(" or ")],
    ["carried out", VIA[shapes.via[s]]],
    ["physical", memory ? hex(shapes.physical[s]) : ""],
    ["linear", memory ? hex(shapes.linear[s]) : ""],
    ["the device had", device],
    ["specified", named ? named.registers.map((each) => each[3]).filter(Boolean).join("; ") : ""],
    ["note", further.note],
  ]));
}

const VIA = {
  emulated: "emulated", stepped: "by the vCPU, in a native step", compiled: "at a compiled site",
  guest: "asked for by the guest's own handler", monitor: "by the monitor the guest runs inside",
};

// A chain that was recorded begins with the call site itself.
const chained = (site, chain) => (chain[0] === site ? chain : [site, ...chain]);

const chainOf = (sites) =>
  made("ol", { className: "chain" }, sites.map((each) => made("li", {}, each)));

// What the instruction did: operands, accesses in order, registers, and what handlers make of it.
function plan(accesses, i, site, changes, further, { audit, foretold }) {
  const registers = { ...further.before };
  for (const name of Object.keys(accesses.registers.values)) {
    const value = accesses.register(name, i);
    if (value !== null) registers[name] = hex(value);
  }
  const parts = [made("h3", {}, "Plan")];
  if (site.text)
    parts.push(made("p", {}, made("code", {}, site.text)),
      made("p", { className: "soft mono" }, `${site.code} at ${site.rip}`));
  else parts.push(made("p", { className: "soft" }, "The log that it is from has no instruction."));
  const used = usedRegisters(site.text, accesses).filter((name) => name in registers);
  const changed = Object.keys(changes);
  const names = [...new Set([...used, ...changed])];
  if (names.length)
    parts.push(made("div", { className: "wide" }, made("table", { className: "registers" },
      made("thead", {}, made("tr", {}, ["register", "before", "after"].map((head) =>
        made("th", { scope: "col" }, head)))),
      made("tbody", {}, names.map((name) => made("tr", {}, made("td", {}, name),
        made("td", {}, registers[name] ?? ""), made("td", {}, changes[name] ?? "")))))));
  if (further.accesses) {
    parts.push(made("h3", {}, "All accesses of the instruction"));
    parts.push(made("ol", { className: "chain" }, further.accesses.map((each) => {
      const offset = each.offset === null ? null : BigInt(each.offset);
      const where = each.region === null ? `RAM at ${each.physical}`
        : placeOf(each.space, each.region, offset, null, BigInt(each.physical));
      const value = padded(each.value === null ? null : BigInt(each.value), each.width);
      return made("li", {}, `${short(each.direction, each.width)} ${where} ${value}`);
    })));
  }
  if (further.given) {
    const told = (of) => Object.entries(of).map(([name, value]) => `${name}=${value}`).join(" ");
    const same = further.agrees === false ? "not what the instruction says" : "";
    parts.push(made("h3", {}, "Asked by the guest"), pairs([
      ["given", told(further.given)], ["returned", told(further.returned)],
    ]));
    if (same) parts.push(made("p", { className: "bad" }, same));
  }
  const row = audit.rows.get(`${site.rip} ${site.code}`);
  const call = further.given ? null : hypercall(accesses, i, foretold);
  if (row || call) parts.push(made("h3", {}, "In a confidential guest"));
  if (call) parts.push(call);
  if (row) {
    const agreed = new Map();
    row.verdicts.forEach((verdict, n) => {
      const key = verdict.join("\n");
      agreed.set(key, [...(agreed.get(key) || []), audit.profiles[n].name]);
    });
    parts.push(...[...agreed].map(([key, profiles]) => {
      const [outcome, reason, note] = key.split("\n");
      return made("p", {}, made("strong", { className: outcome === "oops" ? "bad" : "good" }, outcome),
        ` ${profiles.join(", ")}: ${reason}${note ? `; but ${note}` : ""}`);
    }));
  }
  return parts;
}

// What a TDX guest would ask its host for in the access's place, null where it cannot.
function hypercall(accesses, i, foretold) {
  const { shapes, shape } = accesses;
  const s = shape[i];
  const value = accesses.valueOf(i);
  if (!shapes.asks[s] || value === null || value >> (8n * shapes.width[s])) return null;
  const parts = { width: shapes.width[s], physical: shapes.physical[s], value };
  const told = (side) => Object.entries(foretold[shapes.direction[s]][side])
    .map(([name, [number, ...more]]) =>
      `${name}=${hex(more.reduce((sum, part) => sum | parts[part], BigInt(number)))}`).join(" ");
  return made("div", {}, made("p", {}, "A TDX guest would ask its host for it by TDG.VP.VMCALL:"),
    pairs([["given", told("given")], ["returned", told("returned")]]));
}

// What a doorbell told its device, or what that was done with: the entries of a queue in RAM.
function doorbell(told) {
  return made("div", { className: "wide" },
    made("h3", {}, `Queue ${told.queue}[${told.number}]`),
    told.entries.length ? entryTable(told.entries) : null,
    ...queueNotes(told).map((text) => made("p", { className: "soft" }, text)));
}

const entryTable = (entries) => made("table", { className: "entries" },
  made("thead", {}, made("tr", {}, ["entry", "physical", "what it says"].map((head) =>
    made("th", { scope: "col" }, head)))),
  made("tbody", {}, entries.map((entry) => made("tr", { title: fieldsTold(entry) },
    made("td", {}, entryName(entry)), made("td", {}, entry.address),
    made("td", {}, entry.text || entry.bytes)))));

const entryName = ({ kind, index, chain }) =>
  `${kind} ${index}${chain === null ? "" : ` of chain ${chain}`}`;
const fieldsTold = ({ fields }) =>
  printable(Object.entries(fields).map(([name, number]) => `${name}=${number}`).join(" "));

const queueNotes = ({ entries, late, note }) => [
  late ? "Read after the guest had gone on: entries may be others by then." : "",
  note || (entries.length ? "" : "No entry."),
].filter(Boolean);

// The registers that an instruction's text names, in full.
function usedRegisters(text, accesses) {
  const known = accesses.parts;
  const found = new Set();
  for (const [word] of text.matchAll(/[a-z][a-z0-9]*/g))
    if (Object.hasOwn(known, word)) found.add(known[word][0]);
  return [...found].filter((name) => name !== "rip");
}
