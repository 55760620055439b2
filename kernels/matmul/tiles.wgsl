// y = a · b.   a: [M,K], or [K,M] transposed; b: [K,N], or [N,K] transposed; y: [M,N]; in vectors of four
// Needs Sizes and store() from epilogue.wgsl, packed and unpacked() from ../packed_f16.wgsl or ../packed_f32.wgsl.
//
// A workgroup computes a tile of y with 4·Y·ROWS rows and 4·X·COLUMNS columns. It loops over K in steps of TILE_K,
// whose elements of a and b are staged in workgroup memory, with k as the outermost index. Each invocation keeps
// 4·ROWS × 4·COLUMNS sums in registers. Per k it loads ROWS + COLUMNS vectors of four from workgroup memory for
// 16·ROWS·COLUMNS multiply-adds. Before these it fetches its blocks of the next step into registers.
//
//        b: 4·X·COLUMNS columns       The sums of one invocation (▓) lie X vectors apart in columns and Y
//        ┌──┬──┬──┬──┐                vectors apart in rows, so that neighbours read neighbouring vectors
//     k  │  │▓▓│  │▓▓│                of b and the same ones of a.
//        └──┴──┴──┴──┘
//   k                                 Naga clamps every index. All indices are constants once the loops are
//  ┌─┐   ┌──┬──┬──┬──┐                unrolled, except the last one, which is a remainder: so a driver's
//  │▓│   │  │▓▓│  │▓▓│                compiler can prove that no index needs the clamp.
//  ├─┤   ├──┼──┼──┼──┤
//  │ │   │  │  │  │  │                A second pair of tiles would save a barrier per step, but did not make
//  ├─┤   ├──┼──┼──┼──┤                it faster: with twice the workgroup memory fewer workgroups share a
//  │▓│   │  │▓▓│  │▓▓│                core.
//  └─┘   └──┴──┴──┴──┘
//
// The 32 invocations of a warp have 8 × 4 vectors of the tile, in the order below. Neighbours load the same vector,
// of a or of b, and then the workgroup memory of an H100 serves a warp in at most 0.7 of the time. The next warp is
// to the right if X allows it, or else below.
//
//               vectors of columns           If K is split, each group.z has another part of K, and y is a
//               0  1  2  3  4  5  6  7       scratch tensor [splits,M,N], which reduce.wgsl adds up. In a
//            0  0  1  4  5  8  9 12 13       batch each group.z has other matrices, and K is not split.
//    vectors 1  2  3  6  7 10 11 14 15       Rows and columns past the edges are clamped, and their sums
//    of rows 2 16 17 20 21 24 25 28 29       are not stored. Past the end of K, a and b count as zero.
//            3 18 19 22 23 26 27 30 31
//
// With two GROUPS of X · Y invocations, each sums every other step, so that a core has more to do if y has few tiles.
// In the end each group sends half of its columns to the other through the memory of its tiles, and stores the rest.
enable f16;

alias aType = vec2u; // four elements: two words as stored if a and b are f16, or else a vector of four
alias bType = vec2u;
const TRANSPOSE_A: bool = false;
const TRANSPOSE_B: bool = false;
const TILE_K: u32 = 16;
const ROWS: u32 = 2; // vectors of four rows per invocation
const COLUMNS: u32 = 2; // vectors of four columns per invocation
const X: u32 = 16; // invocations along the columns
const Y: u32 = 8; // invocations along the rows
const FETCHES: u32 = 2; // blocks per invocation and step
const WHOLE_K: bool = false; // whether K is a multiple of GROUPS · TILE_K
const GROUPS: u32 = 1; // or 2, if ROWS and COLUMNS are 2
const IN_GROUPS: bool = false; // whether GROUPS is 2
const BATCH: bool = false; // whether group.z is the number of a matrix, not of a part of K
const BY_COLUMNS: bool = true; // order of the sums: by columns is faster, by rows compiles twice as fast

@group(0) @binding(0) var<storage, read> a: array<aType>;
@group(0) @binding(1) var<storage, read> b: array<bType>;

