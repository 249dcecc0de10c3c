/** What ends a role: a signal, or the end of the supervisor that started it. */

/** Resolves when the signal is aborted. */
export function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    signal.addEventListener('abort', () => {
      resolve();
    });
  });
}

/** Set to 1 for a role whose standard input is held by a supervisor: see all.ts. */
export const supervisedMark = 'VOLUMEDRIVER_SUPERVISED';

/**
 * Calls back when the supervisor is gone, however it died: then the pipe that is our standard input ends. Never, when
 * there is none. (A channel of Node's own would not outlive the exchange of the program, see memory-pressure.ts.)
 */
export function onSupervisorGone(callback: () => void): void {
  const supervised = process.env[supervisedMark] === '1';
  Reflect.deleteProperty(process.env, supervisedMark);
  if (!supervised) return;
  for (const event of ['end', 'error']) process.stdin.once(event, callback);
  process.stdin.resume();
}
