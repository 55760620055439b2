import { MATRIX_SIDE } from "../matrices.ts";

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

/** A tile of y, which the subgroups of a workgroup compute: the constants of matrices.wgsl that describe it. */
export interface MatrixTile {
  /** Subgroups along the columns. */
  readonly X: number;
  /** Subgroups along the rows. */
  readonly Y: number;
  /** Matrices of 16 rows per subgroup. */
  readonly ROWS: number;
  /** Matrices of 16 columns per subgroup. */
  readonly COLUMNS: number;
  /** Columns of a, and rows of b, per step. */
  readonly TILE_K: number;
  /** Pairs of tiles in workgroup memory. */
  readonly PAIRS: 1 | 2;
}

/**
 * The tiles of subgroup matrices among which the tuner chooses, named by their rows × columns of y × steps of k, and by
 * their pairs if there are two.
 */
export const MATRIX_TILES: Readonly<Record<string, MatrixTile>> = {
  "matrix 32x32x32": { X: 2, Y: 2, ROWS: 1, COLUMNS: 1, TILE_K: 32, PAIRS: 1 },
  "matrix 32x32x32 twice": { X: 2, Y: 2, ROWS: 1, COLUMNS: 1, TILE_K: 32, PAIRS: 2 },
  "matrix 64x64x32": { X: 2, Y: 2, ROWS: 2, COLUMNS: 2, TILE_K: 32, PAIRS: 1 },
  "matrix 64x64x32 twice": { X: 2, Y: 2, ROWS: 2, COLUMNS: 2, TILE_K: 32, PAIRS: 2 },
  "matrix 128x64x32": { X: 1, Y: 4, ROWS: 2, COLUMNS: 4, TILE_K: 32, PAIRS: 1 },
  "matrix 128x64x32 twice": { X: 1, Y: 4, ROWS: 2, COLUMNS: 4, TILE_K: 32, PAIRS: 2 },
  "matrix 128x128x16 twice": { X: 2, Y: 2, ROWS: 4, COLUMNS: 4, TILE_K: 16, PAIRS: 2 },
  "matrix 128x128x32": { X: 2, Y: 2, ROWS: 4, COLUMNS: 4, TILE_K: 32, PAIRS: 1 },
  "matrix 128x128x32 twice": { X: 2, Y: 2, ROWS: 4, COLUMNS: 4, TILE_K: 32, PAIRS: 2 },
  "matrix 256x128x16 twice": { X: 2, Y: 4, ROWS: 4, COLUMNS: 4, TILE_K: 16, PAIRS: 2 },
  "matrix 256x128x32": { X: 2, Y: 4, ROWS: 4, COLUMNS: 4, TILE_K: 32, PAIRS: 1 },
  "matrix 128x256x16 twice": { X: 4, Y: 2, ROWS: 4, COLUMNS: 4, TILE_K: 16, PAIRS: 2 },
  "matrix 128x256x32": { X: 4, Y: 2, ROWS: 4, COLUMNS: 4, TILE_K: 32, PAIRS: 1 },
};

/** Columns of a, and rows of b, per step of tiles.wgsl. */
export const TILE_K = 16;

/** A tile of one of the two kernels. */
type Tile = OutputTile | MatrixTile;

/** Rows, and columns, that ROWS and COLUMNS of a tile count: of a vector, or of a matrix. */
function sideOf(tile: Tile): number {
  return "TILE_K" in tile ? MATRIX_SIDE : 4;
}

/** Rows of a tile. */
export function tileRows(tile: Tile): number {
  return sideOf(tile) * tile.Y * tile.ROWS;
}

/** Columns of a tile. */
export function tileColumns(tile: Tile): number {
  return sideOf(tile) * tile.X * tile.COLUMNS;
}

/** Bytes of workgroup memory of tiles.wgsl for a tile: both operands in f32, and 16 bytes of padding per column of a. */
export function tileBytes(tile: OutputTile): number {
  return TILE_K * (tileRows(tile) + tileColumns(tile) + 4) * 4;
}

/**
 * Bytes of workgroup memory of matrices.wgsl: the pairs of tiles, or for each subgroup 16 rows of sums, if these
 * need more. Every row is padded by 16 bytes.
 */
