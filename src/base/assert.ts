/**
 * Assertions are for programmer errors only: a failed one means that our own code is wrong, and the process
 * must not go on. Bad input from a peer, a file or a user is a VolumeError, never an assertion.
 */
export class AssertionError extends Error {
  override readonly name = 'AssertionError';
}

export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionError(`BUG: ${message}`);
}

/** Marks a branch that the compiler has proved to be impossible. */
export function unreachable(value: never): never {
  throw new AssertionError(`BUG: unexpected value ${JSON.stringify(value)}`);
}
