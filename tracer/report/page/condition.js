// The language of conditions, as tracer/query/condition reads it: typed, compiled to closures.
//
// `words` is what language.py gives, `facts` looks up what is asked about an access: a closure for
// each name. Numbers are BigInts, texts strings, several texts arrays. What is unknown is thrown.

class Refusal extends Error {
  constructor(message, text, column) {
    super(message);
    Object.assign(this, { text, column });
  }
}

const UNKNOWN = { unknown: true };

function asKnown(value) {
  if (value === null || value === undefined) throw UNKNOWN;
  return value;
}

// Python's fnmatchcase: *, ?, [sequences] with ! for "none of them".
function globbed(pattern) {
  let made = "";
  for (let at = 0; at < pattern.length; ) {
    const sign = pattern[at++];
    if (sign === "*") made += ".*";
    else if (sign === "?") made += ".";
    else if (sign !== "[") made += escaped(sign);
    else {
      let end = at;
      if (pattern[end] === "!") end++;
      if (pattern[end] === "]") end++;
      while (end < pattern.length && pattern[end] !== "]") end++;
      if (end >= pattern.length) made += "\\[";
      else {
        made += sequence(pattern.slice(at, end));
        at = end + 1;
      }
    }
  }
  return new RegExp(`^(?:${made})$`, "s");
}

