/** A tile of y, which a workgroup computes: the constants of tiles.wgsl that describe it. */
export interface OutputTile {
  /** Invocations along the columns. */
  readonly X: number;
  /** Invocations along the rows. */
  readonly Y: number;
  /** Vectors of four rows per invocation. */
  readonly ROWS: number;
  /** Vectors of four columns per invocation. */
  readonly COLUMNS: number;
  /** Whether an invocation adds to its sums column by column, or row by row. */
  readonly BY_COLUMNS: boolean;
}

/** The largest tile. */
const LARGEST = "128x256";

/**
 * The tiles among which the tuner chooses, named by their rows × columns of y; bench/NOTES.md has those that did
 * not pay. The first one fills a GPU even if the product is small, and compiles in a fraction of the time of the
 * others. The last one is the fastest if the product fills a GPU: its 512 invocations use all registers of an
 * NVIDIA core.
 */
export const TILES: Readonly<Record<string, OutputTile>> = {
  "64x64 of 128": { X: 8, Y: 16, ROWS: 1, COLUMNS: 2, BY_COLUMNS: false },
  "64x64": { X: 8, Y: 8, ROWS: 2, COLUMNS: 2, BY_COLUMNS: true },
  [LARGEST]: { X: 32, Y: 16, ROWS: 2, COLUMNS: 2, BY_COLUMNS: true },
};

/** Columns of a, and rows of b, per step of tiles.wgsl. */
export const TILE_K = 16;

/** Rows of a tile. */
export function tileRows({ Y, ROWS }: OutputTile): number {
  return 4 * Y * ROWS;
}

/** Columns of a tile. */
export function tileColumns({ X, COLUMNS }: OutputTile): number {
  return 4 * X * COLUMNS;
}

/** Bytes of workgroup memory for a tile: both operands in f32, and 16 bytes of padding per column of a. */
export function tileBytes(tile: OutputTile): number {
  return TILE_K * (tileRows(tile) + tileColumns(tile) + 4) * 4;
}

/**
 * Numbers of parts into which K may be split if y has few tiles. They are not only powers of two, because a core
 * runs one workgroup of the largest tile at a time: with one of these numbers, the last round of workgroups
 * occupies nearly all cores.
 */
const SPLITS = [1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 32];

/** Fewest terms of K per part. */
const LEAST_SPLIT = 64;

/** Most bytes of partial sums, which are written and read once more. */
const MOST_PARTIALS_BYTES = 96 * 2 ** 20;

/** A tile and the number of parts into which K is split, with a name such as `64x64/4`. */
export interface TileVariant {
  readonly name: string;
  readonly tile: OutputTile;
  readonly splits: number;
}

/** Sizes of a product. */
interface ProductSizes {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  /** Number of products in a batch, whose K is not split; undefined without a batch. */
  readonly batch?: number | undefined;
}

/** The variants of tiles.wgsl that can compute a product. */
export function tileVariants({ M, N, K, batch }: ProductSizes): TileVariant[] {
  return Object.entries(TILES).flatMap(([name, tile]) =>
    SPLITS
      .filter((splits) =>
        splits === 1 || batch === undefined && K / splits >= LEAST_SPLIT &&
          splits * M * N * 4 <= MOST_PARTIALS_BYTES &&
          workgroupsOf(tile, { M, N }) * splits <= MOST_WORKGROUPS
      )
      .map((splits) => ({ name: `${name}/${splits}`, tile, splits }))
  );
}

/** Fewest multiply-adds with which a product may fill a large GPU in the largest tiles. */
const LARGE_PRODUCT = 2 ** 32;

/** Limits of a device that the largest tile may exceed. */
type Limits = Pick<
  GPUSupportedLimits,
  | "maxComputeInvocationsPerWorkgroup"
  | "maxComputeWorkgroupSizeX"
  | "maxComputeWorkgroupStorageSize"
>;

/** Names of the variants that the tuner measures for a product, on a device with these limits. */
export function variantsToMeasure(
  { M, N, K, batch }: ProductSizes,
  limits: Limits,
): string[] {
  const largest = TILES[LARGEST]!, invocations = largest.X * largest.Y;
  const withLargest = (batch ?? 1) * M * N * K >= LARGE_PRODUCT &&
    invocations <= limits.maxComputeInvocationsPerWorkgroup &&
    invocations <= limits.maxComputeWorkgroupSizeX &&
    tileBytes(largest) <= limits.maxComputeWorkgroupStorageSize;
  return tileVariants({ M, N, K, batch }).filter(({ tile }) => withLargest || tile !== largest)
    .map(({ name }) => name);
}

/** Most workgroups into which K is split: they fill a large GPU several times. */
const MOST_WORKGROUPS = 4096;

/** The tile to use if nothing was measured: the same for all products, because each tile takes time to compile. */
const PREFERRED = "64x64 of 128";

/** Workgroups that fill a large GPU, and workgroups that give each of its cores one. */
const ENOUGH_WORKGROUPS = 384, FEW_WORKGROUPS = 128;

/** Fewest terms of K per part if nothing was measured, and every core has a workgroup. */
const LEAST_PREFERRED_SPLIT = 192;

/**
 * Name of the variant to use if nothing was measured: K is split until the workgroups fill a large GPU. For most
 * shapes of training the tuner chooses as many splits, but other tiles.
 */
export function preferredTiles(shape: ProductSizes): string {
  const names = tileVariants(shape).map(({ name }) => name);
  const workgroups = workgroupsOf(TILES[PREFERRED]!, shape);
  let chosen = 1;
  for (const splits of SPLITS) {
    const least = workgroups * chosen < FEW_WORKGROUPS ? LEAST_SPLIT : LEAST_PREFERRED_SPLIT;
    if (workgroups * chosen >= ENOUGH_WORKGROUPS || shape.K / splits < least) break;
    if (names.includes(`${PREFERRED}/${splits}`)) chosen = splits;
  }
  return `${PREFERRED}/${chosen}`;
}

/** Workgroups that compute y in these tiles. */
function workgroupsOf(tile: OutputTile, { M, N }: { M: number; N: number }): number {
  return Math.ceil(M / tileRows(tile)) * Math.ceil(N / tileColumns(tile));
}
