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

/** Labels of a sample. */
type Labels = Readonly<Record<string, string | number>>;

/** How often durations were at most as long as each bound. */
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

  lines(name: string, labels: Labels): string[] {
    return [
      ...BUCKETS.map((le, i) => sample(`${name}_bucket`, { ...labels, le }, this.#counts[i]!)),
      sample(`${name}_bucket`, { ...labels, le: "+Inf" }, this.#count),
      sample(`${name}_sum`, labels, this.#sum),
      sample(`${name}_count`, labels, this.#count),
    ];
  }
}

function sample(name: string, labels: Labels, value: number): string {
  const texts = Object.entries(labels).map(([name, value]) =>
    `${name}="${`${value}`.replace(/[\\"\n]/g, (c) => c === "\n" ? "\\n" : `\\${c}`)}"`
  );
  return `${name}${texts.length > 0 ? `{${texts.join()}}` : ""} ${value}`;
}

/** A metric with its samples. */
function metric(name: string, type: string, help: string, samples: readonly string[]): string {
  return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...samples, ""].join("\n");
}

/** A map whose missing values are made. */
function valueAt<Value>(map: Map<string, Value>, key: string, make: () => Value): Value {
  const value = map.get(key) ?? make();
  map.set(key, value);
  return value;
}

/** Counts the requests of a server. */
export class Metrics {
  readonly #started = Date.now() / 1000;
  readonly #requests = new Map<string, number>(); // by path and status
  readonly #reasons = new Map<string, number>(); // by model and reason
  readonly #tokens = new Map<string, number>(); // by model and kind
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
    const add = (map: Map<string, number>, labels: Labels, value = 1) => {
      const key = JSON.stringify(labels);
      map.set(key, (map.get(key) ?? 0) + value);
    };
    add(this.#requests, { path, status });
    if (model === undefined) return;
    add(this.#tokens, { model, kind: "prompt" }, promptTokens);
    add(this.#tokens, { model, kind: "completion" }, completionTokens);
    for (const reason of reasons) add(this.#reasons, { model, reason });
    valueAt(this.#durations, model, () => new Histogram()).add(elapsedMs! / 1000);
    if (firstPieceMs === undefined) return;
    valueAt(this.#firstPieces, model, () => new Histogram()).add(firstPieceMs / 1000);
  }

  /** All figures, in the text format. */
  text(models: readonly ServedModel[]): string {
    const counter = (name: string, help: string, map: Map<string, number>) =>
      metric(
        name,
        "counter",
        help,
        [...map].map(([labels, value]) => sample(name, JSON.parse(labels), value)),
      );
    const gauge = (name: string, help: string, value: (model: ServedModel) => number) =>
      metric(
        name,
        "gauge",
        help,
        models.map((model) => sample(name, { model: model.name }, value(model))),
      );
    const histogram = (name: string, help: string, map: Map<string, Histogram>) =>
      metric(
        name,
        "histogram",
        help,
        [...map].flatMap(([model, histogram]) => histogram.lines(name, { model })),
      );
    const single = (name: string, help: string, value: number) =>
      metric(name, "gauge", help, [sample(name, {}, value)]);
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