const GROUP: u32 = X * Y; // invocations per group
const STEP: u32 = GROUPS * TILE_K; // terms per iteration
const WORKGROUP_SIZE: u32 = GROUPS * GROUP;
const K4: u32 = TILE_K / 4;
const M4: u32 = Y * ROWS; // the tile's rows, in vectors of four
const N4: u32 = X * COLUMNS;
const ROWS4: u32 = 4 * ROWS;
const COLUMNS4: u32 = 4 * COLUMNS;
const SUMS: u32 = 4 * ROWS * COLUMNS; // vectors of four: rows if BY_COLUMNS, or else columns

alias Sums = array<vec4f, SUMS>;

// Four steps of k of a tile. The padding keeps transposed stores of neighbours on different banks.
struct AQuad {
  rows: array<array<array<vec4f, Y>, ROWS>, 4>,
  padding: array<vec4f, 2>,
}
struct BQuad {
  rows: array<array<array<vec4f, X>, COLUMNS>, 4>,
  padding: array<vec4f, 2>,
}

var<workgroup> aTile: array<array<AQuad, K4>, GROUPS>; // [group][k / 4].rows[k % 4][r][y4]
var<workgroup> bTile: array<array<BQuad, K4>, GROUPS>; // [group][k / 4].rows[k % 4][c][x4]

// A block is 4 × 4 elements as they are stored, four vectors along the stored rows.
alias Block = array<packed, 4>;
const A_BLOCKS: u32 = M4 * K4;
const BLOCKS: u32 = A_BLOCKS + N4 * K4;
const FULL_FETCHES: bool = BLOCKS % GROUP == 0;

// A block of a: four rows along k, or if a is transposed the stored rows k … k + 3. Elements past the end of K may
// have any value.
fn fetchA(block: u32, matrix: u32, firstRow: u32, first: u32) -> Block {
  let start = sizes.aStart + matrix * sizes.aMatrix;
  var rows: Block;
  if (TRANSPOSE_A) {
    let k = first + block / M4 * 4;
    let column = start + min(firstRow / 4 + block % M4, (sizes.M - 1) / 4);
    // unroll
    for (var i = 0u; i < 4u; i++) {
      rows[i] = packed(a[column + (k + i) * sizes.aStride]);
    }
  } else {
    let column = start + first / 4 + block % K4;
    // unroll
    for (var i = 0u; i < 4u; i++) {
      let row = min(firstRow + block / K4 * 4 + i, sizes.M - 1);
      rows[i] = packed(a[column + row * sizes.aStride]);
    }
  }
  return rows;
}

// A block of b, likewise.
fn fetchB(block: u32, matrix: u32, firstColumn: u32, first: u32) -> Block {
  let start = matrix * sizes.bMatrix;
  var rows: Block;
  if (TRANSPOSE_B) {
    let column = start + first / 4 + block % K4;
    // unroll
    for (var i = 0u; i < 4u; i++) {
      let row = min(firstColumn + block / K4 * 4 + i, sizes.N - 1);
      rows[i] = packed(b[column + row * sizes.bStride]);
    }
  } else {
    let k = first + block / N4 * 4;
    let column = start + min(firstColumn / 4 + block % N4, (sizes.N - 1) / 4);
    // unroll
    for (var i = 0u; i < 4u; i++) {
      rows[i] = packed(b[column + (k + i) * sizes.bStride]);
    }
  }
  return rows;
}

// Stages a block of a, transposed if k is not the slowest dimension of the stored matrix.
fn stageA(g: u32, block: u32, rows: Block, first: u32, end: u32) {
  let m4 = select(block / K4, block % M4, TRANSPOSE_A);
  let k4 = select(block % K4, block / M4, TRANSPOSE_A);
  var columns = mat4x4f(unpacked(rows[0]), unpacked(rows[1]), unpacked(rows[2]), unpacked(rows[3]));
  if (!TRANSPOSE_A) { columns = transpose(columns); }
  // unroll
  for (var i = 0u; i < 4u; i++) {
    let four = select(vec4f(), columns[i], WHOLE_K | (first + 4 * k4 + i < end));
    aTile[g][k4].rows[i][m4 / Y][m4 % Y] = four;
  }
}

