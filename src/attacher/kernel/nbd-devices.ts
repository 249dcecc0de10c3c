/** What sysfs shows of the kernel's NBD devices. */
export interface NbdDevice {
  readonly index: number;
  /** What the connector gave as BACKEND_IDENTIFIER; null when nothing is configured or it gave none. */
  readonly identifier: string | null;
  /** The process that connected it; null when it is not configured. */
  readonly pid: number | null;
  readonly sizeBytes: number;
}

export function listNbdDevices(root = '/sys/block'): Promise<NbdDevice[]> {
  return Promise.reject(new Error(root));
}

/** Null when there is no such device. */
export function readNbdDevice(index: number, root = '/sys/block'): Promise<NbdDevice | null> {
  return Promise.reject(new Error(`${root}${index}`));
}

/** The module's max_part; null when the module shows none. */
export function maxPart(path = '/sys/module/nbd/parameters/max_part'): Promise<number | null> {
  return Promise.reject(new Error(path));
}

/** /sys/block/nbdN/queue/io_timeout. */
export function setIoTimeout(index: number, timeoutMs: number, root = '/sys/block'): Promise<void> {
  return Promise.reject(new Error(`${root}${index}${timeoutMs}`));
}
