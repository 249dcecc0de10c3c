/** Mounts of this mount namespace, from /proc/self/mountinfo (proc(5)): looking never touches the mounted file. */
import { readFile } from 'node:fs/promises';

export interface Mount {
  readonly mountpoint: string;
  /** st_dev of the mounted filesystem as MAJOR:MINOR. */
  readonly deviceNumber: string;
}

export function parseMountInfo(text: string): Mount[] {
  const mounts: Mount[] = [];
  for (const line of text.split('\n')) {
    const fields = line.split(' ');
    const deviceNumber = fields[2];
    const mountpoint = fields[4];
    if (deviceNumber === undefined || mountpoint === undefined) continue;
    mounts.push({ mountpoint: unescapeOctal(mountpoint), deviceNumber });
  }
  return mounts;
}

/** The mounts on exactly this path, the topmost last. */
export async function mountsOn(path: string): Promise<Mount[]> {
  return (await listMounts()).filter((mount) => mount.mountpoint === path);
}

export async function listMounts(): Promise<Mount[]> {
  return parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8'));
}

/** The kernel writes space, tab, newline and backslash as three octal digits, one escape per byte. */
function unescapeOctal(text: string): string {
  if (!text.includes('\\')) return text;
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(parseInt(digits, 8)),
  );
}
