/** The part of y that a workgroup of tiles.wgsl computes. */
export interface OutputTile {
  /** Invocations along the columns. */
  X: number;
  /** Invocations along the rows. */
  Y: number;
  /** Vectors of four rows per invocation. */
  ROWS: number;
  /** Vectors of four columns per invocation. */
  COLUMNS: number;
  /** The order in which an invocation adds to its sums; see tiles.wgsl. */
  order: "rows" | "columns";
}

/** The largest tile. */
const LARGEST = "128x256";

/**
 * The tiles that are worth measuring, named by their rows × columns of y; bench/NOTES.md lists those that
 * are not. The first fills a GPU with the smallest products and compiles in a fraction of the time of the
 * others. The last is the fastest for products that fill a GPU: its 512 invocations use all registers of
 * an NVIDIA core.
 */
export const TILES: Readonly<Record<string, OutputTile>> = {
  "64x64 of 128": { X: 8, Y: 16, ROWS: 1, COLUMNS: 2, order: "rows" },
  "64x64": { X: 8, Y: 8, ROWS: 2, COLUMNS: 2, order: "columns" },
  [LARGEST]: { X: 32, Y: 16, ROWS: 2, COLUMNS: 2, order: "columns" },
};

/** Columns of a, and rows of b, that lie in workgroup memory at a time. */
export const TILE_K = 16;

/** Rows of a tile. */
export function tileRows({ Y, ROWS }: OutputTile): number {
  return 4 * Y * ROWS;
}

/** Columns of a tile. */
export function tileColumns({ X, COLUMNS }: OutputTile): number {
  return 4 * X * COLUMNS;
}

/** Bytes of workgroup memory for a tile: both operands in f32, and 16 bytes of padding per step of K. */
export function tileBytes(tile: OutputTile): number {
  return TILE_K * (tileRows(tile) + tileColumns(tile) + 4) * 4;
}

/**
 * Numbers of parts into which K may be split if y has few tiles. They are not only powers of two: a core
 * holds one workgroup of the largest tile at a time, and one of the numbers must come close to filling the
 * last round of workgroups.
 */
const SPLITS = [1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 32];

/** Smallest part of K that is worth a workgroup. */
const LEAST_SPLIT = 64;

/** Most bytes of partial sums: they need memory, and are written and read once more. */
const MOST_PARTIALS_BYTES = 96 * 2 ** 20;

/** The variants of tiles.wgsl for a product, each a tile and a number of splits, such as `64x64/4`. */
export function tileVariants({ M, N, K }: { M: number; N: number; K: number }): string[] {
  return Object.entries(TILES).flatMap(([name, tile]) =>
    SPLITS
      .filter((splits) =>
        splits === 1 || K / splits >= LEAST_SPLIT &&
          splits * M * N * 4 <= MOST_PARTIALS_BYTES &&
          workgroupsOf(tile, { M, N }) * splits <= MOST_WORKGROUPS
      )
      .map((splits) => `${name}/${splits}`)
  );
}

/** Fewest multiply-adds of a product that may fill a large GPU with the largest tile. */
const LARGE_PRODUCT = 2 ** 32;

/** Limits of a device that the largest tile may exceed. */
type Limits = Pick<
  GPUSupportedLimits,
  | "maxComputeInvocationsPerWorkgroup"
  | "maxComputeWorkgroupSizeX"
  | "maxComputeWorkgroupStorageSize"
>;

/** Whether the tuner should measure a variant of `tileVariants()` on a device with these limits. */
export function isWorthTrying(
  variant: string,
  { M, N, K }: { M: number; N: number; K: number },
  limits: Limits,
): boolean {
  if (!variant.startsWith(LARGEST)) return true;
  const tile = TILES[LARGEST]!, invocations = tile.X * tile.Y;
  return M * N * K >= LARGE_PRODUCT &&
    invocations <= limits.maxComputeInvocationsPerWorkgroup &&
    invocations <= limits.maxComputeWorkgroupSizeX &&
    tileBytes(tile) <= limits.maxComputeWorkgroupStorageSize;
}

/** Workgroups that fill a large GPU several times over: with more of them, splitting only costs. */
const MOST_WORKGROUPS = 4096;

/** The tile to use if nothing was measured: one for all products, as each tile takes time to compile. */
const PREFERRED = "64x64 of 128";

/** Workgroups that fill a large GPU, and those that give one to each of its cores. */
const ENOUGH_WORKGROUPS = 384, FEW_WORKGROUPS = 128;

/** Smallest part of K to split off if nothing was measured, unless cores would have nothing to do. */
const LEAST_PREFERRED_SPLIT = 192;

/**
 * The variant of `tileVariants()` to use if nothing was measured: K is split until the workgroups fill a
 * large GPU. The tuner chooses as many splits, but other tiles for most of the shapes of training.
 */
export function preferredTiles(shape: { M: number; N: number; K: number }): string {
  const variants = tileVariants(shape);
  const workgroups = workgroupsOf(TILES[PREFERRED]!, shape);
  let chosen = 1;
  for (const splits of SPLITS) {
    const least = workgroups * chosen < FEW_WORKGROUPS ? LEAST_SPLIT : LEAST_PREFERRED_SPLIT;
    if (workgroups * chosen >= ENOUGH_WORKGROUPS || shape.K / splits < least) break;
    if (variants.includes(`${PREFERRED}/${splits}`)) chosen = splits;
  }
  return `${PREFERRED}/${chosen}`;
}

/** Workgroups that compute y in these tiles. */
function workgroupsOf(tile: OutputTile, { M, N }: { M: number; N: number }): number {
  return Math.ceil(M / tileRows(tile)) * Math.ceil(N / tileColumns(tile));
}

/** The tile and the number of splits that a variant's name stands for. */
export function parseTiles(variant: string): { tile: OutputTile; splits: number } {
  const [name, splits] = variant.split("/");
  return { tile: TILES[name!]!, splits: Number(splits) };
}
