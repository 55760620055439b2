/**
 * What several tests of a file need and none of them changes: made for the first that asks, so that each of
 * them passes alone and in any order.
 */
export function once<T>(make: () => T): () => T {
  let made: { value: T } | undefined;
  return () => (made ??= { value: make() }).value;
}
