import { assertDType, type DType, type Tensor } from "./tensor.ts";

/**
 * A tensor, undefined if it is optional and missing, with its shape such as `B·T,3C` and its element types.
 */
export type Dimensioned = readonly [
  tensor: Tensor | undefined,
  shape: string,
  dtypes: DType | `${DType}|${DType}`,
];

type Digit = 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9;

/** The names in a shape: those of `B·T,3C` are B, T and C. */
type Names<S extends string> = S extends `${infer A},${infer B}` ? Names<A> | Names<B>
  : S extends `${infer A}·${infer B}` ? Names<A> | Names<B>
  : S extends `${Digit}${infer Rest}` ? Names<Rest>
  : S extends "" ? never
  : S;

/**
 * Checks the tensors of an op and returns their dimensions by name.
 *
 * A dimension is a number, a name, or a product such as `3C` or `B·T`. One name of a product may be new: the
 * first tensor with this name determines its value, which the following tensors must have too.
 *
 * @param action the name of the op, for messages.
 * @param tensors the tensors by their roles in the op, in the order in which they are checked; undefined ones are
 * skipped.
 * @param known values of dimensions that the caller knows.
 * @throws {RangeError} if a tensor has another shape, or if a known dimension is no positive integer; {TypeError} if a
 * tensor has another element type, or if a product has two new names.
 */
export function dims<
  const T extends Readonly<Record<string, Dimensioned>>,
  const K extends Readonly<Record<string, number>> = Readonly<Record<never, number>>,
>(
  action: string,
  tensors: T,
  known?: K,
): Record<Names<T[keyof T][1]> | keyof K, number> {
  const values = new Map<string, number>(Object.entries(known ?? {}));
  for (const [name, value] of values) {
    if (Number.isSafeInteger(value) && value > 0) continue;
    throw new RangeError(
      `Cannot run ${action} as ${name} must be a positive integer: current value is ${value}`,
    );
  }
  for (const [role, [tensor, shape, dtypes]] of Object.entries<Dimensioned>(tensors)) {
    if (!tensor) continue;
    assertDType(action, { [role]: tensor }, ...dtypes.split("|") as DType[]);
    const terms = termsOf(shape), before = new Map(values);
    let fits = terms.length === tensor.shape.length;
    for (let i = 0; fits && i < terms.length; i++) {
      const { product, names } = evaluate(terms[i]!, values), length = tensor.shape[i]!;
      if (names.length > 1) {
        throw new TypeError(
          `Cannot determine the dimension ${
            terms[i]!.join("·")
          } as at most one of its names may be new: ` +
            `current new names are ${names}`,
        );
      }
      for (const name of names) values.set(name, length / product);
      fits = names.length === 0 ? length === product : length % product === 0;
    }
    if (!fits) {
      const expected = terms.map((term) => expectedOf(term, before));
      throw new RangeError(
        `Cannot run ${action} as ${role} must have shape [${expected}]: ` +
          `current shape of "${tensor.name}" is [${tensor.shape}]`,
      );
    }
  }
  return Object.fromEntries(values) as Record<Names<T[keyof T][1]> | keyof K, number>;
}

/** A dimension as its factors, numbers and names: those of `3C` are 3 and C. */
type Term = readonly (number | string)[];

/** Shapes that were parsed: a program has each of them a hundred times, and parsing took a quarter of the time to record it. */
const parsed = new Map<string, readonly Term[]>();

/** The dimensions of a shape. */
function termsOf(shape: string): readonly Term[] {
  let terms = parsed.get(shape);
  if (!terms) {
    terms = shape.split(",").map((term) =>
      term.replace(/^\d+(?=\p{L})/u, "$&·").split("·")
        .map((factor) => /^\d+$/.test(factor) ? Number(factor) : factor)
    );
    parsed.set(shape, terms);
  }
  return terms;
}

/** The product of the known factors of a dimension, and the names among its factors that are not known. */
function evaluate(
  term: Term,
  values: ReadonlyMap<string, number>,
): { product: number; names: string[] } {
  const names: string[] = [];
  let product = 1;
  for (const factor of term) {
    const value = typeof factor === "number" ? factor : values.get(factor);
    if (value === undefined) names.push(factor as string);
    else product *= value;
  }
  return { product, names };
}

/** A dimension for messages: `B·S` is 3S if B is 3. */
function expectedOf(term: Term, values: ReadonlyMap<string, number>): string {
  const { product, names } = evaluate(term, values);
  return `${product === 1 && names.length > 0 ? "" : product}${names.join("·")}`;
}
