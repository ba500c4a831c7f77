// What is shown: texts of a trace are text, and never markup.

// A character that would not show, or turn the line around, is told by its number.
function printable(text) {
  return String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (sign) => {
    const number = sign.codePointAt(0).toString(16);
    return number.length < 3 ? `\\x${number.padStart(2, "0")}` : `\\u{${number}}`;
  });
}

// Makes an element: `of` are properties, or attributes where these have a dash; children are
// elements or texts.
function made(name, of = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(of)) {
    if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  for (const child of children.flat())
    if (child !== null && child !== undefined)
      element.append(child instanceof Node ? child : printable(child));
  return element;
}

const count = (number) => Number(number).toLocaleString("en");
const plural = (number, one, several = `${one}s`) =>
  `${count(number)} ${number === 1 ? one : several}`;
const hex = (number) => (number < 0n ? `-0x${(-number).toString(16)}` : `0x${number.toString(16)}`);
const seconds = (ns) => (ns / 1e9).toFixed(6);
const padded = (value, width) =>
  value === null ? "?" : `0x${value.toString(16).padStart(2 * Number(width), "0")}`;

function duration(ns) {
  for (const [unit, scale] of [["s", 1e9], ["ms", 1e6], ["us", 1e3]])
    if (ns >= scale) return `${(ns / scale).toPrecision(3)} ${unit}`;
  return `${ns} ns`;
}

const LETTERS = { read: "R", write: "W" };
const short = (direction, width) => `${LETTERS[direction] || "?"}${width || "?"}`;

// A text as a condition has it.
const quoted = (text) =>
  /^[A-Za-z_][\w.#-]*$/.test(text) ? text : `"${text.replaceAll('"', '""')}"`;

// Where an access is, as tracer/trace/place.py tells it.
function placeOf(space, region, offset, extent, physical) {
  const name = printable(region);
  if (space === "tsc") return "tsc";
  if (offset === null || (space === "msi" && !offset)) return `${name}+?`;
  if (space === "msr") return `msr ${hex(offset / 8n)}`;
  if (space === "cpuid") {
    const number = offset / 16n;
    return `cpuid ${hex(number & 0xffffffffn)}.${number >> 32n}`;
  }
  const last = extent === null ? "" : `..${hex(offset + extent - 1n)}`;
  const told = `${name}+${hex(offset)}${last}`;
  return space === "port" && offset !== physical ? `${told} @${hex(physical)}` : told;
}

// The fields that a value sets: [name, number, the number's name, bits, description].
function fieldsOf(named, value) {
  return named.fields.map(([name, at, bits, description, values]) => {
    const number = (value >> BigInt(at)) & ((1n << BigInt(bits)) - 1n);
    return [name, number, values[String(number)] ?? null, bits, description, at];
  });
}

// A table that can be put in another order. Columns are [head, cell, order], where a cell is a text
// or an element and an order is a number or a text; rows may have a class.
function table(columns, rows, { limit = 200, classOf = () => "" } = {}) {
  const body = made("tbody");
  let [order, sign, most] = [null, 1, limit];
  const more = made("button", { type: "button" });
  // Numbers stand below each other by their last digit.
  const classes = columns.map(([, cell]) =>
    rows.length && /^[\d,]+$/.test(String(cell(rows[0]))) ? "number" : "");
  const heads = columns.map(([head, , by], index) => {
    const button = made("button", { type: "button" }, head);
    const cell = made("th", { scope: "col", className: classes[index] }, button);
    button.addEventListener("click", () => {
      sign = order === index ? -sign : isNumber(by) ? -1 : 1;
      order = index;
      fill();
    });
    return cell;
  });
  function isNumber(by) {
    return rows.length > 0 && typeof by(rows[0]) === "number";
  }
  function fill() {
    const sorted = [...rows];
    if (order !== null) {
      const by = columns[order][2];
      const less = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
      sorted.sort((a, b) => sign * less(by(a), by(b)));
    }
    heads.forEach((head, index) => {
      if (index !== order) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    });
    body.replaceChildren(
      ...sorted.slice(0, most).map((row) =>
        made("tr", { className: classOf(row) }, columns.map(([, cell], index) =>
          made("td", { className: classes[index] }, cell(row)))),
      ),
    );
    more.hidden = rows.length <= most;
    more.textContent = `Show all ${count(rows.length)} rows`;
  }
  more.addEventListener("click", () => {
    most = Infinity;
    fill();
  });
  fill();
  return made("div", { className: "wide" },
    made("table", {}, made("thead", {}, made("tr", {}, heads)), body), more);
}
