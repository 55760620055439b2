// Four int8 numbers in a word. The bytes of a word become the low bits of f16 numbers from 1024 on, which are whole and
// easily converted: NVIDIA's GPUs need more time to convert integers.
fn fourInt8(word: u32) -> vec4f {
  let even = unpack2x16float((word & 0x00ff00ff) ^ 0x64806480); // 1024 + 128 + number
  let odd = unpack2x16float(((word >> 8) & 0x00ff00ff) ^ 0x64806480);
  return vec4f(even.x, odd.x, even.y, odd.y) - 1152.0;
}
