/**
 * The items of several generators, each as soon as there is one. All generators end with the merged one.
 *
 * @throws what a generator throws.
 */
export async function* merged<Item>(
  generators: readonly AsyncGenerator<Item, void>[],
): AsyncGenerator<{ index: number; piece: Item }, void> {
  const ready: { index: number; piece: Item }[] = [];
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
    while (open > 0 || ready.length > 0) {
      await changed.promise;
      changed = Promise.withResolvers();
      for (const item of ready.splice(0)) {
        yield item;
        ask(item.index);
      }
      if (failure) throw failure.error;
    }
  } finally {
    await Promise.allSettled(generators.map((generator) => generator.return()));
  }
}
