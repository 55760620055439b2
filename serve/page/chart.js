// @ts-check
/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import { create, nameOf, scrolling, swatch, table } from "./dom.js";
import { curveName } from "./figures.js";
import { duration, figure as figureText, inShort, UNKNOWN } from "./format.js";
import { AXES } from "./selection.js";

/**
 * A chart of the page: curves of the selected runs, a line with the values at the cursor, and a table.
 *
 * @module
 */

/**
 * @typedef {import("npm:uplot@1.6.32")} Plot
 * @typedef {import("npm:uplot@1.6.32").Options} PlotOptions
 * @typedef {import("npm:uplot@1.6.32").AlignedData} AlignedData
 * @typedef {import("./figures.js").Chart} Chart
 * @typedef {import("./figures.js").Figure} Figure
 * @typedef {import("./selection.js").Selection} Selection
 * @typedef {import("./source.js").RunCurves} RunCurves
 */

/**
 * A run that is drawn.
 * @typedef {object} DrawnRun
 * @property {string} name
 * @property {number} color its number among the colours of runs
 * @property {RunCurves} curves
 */

/**
 * A line of a chart.
 * @typedef {object} Line
 * @property {DrawnRun} run
 * @property {Figure} figure
 * @property {number[]} steps
 * @property {number[]} x
 * @property {(number | null)[]} y as the record has it
 * @property {(number | null)[] | undefined} smooth undefined without smoothing
 */

/** The script of uPlot defines it as a global.
 * @type {typeof import("npm:uplot@1.6.32")} */
const uPlot = /** @type {any} */ (globalThis).uPlot;

/** Height of a plot in pixels, also on a narrow page. */
const HEIGHT = { large: 320, small: 170 }, NARROW = 480, NARROW_HEIGHT = { large: 240, small: 150 };

/** @type {import("../thinned_curve.ts").Columns} */
const NO_COLUMNS = { step: [], seconds: [], tokens: [], value: [], mean: [] };

/** The column with the places of points on each horizontal axis. */
const PLACES = /** @type {const} */ ({ step: "step", tokens: "tokens", time: "seconds" });

/** Rows of a table, at most. */
const MOST_ROWS = 100;

/** Points on which Page Up and Page Down move the cursor. */
const PAGE_POINTS = 20;

/** Lines among which the names of warnings are distributed, so that those of neighbours do not cover each other. */
const MARK_LINES = 4;

/** Seconds between two ticks of a time axis. */
const TIME_STEPS = [1, 2, 5, 10, 15, 30].flatMap((step) => [step, 60 * step, 3600 * step])
  .concat([1, 2, 5, 10, 20, 50, 100].map((days) => 86_400 * days)).sort((a, b) => a - b);

/** A chart. */
export class ChartView {
  /** @type {HTMLElement} */
  element;
  /** @type {Chart} */
  #chart;
  /** @type {HTMLElement} */
  #plotBox;
  /** @type {HTMLElement} */
  #readout;
  /** @type {HTMLDetailsElement} */
  #tableBox;
  /** @type {Plot | undefined} */
  #plot;
  /** @type {Line[]} */
  #lines = [];
  /** Lines, axis and scale of the plot, without its points. */
  #form = "";
  /** @type {Selection | undefined} */
  #selection;
  /** @type {number[]} */
  #floors = [];
  /** Warnings: their places on the horizontal axis, and the colours of their runs.
   * @type {{ x: number, color: number, name: string }[]} */
  #marks = [];