const escaped = (text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");

// The characters between brackets; a range that ends before it begins has none.
function sequence(inside) {
  const denied = inside[0] === "!";
  const signs = denied ? inside.slice(1) : inside;
  let made = "";
  for (let at = 0; at < signs.length; at++) {
    if (signs[at + 1] === "-" && at + 2 < signs.length) {
      if (signs[at] <= signs[at + 2]) made += `${inClass(signs[at])}-${inClass(signs[at + 2])}`;
      at += 2;
    } else made += inClass(signs[at]);
  }
  if (!made) return denied ? "." : "(?!)";
  return `[${denied ? "^" : ""}${made}]`;
}

const inClass = (sign) => sign.replace(/[\\\]^[-]/, "\\$&");

const isPattern = (text) => /[*?[]/.test(text);

// What a text fits is asked again and again of few texts.
function remembered(holds) {
  const known = new Map();
  return (text) => {
    let found = known.get(text);
    if (found === undefined) known.set(text, (found = holds(text)));
    return found;
  };
}

// "; did you mean nvme?", or which there are.
function hint(word, known) {
  const near = nearest(word, known);
  if (near !== null) return `; did you mean ${near}?`;
  return known.length > 40 ? "" : `; there are: ${[...known].sort().join(", ") || "none"}`;
}

function nearest(word, known) {
  let best = null;
  let least = Math.max(1, Math.floor(word.length / 3)) + 1;
  for (const name of known) {
    if (Math.abs(name.length - word.length) >= least) continue;
    const far = distance(word.toLowerCase(), name.toLowerCase());
    if (far < least) [best, least] = [name, far];
  }
  return best;
}

function distance(one, other) {
  let row = Array.from({ length: other.length + 1 }, (_, index) => index);
  for (let i = 1; i <= one.length; i++) {
    const next = [i];
    for (let j = 1; j <= other.length; j++) {
      const same = one[i - 1] === other[j - 1] ? 0 : 1;
      next.push(Math.min(next[j - 1] + 1, row[j] + 1, row[j - 1] + same));
    }
    row = next;
  }
  return row[other.length];
}

const COMPARISON = {
  "==": (a, b) => a === b,
  "!=": (a, b) => a !== b,
  "<": (a, b) => a < b,
  "<=": (a, b) => a <= b,
  ">": (a, b) => a > b,
  ">=": (a, b) => a >= b,
};

const ARITHMETIC = {
  "|": (a, b) => a | b,
  "^": (a, b) => a ^ b,
  "&": (a, b) => a & b,
  "+": (a, b) => a + b,
  "-": (a, b) => a - b,
  "*": (a, b) => a * b,
};

// Division as Python rounds it, towards the smaller number.
function divided(a, b) {
  const quotient = a / b;
  return a % b !== 0n && a < 0n !== b < 0n ? quotient - 1n : quotient;
}

// Asks one part after the other: one that decides does so whatever is unknown of the others.
function settled(runs, decisive) {
  return (i) => {
    let unknown = false;
    for (const run of runs) {
      try {
        if (run(i) === decisive) return decisive;
      } catch (reason) {
        if (reason !== UNKNOWN) throw reason;
        unknown = true;
      }
    }
    if (unknown) throw UNKNOWN;
    return !decisive;
  };
}

class Reader {
  constructor(text, words, facts) {
    this.text = text;
    this.words = words;
    this.facts = facts;
    this.names = new Set();
    this.mentions = [];
    this.parentheses = 0;
    this.at = 0;
    this.piece_ = new RegExp(words.piece, "y");
    this.bare_ = new RegExp(words.bare, "y");
    this.pattern_ = new RegExp(words.pattern, "y");
    this.number_ = new RegExp(`^(?:${words.number})$`);
    this.time_ = new RegExp(`^(?:${words.time})$`);
    this.pieces = this.lexemes();
  }

  fail(position, message) {
    throw new Refusal(message, this.text.replaceAll("\t", " "), position + 1);
  }

  // --- Pieces -------------------------------------------------------------------------------

  lexemes() {
    const { text, words } = this;
    if (text.length > words.longest)
      this.fail(0, `${count(text.length)} characters are too long: ${count(words.longest)} are read`);
    const wrong = text.search(/[\p{C}\p{Z}]/u);
    for (let at = wrong < 0 ? text.length : 0; at < text.length; at++)
      if (/[\p{C}\p{Z}]/u.test(text[at]) && text[at] !== " " && text[at] !== "\t")
        this.fail(at, `unprintable character '${numbered(text[at])}' at column ${at + 1}`);
    const found = [];
    let position = 0;
    const next = () => {
      while (position < text.length && /\s/.test(text[position])) position++;
      return position < text.length;
    };
    while (next()) {
      const piece = this.unquoted(position, found) || this.lexeme(position);
      found.push(piece);
      position = piece.end;
    }
    found.push({ kind: "end", value: "", start: text.length, end: text.length });
    return found;
  }

  isText(name) {
    const known = Object.hasOwn(this.words.names, name) ? this.words.names[name][0] : "";
    return known === "text" || known === "texts";
  }

  match(expression, position) {
    expression.lastIndex = position;
    return expression.exec(this.text);
  }

  // A word that needs no quotes, as it follows the name of a fact that is text.
  unquoted(position, before) {
    if (before.length < 2) return null;
    let [operand, operator] = before.slice(-2);
    const isWord = (piece, word) => piece.value === word && piece.kind === "word";
    const denied = operand.value === "is" && isWord(operator, "not");
    if (denied && before.length > 2) [operand, operator] = before.slice(-3, -1);
    const named = isWord(operator, "is");
    if (named && !denied && /^not\s/.test(this.text.slice(position))) return null;
    if ((named || operator.value === "~" || operator.value === "!~") && endsOperand(operand)) {
      const match = this.match(this.pattern_, position);
      return match && textPiece(match[0], position);
    }
    const compares = operator.value === "==" || operator.value === "!=";
    if (compares && operand.kind === "word" && this.isText(operand.value)) {
      const match = this.match(this.bare_, position);
      const after = match && this.text[position + match[0].length];
      if (match && (after === "*" || after === "?"))
        this.fail(
          operator.start,
          `${operator.value} at column ${operator.start + 1} takes no pattern; ~ does`,
        );
      if (match && !this.isText(match[0])) return textPiece(match[0], position);
    }
    return null;
  }

  lexeme(position) {
    const match = this.match(this.piece_, position);
    const column = position + 1;
    if (match === null) {
      const character = this.text[position];
      if (character === '"' || character === "'")
        this.fail(
          position, `the text that begins at column ${column} has no closing ${character}`,
        );
      this.fail(position, `no condition has the character ${character} at column ${column}`);
    }
    const shown = match[0];
    const kind = Object.entries(match.groups).find(([, value]) => value !== undefined)[0];
    const piece = { kind, value: shown, start: position, end: position + shown.length };
    if (kind === "number") piece.value = this.number(shown, position);
    if (kind === "text")
      piece.value = shown.slice(1, -1).replaceAll(shown[0] + shown[0], shown[0]);
    if (kind === "foreign")
      this.fail(
        position,
        `unknown operator ${shown} at column ${column}; ${this.words.foreign[shown]}`,
      );
    return piece;
  }

  number(shown, position) {
    const time = shown.length <= 60 ? this.time_.exec(shown) : null;
    if (time && time.groups.unit && (time.groups.whole || time.groups.part)) {
      const scale = BigInt(this.words.nanoseconds[time.groups.unit]);
      const part = time.groups.part || "";
      const whole = (time.groups.whole || "0").replaceAll("_", "");
      return BigInt(whole) * scale + (BigInt(part || "0") * scale) / 10n ** BigInt(part.length);
    }
    if (shown.length <= this.words.longest_number && this.number_.test(shown))
      return BigInt(shown.replaceAll("_", "").toLowerCase());
    const like = /^\d+\.\d+$/.test(shown) ? `a time has a unit: ${shown}s` : "16 and 0x10 are";
    this.fail(position, `${shown} at column ${position + 1} is no number: ${like}`);
  }

  // --- The cursor ---------------------------------------------------------------------------

  get piece() {
    return this.pieces[this.at];
  }

  advance() {
    const piece = this.piece;
    if (piece.kind !== "end") this.at++;
    return piece;
  }

  take(...wanted) {
    const piece = this.piece;
    if ((piece.kind === "operator" || piece.kind === "word") && wanted.includes(piece.value)) {
      this.at++;
      return piece;
    }
    return null;
  }

  takeNotIn() {
    const [piece, following] = [this.piece, this.pieces[this.at + 1] || this.piece];
    if (piece.value !== "not" || piece.kind !== "word" || following.value !== "in") return null;
    this.at += 2;
    return { kind: "word", value: "not in", start: following.start, end: following.end };
  }

  shown(part) {
    return this.text.slice(part.start, part.end);
  }

  told(node) {
    const type = this.words.types[node.type];
    return `\`${this.shown(node)}\` at column ${node.start + 1} is ${type}`;
  }

  failOperator(piece) {
    const [shown, column] = [this.shown(piece), piece.start + 1];
    if (shown === ")") this.fail(piece.start, `) at column ${column} closes nothing`);
    if (shown === "..")
      this.fail(piece.start, `.. at column ${column} needs \`in\`: offset in 0x0..0xff`);
    this.fail(piece.start, `expected an operator at column ${column}, not ${shown}`);
  }

  failValue(piece) {
    if (piece.kind !== "end")
      this.fail(
        piece.start, `expected a value at column ${piece.start + 1}, not ${this.shown(piece)}`,
      );
    const last = this.pieces[this.pieces.indexOf(piece) - 1];
    if (!last) this.fail(piece.start, "the condition is empty: value & 0xff == 3 is one");
    this.fail(
      piece.start,
      `a value is missing after ${this.shown(last)} at column ${last.start + 1}`,
    );
  }

  // --- The grammar, a method for each level of precedence -------------------------------------

  made(type, run, parts, start, end = null) {
    const depth = 1 + Math.max(...parts.map((part) => part.depth));
    if (depth > this.words.deepest)
      this.fail(
        start, `too deep for one condition: more than ${this.words.deepest} levels`,
      );
    const constant = parts.every((part) => part.constant);
    if (constant) {
      const value = run(-1);
      run = () => value;
    }
    return {
      type, run, start, depth, constant, name: "",
      end: end === null ? parts[parts.length - 1].end : end,
    };
  }

  condition() {
    const node = this.disjunction();
    if (this.piece.kind !== "end") this.failOperator(this.piece);
    return this.truth(node, "a condition is true or false");
  }

  disjunction() {
    return this.joined("or", () => this.conjunction(), true);
  }

  conjunction() {
    return this.joined("and", () => this.negation(), false);
  }

  joined(word, inner, decisive) {
    let parts = [inner()];
    const signs = Object.keys(this.words.keywords).filter((k) => this.words.keywords[k] === word);
    while (this.take(...signs)) parts.push(inner());
    if (parts.length === 1) return parts[0];
    parts = parts.map((part) => this.truth(part, `${word} joins what is true or false`));
    const run = settled(parts.map((part) => part.run), decisive);
    return this.made("truth", run, parts, parts[0].start);
  }

  truth(node, wants) {
    if (node.type === "number") {
      const run = node.run;
      return this.made("truth", (i) => run(i) !== 0n, [node], node.start);
    }
    if (node.type !== "truth")
      this.fail(
        node.start, `${wants}, ${this.told(node)}: write ${this.shown(node)} == WORD`,
      );
    return node;
  }

  negation() {
    const start = this.piece.start;
    let denials = 0;
    while (this.take("not", "!")) denials++;
    let node = this.comparison();
    if (!denials) return node;
    node = this.truth(node, "not denies what is true or false");
    const run = node.run;
    return denials % 2 ? this.made("truth", (i) => !run(i), [node], start) : node;
  }

  comparison() {
    const { comparisons, relations } = this.words;
    const first = this.arithmetic(1);
    const nodes = [first];
    const compare = [];
    for (;;) {
      let sign = this.take(...comparisons);
      if (sign) {
        nodes.push(this.arithmetic(1));
        compare.push(this.compare(nodes[nodes.length - 2], sign, nodes[nodes.length - 1]));
        continue;
      }
      sign = this.take(...relations) || this.takeNotIn();
      if (sign === null) break;
      if (compare.length)
        this.fail(
          sign.start,
          `${sign.value} at column ${sign.start + 1} ends no chain of` +
            " comparisons: join them with `and`",
        );
      const node = this.related(first, sign);
      if ([...comparisons, ...relations].includes(this.piece.value))
        this.failOperator(this.piece);
      return node;
    }
    if (!compare.length) return first;
    const runs = nodes.map((node) => node.run);
    const run = (i) => {
      let left = runs[0](i);
      for (let step = 0; step < compare.length; step++) {
        const right = runs[step + 1](i);
        if (!compare[step](left, right)) return false;
        left = right;
      }
      return true;
    };
    return this.made("truth", run, nodes, first.start);
  }

  related(left, sign) {
    if (sign.value === "is") return this.named(left, sign);
    if (sign.value === "touches") return this.touching(left, sign);
    if (sign.value === "~" || sign.value === "!~") return this.fitted(left, sign);
    return left.name === "mark" ? this.betweenMarks(left, sign) : this.within(left, sign);
  }

  compare(left, sign, right) {
    const where = `${sign.value} at column ${sign.start + 1}`;
    const types = [left.type, right.type];
    const several = types.includes("text") && types.includes("texts");
    if (left.type !== right.type && !several)
      this.fail(
        sign.start, `${where} compares like with like: ${this.told(left)} and ${this.told(right)}`,
      );
    const equality = sign.value === "==" || sign.value === "!=";
    if (left.type !== "number" && !equality)
      this.fail(sign.start, `${where} orders numbers: ${this.told(left)}`);
    for (const [name, other] of [[left, right], [right, left]])
      if (other.constant && (name.type === "text" || name.type === "texts"))
        this.mention(name.name, "==", other.run(-1), other.start);
    if (several) {
      const wanted = sign.value === "==";
      return left.type === "text"
        ? (one, all) => all.includes(one) === wanted
        : (all, one) => all.includes(one) === wanted;
    }
    // No `==` holds of two lists in JavaScript, as it does in Python.
    if (left.type === "texts") {
      const wanted = sign.value === "==";
      return (a, b) => (a.length === b.length && a.every((x, n) => x === b[n])) === wanted;
    }
    return COMPARISON[sign.value];
  }

  mention(fact, sign, word, start) {
    if (!fact) return;
    this.mentions.push({ fact, sign, word, start });
    const { values, instructions, printed, predicated } = this.words;
    const isInstruction = fact === "mnemonic";
    if (!isInstruction && !Object.hasOwn(values, fact)) return;
    const few = isInstruction ? instructions : values[fact];
    const noun = isInstruction ? "instruction" : fact;
    const goes = sign === "is" || (sign === "~" && isPattern(word));
    if (goes) {
      // The first few of an array stand for all of it.
      const wide = sign === "~" && isInstruction ? word.replace(/\d+/g, "*") : word;
      const glob = globbed(wide);
      if (few.some((each) => each !== "" && (wide === each || glob.test(each)))) return;
      if (isPattern(word)) this.fail(start, `no ${noun} is called anything like ${word}`);
    } else {
      const has = () => printed.includes(word) || new RegExp(`^(?:${predicated})$`).test(word);
      if (word === "" || few.includes(word) || (isInstruction && has())) return;
    }
    this.fail(start, `no ${noun} is called ${word}${hint(word, few)}`);
  }

  patternNode(where, needs) {
    if (this.piece.kind !== "text") this.fail(this.piece.start, `${where} needs ${needs}`);
    return this.literal("text", this.advance());
  }

  fitted(left, sign) {
    const where = `${sign.value} at column ${sign.start + 1}`;
    if (left.type !== "text" && left.type !== "texts")
      this.fail(sign.start, `${where} fits text to a pattern: ${this.told(left)}`);
    const node = this.patternNode(where, "a pattern: symbol ~ nvme_*");
    const pattern = node.run(-1);
    this.mention(left.name, "~", pattern, node.start);
    const expression = globbed(pattern);
    const holds = remembered((text) => expression.test(text));
    const [look, wanted] = [left.run, sign.value === "~"];
    const run =
      left.type === "texts"
        ? (i) => look(i).some(holds) === wanted
        : (i) => holds(look(i)) === wanted;
    return this.made("truth", run, [left, node], left.start);
  }

  named(left, sign) {
    const where = `is at column ${sign.start + 1}`;
    if (!left.name || (left.type !== "text" && left.type !== "texts"))
      this.fail(
        sign.start, `${where} follows the name of a fact that is text: ${this.told(left)}`,
      );
    const wanted = this.take("not") === null;
    const node = this.patternNode(where, "a name: region is nvme");
    const pattern = node.run(-1);
    this.mention(left.name, "is", pattern, node.start);
    this.names.add(left.name);
    const run = this.facts.named(left.name, pattern);
    return this.made("truth", (i) => run(i) === wanted, [left, node], left.start);
  }

  range(sign, end, like) {
    let first = null;
    if (this.piece.value !== ".." || this.piece.kind === "text") {
      first = end();
      if (!this.take("..")) {
        if (sign.value === "touches") return [first, first];
        this.fail(
          this.piece.start, `${sign.value} at column ${sign.start + 1} needs a range: ${like}`,
        );
      }
    } else this.advance();
    const piece = this.piece;
    const ended =
      piece.kind === "end" || [...Object.keys(this.words.keywords), ")"].includes(piece.value);
    return [first, first !== null && ended ? null : end()];
  }

  ends(left, sign) {
    const [first, last] = this.range(sign, () => this.arithmetic(1), "offset in 0x0..0xff");
    for (const node of [left, first, last]) if (node) this.wantNumber(node, sign.value);
    if (first && last && first.constant && last.constant && last.run(-1) < first.run(-1))
      this.fail(first.start, `the range at column ${first.start + 1} ends before it begins`);
    return [first, last];
  }

  within(left, sign) {
    const [first, last] = this.ends(left, sign);
    const wanted = sign.value === "in";
    const run = (i) => {
      const value = left.run(i);
      const inside = (!first || first.run(i) <= value) && (!last || value <= last.run(i));
      return inside === wanted;
    };
    return this.made("truth", run, [left, first, last].filter(Boolean), left.start);
  }

  touching(left, sign) {
    const { touched } = this.words;
    if (!touched.includes(left.name))
      this.fail(
        sign.start,
        `touches at column ${sign.start + 1} follows` +
          ` ${touched.slice(0, -1).join(", ")} or ${touched[touched.length - 1]}`,
      );
    const [first, last] = this.ends(left, sign);
    const size = this.look("extent");
    const run = (i) => {
      const start = left.run(i);
      return (!last || start <= last.run(i)) && (!first || first.run(i) < start + size(i));
    };
    return this.made("truth", run, [left, first, last].filter(Boolean), left.start);
  }

  betweenMarks(left, sign) {
    const like = 'mark in "before".."after"';
    const where = `${sign.value} at column ${sign.start + 1}`;
    const needs = `texts in quotes: ${like}`;
    const ends = this.range(sign, () => this.patternNode(where, needs), like);
    const texts = ends.map((node) => (node ? node.run(-1) : null));
    const inside = this.facts.between(...texts);
    const wanted = sign.value === "in";
    const parts = [left, ...ends].filter(Boolean);
    return this.made("truth", (i) => inside(i) === wanted, parts, left.start);
  }

  wantNumber(node, sign) {
    if (node.type === "number") return;
    const more = node.type === "truth" ? "; parentheses group comparisons" : "";
    this.fail(node.start, `${sign} takes numbers: ${this.told(node)}${more}`);
  }

  arithmetic(lowest) {
    let left = this.unary();
    const level = () =>
      this.piece.kind === "operator" && Object.hasOwn(this.words.levels, this.piece.value)
        ? this.words.levels[this.piece.value]
        : 0;
    while (level() >= lowest) {
      const sign = this.advance();
      const right = this.arithmetic(this.words.levels[sign.value] + 1);
      for (const node of [left, right]) this.wantNumber(node, sign.value);
      const combine = ARITHMETIC[sign.value] || this.careful(sign);
      const [one, other] = [left.run, right.run];
      left = this.made("number", (i) => combine(one(i), other(i)), [left, right], left.start);
    }
    return left;
  }

  careful(sign) {
    const fail = (why) => this.fail(sign.start, `${why} at column ${sign.start + 1}`);
    const most = BigInt(this.words.shift);
    if (sign.value === "//" || sign.value === "%")
      return (a, b) => {
        if (b === 0n) fail("division by zero");
        const quotient = divided(a, b);
        return sign.value === "//" ? quotient : a - quotient * b;
      };
    return (a, b) => {
      if (b < 0n) fail(`shift by ${b} bits`);
      if (sign.value === ">>") return b > 1n << 20n ? (a < 0n ? -1n : 0n) : a >> b;
      if (b > most) fail(`shift by more than ${most} bits`);
      return a << b;
    };
  }

  unary() {
    const signs = [];
    for (let sign; (sign = this.take("-", "~")); ) signs.push(sign);
    let node = this.primary();
    for (const sign of signs.reverse()) {
      this.wantNumber(node, sign.value);
      const run = node.run;
      const change = sign.value === "-" ? (i) => -run(i) : (i) => ~run(i);
      node = this.made("number", change, [node], sign.start);
    }
    return node;
  }

  primary() {
    const piece = this.advance();
    const word = piece.kind === "word" ? piece.value : null;
    if (piece.kind === "number" || piece.kind === "text") return this.literal(piece.kind, piece);
    if (piece.kind === "register") return this.register(piece);
    const { delta } = this.words;
    if (word === delta && this.piece.value === "(")
      this.fail(piece.start, `${delta} is of a tally: tally ${delta}(time) by function`);
    if (word === "true" || word === "false") return this.literal("truth", piece);
    if (word !== null && !this.words.reserved.includes(word)) return this.name(piece);
    if (piece.kind === "operator" && piece.value === "(") return this.group(piece);
    return this.failValue(piece);
  }

  literal(type, piece) {
    const value = type === "truth" ? piece.value === "true" : piece.value;
    const run = () => value;
    const { start, end } = piece;
    return { type, run, start, end, depth: 1, name: "", constant: true };
  }

  group(opening) {
    const most = this.words.parentheses;
    this.parentheses++;
    if (this.parentheses > most)
      this.fail(opening.start, `more than ${most} parentheses in each other`);
    const node = this.disjunction();
    const closing = this.take(")");
    if (closing === null) {
      if (this.piece.kind !== "end") this.failOperator(this.piece);
      this.fail(opening.start, `( at column ${opening.start + 1} is never closed`);
    }
    this.parentheses--;
    return { ...node, start: opening.start, end: closing.end };
  }

  name(piece) {
    const [name, column] = [piece.value, piece.start + 1];
    if (!Object.hasOwn(this.words.names, name)) {
      for (const [owner, words] of Object.entries(this.words.values))
        if (words.includes(name))
          this.fail(
            piece.start,
            `${name} at column ${column} is no name but a ${owner}: ${owner} == ${name}`,
          );
      const names = Object.keys(this.words.names);
      this.fail(piece.start, `unknown name ${name} at column ${column}${hint(name, names)}`);
    }
    if (name === "count") this.fail(piece.start, "count is of breaks: nothing else counts");
    this.names.add(name);
    const run = name === "changes" ? this.facts.changes() : this.look(name);
    const { start, end } = piece;
    const type = this.words.names[name][0];
    return { type, run, start, end, depth: 1, name, constant: false };
  }

  look(name) {
    const fact = this.facts.of(name);
    return (i) => asKnown(fact(i));
  }

  register(piece) {
    const name = piece.value.slice(1).toLowerCase();
    if (!Object.hasOwn(this.words.registers, name)) {
      const near = nearest(name, Object.keys(this.words.registers));
      const shown = `unknown register ${piece.value} at column ${piece.start + 1}`;
      const more = near ? `; did you mean $${near}?` : ": $rax, $eax, $ax and $ah are some";
      this.fail(piece.start, shown + more);
    }
    const [full, shift, mask] = this.words.registers[name];
    this.names.add(`$${full}`);
    const get = this.look(`$${full}`);
    const [by, bits] = [BigInt(shift), BigInt(mask)];
    const { start, end } = piece;
    const run = (i) => (get(i) >> by) & bits;
    return { type: "number", run, start, end, depth: 1, name: "", constant: false };
  }
}

function endsOperand(piece) {
  if (piece.kind === "word")
    return !["and", "or", "not", "in", "is", "touches"].includes(piece.value);
  return ["number", "text", "register"].includes(piece.kind) || piece.value === ")";
}

// A character as Python writes it.
function numbered(sign) {
  const named = { "\n": "\\n", "\r": "\\r" }[sign];
  const number = sign.charCodeAt(0).toString(16);
  return named || (number.length < 3 ? `\\x${number.padStart(2, "0")}` : `\\u${number.padStart(4, "0")}`);
}

const textPiece = (text, start) => ({
  kind: "text", value: text, start, end: start + text.length,
});

// Compiles a condition; throws a Refusal. `holds` tells of an access whether it is known to hold,
// and throws a Refusal where there is no answer; `canBeIn` tells whether it may hold of any access
// to the region of this one, so that of others nothing is asked (as tracer/query/sieve.py does).
function parseCondition(text, words, facts) {
  const reader = new Reader(text, words, facts);
  const { run } = reader.condition();
  return {
    text,
    names: reader.names,
    mentions: reader.mentions,
    canBeIn(i) {
      facts.partial = true;
      try {
        return run(i) !== false;
      } catch {
        return true;
      } finally {
        facts.partial = false;
      }
    },
    holds(i) {
      try {
        return run(i) === true;
      } catch (reason) {
        if (reason !== UNKNOWN) throw reason;
        return false;
      }
    },
  };
}