// Stages a block of b, likewise.
fn stageB(g: u32, block: u32, rows: Block, first: u32, end: u32) {
  let n4 = select(block % N4, block / K4, TRANSPOSE_B);
  let k4 = select(block / N4, block % K4, TRANSPOSE_B);
  var columns = mat4x4f(unpacked(rows[0]), unpacked(rows[1]), unpacked(rows[2]), unpacked(rows[3]));
  if (TRANSPOSE_B) { columns = transpose(columns); }
  // unroll
  for (var i = 0u; i < 4u; i++) {
    let four = select(vec4f(), columns[i], WHOLE_K | (first + 4 * k4 + i < end));
    bTile[g][k4].rows[i][n4 / X][n4 % X] = four;
  }
}

// Adds the products of one step of k: as4 has its elements of a in vectors of rows, bs4 those of b in vectors of
// columns. Every other column runs backwards, so that each multiply-add shares a factor with the one before it,
// which an NVIDIA core then does not read from its registers again.
fn addProducts(sums: ptr<function, Sums>, as4: array<vec4f, ROWS>, bs4: array<vec4f, COLUMNS>) {
  // only if BY_COLUMNS
  // unroll
  for (var c = 0u; c < COLUMNS4; c++) {
    let b1 = vec4f(bs4[c / 4][c % 4]);
    // unroll
    for (var i = 0u; i < ROWS; i++) {
      if (c % 2 == 0) {
        let s = c * ROWS + i;
        sums[s] = fma(as4[i], b1, sums[s]);
      } else {
        let r = ROWS - 1 - i;
        let s = c * ROWS + r;
        sums[s] = fma(as4[r].wzyx, b1, sums[s].wzyx).wzyx;
      }
    }
  }
  // unless BY_COLUMNS
  // unroll
  for (var r = 0u; r < ROWS4; r++) {
    let a1 = vec4f(as4[r / 4][r % 4]);
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      let s = r * COLUMNS + c;
      sums[s] = fma(a1, bs4[c], sums[s]);
    }
  }
}

// Stores four columns of row m if they lie in y.
fn storeInside(m: u32, n: u32, split: u32, four: vec4f) {
  if (m < sizes.M && n < sizes.N) { store(split * sizes.M + m, n / 4, four); }
}

// Stores the sums of an invocation whose first vectors begin at this row and column.
fn storeSums(sums: ptr<function, Sums>, row: u32, column: u32, split: u32) {
  // only if BY_COLUMNS
  // unroll
  for (var c = 0u; c < COLUMNS; c++) {
    // unroll
    for (var r = 0u; r < ROWS; r++) {
      let s = 4 * c * ROWS + r;
      let rows = transpose(mat4x4f(sums[s], sums[s + ROWS], sums[s + 2 * ROWS], sums[s + 3 * ROWS]));
      // unroll
      for (var i = 0u; i < 4u; i++) {
        storeInside(row + 4 * r * Y + i, column + 4 * c * X, split, rows[i]);
      }
    }
  }
  // unless BY_COLUMNS
  // unroll
  for (var r = 0u; r < ROWS4; r++) {
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      storeInside(row + r / 4 * 4 * Y + r % 4, column + 4 * c * X, split, sums[r * COLUMNS + c]);
    }
  }
}

// Half of the sums of an invocation: one of its vectors of columns.
const HALF: u32 = SUMS / 2;
const SLOTS: u32 = HALF / 2; // vectors of a half that pass through aTile, the others through bTile

