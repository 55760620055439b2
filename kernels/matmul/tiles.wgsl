// y = a · b.   a: [M,K], or [K,M] transposed; b: [K,N], or [N,K] transposed; shape.wgsl: their layout
//
// A workgroup computes a tile of TILE_M × TILE_N sums. It walks K in steps of TILE_K, whose parts of a
// and b lie in workgroup memory, both with k outermost. Each invocation keeps 4·ROWS × 4·COLUMNS sums in
// registers, fed from there: per k ROWS + COLUMNS loads of four for 16 · ROWS · COLUMNS multiply-adds.
// Meanwhile it fetches its blocks of the next step into registers.
//
//        b: TILE_N columns            What an invocation owns lies X vectors apart in columns and Y
//        ┌──┬──┬──┬──┐                vectors apart in rows, so that neighbours read neighbouring
//     k  │  │▓▓│  │▓▓│                vectors of b and the same ones of a.
//        └──┴──┴──┴──┘
//   k                                 Indices are constants once the loops are written out, but for the
//  ┌─┐   ┌──┬──┬──┬──┐                last, and that is a remainder: a driver's compiler can see that the
//  │▓│   │  │▓▓│  │▓▓│                clamp is idle which Naga adds to an index that it cannot prove.
//  ├─┤   ├──┼──┼──┼──┤
//  │ │   │  │  │  │  │                A second pair of tiles saves a barrier a step, and gained nothing
//  ├─┤   ├──┼──┼──┼──┤                where there is memory for it: an H100 gives out some 52 KB a core,
//  │▓│   │  │▓▓│  │▓▓│                of which smaller workgroups need all.
//  └─┘   └──┴──┴──┴──┘
//
// Rows and columns past the edges are clamped and what comes of them is not stored; past the end of K
// both are taken as zero. With several splits a workgroup takes a part of K, and y is a [splits,M,N]
// scratch tensor that reduce.wgsl adds up. sums_*.wgsl says in which order an invocation goes through its
// sums.
enable f16;

alias aType = vec2u; // four elements, if a and b are f16 as they lie in memory
alias bType = vec2u;
const TRANSPOSE_A: bool = false;
const TRANSPOSE_B: bool = false;
const TILE_K: u32 = 16;
const ROWS: u32 = 2; // vectors of four rows an invocation
const COLUMNS: u32 = 2; // vectors of four columns an invocation
const X: u32 = 16; // invocations along the columns
const Y: u32 = 8; // invocations along the rows
const FETCHES: u32 = 2; // turns in which all invocations fetch a step's parts of a and b
const WHOLE_K: bool = false; // whether all steps lie inside K

@group(0) @binding(0) var<storage, read> a: array<aType>;
@group(0) @binding(1) var<storage, read> b: array<bType>;

const SIZE: u32 = X * Y;
const K4: u32 = TILE_K / 4;
const M4: u32 = Y * ROWS; // the tile's rows, in vectors of four
const N4: u32 = X * COLUMNS;
const SUMS: u32 = 4 * ROWS * COLUMNS; // vectors of four

alias Sums = array<vec4f, SUMS>;

// Four k of a tile. What is unused keeps the transposing stores of neighbours off the same banks.
struct AQuad {
  rows: array<array<array<vec4f, Y>, ROWS>, 4>,
  unused: array<vec4f, 2>,
}
struct BQuad {
  rows: array<array<array<vec4f, X>, COLUMNS>, 4>,
  unused: array<vec4f, 2>,
}

var<workgroup> aTile: array<AQuad, K4>; // [k / 4].rows[k % 4][r][y4]
var<workgroup> bTile: array<BQuad, K4>; // [k / 4].rows[k % 4][c][x4]

// A block is 4 × 4 elements as they lie in memory, four vectors along the stored rows.
alias Block = array<held, 4>;
const A_BLOCKS: u32 = M4 * K4;
const BLOCKS: u32 = A_BLOCKS + N4 * K4;
const WHOLE_TURNS: bool = BLOCKS % SIZE == 0;

// Rows of a along k, or rows k … k + 3 of a that is stored with k slowest. What lies past the end of K, or
// of a, may be anything.
fn loadA(block: u32, firstRow: u32, first: u32) -> Block {
  var rows: Block;
  if (TRANSPOSE_A) {
    let k = first + block / M4 * 4;
    let column = shape.aStart + min(firstRow / 4 + block % M4, (shape.M - 1) / 4);
    // unroll
    for (var i = 0u; i < 4u; i++) {
      rows[i] = held(a[column + (k + i) * shape.aStride]);
    }
  } else {
    let column = shape.aStart + first / 4 + block % K4;
    // unroll
    for (var i = 0u; i < 4u; i++) {
      let row = min(firstRow + block / K4 * 4 + i, shape.M - 1);
      rows[i] = held(a[column + row * shape.aStride]);
    }
  }
  return rows;
}

