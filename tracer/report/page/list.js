// The list of accesses: only the rows on the screen are elements, however many there are.

const ROW = 22; // pixels, as in page.css
const TALLEST = 12e6; // pixels that every browser can scroll
const [ACCESS, MORE, NOTE] = [0, 1, 2];
const [SITE, PLACE] = [2, 3]; // columns

class List {
  constructor(box, accesses, onPick) {
    Object.assign(this, { box, accesses, onPick });
    this.height = box.querySelector("#height");
    this.rows = [];
    this.chosen = -1; // a row
    this.unfolded = new Set();
    this.pool = new Map();
    box.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(box);
    box.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) this.choose(Number(row.dataset.row), { open: true });
    });
    box.addEventListener("keydown", (event) => this.key(event));
  }

  // Shows these accesses, by number; with `notes` also what stands between them.
  show(numbers, notes) {
    const at = this.chosen < 0 ? -1 : this.numberOf(this.chosen);
    [this.numbers, this.notes] = [numbers, notes];
    this.arrange();
    this.chosen = at < 0 ? -1 : this.rowOf(at);
    this.draw();
  }

  arrange() {
    const { accesses, numbers, unfolded } = this;
    const { start, period, turns } = accesses.fold;
    const notes = this.notes ? accesses.notes : [];
    const rows = [];
    let [fold, note] = [0, 0];
    for (let n = 0; n < numbers.length; n++) {
      const i = numbers[n];
      while (note < notes.length && notes[note].at <= i) rows.push([NOTE, note++]);
      while (fold < start.length && start[fold] + period[fold] * turns[fold] <= i) fold++;
      const inside = fold < start.length && i >= start[fold] + period[fold];
      if (!inside || unfolded.has(fold)) {
        rows.push([ACCESS, i]);
        continue;
      }
      const end = start[fold] + period[fold] * turns[fold];
      let last = n;
      while (last + 1 < numbers.length && numbers[last + 1] < end) last++;
      rows.push([MORE, fold, i, last - n + 1, numbers[last]]);
      n = last;
    }
    while (note < notes.length) rows.push([NOTE, note++]);
    this.rows = rows;
    const tall = Math.max(rows.length * ROW, 1);
    this.scale = Math.max(1, tall / TALLEST);
    this.height.style.height = `${tall / this.scale}px`;
    for (const row of this.pool.values()) row.remove();
    this.pool.clear();
  }

  // The access that a row is of, or that a fold begins with; -1 for a note.
  numberOf(row) {
    const found = this.rows[row];
    return !found || found[0] === NOTE ? -1 : found[0] === ACCESS ? found[1] : found[2];
  }

  // The row that shows an access, or the loop that it is in; -1 where it is not shown.
  rowOf(number) {
    let [low, high] = [0, this.rows.length];
    const before = (row) =>
      row[0] === NOTE ? this.accesses.notes[row[1]].at - 0.5 : row[0] === ACCESS ? row[1] : row[2];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (before(this.rows[middle]) <= number) low = middle + 1;
      else high = middle;
    }
    while (--low >= 0) {
      const row = this.rows[low];
      if (row[0] === ACCESS) return row[1] === number ? low : -1;
      if (row[0] === MORE) return number <= row[4] ? low : -1;
    }
    return -1;
  }

  draw() {
    const { box, rows, pool } = this;
    const top = box.scrollTop * this.scale;
    const first = Math.max(0, Math.floor(top / ROW) - 8);
    const last = Math.min(rows.length, Math.ceil((top + box.clientHeight) / ROW) + 8);
    const shift = box.scrollTop - top;
    for (const [row, element] of pool)
      if (row < first || row >= last) {
        element.remove();
        pool.delete(row);
      }
    for (let row = first; row < last; row++) {
      let element = pool.get(row);
      if (!element) {
        element = this.element(row);
        pool.set(row, element);
        box.append(element);
      }
      element.style.top = `${row * ROW + shift}px`;
      element.setAttribute("aria-selected", String(row === this.chosen));
    }
    if (pool.has(this.chosen)) box.setAttribute("aria-activedescendant", `row-${this.chosen}`);
    else box.removeAttribute("aria-activedescendant");
  }

  element(row) {
    const { accesses, rows } = this;
    const found = rows[row];
    const of = {
      role: "option", id: `row-${row}`, "data-row": row,
      "aria-setsize": rows.length, "aria-posinset": row + 1,
    };
    if (found[0] === NOTE)
      return made("div", { ...of, className: "row is-note" }, accesses.notes[found[1]].text);
    if (found[0] === MORE) return made("div", { ...of, className: "row is-more" }, this.more(found));
    const told = toldOf(accesses, found[1]);
    const cells = [
      count(told.seq), seconds(told.time), told.site, told.place, told.register, told.how,
      told.value + told.touch,
    ];
    return made("div", { ...of, className: `row is-${told.direction}` },
      cells.map((cell, n) => made("span", { title: printable(cell) },
        ...(n === SITE || n === PLACE ? keepingOffset(cell) : [cell]))));
  }

  more([, fold, first, number, last]) {
    const { time, fold: folds } = this.accesses;
    const loop = folds.period[fold] > 1 ? ` of a loop of ${folds.period[fold]}` : "";
    return (
      `↻ ${count(number)} more${loop}, ${duration(time[last] - time[first])}` +
      `, to #${count(this.accesses.seq[last])} ${this.accesses.shortValue(last)}`
    );
  }

  // Chooses a row; `open` unfolds a loop.
  choose(row, { open = false } = {}) {
    const found = this.rows[row];
    if (!found) return;
    if (found[0] === MORE && open) {
      this.unfolded.add(found[1]);
      const number = found[2];
      this.arrange();
      row = this.rowOf(number);
    }
    this.chosen = row;
    this.reveal(row);
    this.draw();
    const number = this.numberOf(row);
    if (number >= 0) this.onPick(number);
  }

  // Folds the loop again that a row is in.
  fold(row) {
    const number = this.numberOf(row);
    const { start, period, turns } = this.accesses.fold;
    for (const fold of this.unfolded)
      if (start[fold] <= number && number < start[fold] + period[fold] * turns[fold]) {
        this.unfolded.delete(fold);
        this.arrange();
        this.choose(this.rowOf(number));
        return;
      }
  }

  reveal(row) {
    const { box, scale } = this;
    const top = box.scrollTop * scale;
    if (row * ROW < top) box.scrollTop = (row * ROW) / scale;
    else if ((row + 1) * ROW > top + box.clientHeight)
      box.scrollTop = ((row + 1) * ROW - box.clientHeight) / scale;
  }

  // Shows an access in the middle, if it is among those shown; tells whether it is.
  goTo(number) {
    const row = this.rowOf(number);
    if (row < 0) return false;
    const [top, view] = [this.box.scrollTop * this.scale, this.box.clientHeight];
    if (row * ROW < top || (row + 1) * ROW > top + view)
      this.box.scrollTop = (row * ROW - view / 2) / this.scale;
    this.choose(row, { open: this.rows[row][0] === MORE });
    return true;
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / ROW) - 1);
    const last = this.rows.length - 1;
    const row = this.chosen;
    const steps = {
      ArrowDown: row + 1, ArrowUp: row - 1, j: row + 1, k: row - 1,
      PageDown: row + page, PageUp: row - page, Home: 0, End: last,
    };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (Object.hasOwn(steps, event.key)) this.choose(Math.min(Math.max(steps[event.key], 0), last));
    else if (event.key === "Enter" || event.key === "ArrowRight") this.choose(row, { open: true });
    else if (event.key === "ArrowLeft") this.fold(row);
    else return;
    event.preventDefault();
  }
}

// An access in words.
function toldOf(accesses, i) {
  const { shapes } = accesses;
  const s = accesses.shape[i];
  const site = accesses.siteOf(i);
  const peculiar = accesses.peculiar[i] || {};
  const had = "device" in peculiar ? ` (device ${peculiar.device})` : "";
  return {
    seq: accesses.seq[i],
    time: accesses.time[i],
    site: site.symbol || site.rip,
    direction: shapes.direction[s],
    how: short(shapes.direction[s], shapes.width[s]),
    place: placeOf(
      shapes.space[s], accesses.regionOf(i), shapes.offset[s], shapes.extent[s],
      shapes.physical[s],
    ),
    register: accesses.registerOf(s),
    value: accesses.shortValue(i),
    touch: peculiar.skipped ? " (skipped)" : had,
  };
}

// A name with an offset, of which the name alone is cut where it has no room.
function keepingOffset(text) {
  const at = text.lastIndexOf("+");
  if (at < 1) return [text];
  const name = made("bdi", {}, text.slice(0, at));
  name.style.maxWidth = `calc(100% - ${text.length - at}ch)`;
  return [name, text.slice(at)];
}
