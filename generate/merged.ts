/**
 * The pieces of several generators, each as soon as there is one. All generators end with the merged one.
 *
 * @throws what a generator throws.
 */
export async function* merged<Piece>(
  generators: readonly AsyncGenerator<Piece, void>[],
): AsyncGenerator<{ index: number; piece: Piece }, void> {
  const ready: { index: number; piece: Piece }[] = [];
  let open = generators.length, failure: { error: unknown } | undefined;
  let changed = Promise.withResolvers<void>();
  const ask = (index: number) =>
    void generators[index]!.next().then(({ value, done }) => {
      if (done) open--;
      else ready.push({ index, piece: value });
      changed.resolve();
    }, (error) => {
      failure ??= { error };
      changed.resolve();
    });
  try {
    generators.forEach((_, index) => ask(index));
    while (open > 0) { // a generator with a piece in `ready` is open
      await changed.promise;
      changed = Promise.withResolvers();
      for (const next of ready.splice(0)) {
        yield next;
        ask(next.index);
      }
      if (failure) throw failure.error;
    }
  } finally {
    await Promise.allSettled(generators.map((generator) => generator.return()));
  }
}
