// dv[s] = Σₜ f · p[t,s] · dy[t], dk[s] = SCALE · Σₜ ds[t,s] · q[t] and dq[t] = SCALE · Σₛ ds[t,s] · k[s], in tiles.
// Needs addProducts() and all else from score_tiles.wgsl.
//
// scores: f · p and ds as backward_scores.wgsl stores them, of the same heads; qkv, dqkv: [B,T,(NH+2·KH)·HS]; dy: [B,T,C],
// C = NH · HS. dq, dk and dv of these heads are set in dqkv.
//
// A workgroup computes TOKENS rows and 32 · COLUMNS components of one of the products of a head of k: of dv, of dk, or of
// dq of one of the GROUP heads of q that read it. dv and dk are sums over the queries of all these heads, in order, so that
// no atomics are needed. A step has TERMS queries of one tile, or for dq TERMS keys.
//
//              a                          b             rows
//     dv       (f · p)ᵀ                   dy            keys
//     dk       dsᵀ                        q             keys
//     dq       ds, staged transposed      k             queries
enable f16;

alias real4 = vec4<f16>; // four elements of dqkv
const NH: u32 = 1;
const KH: u32 = 1; // heads of k and v, each of which NH / KH heads of q read
const SINGLE: bool = true; // whether KH = NH
const SCALE: f32 = 1.0 / sqrt(f32(HS));

@group(0) @binding(0) var<storage, read> qkv: array<packed>;
@group(0) @binding(1) var<storage, read> dy: array<packed>;
@group(0) @binding(2) var<storage, read> scores: array<packed>;
@group(0) @binding(3) var<storage, read_write> dqkv: array<real4>;

const C: u32 = NH * QUADS; // in vectors of four
const ROW: u32 = (NH + 2 * KH) * QUADS; // of qkv
const GROUP: u32 = NH / KH;
const KINDS: u32 = 2 + GROUP; // products of a head of k: dv, dk, and dq of each head of q
const WIDTH4: u32 = X * COLUMNS; // vectors of four components per workgroup
const STEPS: u32 = TOKENS / TERMS; // per tile

// The sums of a workgroup.
struct Work {
  isDv: bool,
  isDq: bool,
  block: u32, // of the rows: keys, of dq queries
  first: u32, // of the blocks over which it sums: queries, of dq keys
  count: u32, // of these blocks
  scores: u32, // index of the first vector of a, of the first head of q
  b: u32, // index of the first vector of b, of the first head of q
}

// The first term of a step.
struct Step {
  member: u32, // of the heads of q over which dv and dk sum; 0 for dq
  block: u32, // of queries, of dq keys
  term: u32, // in the block
}
fn stepOf(work: Work, step: u32) -> Step {
  var own = step;
  var member = 0u;
  // unless SINGLE
  {
    member = step / (work.count * STEPS);
    own -= member * (work.count * STEPS);
  }
  return Step(member, work.first + own / STEPS, own % STEPS * TERMS);
}

// A block of f · p or of ds.
fn fetchScores(work: Work, step: Step, index: u32, tiles: u32) -> Block {
  let queries = select(step.block, work.block, work.isDq);
  let keys = select(work.block, step.block, work.isDq);
  let row = select(step.term + index / TOKENS4 * 4, index / TERMS4 * 4, work.isDq);
  let column = select(index % TOKENS4, step.term / 4 + index % TERMS4, work.isDq);
  let place = work.scores + (step.member * 2 * tiles + tileOf(queries, keys)) * TILE + row * TOKENS4 + column;
  var block: Block;
  // unroll
  for (var i = 0u; i < 4u; i++) {
    block[i] = scores[place + i * TOKENS4];
  }
  return block;
}

fn stageScores(block: Block, isDq: bool, index: u32) {
  if (isDq) {
    stageATransposed(block, index % TERMS4, index / TERMS4);
  } else {
    let row4 = index % TOKENS4;
    // unroll
    for (var i = 0u; i < 4u; i++) {
      aTile[index / TOKENS4].rows[i][row4 / Y][row4 % Y] = unpacked(block[i]);
    }
  }
}

