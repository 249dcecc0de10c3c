/**
 * Reads /proc/self/mountinfo (proc_pid_mountinfo(5)). Pure: text in, records out. A line that does not have the
 * documented form is skipped, because kernels may add fields and one strange mount must not hide the others.
 */
export interface MountEntry {
  /** "major:minor" of the filesystem that is mounted, as in st_dev. */
  readonly device: string;
  /** The part of that filesystem which is mounted: "/" unless it is a bind mount of something below. */
  readonly root: string;
  readonly mountPoint: string;
  /** Options of this mount alone, such as ro. */
  readonly options: readonly string[];
  readonly fsType: string;
  /** What was mounted, such as /dev/loop7. */
  readonly source: string;
  /** Options of the filesystem, shared by all its mounts: ro here means that nobody can write. */
  readonly superOptions: readonly string[];
}

/** The filesystem gave up after an error: newer kernels tell it of ext4, whose cached directories read on. */
export function isShutDown(mount: MountEntry): boolean {
  return mount.superOptions.includes('shutdown');
}

/** Nobody can write, because it was mounted so or because of an error (errors=remount-ro, the default). */
export function isReadOnlyFilesystem(mount: MountEntry): boolean {
  return mount.superOptions.includes('ro') || mount.superOptions.includes('emergency_ro');
}

/** In the order of the file: of two mounts on one path, the later one is on top. */
export function parseMountinfo(text: string): MountEntry[] {
  return text
    .split('\n')
    .map(parseLine)
    .filter((entry) => entry !== undefined);
}

function parseLine(line: string): MountEntry | undefined {
  // Any number of optional fields stands between the mount options and the lone hyphen.
  const fields = line.split(' ');
  const separator = fields.indexOf('-', 6);
  if (separator === -1) return undefined;
  const [, , device, root, mountPoint, options] = fields;
  const [fsType, source, superOptions] = fields.slice(separator + 1);
  if (device === undefined || !/^\d+:\d+$/.test(device)) return undefined;
  if (root === undefined || mountPoint === undefined || options === undefined) return undefined;
  if (fsType === undefined || source === undefined || superOptions === undefined) return undefined;
  return {
    device,
    root: unescapeOctal(root),
    mountPoint: unescapeOctal(mountPoint),
    options: options.split(','),
    fsType: unescapeOctal(fsType),
    source: unescapeOctal(source),
    superOptions: superOptions.split(','),
  };
}

/** The kernel writes space, tab, newline, backslash and # as \ and three octal digits, byte by byte. */
function unescapeOctal(text: string): string {
  if (!text.includes('\\')) return text;
  const bytes: Buffer[] = [];
  let start = 0;
  for (const match of text.matchAll(/\\([0-3][0-7]{2})/g)) {
    bytes.push(Buffer.from(text.slice(start, match.index)));
    bytes.push(Buffer.of(Number.parseInt(match[1] ?? '', 8)));
    start = match.index + match[0].length;
  }
  bytes.push(Buffer.from(text.slice(start)));
  return Buffer.concat(bytes).toString();
}
