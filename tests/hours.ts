/** Lets an hour pass between any two looks at the clock, so that whatever is done at intervals is due. */
export function passHours(): void {
  let now = performance.now();
  performance.now = () => now += 3_600_000;
}
