import { device } from "../kernels/harness.ts";

/** A clock that stands still until it is set forward. */
export interface StandingClock {
  /** Milliseconds that it shows. */
  now: number;
}

/**
 * Runs an action while `performance.now()` shows a standing clock, so that what is measured can be derived by hand.
 *
 * @param submitMs milliseconds by which the n-th submission to the device sets it forward, from 1.
 * @param options.waitMs milliseconds by which a wait for all submissions sets it forward; 0 by default.
 */
export async function withStandingClock<T>(
  submitMs: (n: number) => number,
  action: (clock: StandingClock) => Promise<T>,
  { waitMs = 0 } = {},
): Promise<T> {
  const clock: StandingClock = { now: 0 };
  const { now } = performance, { queue } = device.gpu, { submit, onSubmittedWorkDone } = queue;
  let submissions = 0;
  performance.now = () => clock.now;
  queue.submit = (buffers) => {
    clock.now += submitMs(++submissions);
    return submit.call(queue, buffers);
  };
  queue.onSubmittedWorkDone = async () => {
    await onSubmittedWorkDone.call(queue);
    clock.now += waitMs;
    return undefined;
  };
  try {
    return await action(clock);
  } finally {
    performance.now = now;
    queue.submit = submit;
    queue.onSubmittedWorkDone = onSubmittedWorkDone;
  }
}
