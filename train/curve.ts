/** Most points that are kept of one curve; even, as neighbours are merged in pairs. */
const MOST_POINTS = 500;

/** Equally many neighbours of a curve. */
interface Group<Point> {
  last: Point;
  count: number;
  /** Of each averaged figure. */
  sums: number[];
}

/**
 * A curve of at most 500 points however many are added: each then stands for equally many neighbours,
 * with the means of their figures, so that a run of any length is drawn from little memory and keeps its
 * trend.
 */
export class Curve<Point extends { readonly [F in Figure]: number }, Figure extends string> {
  readonly #figures: readonly Figure[];
  #groups: Group<Point>[] = [];
  /** Points of a full group. */
  #stride = 1;

  /** @param figures what is averaged; all else is that of the last neighbour. */
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

  /** Adds a point behind all others. */
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
