/**
 * Raw CSI calls against the harness, and the rows that tables of bad input share. Messages are plain objects, so
 * that they can be wrong in any way that the wire allows.
 */
import { expect, test } from '@jest/globals';
import { credentials, status, type ServiceError } from '@grpc/grpc-js';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  ControllerClient,
  ControllerService,
  NodeClient,
  NodeService,
  VolumeCapability_AccessMode_Mode as Mode,
  type VolumeCapability,
} from '../../src/api/generated/csi.ts';
import { startCsiHarness, type CsiHarness } from './csi-harness.ts';

export type Code = keyof typeof status;
export type Fields = Record<string, unknown>;
export type ServiceName = 'controller' | 'node';

export interface Row {
  readonly name: string;
  /** What differs from a request that succeeds (or, for the node, that gets past its checks). */
  readonly fields: Fields;
  readonly code: Code;
}

const callMs = 10_000;

/** One harness with a volume, a snapshot of it, and a volume that is published read-only. */
export class CsiCalls {
  readonly harness: CsiHarness;
  readonly volumeId: string;
  readonly publishedId: string;
  readonly snapshotId: string;
  readonly #clients: Readonly<Record<ServiceName, ControllerClient | NodeClient>>;

  private constructor(
    harness: CsiHarness,
    ids: { volumeId: string; publishedId: string; snapshotId: string },
  ) {
    this.harness = harness;
    this.volumeId = ids.volumeId;
    this.publishedId = ids.publishedId;
    this.snapshotId = ids.snapshotId;
    const address = `unix:${harness.socketPath}`;
    const options = { 'grpc.default_authority': 'localhost' };
    this.#clients = {
      controller: new ControllerClient(address, credentials.createInsecure(), options),
      node: new NodeClient(address, credentials.createInsecure(), options),
    };
  }

  static async open(): Promise<CsiCalls> {
    const harness = await startCsiHarness(await mkdtemp(join(tmpdir(), 'csi-calls-')));
    const { volumes } = harness;
    const sizeBytes = 1024 ** 3;
    const volumeId = (await volumes.createVolume({ name: 'taken', sizeBytes })).id;
    const publishedId = (await volumes.createVolume({ name: 'published', sizeBytes })).id;
    await volumes.grant(publishedId, 'node-1', { readOnly: true });
    const claimed = { volume: volumeId, name: 'nightly', timeoutSeconds: -1, claimName: true };
    const snapshotId = (await volumes.createSnapshot(claimed)).id;
    return new CsiCalls(harness, { volumeId, publishedId, snapshotId });
  }

  async close(): Promise<void> {
    this.#clients.controller.close();
    this.#clients.node.close();
    await this.harness.close();
  }

  async codeOf(
    service: ServiceName,
    rpc: string,
    message: Fields,
  ): Promise<{ code: Code; details: string }> {
    const definitions: Record<
      string,
      {
        path: string;
        requestSerialize: (value: never) => Buffer;
        responseDeserialize: (bytes: Buffer) => unknown;
      }
    > = service === 'controller' ? { ...ControllerService } : { ...NodeService };
    const method = definitions[rpc];
    if (method === undefined) throw new Error(`there is no ${rpc}`);
    const error = await new Promise<ServiceError | null>((resolve) => {
      this.#clients[service].makeUnaryRequest(
        method.path,
        (value: Fields) => method.requestSerialize(value as never),
        method.responseDeserialize,
        this.#withIds(message),
        { deadline: Date.now() + callMs },
        (failure) => {
          resolve(failure);
        },
      );
    });
    const number = error?.code ?? status.OK;
    const code = Object.entries(status).find(([, value]) => value === number)?.[0];
    return { code: code as Code, details: error?.details ?? '' };
  }

  /** Tables are written before the ids exist. */
  #withIds(message: Fields): Fields {
    const known: Fields = {
      '<volume>': this.volumeId,
      '<snapshot>': this.snapshotId,
      '<published>': this.publishedId,
    };
    const replaced = Object.entries(message).map(([key, value]) => {
      const id = typeof value === 'string' ? known[value] : undefined;
      return [key, id ?? value];
    });
    return Object.fromEntries(replaced) as Fields;
  }
}

