// The timeline: a lane for each region, drawn by Bokeh.
//
// Bokeh is given what can be told apart on the screen: of the accesses of a lane that fall on one
// column of pixels, the first in each direction. So a view costs what its width does, however many
// accesses there are.

const [LANE, AXIS] = [20, 24]; // pixels, as in page.css
const SIDES = { write: [0.1, 0.48], read: [0.52, 0.9], unknown: [0.1, 0.9] };
const NEAR = 6; // pixels within which a click means an access

class Lanes {
  constructor(plot, ruler, accesses, { onPick, onUnder, onLanes }) {
    Object.assign(this, { plot, ruler, accesses, onPick, onUnder, onLanes });
    const { time, count: number } = accesses;
    this.first = number ? Math.min(time[0], time[number - 1]) : 0;
    this.last = number ? Math.max(time[0], time[number - 1]) : 1;
    for (let i = 0; i < number; i++) {
      if (time[i] < this.first) this.first = time[i];
      if (time[i] > this.last) this.last = time[i];
    }
    const edge = Math.max((this.last - this.first) * 0.01, 500);
    this.bounds = [(this.first - edge) / 1e9, (this.last + edge) / 1e9];
    this.all_ = accesses.regions
      .map((name, index) => ({ name, index }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
    this.make();
    this.arrange(this.all_);
  }

  // Gives these regions a lane each.
  arrange(regions) {
    this.regions = regions;
    this.laneOf = new Array(this.accesses.regions.length).fill(-1);
    regions.forEach(({ index }, lane) => (this.laneOf[index] = lane));
    const lanes = Math.max(regions.length, 1);
    this.figure.y_range.start = lanes;
    this.figure.setv({ frame_height: lanes * LANE, height: lanes * LANE });
    this.sources.band.data = this.bands(lanes);
    this.onLanes(regions);
  }

  async start() {
    this.view = await Bokeh.Plotting.show(this.figure, this.plot);
    await Bokeh.Plotting.show(this.axis, this.ruler);
    new ResizeObserver(() => this.soon()).observe(this.plot);
    this.paint();
  }

  make() {
    const { Plotting, Range1d, ColumnDataSource } = Bokeh;
    const [start, end] = this.bounds;
    this.range = new Range1d({ start, end, bounds: this.bounds, min_interval: 1e-8 });
    const figureOf = (x_range, height, above, tools) => Plotting.figure({
      x_range,
      y_range: new Range1d({ start: 1, end: 0 }),
      frame_height: height,
      height: height + above,
      x_axis_location: "above",
      sizing_mode: "stretch_width",
      toolbar_location: null,
      tools,
      min_border_left: 0, min_border_right: 12, min_border_top: above, min_border_bottom: 0,
      outline_line_color: null,
      lod_threshold: null,
      output_backend: "canvas",
    });
    // The axis is a figure of its own, which stays where the lanes are scrolled; no two figures
    // that are shown can have one range.
    this.axis = figureOf(new Range1d({ start, end }), 1, AXIS - 1, "");
    this.figure = figureOf(this.range, LANE, 0, "xpan,xwheel_zoom");
    const { figure } = this;
    figure.toolbar.active_scroll = figure.toolbar.tools[1];
    figure.xaxis.visible = figure.yaxis.visible = this.axis.yaxis.visible = false;
    const empty = () => new ColumnDataSource({ data: { left: [], right: [], top: [], bottom: [] } });
    this.sources = {};
    this.glyphs = {};
    for (const kind of ["band", "fold write", "fold read", "fold unknown"]) {
      const source = (this.sources[kind] = empty());
      const where = Object.fromEntries(
        ["left", "right", "top", "bottom"].map((side) => [side, { field: side }]),
      );
      this.glyphs[kind] = figure.quad({ ...where, source, line_color: null });
    }
    for (const kind of ["write", "read", "unknown", "marks", "chosen"]) {
      const data = { x: [], y0: [], y1: [] };
      const source = (this.sources[kind] = new ColumnDataSource({ data }));
      this.glyphs[kind] = figure.segment({
        x0: { field: "x" }, y0: { field: "y0" }, x1: { field: "x" }, y1: { field: "y1" },
        source, line_width: kind === "chosen" ? 2 : 1.5,
      });
    }
    this.range.change.connect(() => this.soon());
    figure.on_event("tap", (event) => this.tap(event));
    figure.on_event("mousemove", (event) => this.under(event));
    figure.on_event("doubletap", () => this.all());
  }

  bands(lanes) {
    const data = { left: [], right: [], top: [], bottom: [] };
    const [start, end] = this.bounds;
    for (let lane = 0; lane < lanes; lane += 2) {
      data.left.push(start - (end - start));
      data.right.push(end + (end - start));
      data.top.push(lane);
      data.bottom.push(lane + 1);
    }
    return data;
  }

  // Takes the accesses that are shown: what is alone, and what is a bar, of each lane by time.
  show(numbers) {
    this.numbers = numbers;
    const { accesses } = this;
    const { shape, shapes, time } = accesses;
    const { start, period, turns } = accesses.fold;
    const there = new Set();
    for (const i of numbers) there.add(shapes.region[shape[i]]);
    const regions = this.all_.filter(({ index }) => there.has(index));
    if (regions.length !== this.regions.length || regions.some((r, n) => r !== this.regions[n]))
      this.arrange(regions);
    this.alone = this.regions.map(() => []);
    this.bars = this.regions.map(() => []);
    let fold = 0;
    let open = new Map(); // bars of the loop, by lane and direction
    for (const i of numbers) {
      while (fold < start.length && start[fold] + period[fold] * turns[fold] <= i) {
        fold++;
        open = new Map();
      }
      const lane = this.laneOf[shapes.region[shape[i]]];
      if (fold >= start.length || i < start[fold]) {
        this.alone[lane].push(i);
        continue;
      }
      const direction = shapes.direction[shape[i]];
      const key = `${lane} ${direction}`;
      const bar = open.get(key);
      if (bar) {
        bar.to = Math.max(bar.to, time[i]);
        bar.last = i;
        bar.count++;
      } else {
        const made = { from: time[i], to: time[i], first: i, last: i, count: 1, direction };
        open.set(key, made);
        this.bars[lane].push(made);
      }
    }
    for (const list of this.alone) list.sort((a, b) => time[a] - time[b]);
    for (const list of this.bars) list.sort((a, b) => a.from - b.from);
    this.sources.chosen.data = this.lines([]);
    if (this.chosen !== undefined) this.choose(this.chosen, false);
    this.draw();
  }

  // Draws once, before the browser does, however often the range changes.
  soon() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    if (!this.alone) return;
    this.axis.x_range.setv({ start: this.range.start, end: this.range.end });
    const { accesses } = this;
    const { time, shape, shapes } = accesses;
    const [start, end] = [this.range.start * 1e9, this.range.end * 1e9];
    const scale = this.width / (end - start);
    const ticks = {};
    for (const kind of Object.keys(SIDES)) ticks[kind] = { x: [], y0: [], y1: [] };
    const bars = {};
    for (const kind of Object.keys(SIDES))
      bars[kind] = { left: [], right: [], top: [], bottom: [] };
    const tick = (lane, direction, ns) => {
      const [top, bottom] = SIDES[direction];
      ticks[direction].x.push(ns / 1e9);
      ticks[direction].y0.push(lane + top);
      ticks[direction].y1.push(lane + bottom);
    };
    this.regions.forEach((_, lane) => {
      const taken = { write: -1, read: -1, unknown: -1 };
      const list = this.alone[lane];
      for (let n = lowest(list, start, (i) => time[i]); n < list.length; n++) {
        const i = list[n];
        if (time[i] > end) break;
        const direction = shapes.direction[shape[i]];
        const pixel = Math.floor((time[i] - start) * scale);
        if (pixel === taken[direction]) continue;
        taken[direction] = pixel;
        tick(lane, direction, time[i]);
      }
      const until = { write: -1, read: -1, unknown: -1 };
      for (const bar of this.bars[lane]) {
        if (bar.from > end) break;
        if (bar.to < start) continue;
        const { direction } = bar;
        const right = Math.floor((bar.to - start) * scale);
        if (right <= until[direction]) continue;
        until[direction] = right;
        if ((bar.to - bar.from) * scale < 2) {
          tick(lane, direction, bar.from);
          continue;
        }
        const [top, bottom] = SIDES[direction];
        bars[direction].left.push(bar.from / 1e9);
        bars[direction].right.push(bar.to / 1e9);
        bars[direction].top.push(lane + top + 0.04);
        bars[direction].bottom.push(lane + bottom - 0.04);
      }
    });
    for (const kind of Object.keys(SIDES)) {
      this.sources[kind].data = ticks[kind];
      this.sources[`fold ${kind}`].data = bars[kind];
    }
    const marks = accesses.marks.filter(([, , kind]) => kind === 1);
    this.sources.marks.data = this.lines(marks.map(([, , , ns]) => ns / 1e9));
    this.drawn = Object.values(ticks).reduce((sum, { x }) => sum + x.length, 0);
  }

  lines(x) {
    const lanes = this.regions.length;
    return { x, y0: x.map(() => 0), y1: x.map(() => lanes) };
  }

  get width() {
    return Math.max(this.plot.clientWidth - 12, 100);
  }

  // Takes the colours of the page.
  paint() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const { figure, glyphs } = this;
    for (const each of [figure, this.axis])
      each.setv({
        background_fill_color: colour("ground"), border_fill_color: colour("ground"),
      });
    for (const grid of this.axis.center) grid.setv({ grid_line_color: null });
    this.axis.above[0].setv({
      axis_label: null,
      axis_line_color: colour("line"),
      major_tick_line_color: colour("line"),
      minor_tick_line_color: null,
      major_label_text_color: colour("soft"),
    });
    for (const grid of figure.center)
      grid.setv({ grid_line_color: grid.dimension === 0 ? colour("line") : null });
    glyphs.band.glyph.fill_color = colour("raised");
    const of = { write: "write", read: "read", unknown: "soft", marks: "mark", chosen: "accent" };
    for (const [kind, name] of Object.entries(of)) glyphs[kind].glyph.line_color = colour(name);
    for (const kind of Object.keys(SIDES)) {
      glyphs[`fold ${kind}`].glyph.fill_color = colour(of[kind]);
      glyphs[`fold ${kind}`].glyph.fill_alpha = 0.45;
    }
  }