fn loadB(block: u32, firstColumn: u32, first: u32) -> Block {
  var rows: Block;
  if (TRANSPOSE_B) {
    let column = first / 4 + block % K4;
    // unroll
    for (var i = 0u; i < 4u; i++) {
      let row = min(firstColumn + block / K4 * 4 + i, shape.N - 1);
      rows[i] = held(b[column + row * shape.bStride]);
    }
  } else {
    let k = first + block / N4 * 4;
    let column = min(firstColumn / 4 + block % N4, (shape.N - 1) / 4);
    // unroll
    for (var i = 0u; i < 4u; i++) {
      rows[i] = held(b[column + (k + i) * shape.bStride]);
    }
  }
  return rows;
}

// Blocks go into the tiles transposed where k is not the slowest dimension of the stored matrix.
fn keepA(block: u32, rows: Block, first: u32, end: u32) {
  let m4 = select(block / K4, block % M4, TRANSPOSE_A);
  let k4 = select(block % K4, block / M4, TRANSPOSE_A);
  var columns = mat4x4f(widened(rows[0]), widened(rows[1]), widened(rows[2]), widened(rows[3]));
  if (!TRANSPOSE_A) { columns = transpose(columns); }
  // unroll
  for (var i = 0u; i < 4u; i++) {
    let four = select(vec4f(), columns[i], WHOLE_K | (first + 4 * k4 + i < end));
    aTile[k4].rows[i][m4 / Y][m4 % Y] = four;
  }
}

fn keepB(block: u32, rows: Block, first: u32, end: u32) {
  let n4 = select(block % N4, block / K4, TRANSPOSE_B);
  let k4 = select(block / N4, block % K4, TRANSPOSE_B);
  var columns = mat4x4f(widened(rows[0]), widened(rows[1]), widened(rows[2]), widened(rows[3]));
  if (TRANSPOSE_B) { columns = transpose(columns); }
  // unroll
  for (var i = 0u; i < 4u; i++) {
    let four = select(vec4f(), columns[i], WHOLE_K | (first + 4 * k4 + i < end));
    bTile[k4].rows[i][n4 / X][n4 % X] = four;
  }
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) id: u32) {
  // A warp's 32 invocations have 8 × 4 vectors of the tile. Where two neighbours load the same vector, an
  // H100's workgroup memory serves a warp in at most 0.7 of the time: here they do, of a or of b.
  let warp = id / 32;
  let x4 = (warp % (X / 8) * 8 + id / 4 % 4 * 2 + id % 2) % X; // of vectors of columns
  let y4 = (warp / (X / 8) * 4 + id / 16 % 2 * 2 + id / 2 % 2) % Y;
  let firstRow = group.y * 4 * M4;
  let firstColumn = group.x * 4 * N4;
  let start = group.z * shape.split;
  let end = min(start + shape.split, shape.K);

  var fetched: array<Block, FETCHES>;
  // unroll
  for (var i = 0u; i < FETCHES; i++) {
    let block = id + i * SIZE;
    if (block < A_BLOCKS) {
      fetched[i] = loadA(block, firstRow, start);
    } else if (WHOLE_TURNS || block < BLOCKS) {
      fetched[i] = loadB(block - A_BLOCKS, firstColumn, start);
    }
  }
  var sums: Sums;
  var first = start;
  loop {
    // unroll
    for (var i = 0u; i < FETCHES; i++) {
      let block = id + i * SIZE;
      if (block < A_BLOCKS) {
        keepA(block, fetched[i], first, end);
      } else if (WHOLE_TURNS || block < BLOCKS) {
        keepB(block - A_BLOCKS, fetched[i], first, end);
      }
    }
    workgroupBarrier();
    // what the last turn loads past the end is not used
    // unroll
    for (var i = 0u; i < FETCHES; i++) {
      let block = id + i * SIZE;
      if (block < A_BLOCKS) {
        fetched[i] = loadA(block, firstRow, first + TILE_K);
      } else if (WHOLE_TURNS || block < BLOCKS) {
        fetched[i] = loadB(block - A_BLOCKS, firstColumn, first + TILE_K);
      }
    }
    // unroll
    for (var k = 0u; k < TILE_K; k++) {
      var as4: array<vec4f, ROWS>;
      var bs4: array<vec4f, COLUMNS>;
      // unroll
      for (var r = 0u; r < ROWS; r++) {
        as4[r] = aTile[k / 4].rows[k % 4][r][y4];
      }
      // unroll
      for (var c = 0u; c < COLUMNS; c++) {
        bs4[c] = bTile[k / 4].rows[k % 4][c][x4];
      }
      addProducts(&sums, as4, bs4);
    }
    workgroupBarrier();

    continuing {
      first += TILE_K;
      break if first >= end;
    }
  }

  storeSums(&sums, firstRow + 4 * y4, firstColumn + 4 * x4, group.z);
}

// Stores four columns of row m, those that lie in y.
fn storeInside(m: u32, n: u32, split: u32, four: vec4f) {
  if (m < shape.M && n < shape.N) { store(split * shape.M + m, n / 4, four); }
}