// A block of dy, q or k. The last token replaces those past the end, whose scores are zeros.
fn fetchFactors(work: Work, step: Step, index: u32) -> Block {
  let token = step.block * TOKENS + step.term + index / WIDTH4 % TERMS4 * 4;
  let place = work.b + step.member * QUADS + index % WIDTH4;
  var block: Block;
  // unroll
  for (var i = 0u; i < 4u; i++) {
    let t = min(token + i, sizes.T - 1);
    if (work.isDv) { block[i] = dy[place + t * C]; } else { block[i] = qkv[place + t * ROW]; }
  }
  return block;
}

// If COLUMNS is 1, a step has half as many blocks of b as there are invocations: the other half fetches them again.
fn stageFactors(block: Block, index: u32) {
  if (COLUMNS == 2 || index < WORKGROUP_SIZE / 2) {
    // unroll
    for (var i = 0u; i < 4u; i++) {
      bTile[index / WIDTH4 % TERMS4].rows[i][index % WIDTH4 / X][index % X] = unpacked(block[i]);
    }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let T = sizes.T;
  let x = xOf(index);
  let y = yOf(index);
  let blocks = groups.y;
  let tiles = tilesBefore(blocks);
  let kind = group.x % KINDS;
  let scoredHead = group.x / KINDS; // the head of k among those of scores
  let batchHead = sizes.firstHead + scoredHead; // of [B,KH]
  let sequence = batchHead / KH * T;
  let keyHead = batchHead % KH;
  let isDv = kind == 0;
  let isDq = kind > 1;
  let member = select(0, kind - 2, isDq); // of the heads of q that read it: that of dq, or the first one
  let queryHead = keyHead * GROUP + member;
  let firstColumn = group.z * WIDTH4;

  // the blocks of rows with the most terms start first
  var work = Work(isDv, isDq, select(group.y, blocks - 1 - group.y, isDq), 0, 0, 0, 0);
  if (isDq) {
    work.first = firstBlockSeenBy(work.block, sequence);
    work.count = work.block + 1 - work.first;
    work.b = sequence * ROW + (NH + keyHead) * QUADS;
  } else {
    var end = min(work.block + sizes.seenBlocks, blocks);
    // only if APART
    for (var queries = work.block + 1; queries < end; queries++) {
      if (firstBlockSeenBy(queries, sequence) > work.block) { end = queries; } // nor do later queries see a key of the block
    }
    work.first = work.block;
    work.count = end - work.first;
    work.b = select(sequence * ROW, sequence * C, isDv) + queryHead * QUADS;
  }
  work.b += firstColumn;
  work.scores = ((scoredHead * GROUP + member) * 2 + select(1u, 0u, isDv)) * tiles * TILE;
  let steps = work.count * STEPS * select(GROUP, 1, isDq);

  var a = fetchScores(work, stepOf(work, 0), index, tiles);
  var b = fetchFactors(work, stepOf(work, 0), index);
  var sums: Sums;
  for (var step = 0u; step < steps; step++) {
    stageScores(a, isDq, index);
    stageFactors(b, index);
    workgroupBarrier();
    let next = stepOf(work, min(step + 1, steps - 1));
    a = fetchScores(work, next, index, tiles);
    b = fetchFactors(work, next, index);
    addProducts(&sums, x, y);
    workgroupBarrier();
  }

  let column = select(NH + keyHead + select(0, KH, isDv), queryHead, isDq) * QUADS + firstColumn + x;
  // unroll
  for (var r = 0u; r < ROWS4; r++) {
    let token = work.block * TOKENS + rowOf(r, y);
    if (token < T) {
      // unroll
      for (var c = 0u; c < COLUMNS; c++) {
        let four = select(SCALE, 1.0, isDv) * sums[r * COLUMNS + c];
        dqkv[(sequence + token) * ROW + column + c * X] = real4(four);
      }
    }
  }
}