// Adds up the sums of both groups, and stores the half of them that has the group's number.
// only if IN_GROUPS
fn storeHalf(sums: ptr<function, Sums>, g: u32, member: u32, row: u32, column: u32, split: u32) {
  let aRow = member / (ROWS * Y) % 4;
  let bRow = member / (COLUMNS * X) % 4;
  // unroll
  for (var i = 0u; i < SLOTS; i++) {
    let a = select((*sums)[i], (*sums)[HALF + i], g == 0);
    let b = select((*sums)[SLOTS + i], (*sums)[HALF + SLOTS + i], g == 0);
    aTile[g][i].rows[aRow][member / Y % ROWS][member % Y] = a;
    bTile[g][i].rows[bRow][member / X % COLUMNS][member % X] = b;
  }
  workgroupBarrier();
  var half: array<vec4f, HALF>;
  // unroll
  for (var i = 0u; i < SLOTS; i++) {
    let a = select((*sums)[i], (*sums)[HALF + i], g == 1);
    let b = select((*sums)[SLOTS + i], (*sums)[HALF + SLOTS + i], g == 1);
    half[i] = a + aTile[1 - g][i].rows[aRow][member / Y % ROWS][member % Y];
    half[SLOTS + i] = b + bTile[1 - g][i].rows[bRow][member / X % COLUMNS][member % X];
  }
  // unroll
  for (var r = 0u; r < ROWS; r++) {
    let rows = transpose(mat4x4f(half[r], half[ROWS + r], half[2 * ROWS + r], half[3 * ROWS + r]));
    // unroll
    for (var i = 0u; i < 4u; i++) {
      storeInside(row + 4 * r * Y + i, column + 4 * g * X, split, rows[i]);
    }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let g = index / GROUP % GROUPS;
  let member = index % GROUP; // of the group
  let warp = member / 32;
  let x4 = (warp % (X / 8) * 8 + member / 4 % 4 * 2 + member % 2) % X; // vector of columns
  let y4 = (warp / (X / 8) * 4 + member / 16 % 2 * 2 + member / 2 % 2) % Y; // vector of rows
  let firstRow = group.y * 4 * M4;
  let firstColumn = group.x * 4 * N4;
  let matrix = select(0u, group.z, BATCH);
  let part = select(vec2u(group.z, group.z + 1), vec2u(0, groups.z), BATCH);
  let steps = (sizes.K + (STEP - 1)) / STEP * part / groups.z; // where the part begins and ends; parts differ by one at most
  let start = steps.x * STEP;
  let end = min(steps.y * STEP, sizes.K);

  var fetched: array<Block, FETCHES>;
  // unroll
  for (var i = 0u; i < FETCHES; i++) {
    let block = member + i * GROUP;
    if (block < A_BLOCKS) {
      fetched[i] = fetchA(block, matrix, firstRow, start + g * TILE_K);
    } else if (FULL_FETCHES || block < BLOCKS) {
      fetched[i] = fetchB(block - A_BLOCKS, matrix, firstColumn, start + g * TILE_K);
    }
  }
  var sums: Sums;
  var first = start;
  loop {
    // unroll
    for (var i = 0u; i < FETCHES; i++) {
      let block = member + i * GROUP;
      if (block < A_BLOCKS) {
        stageA(g, block, fetched[i], first + g * TILE_K, end);
      } else if (FULL_FETCHES || block < BLOCKS) {
        stageB(g, block - A_BLOCKS, fetched[i], first + g * TILE_K, end);
      }
    }
    workgroupBarrier();
    // the last step fetches past the end, which is not used
    // unroll
    for (var i = 0u; i < FETCHES; i++) {
      let block = member + i * GROUP;
      if (block < A_BLOCKS) {
        fetched[i] = fetchA(block, matrix, firstRow, first + (GROUPS + g) * TILE_K);
      } else if (FULL_FETCHES || block < BLOCKS) {
        fetched[i] = fetchB(block - A_BLOCKS, matrix, firstColumn, first + (GROUPS + g) * TILE_K);
      }
    }
    // unroll
    for (var k = 0u; k < TILE_K; k++) {
      var as4: array<vec4f, ROWS>;
      var bs4: array<vec4f, COLUMNS>;
      // unroll
      for (var r = 0u; r < ROWS; r++) {
        as4[r] = aTile[g][k / 4].rows[k % 4][r][y4];
      }
      // unroll
      for (var c = 0u; c < COLUMNS; c++) {
        bs4[c] = bTile[g][k / 4].rows[k % 4][c][x4];
      }
      addProducts(&sums, as4, bs4);
    }
    workgroupBarrier();

    continuing {
      first += STEP;
      break if first >= end;
    }
  }

  // only if IN_GROUPS
  storeHalf(&sums, g, member, firstRow + 4 * y4, firstColumn + 4 * x4, group.z);
  // unless IN_GROUPS
  storeSums(&sums, firstRow + 4 * y4, firstColumn + 4 * x4, group.z);
}
