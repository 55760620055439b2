/** Points of a curve, at most; an even number, as neighbours are merged in pairs. */
const MOST_POINTS = 500;

/** Neighbouring points that are drawn as one. */
interface Group<Point> {
  last: Point;
  count: number;
  /** The sum of each averaged figure. */
  sums: number[];
}

/**
 * A curve that keeps at most 500 points. If more are added, each point that is kept is the mean of equally many
 * neighbours, so that a run of any length needs little memory and its trend is visible.
 */
export class Curve<Point extends { readonly [F in Figure]: number }, Figure extends string> {
  readonly #figures: readonly Figure[];
  #groups: Group<Point>[] = [];
  /** Points per full group. */
  #stride = 1;

  /** @param figures the fields that are averaged; all others are those of the last neighbour. */
  constructor(figures: readonly Figure[]) {
    this.#figures = figures;
  }

  /** The points in the order in which they were added. */
  get points(): Point[] {
    return this.#groups.map(({ last, count, sums }) => {
      const means = this.#figures.map((figure, i) => [figure, sums[i]! / count]);
      return { ...last, ...Object.fromEntries(means) };
    });
  }

  /** Adds a point at the end. */
  add(point: Point): void {
    let group = this.#groups.at(-1);
    if (!group || group.count === this.#stride) {
      if (this.#groups.length === MOST_POINTS) this.#mergePairs();
      group = { last: point, count: 0, sums: this.#figures.map(() => 0) };
      this.#groups.push(group);
    }
    group.last = point;
    group.count++;
    this.#figures.forEach((figure, i) => group.sums[i]! += point[figure]);
  }

  #mergePairs(): void {
    this.#groups = Array.from({ length: MOST_POINTS / 2 }, (_, pair) => {
      const a = this.#groups[2 * pair]!, b = this.#groups[2 * pair + 1]!;
      return {
        last: b.last,
        count: a.count + b.count,
        sums: a.sums.map((sum, i) => sum + b.sums[i]!),
      };
    });
    this.#stride *= 2;
  }
}
