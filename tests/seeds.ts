/** A fresh seed for this run, so that inputs differ from run to run; failures name it. */
export function freshSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0]!;
}
