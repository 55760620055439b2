import type { RequestRecord } from "./request_record.ts";
import type { ServedModel } from "./served_model.ts";

/**
 * Figures for monitoring, in the text format of Prometheus
 * (https://prometheus.io/docs/instrumenting/exposition_formats/).
 *
 * @module
 */

/** Upper bounds of the buckets of durations, in seconds. */
const BUCKETS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];

/** Labels of a sample, such as `{model="default"}`. */
function labelled(labels: Readonly<Record<string, string | number>>): string {
  const texts = Object.entries(labels).map(([name, value]) =>
    `${name}="${`${value}`.replace(/[\\"\n]/g, (c) => c === "\n" ? "\\n" : `\\${c}`)}"`
  );
  return `{${texts.join()}}`;
}

/** Counts of durations by bucket. */
class Histogram {
  readonly #counts = BUCKETS.map(() => 0);
  #count = 0;
  #sum = 0;

  add(seconds: number): void {
    this.#count++;
    this.#sum += seconds;
    BUCKETS.forEach((bound, i) => {
      if (seconds <= bound) this.#counts[i]!++;
    });
  }

  /** The samples of the histogram of a model. */
  samples(name: string, model: string): string[] {
    const bucket = (le: number | string, count: number) =>
      `${name}_bucket${labelled({ model, le })} ${count}`;
    return [
      ...BUCKETS.map((bound, i) => bucket(bound, this.#counts[i]!)),
      bucket("+Inf", this.#count),
      `${name}_sum${labelled({ model })} ${this.#sum}`,
      `${name}_count${labelled({ model })} ${this.#count}`,
    ];
  }
}

/** A metric with its samples, a line each. */
function metric(name: string, type: string, help: string, samples: readonly string[]): string {
  return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...samples, ""].join("\n");
}

/** Adds to a counter. */
function increase(counts: Map<string, number>, key: string, more = 1): void {
  counts.set(key, (counts.get(key) ?? 0) + more);
}

/** Adds a duration to the histogram of a model. */
function observe(histograms: Map<string, Histogram>, model: string, milliseconds: number): void {
  const histogram = histograms.get(model) ?? new Histogram();
  histograms.set(model, histogram);
  histogram.add(milliseconds / 1000);
}

/** Counts the requests of a server. */
export class Metrics {
  readonly #started = Date.now() / 1000;
  readonly #requests = new Map<string, number>(); // by labels: path and status
  readonly #reasons = new Map<string, number>(); // by labels: model and reason
  readonly #tokens = new Map<string, number>(); // by labels: model and kind
  readonly #durations = new Map<string, Histogram>(); // by model
  readonly #firstPieces = new Map<string, Histogram>(); // by model

  /**
   * Counts a request that has ended.
   *
   * @param path that of the route, so that unknown paths are one.
   */
  count(record: RequestRecord, path: string): void {
    const { status, model, promptTokens, completionTokens, reasons, firstPieceMs, elapsedMs } =
      record;
    increase(this.#requests, labelled({ path, status }));
    if (model === undefined) return;
    observe(this.#durations, model, elapsedMs!);
    if (firstPieceMs === undefined) return; // the engine has refused it, or has not begun
    observe(this.#firstPieces, model, firstPieceMs);
    increase(this.#tokens, labelled({ model, kind: "prompt" }), promptTokens);
    increase(this.#tokens, labelled({ model, kind: "completion" }), completionTokens);
    for (const reason of reasons) increase(this.#reasons, labelled({ model, reason }));
  }

  /** All figures, in the text format. */
  text(models: readonly ServedModel[]): string {
    const counter = (name: string, help: string, map: Map<string, number>) =>
      metric(
        name,
        "counter",
        help,
        [...map].map(([labels, value]) => `${name}${labels} ${value}`),
      );
    const gauge = (name: string, help: string, value: (model: ServedModel) => number) =>
      metric(
        name,
        "gauge",
        help,
        models.map((model) => `${name}${labelled({ model: model.name })} ${value(model)}`),
      );
    const histogram = (name: string, help: string, map: Map<string, Histogram>) =>
      metric(
        name,
        "histogram",
        help,
        [...map].flatMap(([model, histogram]) => histogram.samples(name, model)),
      );
    const single = (name: string, help: string, value: number) =>
      metric(name, "gauge", help, [`${name} ${value}`]);
    return [
      counter("toy_requests_total", "Requests by path and status.", this.#requests),
      counter("toy_completions_total", "Completions by the reason why they ended.", this.#reasons),
      counter("toy_tokens_total", "Tokens of prompts and completions.", this.#tokens),
      gauge("toy_slots", "Completions that can run at once.", (m) => m.engine.stats().slots),
      gauge("toy_running", "Completions that run.", (m) => m.engine.stats().running),
      gauge("toy_waiting", "Completions that wait for a slot.", (m) => m.engine.stats().waiting),
      histogram("toy_request_seconds", "Time until a request was answered.", this.#durations),
      histogram(
        "toy_first_piece_seconds",
        "Time until the first text of a request was there.",
        this.#firstPieces,
      ),
      single("process_resident_memory_bytes", "Memory of the process.", Deno.memoryUsage().rss),
      single("process_start_time_seconds", "When the server began, since 1970.", this.#started),
    ].join("");
  }
}
