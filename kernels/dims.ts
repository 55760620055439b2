import { assertDType, type DType, type Tensor } from "./tensor.ts";

/** A tensor, undefined if it is optional and missing, with its shape such as `B·T,3C` and its element types. */
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
 * @param tensors the tensors in the order in which they are checked; undefined ones are skipped.
 * @param known values of dimensions that the caller knows.
 * @throws {RangeError} if a tensor has another shape; {TypeError} if it has another element type, or if a
 * product has two new names.
 */
export function dims<
  const T extends readonly Dimensioned[],
  const K extends Readonly<Record<string, number>> = Readonly<Record<never, number>>,
>(
  action: string,
  tensors: T,
  known?: K,
): Record<Names<T[number][1]> | keyof K, number> {
  const values = new Map<string, number>(Object.entries(known ?? {}));
  for (const [tensor, shape, dtypes] of tensors) {
    if (!tensor) continue;
    assertDType(action, tensor, ...dtypes.split("|") as DType[]);
    const terms = shape.split(",");
    const expected = terms.map((term) => expectedOf(term, values));
    const fits = terms.length === tensor.shape.length &&
      terms.every((term, i) => agrees(term, tensor.shape[i]!, values));
    if (!fits) {
      throw new RangeError(
        `Cannot run ${action} as "${tensor.name}" must have shape [${expected}]: ` +
          `current shape is [${tensor.shape}]`,
      );
    }
  }
  return Object.fromEntries(values) as Record<Names<T[number][1]> | keyof K, number>;
}

/** Factors of a dimension, such as 3 and C of `3C` and of `3·C`. */
function factorsOf(term: string): string[] {
  return term.replace(/^\d+(?=\p{L})/u, "$&·").split("·");
}

/** Value of a number, or of a name if it is known. */
function valueOfFactor(factor: string, values: ReadonlyMap<string, number>): number | undefined {
  return /^\d+$/.test(factor) ? Number(factor) : values.get(factor);
}

/** Value of a dimension, if all its names are known. */
function valueOf(term: string, values: ReadonlyMap<string, number>): number | undefined {
  return factorsOf(term).reduce<number | undefined>((product, factor) => {
    const value = valueOfFactor(factor, values);
    return product === undefined || value === undefined ? undefined : product * value;
  }, 1);
}

/** A dimension with its known names replaced by their product: `B·S` is 3S if B is 3. */
function expectedOf(term: string, values: ReadonlyMap<string, number>): string {
  const factors = factorsOf(term).map((factor) => valueOfFactor(factor, values) ?? factor);
  const known = factors.filter((factor) => typeof factor === "number");
  const unknown = factors.filter((factor) => typeof factor === "string");
  if (known.length === 0) return unknown.join("·");
  return known.reduce((product, value) => product * value) + unknown.join("·");
}

/** Whether a dimension may have this length; sets the value of its new name, if it has one. */
function agrees(term: string, length: number, values: Map<string, number>): boolean {
  const factors = factorsOf(term);
  const unknown = factors.filter((factor) => valueOfFactor(factor, values) === undefined);
  if (unknown.length === 0) return valueOf(term, values) === length;
  if (unknown.length > 1) {
    throw new TypeError(
      `Cannot determine the dimension ${term} as at most one of its names may be new: ` +
        `current new names are ${unknown}`,
    );
  }
  const known = factors.filter((factor) => factor !== unknown[0]).join("·") || "1";
  values.set(unknown[0]!, length / valueOf(known, values)!);
  return Number.isInteger(values.get(unknown[0]!));
}
