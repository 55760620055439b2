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
    const terms = shape.split(",");
    const expected = terms.map((term) => expectedOf(term, values));
    let fits = terms.length === tensor.shape.length;
    for (let i = 0; fits && i < terms.length; i++) {
      const { product, names } = evaluate(terms[i]!, values), length = tensor.shape[i]!;
      if (names.length > 1) {
        throw new TypeError(
          `Cannot determine the dimension ${terms[i]} as at most one of its names may be new: ` +
            `current new names are ${names}`,
        );
      }
      for (const name of names) values.set(name, length / product);
      fits = names.length === 0 ? length === product : length % product === 0;
    }
    if (!fits) {
      throw new RangeError(
        `Cannot run ${action} as ${role} must have shape [${expected}]: ` +
          `current shape of "${tensor.name}" is [${tensor.shape}]`,
      );
    }
  }
  return Object.fromEntries(values) as Record<Names<T[keyof T][1]> | keyof K, number>;
}

/** The product of the known factors of a dimension, and the names among its factors that are not known. */
function evaluate(
  term: string,
  values: ReadonlyMap<string, number>,
): { product: number; names: string[] } {
  const factors = term.replace(/^\d+(?=\p{L})/u, "$&·").split("·"), names = [];
  let product = 1;
  for (const factor of factors) {
    const value = /^\d+$/.test(factor) ? Number(factor) : values.get(factor);
    if (value === undefined) names.push(factor);
    else product *= value;
  }
  return { product, names };
}

/** A dimension for messages: `B·S` is 3S if B is 3. */
function expectedOf(term: string, values: ReadonlyMap<string, number>): string {
  const { product, names } = evaluate(term, values);
  return `${product === 1 && names.length > 0 ? "" : product}${names.join("·")}`;
}
