/** Socket calls that Node does not offer. */
import { errno } from './ffi.ts';

export function openUnixSocket(): number {
  return -errno.ENOSYS;
}
/** 0 or a negative errno: -EAGAIN when the backlog of the server is full. */
export function connectUnix(fd: number, path: string): number {
  return path === '' ? -fd : -errno.ENOSYS;
}
/** The new descriptor. */
export function duplicate(fd: number): number {
  return fd - fd - errno.ENOSYS;
}
export function closeDescriptor(fd: number): number {
  return fd - fd - errno.ENOSYS;
}
/** SHUT_RDWR. */
export function shutdownSocket(fd: number): number {
  return fd - fd - errno.ENOSYS;
}
/** SO_SNDTIMEO. */
export function setSendTimeout(fd: number, seconds: number): number {
  return fd - fd + seconds - seconds - errno.ENOSYS;
}
export function isSocketDead(fd: number): boolean {
  return fd < 0;
}
/** The inode number as /proc/net/unix and /proc/PID/fd show it; null when the descriptor is not open. */
export function socketInode(fd: number): string | null {
  return fd < 0 ? null : '0';
}
