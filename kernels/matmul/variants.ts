/** Tile of tiles.wgsl: invocations of a workgroup, and vectors of four that each owns, either way. */
export interface Tile {
  X: number;
  Y: number;
  ROWS: number;
  COLUMNS: number;
  /** Steps of K that lie in workgroup memory at a time. */
  TILE_K: number;
}

/** The tiles that are worth a try, by rows × columns of the result. See bench/NOTES.md for others. */
export const TILES: Readonly<Record<string, Tile>> = {
  "64x64k8": { X: 8, Y: 8, ROWS: 2, COLUMNS: 2, TILE_K: 8 },
  "64x64": { X: 8, Y: 8, ROWS: 2, COLUMNS: 2, TILE_K: 16 },
  "64x128k8": { X: 16, Y: 8, ROWS: 2, COLUMNS: 2, TILE_K: 8 },
  "64x128": { X: 16, Y: 8, ROWS: 2, COLUMNS: 2, TILE_K: 16 },
  "128x128k8": { X: 16, Y: 16, ROWS: 2, COLUMNS: 2, TILE_K: 8 },
  "128x128": { X: 16, Y: 16, ROWS: 2, COLUMNS: 2, TILE_K: 16 },
  "128x128 in 128k8": { X: 16, Y: 8, ROWS: 4, COLUMNS: 2, TILE_K: 8 },
  "128x128 in 128k4": { X: 16, Y: 8, ROWS: 4, COLUMNS: 2, TILE_K: 4 },
  "128x128 in 128bk8": { X: 8, Y: 16, ROWS: 2, COLUMNS: 4, TILE_K: 8 },
  "128x64 in 64k8": { X: 8, Y: 8, ROWS: 4, COLUMNS: 2, TILE_K: 8 },
  "128x256 in 256k8": { X: 16, Y: 16, ROWS: 2, COLUMNS: 4, TILE_K: 8 },
  "64x64 of 128": { X: 8, Y: 16, ROWS: 1, COLUMNS: 2, TILE_K: 16 },
  "64x32k8": { X: 8, Y: 8, ROWS: 2, COLUMNS: 1, TILE_K: 8 },
};

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
  return tile.TILE_K * (tileRows(tile) + tileColumns(tile) + 8) * 4;
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

/** Enough workgroups to fill a large GPU several times over: beyond, splitting only costs. */
const MOST_WORKGROUPS = 4096;

/** So many workgroups fill a large GPU. */
const ENOUGH_WORKGROUPS = 512;

/** The variant of `tileVariants()` to take where nothing was measured. */
export function preferredTiles(
  shape: { M: number; N: number; K: number },
  device: { maxWorkgroupBytes: number },
): string {
  const name = workgroupsOf(TILES["64x128"]!, shape) >= ENOUGH_WORKGROUPS / 2 ? "64x128" : "64x64";
  const variants = tileVariants(shape, device);
  let chosen = `${name}/1`;
  for (const splits of SPLITS) {
    const variant = `${name}/${splits}`;
    if (!variants.includes(variant)) break;
    chosen = variant;
    if (workgroupsOf(TILES[name]!, shape) * splits >= ENOUGH_WORKGROUPS) break;
  }
  return chosen;
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
