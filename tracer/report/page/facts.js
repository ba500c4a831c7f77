// The accesses of a trace, and the facts that conditions ask about them: as tracer/query/facts.py.

const ARRAYS = {
  u8: Uint8Array, u16: Uint16Array, u32: Uint32Array, u64: BigUint64Array, f64: Float64Array,
};

async function unpacked(data) {
  const bytes = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

const unpackedObject = async (data) => JSON.parse(new TextDecoder().decode(await unpacked(data)));

// A column as a typed array; steps are added up.
async function column(told) {
  const numbers = new ARRAYS[told.kind](await unpacked(told.data));
  if (told.first === undefined) return numbers;
  const sums = new Float64Array(numbers.length);
  for (let index = 0, sum = told.first; index < numbers.length; index++)
    sums[index] = sum += numbers[index];
  return sums;
}

const bigOrNull = (number) => (number === null ? null : BigInt(number));

class Accesses {
  // Reads what accesses.py has made.
  static async of(told) {
    const made = new Accesses();
    Object.assign(made, told);
    for (const [name, packed] of Object.entries(told.columns)) made[name] = await column(packed);
    made.fold = {};
    for (const [name, packed] of Object.entries(told.folds))
      made.fold[name] = await column(packed);
    const { shapes } = told;
    for (const name of ["offset", "physical", "linear", "width", "extent", "vcpu", "cpl"])
      shapes[name] = shapes[name].map(bigOrNull);
    shapes.span = shapes.width.map((width, s) => width || shapes.extent[s] || 1n);
    const places = new Map();
    shapes.place = shapes.region.map((region, s) => {
      const parts = [region, shapes.offset[s], shapes.direction[s], shapes.width[s]];
      const key = [...parts, made.registerOf(s)].join("\n");
      if (!places.has(key)) places.set(key, places.size);
      return places.get(key);
    });
    made.lasting = {};
    made.chunks = { changed: [], further: [] };
    made.fits = new Map();
    return made;
  }

  registerOf(s) {
    const named = this.shapes.named[s];
    return named < 0 ? "" : this.names[named].text;
  }

  regionOf(i) {
    return this.regions[this.shapes.region[this.shape[i]]];
  }

  siteOf(i) {
    return this.sites[this.shapes.site[this.shape[i]]];
  }

  // The value as a BigInt, null where it is not known.
  valueOf(i) {
    if (this.state[i] === 2) return BigInt(this.peculiar[i].value);
    return this.state[i] ? BigInt(this.value[i]) : null;
  }

  shortValue(i) {
    return padded(this.valueOf(i), this.shapes.width[this.shape[i]]);
  }

  // Unpacks what these facts need; registers are many, and seldom asked for.
  async ready(names) {
    for (const name of names) {
      const register = name.slice(1);
      if (name[0] !== "$" || !Object.hasOwn(this.registers.values, register)) continue;
      this.lasting.has ??= await column(this.registers.has);
      this.lasting[register] ??= await column(this.registers.values[register]);
    }
  }

  // What is kept in chunks of one access's record.
  async part(kind, i) {
    const [at, inside] = [Math.floor(this.record[i] / this.chunk), this.record[i] % this.chunk];
    const packed = this[kind][at];
    if (packed === null || packed === undefined) return null;
    this.chunks[kind][at] ??= await unpackedObject(packed);
    return this.chunks[kind][at][inside];
  }

  register(name, i) {
    const at = this.record[i];
    return this.lasting.has?.[at] ? BigInt(this.lasting[name][at]) : null;
  }

  // The marker that stood last before an access, empty before the first.
  get marker() {
    if (!this.lasting.marker) {
      const found = new Array(this.count).fill("");
      const markers = this.marks.filter(([, , kind]) => kind === 1);
      markers.forEach(([at, text], n) => {
        const end = n + 1 < markers.length ? markers[n + 1][0] : this.count;
        found.fill(text, at, end);
      });
      this.lasting.marker = found;
    }
    return this.lasting.marker;
  }

  callers(i) {
    if (!this.chain[i]) return null;
    const found = new Set();
    for (const site of [this.siteOf(i).symbol, ...this.chains[this.chain[i] - 1]])
      if (site)
        for (const name of [site, bareSite(site), functionOf(site)]) found.add(name);
    return [...found];
  }

  // --- What a condition asks ------------------------------------------------------------------

  // Of a region, where nothing else is known of an access (`partial`), there is little to ask.
  of(name) {
    const get = this.fact(name);
    const known = name === "region" || name === "device";
    return known ? get : (i) => (this.partial ? null : get(i));
  }

  fact(name) {
    const { shapes, shape } = this;
    const ofShape = (list) => (i) => list[shape[i]];
    const ofSite = (member) => (i) => this.siteOf(i)[member];
    const inSpace = (space, make) => (i) =>
      shapes.space[shape[i]] === space ? make(shapes.physical[shape[i]]) : null;
    switch (name) {
      case "value": return (i) => this.valueOf(i);
      case "offset": case "width": case "linear": case "space": case "direction":
      case "vcpu": case "cpl": case "via": case "device": case "cause": case "source":
        return ofShape(shapes[name]);
      case "extent": return ofShape(shapes.span);
      case "address": return ofShape(shapes.physical);
      case "data": return (i) => (shapes.space[shape[i]] === "msi" ? this.valueOf(i) : null);
      case "port": return inSpace("port", (number) => number);
      case "msr": return inSpace("msr", (number) => number);
      case "leaf": return inSpace("cpuid", (number) => number & 0xffffffffn);
      case "subleaf": return inSpace("cpuid", (number) => number >> 32n);
      case "region": return (i) => this.regionOf(i);
      case "register": return (i) => this.registerOf(shape[i]);
      case "symbol": return ofSite("site");
      case "function": case "module": case "mnemonic": return ofSite(name);
      case "callers": return (i) => this.callers(i);
      case "seq": return (i) => BigInt(this.seq[i]);
      case "time": return (i) => BigInt(this.time[i]);
      case "phase": return (i) => (this.phase[i] ? this.phases[this.phase[i] - 1] : "");
      case "mark": return (i) => this.marker[i];
      case "$rip": return (i) => BigInt(this.siteOf(i).rip);
    }
    if (name[0] === "$") return (i) => this.register(name.slice(1), i);
    throw new Error(`no fact is called ${name}`);
  }

  // Whether a fact goes by a name, as tracer/query/condition/naming.py has it.
  named(name, pattern) {
    const { shape, shapes } = this;
    const once = (holds) => {
      const known = new Int8Array(shapes.site.length).fill(-1);
      return (i) => {
        if (this.partial && name !== "region") throw UNKNOWN;
        const s = shape[i];
        if (known[s] < 0) known[s] = holds(s) ? 1 : 0;
        return known[s] === 1;
      };
    };
    const glob = globbed(pattern);
    const fits = (text) => pattern === text || glob.test(text);
    switch (name) {
      case "region":
        return once((s) => {
          const region = this.regions[shapes.region[s]];
          return fits(region) || region.startsWith(`${pattern}.`) || shapes.owners[s].some(fits);
        });
      case "register": {
        const plain = (text) => text.toLowerCase().replaceAll(" ", ".");
        const wide = globbed(plain(pattern.trim()).replaceAll("[", "[[]"));
        return once((s) => {
          if (shapes.named[s] < 0) return false;
          const region = this.regions[shapes.region[s]].toLowerCase();
          return this.names[shapes.named[s]].names.some(
            (each) => wide.test(plain(each)) || wide.test(`${region}.${plain(each)}`),
          );
        });
      }
      case "symbol":
        return once((s) => {
          const { symbol } = this.sites[shapes.site[s]];
          return symbol !== "" && (fits(symbol) || fits(symbol.split("+")[0]));
        });
    }
    const get = this.of(name);
    const holds = remembered((text) => text !== "" && fits(text));
    if (name === "callers") return (i) => asKnown(get(i)).some(holds);
    return (i) => holds(asKnown(get(i)));
  }

  // Whether the value is another than that of the access before it there, of those asked about.
  changes() {
    const last = new Map();
    return (i) => {
      if (this.partial) throw UNKNOWN;
      const value = this.valueOf(i);
      if (value === null) return true;
      const place = this.shapes.place[this.shape[i]];
      const before = last.get(place);
      last.set(place, value);
      return before !== value;
    };
  }

  // Whether an access is behind one mark, and before another: tracer/trace/marker.py Stretch.
  between(first, last) {
    const missing = [first, last].filter((text) => text !== null);
    let open = first === null;
    const turns = [[0, open]];
    for (const [at, text, kind] of this.marks) {
      if (!missing.length) break;
      if (!this.isMeant(text, kind, missing[0])) continue;
      missing.shift();
      open = !open;
      turns.push([at, open]);
    }
    const inside = new Uint8Array(this.count);
    turns.forEach(([at, is], n) => {
      if (is) inside.fill(1, at, n + 1 < turns.length ? turns[n + 1][0] : this.count);
    });
    return (i) => {
      if (this.partial) throw UNKNOWN;
      return inside[i] === 1;
    };
  }

  isMeant(text, kind, pattern) {
    if (text === pattern) return true;
    if (kind !== 1 && !(kind === 2 && pattern.startsWith(this.phaseMark))) return false;
    return text.includes(pattern) || (isPattern(pattern) && globbed(pattern).test(text));
  }
}

const bareSite = (symbol) => symbol.split(" [")[0];
const functionOf = (symbol) => bareSite(symbol).split("+")[0];
