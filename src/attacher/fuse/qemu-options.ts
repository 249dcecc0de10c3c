/**
 * What qemu-storage-daemon is told (qemu-storage-daemon(1), qemu-qmp-ref(7): BlockdevOptionsNbd, BlockdevOptionsRaw,
 * BlockExportOptions). Pure. JSON everywhere, so that no name or path needs escaping, but for --chardev, which
 * takes none in qemu 7.2.
 *
 * The export hangs on a `raw` node over an `nbd` node: the raw node stays while the nbd node below it is swapped
 * for one with a new size.
 */
import { parseNbdUri } from '../../nbd/uri.ts';

/** The node under the export. */
export const rawNodeName = 'volume';

/** The nbd nodes are numbered: each grow adds the next and removes the last. */
export function nbdNodeName(number: number): string {
  return `nbd-${number}`;
}

/** The number of an nbd node; null for any other node. */
export function nbdNodeNumber(nodeName: string): number | null {
  const match = /^nbd-([0-9]{1,9})$/.exec(nodeName);
  return match === null ? null : Number(match[1]);
}

export interface NbdNodeRequest {
  readonly uri: string;
  readonly nodeName: string;
  readonly readOnly: boolean;
  /** How long requests wait for a lost server before they fail. */
  readonly reconnectDelaySeconds: number;
}

export type QemuOptions = Readonly<Record<string, unknown>>;

/** BlockdevOptionsNbd of an NBD URI; INVALID_ARGUMENT for a bad one. */
export function nbdNodeOptions(request: NbdNodeRequest): QemuOptions {
  const { address, exportName } = parseNbdUri(request.uri);
  const server =
    address.kind === 'unix'
      ? { type: 'unix', path: address.path }
      : { type: 'inet', host: address.host, port: String(address.port) };
  return {
    driver: 'nbd',
    'node-name': request.nodeName,
    server,
    export: exportName,
    'reconnect-delay': request.reconnectDelaySeconds,
    'read-only': request.readOnly,
    discard: 'unmap',
  };
}

export function rawNodeOptions(options: { file: string; readOnly: boolean }): QemuOptions {
  return {
    driver: 'raw',
    'node-name': rawNodeName,
    file: options.file,
    'read-only': options.readOnly,
    discard: 'unmap',
  };
}

export interface DaemonRequest {
  readonly uri: string;
  readonly readOnly: boolean;
  readonly reconnectDelaySeconds: number;
  /** An empty regular file, which becomes the volume. */
  readonly mountpoint: string;
  readonly qmpSocketPath: string;
  readonly pidFilePath: string;
}

export function daemonArguments(request: DaemonRequest): string[] {
  const file = nbdNodeName(1);
  const { uri, readOnly, reconnectDelaySeconds } = request;
  const nbd = nbdNodeOptions({ uri, nodeName: file, readOnly, reconnectDelaySeconds });
  const fuse = {
    type: 'fuse',
    id: 'fuse',
    'node-name': rawNodeName,
    mountpoint: request.mountpoint,
    writable: !readOnly,
    growable: false,
  };
  return [
    ...['--pidfile', request.pidFilePath],
    ...[
      '--chardev',
      `socket,id=qmp,path=${escapeCommas(request.qmpSocketPath)},server=on,wait=off`,
    ],
    ...['--monitor', 'chardev=qmp'],
    ...['--blockdev', JSON.stringify(nbd)],
    ...['--blockdev', JSON.stringify(rawNodeOptions({ file, readOnly }))],
    ...['--export', JSON.stringify(fuse)],
  ];
}

/** In qemu's key=value options a comma inside a value is written twice. */
function escapeCommas(value: string): string {
  return value.replaceAll(',', ',,');
}
