/** Points of a curve, at most. */
export const MOST_POINTS = 2000;

/** Groups of neighbours, at most: two points of each are kept, and the last of all. An even number. */
const MOST_GROUPS = MOST_POINTS / 2 - 2;

/** A point of a curve: a figure in a line of a record. */
export interface Point {
  readonly step: number;
  /** Seconds of training; NaN if unknown. */
  readonly seconds: number;
  /** Tokens up to its step, those of all ranks; NaN if unknown. */
  readonly tokens: number;
  /** Null if it is not finite. */
  readonly value: number | null;
}

/** Points of a curve as columns of equal length, as JSON has them. */
export interface Columns {
  readonly step: number[];
  readonly seconds: (number | null)[];
  readonly tokens: (number | null)[];
  readonly value: (number | null)[];
  /** The mean of the neighbours for which a point stands, with its own value. */
  readonly mean: (number | null)[];
}

/** Neighbouring points, of which the least and the greatest are kept. */
interface Group {
  least: Point;
  greatest: Point;
  count: number;
  /** Values that are finite, and their sum. */
  finite: number;
  sum: number;
}

/**
 * A curve that keeps at most 2,000 of its points: the least and the greatest of equally many neighbours, and the last
 * of all. So peaks stay, and every point that is kept is one of the record.
 */
export class ThinnedCurve {
  #groups: Group[] = [];
  /** Points per full group. */
  #stride = 1;
  #last: Point | undefined;

  /** Adds a point at the end; one of the last step or an earlier one is left out. */
  add(point: Point): void {
    if (this.#last && point.step <= this.#last.step) return;
    this.#last = point;
    let group = this.#groups.at(-1);
    if (!group || group.count >= this.#stride) {
      if (this.#groups.length === MOST_GROUPS) this.#mergePairs();
      group = { least: point, greatest: point, count: 0, finite: 0, sum: 0 };
      this.#groups.push(group);
    }
    group.count++;
    if (point.value === null) return;
    group.finite++;
    group.sum += point.value;
    if (group.least.value === null || point.value < group.least.value) group.least = point;
    if (group.greatest.value === null || point.value > group.greatest.value) group.greatest = point;
  }

  /** Removes all points after a step, at which the record continues. */
  goBack(step: number): void {
    this.#groups = this.#groups.flatMap((group) => {
      const kept = [group.least, group.greatest].filter((point) => point.step <= step);
      if (kept.length !== 1) return kept.length === 0 ? [] : [group];
      const [point] = kept as [Point], { value } = point;
      const finite = value === null ? 0 : 1;
      return [{ ...group, least: point, greatest: point, finite, sum: value ?? 0 }];
    });
    if (this.#last && this.#last.step > step) this.#last = this.#points(false).at(-1)?.point;
  }

  /** The last point. */
  get last(): Point | undefined {
    return this.#last;
  }

  /** The points after a step, in ascending order. */
  columns(after = -Infinity): Columns {
    const columns: Columns = { step: [], seconds: [], tokens: [], value: [], mean: [] };
    for (const { point, mean } of this.#points()) {
      if (point.step <= after) continue;
      columns.step.push(point.step);
      columns.seconds.push(Number.isFinite(point.seconds) ? point.seconds : null);
      columns.tokens.push(Number.isFinite(point.tokens) ? point.tokens : null);
      columns.value.push(point.value);
      columns.mean.push(mean);
    }
    return columns;
  }

  #points(withLast = true): { point: Point; mean: number | null }[] {
    const points: { point: Point; mean: number | null }[] = [];
    for (const { least, greatest, finite, sum } of this.#groups) {
      const mean = finite === 0 ? null : finite === 1 ? least.value : sum / finite;
      const pair = least === greatest
        ? [least]
        : least.step <= greatest.step
        ? [least, greatest]
        : [greatest, least];
      points.push(...pair.map((point) => ({ point, mean })));
    }
    const last = withLast ? this.#last : undefined;
    if (last && points.at(-1)?.point !== last) {
      points.push({ point: last, mean: points.at(-1)?.mean ?? last.value });
    }
    return points;
  }

  #mergePairs(): void {
    this.#groups = Array.from({ length: MOST_GROUPS / 2 }, (_, pair) => {
      const a = this.#groups[2 * pair]!, b = this.#groups[2 * pair + 1]!;
      const isLess = a.least.value === null ||
        b.least.value !== null && b.least.value < a.least.value;
      const isGreater = a.greatest.value === null ||
        b.greatest.value !== null && b.greatest.value > a.greatest.value;
      return {
        least: isLess ? b.least : a.least,
        greatest: isGreater ? b.greatest : a.greatest,
        count: a.count + b.count,
        finite: a.finite + b.finite,
        sum: a.sum + b.sum,
      };
    });
    this.#stride *= 2;
  }
}
