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
  /** Groups of X · Y invocations, each of which sums every GROUPS-th step of K: 1, or 2 with two ROWS and COLUMNS. */
  readonly GROUPS: number;
  /**
   * Workgroups that a core runs at the same time. The tuner measures the tile only for products that occupy nearly all
   * cores of a large GPU with a single round of workgroups, without splitting K, and the largest tile for all large
   * products, too. Without it, for every product.
   */
  readonly perCore?: number;
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
  "64x64 of 128": { X: 8, Y: 16, ROWS: 1, COLUMNS: 2, BY_COLUMNS: false, GROUPS: 1 },
  "64x64": { X: 8, Y: 8, ROWS: 2, COLUMNS: 2, BY_COLUMNS: true, GROUPS: 1 },
  "64x64 by 2": { X: 8, Y: 8, ROWS: 2, COLUMNS: 2, BY_COLUMNS: true, GROUPS: 2, perCore: 2 },
  "128x96": { X: 8, Y: 16, ROWS: 2, COLUMNS: 3, BY_COLUMNS: true, GROUPS: 1, perCore: 2 },
  [LARGEST]: { X: 32, Y: 16, ROWS: 2, COLUMNS: 2, BY_COLUMNS: true, GROUPS: 1, perCore: 1 },
};

/** A tile of y, which the subgroups of a workgroup compute: constants of matrices.wgsl, and its speed. */
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
  /** Workgroups that a core runs at the same time, as far as its registers suffice. */
  readonly perCore: number;
  /** Nanoseconds of a workgroup per term of K, if every core runs so many. */
  readonly nsPerTerm: number;
}

/**
 * The tiles of matrices among which the tuner chooses, named by their rows × columns of y × terms of K per step;
 * bench/NOTES.md has those that did not pay. The last one is the fastest if the product fills a GPU: its speed is that of
 * products of 4096 × 4096 on an H200 (November 2026). The one before pays where rounds of its workgroups occupy all cores,
 * and its speed is that of such products. Those of the others, and their `perCore`, are guesses from earlier kernels.
 */
export const MATRIX_TILES: Readonly<Record<string, MatrixTile>> = {
  "matrix 32x32x32": { X: 2, Y: 2, ROWS: 1, COLUMNS: 1, TILE_K: 32, perCore: 8, nsPerTerm: 25 },
  "matrix 64x64x32": { X: 2, Y: 2, ROWS: 2, COLUMNS: 2, TILE_K: 32, perCore: 4, nsPerTerm: 22 },
  "matrix 128x192x32": { X: 4, Y: 2, ROWS: 4, COLUMNS: 3, TILE_K: 32, perCore: 1, nsPerTerm: 24 },
  "matrix 128x128x32": { X: 2, Y: 2, ROWS: 4, COLUMNS: 4, TILE_K: 32, perCore: 2, nsPerTerm: 26 },
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
  return tile.GROUPS * TILE_K * (tileRows(tile) + tileColumns(tile) + 4) * 4;
}

/**
 * Bytes of workgroup memory of matrices.wgsl for a tile: both operands, or for each subgroup 16 rows of sums, if these
 * need more. Rows of operands are padded by 16 bytes, those of sums by 32.
 */
export function matrixTileBytes(
  tile: MatrixTile,
  { transposeA, transposeB }: { transposeA: boolean; transposeB: boolean },
): number {
  const { X, Y, COLUMNS, TILE_K } = tile;
  /** Of rows of f16. */
  const bytes = (rows: number, columns: number) => rows * (columns * 2 + 16);
  const rows = tileRows(tile), columns = tileColumns(tile);
  const a = transposeA ? bytes(TILE_K, rows) : bytes(rows, TILE_K);
  const b = transposeB ? bytes(columns, TILE_K) : bytes(TILE_K, columns);
  const strip = MATRIX_SIDE * (COLUMNS * MATRIX_SIDE * 4 + 32);
  return Math.max(a + b, X * Y * strip);
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
  /** Whether matrices compute only the tiles on and below the diagonal. */
  readonly symmetric?: boolean | undefined;
}

/** The variants of tiles.wgsl that can compute a product. */
export function tileVariants(sizes: ProductSizes): TileVariant[] {
  return variantsOf(TILES, sizes);
}