/** One test per row: the code, and a text whenever it is not OK. */
export function checkRows(
  rpc: { service: ServiceName; name: string; calls: () => CsiCalls },
  valid: Fields,
  rows: readonly Row[],
): void {
  test.each(rows)('$name: $code', async ({ fields, code }) => {
    const answer = await rpc.calls().codeOf(rpc.service, rpc.name, { ...valid, ...fields });
    expect(answer).toMatchObject({ code });
    if (code !== 'OK') expect(answer.details).not.toBe('');
  });
}

export const mount: VolumeCapability = {
  accessMode: { mode: Mode.SINGLE_NODE_WRITER },
  accessType: { $case: 'mount', value: { fsType: '', mountFlags: [], volumeMountGroup: '' } },
};

export function withMode(mode: number): unknown {
  return { ...mount, accessMode: { mode } };
}

function withMount(value: Fields): unknown {
  const base = { fsType: '', mountFlags: [], volumeMountGroup: '' };
  return { ...mount, accessType: { $case: 'mount', value: { ...base, ...value } } };
}

/** Rows that hold for every required capability field. */
export function capabilityRows(field: string, wrap: (capability: unknown) => unknown): Row[] {
  const rows: { name: string; value: unknown }[] = [
    { name: 'without access mode', value: { ...mount, accessMode: undefined } },
    { name: 'with access mode UNKNOWN', value: withMode(0) },
    { name: 'with an access mode that CSI lacks', value: withMode(99) },
    { name: 'without access type', value: { ...mount, accessType: undefined } },
    { name: 'for writers on many nodes', value: withMode(Mode.MULTI_NODE_MULTI_WRITER) },
    { name: 'for one writer, many readers', value: withMode(Mode.MULTI_NODE_SINGLE_WRITER) },
    { name: 'with an unsupported filesystem', value: withMount({ fsType: 'btrfs' }) },
    { name: 'with an empty mount flag', value: withMount({ mountFlags: [''] }) },
    { name: 'with a newline in a mount flag', value: withMount({ mountFlags: ['a\nb'] }) },
    { name: 'with too many mount flags', value: withMount({ mountFlags: ['x'.repeat(4097)] }) },
    { name: 'with a mount group', value: withMount({ volumeMountGroup: '1000' }) },
  ];
  return rows.map(({ name, value }) => ({
    name: `a capability ${name}`,
    fields: { [field]: wrap(value) },
    code: 'INVALID_ARGUMENT',
  }));
}

export const missing = (field: string, code: Code = 'INVALID_ARGUMENT'): Row => ({
  name: `no ${field}`,
  fields: { [field]: '' },
  code,
});
export const tooLong = (field: string): Row => ({
  name: `129 bytes of ${field}`,
  fields: { [field]: 'x'.repeat(129) },
  code: 'INVALID_ARGUMENT',
});
export const unknown = (field: string, code: Code): Row => ({
  name: `an unknown ${field}`,
  fields: { [field]: 'memory.unknown' },
  code,
});
export const invalid = (name: string, fields: Fields): Row => ({
  name,
  fields,
  code: 'INVALID_ARGUMENT',
});

/** A path for every required path field. */
export function pathRows(field: string): Row[] {
  return [
    missing(field),
    invalid(`4096 bytes of ${field}`, { [field]: `/${'x'.repeat(4095)}` }),
    invalid(`a relative ${field}`, { [field]: 'some/path' }),
    invalid(`the root as ${field}`, { [field]: '/' }),
    invalid(`the root in disguise as ${field}`, { [field]: '/tmp/..//' }),
    invalid(`a zero byte in ${field}`, { [field]: '/tmp/a\0b' }),
  ];
}

/** More than a map may hold. */
export const hugeMap = { key: 'x'.repeat(4096) };
