/**
 * Node's errors of system calls carry the errno's name as their code. Not `instanceof Error`: such an error may come
 * from another realm (jest runs each test file in one of its own).
 */
export function hasErrno(error: unknown, errno: string): boolean {
  return typeof error === 'object' && error !== null && 'code' in error && error.code === errno;
}