  /** @param {Chart} chart */
  constructor(chart) {
    this.#chart = chart;
    this.#readout = create("ul", { class: "readout" });
    this.#plotBox = create("div", {
      class: "plot",
      role: "slider",
      tabindex: 0,
      "aria-label": `${chart.title}: value at the cursor`,
      "aria-valuemin": 0,
    });
    this.#tableBox = create("details", { class: "figures" }, create("summary", {}, "Figures"));
    this.#tableBox.addEventListener("toggle", () => this.#fillTable());
    this.#plotBox.addEventListener("keydown", (event) => this.#move(event));
    this.element = create(
      "figure",
      { class: chart.floor ? "chart large" : "chart", id: `chart-${chart.id}` },
      create(
        "figcaption",
        {},
        create("h3", {}, chart.title),
        create("span", { class: "unit" }, chart.unit),
      ),
      this.#readout,
      this.#plotBox,
      this.#tableBox,
    );
    new ResizeObserver(() => this.#resize()).observe(this.#plotBox);
  }

  /**
   * Draws runs. A chart without points is hidden.
   *
   * @param {readonly DrawnRun[]} runs
   * @param {Selection} selection
   */
  update(runs, selection) {
    this.#selection = selection;
    this.#lines = runs.flatMap((run) =>
      this.#chart.figures.map((figure) => lineOf(run, figure, selection))
    ).filter(({ x }) => x.length > 0);
    const isFlat = this.#chart.rare &&
      this.#lines.every(({ y }) => y.every((value) => value === y[0]));
    this.element.hidden = this.#lines.length === 0 || isFlat === true;
    if (this.element.hidden) return;
    this.#floors = this.#chart.floor
      ? [...new Set(runs.flatMap(({ curves }) => curves.entropyPerToken ?? []))]
      : [];
    this.#marks = this.#chart.floor ? runs.flatMap((run) => this.#marksOf(run)) : [];
    const form = JSON.stringify([
      selection.axis,
      this.#isLog,
      selection.smoothing > 0,
      this.#lines.map(({ run, figure }) => [run.name, run.color, curveName(figure)]),
    ]);
    if (this.#plot && form === this.#form) this.#follow(this.#plot);
    else this.#draw();
    this.#form = form;
    this.#read();
    this.#fillTable();
  }

  /**
   * The warnings of a run, at the first points of a curve from their steps on.
   *
   * @param {DrawnRun} run
   */
  #marksOf(run) {
    const { color, curves: { warnings } } = run;
    const line = this.#lines.find((line) => line.run === run);
    return warnings.flatMap(({ step, name }) => {
      const x = line?.x[line.steps.findIndex((at) => at >= step)] ?? line?.x.at(-1);
      return x === undefined ? [] : [{ x, color, name }];
    });
  }

  /** Draws everything again, as after a change of colours. */
  redraw() {
    if (this.#plot && !this.element.hidden) this.#draw();
  }

  get #isLog() {
    return this.#chart.log === true && this.#selection?.log === true;
  }

  /** @returns {AlignedData} */
  #data() {
    const isLog = this.#isLog;
    /** @param {(number | null)[]} values */
    const drawable = (values) =>
      isLog ? values.map((value) => value !== null && value > 0 ? value : null) : values;
    return uPlot.join(
      this.#lines.map((
        { x, y, smooth },
      ) => /** @type {AlignedData} */ ([x, drawable(y), ...(smooth ? [drawable(smooth)] : [])])),
    );
  }

  /** Draws new points; a part of the axis that the reader chose stays.
   * @param {Plot} plot */
  #follow(plot) {
    const { min, max } = plot.scales.x ?? {}, [xs] = plot.data;
    const isZoomed = Number(min) > Number(xs[0]) || Number(max) < Number(xs.at(-1));
    plot.setData(this.#data(), !isZoomed);
    if (isZoomed && typeof min === "number" && typeof max === "number") {
      plot.setScale("x", { min, max });
    }
  }

  #draw() {
    this.#plot?.destroy();
    const { axis } = /** @type {Selection} */ (this.#selection);
    const text = colorOf("--muted"), line = colorOf("--line"), isLog = this.#isLog;
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const axes = {
      stroke: text,
      font,
      grid: { stroke: line, width: 1 },
      ticks: { stroke: line, size: 4 },
    };
    const { width, height } = this.#size();
    const data = this.#data();
    this.#plot = new uPlot(
      {
        width,
        height,
        legend: { show: false },
        scales: {
          x: { time: false },
          y: {
            distr: isLog ? 3 : 1,
            range: (_, least, most) => rangeOf([least, most, ...this.#floors], isLog),
          },
        },
        series: [
          {},
          ...this.#lines.flatMap((line) => seriesOf(line, this.#chart.figures.length > 1)),
        ],
        axes: [
          {
            ...axes,
            size: 30,
            space: 70,
            values: (_, splits) => axisTexts(splits, axis),
            ...(axis === "time" ? { incrs: TIME_STEPS } : {}),
          },
          {
            ...axes,
            size: 56,
            ...(isLog
              ? {
                splits: (_, __, least, most) => logTicks(least, most, height / 30),
                filter: (_, splits) => splits,
              }
              : {}),
            values: (_, splits) => splits.map((value) => value === null ? "" : shortText(value)),
          },
        ],
        cursor: {
          sync: { key: "runs" },
          points: { size: 6 },
          drag: { x: true, y: false },
        },
        hooks: {
          draw: [(plot) => this.#drawFloors(plot), (plot) => this.#drawMarks(plot)],
          setCursor: [() => this.#read({ isMoved: true })],
        },
      },
      data,
      this.#plotBox,
    );
    this.#plot.root.setAttribute("aria-hidden", "true");
  }

  /** @param {Plot} plot */
  #drawFloors(plot) {
    const { bbox: { left, width } } = plot;
    for (const floor of this.#floors) {
      const y = Math.round(plot.valToPos(floor, "y", true));
      drawRule(plot, {
        from: [left, y],
        to: [left + width, y],
        dash: [6, 4],
        color: colorOf("--muted"),
        text: `entropy of the text ${figureText(floor)}`,
      });
    }
  }

  /** @param {Plot} plot */
  #drawMarks(plot) {
    const { bbox: { left, top, width, height } } = plot;
    for (const [i, { x: value, color, name }] of this.#marks.entries()) {
      const x = Math.round(plot.valToPos(value, "x", true));
      if (x < left || x > left + width) continue; // the reader has zoomed
      drawRule(plot, {
        from: [x, top],
        to: [x, top + height],
        dash: [2, 3],
        color: colorOf(`--run-${color}`),
        text: name,
        line: i % MARK_LINES,
      });
    }
  }

  #size() {
    const width = Math.max(120, this.#plotBox.clientWidth);
    const heights = innerWidth < NARROW ? NARROW_HEIGHT : HEIGHT;
    return { width, height: this.#chart.floor ? heights.large : heights.small };
  }

  #resize() {
    const plot = this.#plot, size = this.#size();
    if (
      plot && this.#plotBox.clientWidth > 0 &&
      (plot.width !== size.width || plot.height !== size.height)
    ) {
      plot.setSize(size);
    }
  }

  /** Shows the values at the cursor, or the last ones. A screen reader hears them if the cursor moved. */
  #read({ isMoved = false } = {}) {
    const plot = this.#plot, [xs] = plot?.data ?? [];
    if (!plot || !xs) return;
    const { axis } = /** @type {Selection} */ (this.#selection);
    const index = plot.cursor.idx ?? undefined;
    const at = index === undefined ? Infinity : xs[index] ?? Infinity;
    const names = new Set(this.#lines.map(({ run }) => run.name));
    const items = [...names].map((name) => {
      const lines = this.#lines.filter(({ run }) => run.name === name);
      const values = lines.map(({ figure, x, y }) => {
        const last = x.findLastIndex((value) => value <= at);
        const value = last < 0 ? UNKNOWN : y[last] === null ? "not finite" : figureText(y[last]);
        return this.#chart.figures.length > 1 ? `${figure.label} ${value}` : value;
      });
      return { name, color: lines[0]?.run.color ?? 0, text: values.join(", ") };
    });
    const place = at === Infinity ? "" : `${AXES[axis]} ${axisText(at, axis)}`;
    const parts = items.map(({ name, color, text }) => {
      const title = names.size > 1 ? [nameOf(name)] : [];
      return create("li", {}, swatch(color), ...title, ` ${text}`);
    });
    this.#readout.replaceChildren(
      ...parts,
      ...(place ? [create("li", { class: "place" }, place)] : []),
    );
    if (!isMoved && document.activeElement === this.#plotBox) return;
    const said = items.map(({ name, text }) => names.size > 1 ? `${name}: ${text}` : text);
    for (
      const [name, value] of /** @type {const} */ ([
        ["max", xs.length - 1],
        ["now", index ?? xs.length - 1],
        ["text", `${place || "last"}: ${said.join("; ")}`],
      ])
    ) this.#plotBox.setAttribute(`aria-value${name}`, `${value}`);
  }

  /** Moves the cursor by keys, and zooms.
   * @param {KeyboardEvent} event */
  #move(event) {
    const plot = this.#plot, xs = plot?.data[0];
    if (!plot || !xs || event.altKey || event.ctrlKey || event.metaKey) return;
    const last = xs.length - 1, index = plot.cursor.idx ?? last;
    /** @type {Record<string, number>} */
    const moves = {
      ArrowLeft: index - 1,
      ArrowDown: index - 1,
      ArrowRight: index + 1,
      ArrowUp: index + 1,
      PageDown: index - PAGE_POINTS,
      PageUp: index + PAGE_POINTS,
      Home: 0,
      End: last,
    };
    const to = moves[event.key];
    if (to !== undefined) {
      const x = /** @type {number} */ (xs[Math.max(0, Math.min(last, to))]);
      plot.setCursor({ left: plot.valToPos(x, "x"), top: plot.over.clientHeight / 2 });
    } else if (event.key === "Escape") {
      plot.setCursor({ left: -10, top: -10 });
    } else if (event.key === "+" || event.key === "-") {
      const { min = 0, max = 1 } = plot.scales.x ?? {}, center = xs[index] ?? 0;
      const factor = event.key === "+" ? 0.5 : 2;
      const [first = 0, end = 1] = [xs[0], xs[last]];
      plot.setScale("x", {
        min: Math.max(first, center - (center - /** @type {number} */ (min)) * factor),
        max: Math.min(end, center + (/** @type {number} */ (max) - center) * factor),
      });
    } else return;
    event.preventDefault();
  }

  /** Fills the table if it is open: evaluations, and steps at equal distances. */
  #fillTable() {
    if (!this.#tableBox.open) return;
    const { axis } = /** @type {Selection} */ (this.#selection), place = PLACES[axis];
    const names = [...new Set(this.#lines.map(({ run }) => run.name))];
    const tables = names.map((name) => {
      const lines = this.#lines.filter(({ run }) => run.name === name);
      const columns = lines.map(({ run, figure }) => /** @type {const} */ ([
        figure,
        run.curves.curves[curveName(figure)] ?? NO_COLUMNS,
      ]));
      const steps = new Set(
        columns.flatMap(([{ kind }, { step }]) =>
          thin(step, kind === "evaluation" || columns.length === 1 ? MOST_ROWS : MOST_ROWS / 2)
        ),
      );
      const rows = [...steps].sort((a, b) => a - b).map((step) => [
        `${step}`,
        ...(axis === "step" ? [] : [
          `${
            columns.map(([, column]) => column[place][column.step.indexOf(step)])
              .find((value) => typeof value === "number") ?? UNKNOWN
          }`,
        ]),
        ...columns.map(([, { step: all, value }]) => {
          const at = all.indexOf(step);
          return at < 0 ? "" : `${value[at] ?? "not finite"}`;
        }),
      ]);
      const headings = [
        "step",
        ...(axis === "step" ? [] : [place]),
        ...columns.map(([{ label }]) => label),
      ];
      const label = `${this.#chart.title} of ${name}`, figures = table(label, headings, rows);
      const title = create("h4", {}, nameOf(name));
      return scrolling(label, names.length > 1 ? create("div", {}, title, figures) : figures);
    });
    const [summary, ...before] = this.#tableBox.children;
    const places = before.map(({ scrollTop }) => scrollTop);
    const focused = before.findIndex((element) => element === document.activeElement);
    this.#tableBox.replaceChildren(/** @type {Element} */ (summary), ...tables);
    tables.forEach((table, i) => table.scrollTop = places[i] ?? 0);
    tables[focused]?.focus({ preventScroll: true });
  }
}

/**
 * Draws a dashed line with a text beside it, `line` lines below the top of the line.
 *
 * @param {Plot} plot
 * @param {{
 *   from: [x: number, y: number],
 *   to: [x: number, y: number],
 *   dash: number[],
 *   color: string,
 *   text: string,
 *   line?: number,
 * }} rule in pixels of the canvas but for dashes, which are in those of the page
 */
function drawRule({ ctx, bbox }, { from, to, dash, color, text, line = 0 }) {
  const pixels = devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = color;
  ctx.lineWidth = pixels;
  ctx.setLineDash(dash.map((length) => length * pixels));
  ctx.beginPath();
  ctx.moveTo(...from);
  ctx.lineTo(...to);
  ctx.stroke();
  ctx.font = `${12 * pixels}px ${getComputedStyle(document.body).fontFamily}`;
  const isLeft = from[0] + 4 * pixels + ctx.measureText(text).width <= bbox.left + bbox.width;
  ctx.textAlign = isLeft ? "left" : "right";
  ctx.textBaseline = "top";
  ctx.fillText(text, from[0] + (isLeft ? 4 : -4) * pixels, from[1] + (4 + 16 * line) * pixels);
  ctx.restore();
}

/**
 * @param {DrawnRun} run
 * @param {Figure} figure
 * @param {Selection} selection
 * @returns {Line}
 */
function lineOf(run, figure, { axis, smoothing }) {
  const columns = run.curves.curves[curveName(figure)] ?? NO_COLUMNS,
    places = columns[PLACES[axis]];
  const { step, value, mean } = columns;
  const isSmoothed = smoothing > 0 && figure.noisy === true;
  const smooth = isSmoothed ? movingAverage(mean, smoothing) : undefined;
  /** @type {number[]} */
  const x = [], steps = [];
  /** @type {(number | null)[]} */
  const y = [], smoothed = [];
  for (const [i, place] of places.entries()) {
    if (place === null || x.length > 0 && place <= /** @type {number} */ (x.at(-1))) continue;
    x.push(place);
    steps.push(step[i] ?? 0);
    y.push(value[i] ?? null);
    smoothed.push(smooth?.[i] ?? null);
  }
  return { run, figure, steps, x, y, smooth: smooth && smoothed };
}

/**
 * The exponential moving average, without the bias towards zero at its beginning, as Adam corrects it.
 *
 * @param {readonly (number | null)[]} values
 * @param {number} weight
 */
function movingAverage(values, weight) {
  let sum = 0, correction = 1;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    correction *= weight;
    return sum / (1 - correction);
  });
}

/**
 * @param {Line} line
 * @param {boolean} isPair whether the chart has another figure
 * @returns {PlotOptions["series"]}
 */
function seriesOf({ run, figure, smooth }, isPair) {
  const color = colorOf(`--run-${run.color}`);
  /** @param {number} opacity */
  const faint = (opacity) => color.replace(/^rgb\((.*)\)$/, `rgba($1, ${opacity})`);
  const noPoints = { points: { show: false } };
  if (figure.kind === "evaluation") {
    return [{
      stroke: color,
      width: 2.5,
      points: { show: true, size: 6, fill: color, stroke: color },
    }];
  }
  if (smooth) {
    return [
      { stroke: faint(0.35), width: 1, ...noPoints },
      { stroke: color, width: 1.5, ...noPoints },
    ];
  }
  return [isPair ? { stroke: faint(0.6), width: 1.25 } : { stroke: color, width: 1.5 }];
}

/**
 * A colour of the style sheet as a canvas needs it.
 *
 * @param {string} variable
 */
function colorOf(variable) {
  const probe = create("span", { hidden: true });
  probe.style.color = `var(${variable})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

/**
 * The range of an axis for values.
 *
 * @param {readonly (number | null)[]} values
 * @param {boolean} isLog
 * @returns {[number, number]}
 */
function rangeOf(values, isLog) {
  const known =
    /** @type {number[]} */ (values.filter((value) => value !== null && (!isLog || value > 0)));
  if (known.length === 0) return isLog ? [1, 10] : [0, 1];
  const least = Math.min(...known), most = Math.max(...known);
  if (isLog) {
    const pad = Math.max(1.02, (most / least) ** 0.08);
    return [least / pad, most * pad];
  }
  // equal values, or almost, would leave no room for ticks
  const isFlat = most - least <= 1e-6 * Math.abs(most);
  const pad = isFlat ? Math.abs(most) * 0.1 || 1 : (most - least) * 0.08;
  return [least >= 0 && least - pad < 0 ? 0 : least - pad, most + pad];
}

/**
 * Ticks of a logarithmic axis: 1, 2 and 5 times powers of ten, or fewer; equal steps if the range is narrow.
 *
 * @param {number} least
 * @param {number} most
 * @param {number} mostTicks
 */
function logTicks(least, most, mostTicks) {
  const first = Math.floor(Math.log10(least)), last = Math.floor(Math.log10(most));
  for (const digits of [[1, 2, 5], [1, 3], [1]]) {
    const every = digits.length > 1 ? 1 : Math.ceil((last - first + 1) / mostTicks);
    const powers = Array.from(
      { length: Math.floor((last - first) / every) + 1 },
      (_, i) => first + i * every,
    );
    const ticks = powers.flatMap((power) => digits.map((digit) => Number(`${digit}e${power}`)))
      .filter((tick) => tick >= least && tick <= most);
    if (ticks.length >= 3 && ticks.length <= mostTicks) return ticks;
  }
  const size = 10 ** Math.floor(Math.log10((most - least) / mostTicks));
  const step = [1, 2, 5, 10].map((digit) => digit * size)
    .find((step) => (most - least) / step < mostTicks) ?? most - least;
  const from = Math.ceil(least / step);
  return Array.from(
    { length: Math.floor(most / step) - from + 1 },
    (_, i) => Number(((from + i) * step).toPrecision(12)),
  );
}

/**
 * A value on an axis.
 *
 * @param {number} value
 */
function shortText(value) {
  return Math.abs(value) >= 1000 ? inShort(value) : figureText(value);
}

/**
 * Labels of the horizontal axis.
 *
 * @param {readonly number[]} splits
 * @param {Selection["axis"]} axis
 */
function axisTexts(splits, axis) {
  if (axis !== "time") return splits.map(shortText);
  const longest = splits.at(-1) ?? 0;
  if (longest < 120) return splits.map((split) => `${split} s`);
  const [unit, seconds] = longest < 7200 ? ["min", 60] : ["h", 3600];
  return splits.map((split) => {
    const rest = `${Math.floor(split % seconds / seconds * 60)}`.padStart(2, "0");
    return `${Math.floor(split / seconds)}:${rest} ${unit}`;
  });
}

/**
 * A place on the horizontal axis.
 *
 * @param {number} value
 * @param {Selection["axis"]} axis
 */
function axisText(value, axis) {
  return axis === "time" ? duration(value) : value.toLocaleString("en");
}

/**
 * At most so many values at equal distances, with the last one.
 *
 * @param {readonly number[]} values
 * @param {number} most
 */
function thin(values, most) {
  const stride = Math.max(1, Math.ceil(values.length / most));
  return values.filter((_, i) => i % stride === 0 || i === values.length - 1);
}
