import { createHash } from "node:crypto";
import { CommonError } from "../files/user_error.ts";
import type { Device } from "../kernels/device.ts";
import { download, type Tensor } from "../kernels/tensor.ts";
import type { Transport } from "./transport.ts";

/**
 * Makes sure that all ranks hold the same bits of a tensor. It reads the tensor back, which waits for the device.
 *
 * @returns the hash of the tensor, SHA-256 in hexadecimal digits.
 * @throws {CommonError} naming the ranks that differ from most others.
 */
export async function checkSameBits(
  transport: Transport,
  device: Device,
  tensor: Tensor,
): Promise<string> {
  const [values] = await download(device, tensor);
  const own = Uint8Array.from(createHash("sha256").update(values!).digest());
  const hashes = (await transport.gather(own)).map((hash) => hash.toHex());
  const counts = new Map<string, number>();
  for (const hash of hashes) counts.set(hash, (counts.get(hash) ?? 0) + 1);
  // of equally frequent ones the first, that of the lowest rank
  const [most] = [...counts].reduce((a, b) => b[1] > a[1] ? b : a);
  const odd = hashes.flatMap((hash, rank) => hash === most ? [] : [rank]);
  if (odd.length === 0) return most;
  throw new CommonError(
    `Cannot continue as all ranks must hold the same ${tensor.name}: ` +
      `${odd.length === 1 ? "rank" : "ranks"} ${odd.join(", ")} of ${transport.size} ` +
      `${odd.length === 1 ? "differs" : "differ"} from the others`,
    { hint: "Resume with --resume-from an earlier checkpoint, and test the GPU of that rank" },
  );
}