export function matrixTileBytes(
  tile: MatrixTile,
  { transposeA, transposeB }: { transposeA: boolean; transposeB: boolean },
): number {
  const { X, Y, COLUMNS, TILE_K, PAIRS } = tile;
  /** Of rows of f16. */
  const bytes = (rows: number, columns: number) => rows * (columns * 2 + 16);
  const rows = tileRows(tile), columns = tileColumns(tile);
  const a = transposeA ? bytes(TILE_K, rows) : bytes(rows, TILE_K);
  const b = transposeB ? bytes(columns, TILE_K) : bytes(TILE_K, columns);
  const strip = MATRIX_SIDE * (COLUMNS * MATRIX_SIDE * 4 + 16);
  return Math.max(PAIRS * (a + b), X * Y * strip);
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
export interface TileVariant<T extends Tile = OutputTile> {
  readonly name: string;
  readonly tile: T;
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
export function tileVariants(sizes: ProductSizes): TileVariant[] {
  return variantsOf(TILES, sizes, MOST_WORKGROUPS);
}

/** The variants of matrices.wgsl that can compute a product. */
export function matrixVariants(sizes: ProductSizes): TileVariant<MatrixTile>[] {
  return variantsOf(MATRIX_TILES, sizes, MOST_MATRIX_WORKGROUPS);
}

/** Tiles with all numbers of parts that a product may have, with at most so many workgroups if K is split. */
function variantsOf<T extends Tile>(
  tiles: Readonly<Record<string, T>>,
  { M, N, K, batch }: ProductSizes,
  mostWorkgroups: number,
): TileVariant<T>[] {
  return Object.entries(tiles).flatMap(([name, tile]) =>
    SPLITS
      .filter((splits) =>
        splits === 1 || batch === undefined && K / splits >= LEAST_SPLIT &&
          splits * M * N * 4 <= MOST_PARTIALS_BYTES &&
          workgroupsOf(tile, { M, N }) * splits <= mostWorkgroups
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

/** Most workgroups into which K is split: they fill a large GPU several times, whose tensor cores need fewer. */
const MOST_WORKGROUPS = 4096, MOST_MATRIX_WORKGROUPS = 1024;

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
function workgroupsOf(tile: Tile, { M, N }: { M: number; N: number }): number {
  return Math.ceil(M / tileRows(tile)) * Math.ceil(N / tileColumns(tile));
}

/**
 * Names of the variants of subgroup matrices that the tuner measures for a product: those of whose tiles it fills more
 * than a half in both directions, and the smallest.
 */
export function matrixVariantsToMeasure(sizes: ProductSizes): string[] {
  const isFilled = (count: number, tile: number) => count > tile / 2 || tile === 2 * MATRIX_SIDE;
  return matrixVariants(sizes)
    .filter(({ tile }) => isFilled(sizes.M, tileRows(tile)) && isFilled(sizes.N, tileColumns(tile)))
    .map(({ name }) => name);
}

/** The tiles of subgroup matrices to use if nothing was measured: for products that fill a GPU with them, and others. */
const PREFERRED_MATRIX = { large: "matrix 128x128x32", small: "matrix 64x64x32" };

/** Workgroups that give each core of a large GPU two. */
const ENOUGH_MATRIX_WORKGROUPS = 256;

/** Fewest terms of K per part of subgroup matrices if nothing was measured. */
const LEAST_PREFERRED_MATRIX_SPLIT = 256;

/** Name of the variant of subgroup matrices to use if nothing was measured: K is split until a GPU is full. */
export function preferredMatrices(sizes: ProductSizes): string {
  const isFull = (name: string, splits: number) =>
    workgroupsOf(MATRIX_TILES[name]!, sizes) * (sizes.batch ?? 1) * splits >=
      ENOUGH_MATRIX_WORKGROUPS;
  const { large, small } = PREFERRED_MATRIX;
  const isLong = sizes.batch === undefined && sizes.K >= 2 * LEAST_PREFERRED_MATRIX_SPLIT;
  const name = isFull(large, isLong ? sizes.K / LEAST_PREFERRED_MATRIX_SPLIT : 1) ? large : small;
  const splits = matrixVariants(sizes)
    .filter(({ tile, splits }) =>
      tile === MATRIX_TILES[name] &&
      (splits === 1 || sizes.K / splits >= LEAST_PREFERRED_MATRIX_SPLIT)
    )
    .map(({ splits }) => splits);
  return `${name}/${splits.find((splits) => isFull(name, splits)) ?? splits.at(-1)!}`;
}