  // Marks the access that is chosen, and moves there where it is out of sight.
  choose(i, moves = true) {
    const at = this.accesses.time[i] / 1e9;
    const lane = this.laneOf[this.accesses.shapes.region[this.accesses.shape[i]]];
    this.chosen = i;
    if (lane < 0) return;
    this.sources.chosen.data = { x: [at, at], y0: [0, lane + 0.02], y1: [0.02, lane + 0.98] };
    const { start, end } = this.range;
    if (moves && (at < start || at > end)) this.move(at - (end - start) / 2, at + (end - start) / 2);
  }

  move(start, end) {
    const [low, high] = this.bounds;
    const size = Math.min(Math.max(end - start, 1e-8), high - low);
    const from = Math.min(Math.max(start, low), high - size);
    this.range.setv({ start: from, end: from + size });
  }

  // Fits all that is shown.
  all() {
    const { time } = this.accesses;
    let [first, last] = [Infinity, -Infinity];
    for (const i of this.numbers) {
      if (time[i] < first) first = time[i];
      if (time[i] > last) last = time[i];
    }
    if (first > last) return this.move(...this.bounds);
    const edge = Math.max((last - first) * 0.01, 500);
    this.move((first - edge) / 1e9, (last + edge) / 1e9);
  }

  zoom(factor, around = null) {
    const { start, end } = this.range;
    const chosen = this.chosen === undefined ? null : this.accesses.time[this.chosen] / 1e9;
    const inside = chosen !== null && chosen >= start && chosen <= end;
    const at = around ?? (inside ? chosen : (start + end) / 2);
    this.move(at - (at - start) * factor, at + (end - at) * factor);
  }

