/** Tile of tiles.wgsl: invocations of a workgroup, and vectors of four that each owns, either way. */
export interface Tile {
  X: number;
  Y: number;
  ROWS: number;
  COLUMNS: number;
}

/**
 * The tiles that are worth a try, by rows × columns of the result; see bench/NOTES.md for those that are
 * not. Of two that have one size, the one in more invocations compiles in two fifths of the time and the
 * one in fewer is the faster on large products.
 */
export const TILES: Readonly<Record<string, Tile>> = {
  "64x64 of 128": { X: 8, Y: 16, ROWS: 1, COLUMNS: 2 },
  "64x64": { X: 8, Y: 8, ROWS: 2, COLUMNS: 2 },
  "64x128": { X: 16, Y: 8, ROWS: 2, COLUMNS: 2 },
  "128x128": { X: 16, Y: 16, ROWS: 2, COLUMNS: 2 },
  "128x128 of 128": { X: 16, Y: 8, ROWS: 4, COLUMNS: 2 },
};

/** The slowest to compile (over a second), tried only where a result has so many tiles. */
const LARGE = { name: "128x128 of 128", workgroups: 512 };

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

/** Bytes of workgroup memory that a tile takes: both operands in f32, with a vector of padding. */
export function tileBytes(tile: Tile): number {
  return TILE_K * (tileRows(tile) + tileColumns(tile) + 8) * 4;
}

/** Into how many parts K may be split where the result has few tiles. */
const SPLITS = [1, 2, 4, 8, 16, 32];

/** Least part of K that is worth a workgroup's while. */
const LEAST_SPLIT = 64;

/** Most bytes of partial sums: they should stay in a GPU's cache until they are added up. */
const MOST_PARTIALS_BYTES = 64 * 2 ** 20;

/** Tiles by splits, named `64x128/4`, for a product on a device with so much workgroup memory. */
export function tileVariants(
  { M, N, K }: { M: number; N: number; K: number },
  { maxWorkgroupBytes }: { maxWorkgroupBytes: number },
): string[] {
  const tiles = Object.entries(TILES).filter(([, tile]) => tileBytes(tile) <= maxWorkgroupBytes);
  return tiles.flatMap(([name, tile]) =>
    SPLITS
      .filter((splits) =>
        splits === 1 || K / splits >= LEAST_SPLIT &&
          splits * M * N * 4 <= MOST_PARTIALS_BYTES &&
          workgroupsOf(tile, { M, N }) * splits <= MOST_WORKGROUPS
      )
      .map((splits) => `${name}/${splits}`)
  );
}

/** Whether a variant may pay for the time that it takes to compile. */
export function isWorthATry(variant: string, shape: { M: number; N: number }): boolean {
  const [name] = variant.split("/");
  return name !== LARGE.name || workgroupsOf(TILES[name]!, shape) >= LARGE.workgroups;
}

/** Enough workgroups to fill a large GPU several times over: beyond, splitting only costs. */
const MOST_WORKGROUPS = 4096;

/** Invocations that fill a large GPU, and those that give each of its cores a workgroup. */
const ENOUGH_INVOCATIONS = 3 * 2 ** 14, FEW_INVOCATIONS = 2 ** 14;

/** Least part of K that is split off unmeasured, unless cores would have nothing to do. */
const LEAST_PREFERRED_SPLIT = 192;

/**
 * The variant of `tileVariants()` to take where nothing was measured: one of two tiles, the large one
 * where it fills a large GPU, the other split along K until it does. The tuner's choices at training's
 * shapes on an H100 were near these (November 2026).
 */
export function preferredTiles(
  shape: { M: number; N: number; K: number },
  device: { maxWorkgroupBytes: number },
): string {
  const variants = tileVariants(shape, device);
  const invocations = (name: string, splits: number) => {
    const tile = TILES[name]!;
    return workgroupsOf(tile, shape) * splits * tile.X * tile.Y;
  };
  if (
    variants.includes("128x128/1") && invocations("128x128", 1) >= ENOUGH_INVOCATIONS
  ) return "128x128/1";
  const name = "64x64 of 128";
  let chosen = 1;
  for (const splits of SPLITS) {
    const working = invocations(name, chosen);
    const least = working < FEW_INVOCATIONS ? LEAST_SPLIT : LEAST_PREFERRED_SPLIT;
    if (working >= ENOUGH_INVOCATIONS || shape.K / splits < least) break;
    if (variants.includes(`${name}/${splits}`)) chosen = splits;
  }
  return `${name}/${chosen}`;
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