/** The variants of matrices.wgsl that can compute a product: only square tiles lie on the diagonal of a symmetric one. */
export function matrixVariants(sizes: ProductSizes): TileVariant<MatrixTile>[] {
  return variantsOf(MATRIX_TILES, sizes).filter(({ tile }) =>
    !sizes.symmetric || tileRows(tile) === tileColumns(tile)
  );
}

/** Tiles with all numbers of parts that a product may have. */
function variantsOf<T extends Tile>(
  tiles: Readonly<Record<string, T>>,
  { M, N, K, batch }: ProductSizes,
): TileVariant<T>[] {
  return Object.entries(tiles).flatMap(([name, tile]) =>
    SPLITS
      .filter((splits) =>
        splits === 1 || batch === undefined && K / splits >= LEAST_SPLIT &&
          splits * M * N * 4 <= MOST_PARTIALS_BYTES &&
          workgroupsOf(tile, { M, N }) * splits <= MOST_WORKGROUPS
      )
      .map((splits) => ({ name: `${name}/${splits}`, tile, splits }))
  );
}

/** Cores of a large GPU. */
const CORES = 132;

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
  const allowsLargest = invocations <= limits.maxComputeInvocationsPerWorkgroup &&
    invocations <= limits.maxComputeWorkgroupSizeX &&
    tileBytes(largest) <= limits.maxComputeWorkgroupStorageSize;
  const isLarge = (batch ?? 1) * M * N * K >= LARGE_PRODUCT;
  return tileVariants({ M, N, K, batch }).filter(({ tile, splits }) =>
    (allowsLargest || tile !== largest) &&
    (tile.perCore === undefined || tile === largest && isLarge || splits === 1 &&
        fillsRound(tile.perCore, workgroupsOf(tile, { M, N }) * (batch ?? 1)))
  ).map(({ name }) => name);
}

/** Smallest share of the cores of a large GPU that is nearly all of them. */
const NEARLY_ALL = 0.9;

/** Whether workgroups occupy nearly all cores of a large GPU, and all run at the same time. */
function fillsRound(perCore: number, workgroups: number): boolean {
  const most = CORES * perCore;
  return workgroups <= most && workgroups >= NEARLY_ALL * most;
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
function workgroupsOf(
  tile: Tile,
  { M, N, symmetric = false }: Pick<ProductSizes, "M" | "N" | "symmetric">,
): number {
  const rows = Math.ceil(M / tileRows(tile)), columns = Math.ceil(N / tileColumns(tile));
  return symmetric ? rows * (rows + 1) / 2 : rows * columns;
}

/** Bytes per microsecond of a large GPU's memory, and microseconds of a dependent launch. */
const BYTES_PER_US = 4e6, LAUNCH_US = 5;

/** Terms of K for which a workgroup could compute while it fetches its first step and stores its sums. */
const TERMS_BESIDE = 150;

/**
 * Microseconds that a product takes on a large GPU: rounds of as many workgroups as its cores run at the same time,
 * then the partial sums, if there are any, which are written and read once more. bench/NOTES.md says how near that is.
 */
function estimateUs(
  { tile, splits }: TileVariant<MatrixTile>,
  { M, N, K, batch = 1, symmetric }: ProductSizes,
): number {
  const workgroups = workgroupsOf(tile, { M, N, symmetric }) * batch * splits;
  const rounds = Math.ceil(workgroups / (CORES * tile.perCore));
  const sumUs = splits === 1 ? 0 : LAUNCH_US + 2 * 4 * splits * M * N / BYTES_PER_US;
  return rounds * (K / splits + TERMS_BESIDE) * tile.nsPerTerm / 1e3 + sumUs;
}

/** Largest estimate of a variant that the tuner measures, as a multiple of the least. */
const MOST_ESTIMATE = 1.3;

/** Names of the variants of matrices that the tuner measures for a product, those that should be the fastest first. */
export function matrixVariantsToMeasure(sizes: ProductSizes): string[] {
  const variants = matrixVariants(sizes)
    .map((variant) => ({ name: variant.name, us: estimateUs(variant, sizes) }))
    .sort((a, b) => a.us - b.us);
  return variants.filter(({ us }) => us <= MOST_ESTIMATE * variants[0]!.us)
    .map(({ name }) => name);
}