  pan(part) {
    const { start, end } = this.range;
    this.move(start + (end - start) * part, end + (end - start) * part);
  }

  // The access or the bar nearest to a place, null where nothing is near.
  at(x, y) {
    const lane = Math.floor(y);
    if (!(lane >= 0 && lane < this.regions.length) || !this.alone) return null;
    const { time, shape, shapes } = this.accesses;
    const reach = ((this.range.end - this.range.start) * 1e9 * NEAR) / this.width;
    const [ns, side] = [x * 1e9, y - lane];
    let [best, least] = [null, Infinity];
    const within = (direction) =>
      side >= SIDES[direction][0] - 0.1 && side <= SIDES[direction][1] + 0.1;
    const list = this.alone[lane];
    for (let n = lowest(list, ns - reach, (i) => time[i]); n < list.length; n++) {
      const i = list[n];
      if (time[i] > ns + reach) break;
      const far = Math.abs(time[i] - ns) + (within(shapes.direction[shape[i]]) ? 0 : reach);
      if (far < least) [best, least] = [{ number: i, bar: null }, far];
    }
    for (const bar of this.bars[lane]) {
      if (bar.from > ns + reach) break;
      if (bar.to < ns - reach) continue;
      const far = Math.max(bar.from - ns, ns - bar.to, 0) + (within(bar.direction) ? 0 : reach);
      if (far < least) [best, least] = [{ number: bar.first, bar }, far];
    }
    return best;
  }

  tap({ x, y }) {
    const found = this.at(x, y);
    if (found) this.onPick(found.number);
  }

  under({ x, y }) {
    const found = this.at(x, y);
    this.plot.style.cursor = found ? "pointer" : "";
    this.onUnder(found, x);
  }
}

// The first of a sorted list that is not below a number.
function lowest(list, number, of) {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (of(list[middle]) < number) low = middle + 1;
    else high = middle;
  }
  return low;
}
