// dwte[token] += sum of dy over the token's positions, where these lie in one chunk; and
// dwpe[t] = sum of dy over the sequences, 0 past T; set or accumulated.
// tokens, order: [M]; dy: [M,C]; dwte: [V,C]; partials: [chunks,2,C]; dwpe: [L,C]; C in vectors of four
//
// In order, which lists the positions sorted by token, each token has one run of places. A frequent one
// would keep a single workgroup busy for long, so invocations walk over chunks of CHUNK places: a run that
// lies within a chunk is added to dwte at once. A run that crosses chunks leaves its sum over the chunk
// where it begins in partials[chunk,1] and that over each further chunk in partials[chunk,0], and
// backward_long_runs.wgsl adds them up: no atomics, one order of summation.
//
// Workgroups run in the order of their numbers, z slowest: the positions' of some columns run beside the
// tokens' of the same ones, and find some of what these read of dy in the cache.
enable f16;

alias real4 = vec4<f16>; // dy
const ROWS: u32 = 4; // chunks, or positions, of a workgroup
const AHEAD: u32 = 8; // rows of dy that are read together, so that they are waited for together
const KINDS: u32 = 2; // 1: of the tokens alone

@group(0) @binding(2) var<storage, read> dy: array<real4>;
@group(0) @binding(3) var<storage, read_write> dwte: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> partials: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> dwpe: array<vec4f>;
@group(0) @binding(6) var<uniform> sizes: Sizes;

// A chunk's positions and tokens, from the place before it to the one after it.
var<workgroup> positions: array<array<u32, CHUNK + 2>, ROWS>;
var<workgroup> run: array<array<u32, CHUNK + 2>, ROWS>;

@compute @workgroup_size(COLUMNS, ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let row = (group.y * 32768 + group.x) * ROWS + local.y;
  let c = group.z / KINDS * COLUMNS + local.x;
  if (group.z % KINDS == 0) {
    for (var i = local.x; i < CHUNK + 2; i += COLUMNS) {
      let place = row * CHUNK + i - 1;
      positions[local.y][i] = order[min(place, sizes.M - 1)];
      run[local.y][i] = tokenAt(place);
    }
    workgroupBarrier();
    if (c < sizes.columns4) { addTokens(row, c, local.y); }
  } else if (c < sizes.columns4) {
    addPosition(row, c);
  }
}

fn addTokens(chunk: u32, c: u32, y: u32) {
  let before = run[y][0];
  var sum = vec4f();
  for (var first = 1u; first <= CHUNK; first += AHEAD) {
    var rows: array<real4, AHEAD>;
    var olds: array<vec4f, AHEAD>; // of dwte, where a run is added to it
    // unroll
    for (var i = 0u; i < AHEAD; i++) {
      let token = run[y][first + i];
      let row = token - sizes.firstToken; // wraps far beyond the slice for tokens before it, and for none
      rows[i] = dy[positions[y][first + i] * sizes.columns4 + c];
      if (token != before && token != run[y][first + i + 1] && row < sizes.slicedTokens) {
        olds[i] = dwte[row * sizes.columns4 + c];
      }
    }
    // unroll
    for (var i = 0u; i < AHEAD; i++) {
      sum += vec4f(rows[i]);
      let token = run[y][first + i];
      let beginsHere = token != before;
      let endsHere = token != run[y][first + i + 1];
      if (endsHere || first + i == CHUNK) {
        let row = token - sizes.firstToken;
        if (row < sizes.slicedTokens) {
          if (beginsHere && endsHere) {
            dwte[row * sizes.columns4 + c] = olds[i] + sum;
          } else {
            partials[(chunk * 2 + u32(beginsHere)) * sizes.columns4 + c] = sum;
          }
        }
        sum = vec4f();
      }
    }
  }
}

fn addPosition(t: u32, c: u32) {
  if (t >= sizes.L) { return; }
  var sum = vec4f();
  if (t < sizes.T) {
    for (var first = t; first < sizes.M; first += AHEAD * sizes.T) {
      // unroll
      for (var i = 0u; i < AHEAD; i++) {
        let m = first + i * sizes.T;
        sum += select(vec4f(), vec4f(dy[min(m, sizes.M - 1) * sizes.columns4 + c]), m < sizes.M);
      }
    }
  }
  let i = t * sizes.columns4 + c;
  if (sizes.accumulate != 0) { sum += dwpe[i]; }
  dwpe[i] = sum;
}
