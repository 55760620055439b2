/** Tile of tiles.wgsl: invocations of a workgroup, and vectors of four that each owns, either way. */
export interface Tile {
  X: number;
  Y: number;
  ROWS: number;
  COLUMNS: number;
  /** The sums_*.wgsl that says in which order each goes through its sums. */
  order: "rows" | "columns";
}

/** The largest tile. */
const LARGEST = "128x256";

/**
 * The tiles that are worth a try, by rows × columns of the result; see bench/NOTES.md for those that are
 * not. From the one that fills a GPU the soonest, and compiles in a fraction of the time of the others, to
 * the one that is the fastest where it does: its 512 invocations have all registers of an NVIDIA core.
 */
export const TILES: Readonly<Record<string, Tile>> = {
  "64x64 of 128": { X: 8, Y: 16, ROWS: 1, COLUMNS: 2, order: "rows" },
  "64x64": { X: 8, Y: 8, ROWS: 2, COLUMNS: 2, order: "columns" },
  [LARGEST]: { X: 32, Y: 16, ROWS: 2, COLUMNS: 2, order: "columns" },
};

/** Steps of K that lie in workgroup memory at a time. */
export const TILE_K = 16;

/** Rows of a tile. */
export function tileRows({ Y, ROWS }: Tile): number {
  return 4 * Y * ROWS;
}

/** Columns of a tile. */
export function tileColumns({ X, COLUMNS }: Tile): number {
  return 4 * X * COLUMNS;
}

/** Bytes of workgroup memory that a tile takes: both operands in f32, and 16 for each of `TILE_K` unused. */
export function tileBytes(tile: Tile): number {
  return TILE_K * (tileRows(tile) + tileColumns(tile) + 4) * 4;
}

/**
 * Into how many parts K may be split where the result has few tiles. Not powers of two alone: of the
 * largest tile a core holds one at a time, and some number must come close to filling the last round.
 */
const SPLITS = [1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 32];

/** Least part of K that is worth a workgroup's while. */
const LEAST_SPLIT = 64;

/** Most bytes of partial sums, which take memory, and are written and read once more. */
const MOST_PARTIALS_BYTES = 96 * 2 ** 20;

/** Tiles by splits, named `64x64/4`, for a product. */
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

/** Multiply-adds of a product that may fill a large GPU with the largest tile. */
const LARGE_PRODUCT = 2 ** 32;

/** Limits of a device that the largest tile may leave. */
type Limits = Pick<
  GPUSupportedLimits,
  | "maxComputeInvocationsPerWorkgroup"
  | "maxComputeWorkgroupSizeX"
  | "maxComputeWorkgroupStorageSize"
>;

/** Whether the tuner should try a variant of `tileVariants()`, on a device of such limits. */
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

/** Enough workgroups to fill a large GPU several times over: beyond, splitting only costs. */
const MOST_WORKGROUPS = 4096;

/** The tile to take unmeasured: one for all products, as each takes its time to compile. */
const PREFERRED = "64x64 of 128";

/** Workgroups of it that fill a large GPU, and those that give each of its cores one. */
const ENOUGH_WORKGROUPS = 384, FEW_WORKGROUPS = 128;

/** Least part of K that is split off unmeasured, unless cores would have nothing to do. */
const LEAST_PREFERRED_SPLIT = 192;

/**
 * The variant of `tileVariants()` to take where nothing was measured: split along K until it fills a
 * large GPU. The tuner splits as often, but takes the other tiles for most of training's shapes.
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

/** Workgroups that compute a result of M × N in tiles. */
function workgroupsOf(tile: Tile, { M, N }: { M: number; N: number }): number {
  return Math.ceil(M / tileRows(tile)) * Math.ceil(N / tileColumns(tile));
}

/** Tile and number of splits of a variant's name. */
export function parseTiles(variant: string): { tile: Tile; splits: number } {
  const [name, splits] = variant.split("/");
  return { tile: TILES[name!]!, splits: Number(splits) };
}
