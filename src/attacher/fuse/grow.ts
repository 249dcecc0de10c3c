/**
 * Makes a running daemon show its export's present size: an nbd node keeps the size of its connection, so a second
 * one is added, the raw node under the FUSE export is reopened onto it, and the old one is removed. Each step can
 * be the last one before a crash: leftover nodes are removed by the next grow.
 */
import * as z from 'zod';
import type { Logger } from '../../base/logger.ts';
import { VolumeError } from '../../volumes/errors.ts';
import {
  nbdNodeName,
  nbdNodeNumber,
  nbdNodeOptions,
  rawNodeName,
  rawNodeOptions,
} from './qemu-options.ts';
import type { QmpClient } from './qmp-client.ts';

const nodesSchema = z.array(
  z.object({ 'node-name': z.string(), image: z.object({ 'virtual-size': z.number() }) }),
);

export interface GrowRequest {
  readonly uri: string;
  readonly readOnly: boolean;
  readonly reconnectDelaySeconds: number;
  readonly sizeBytes: number;
}

/** OUT_OF_RANGE when the server's export is still smaller than `sizeBytes`. Nothing to do is fine. */
export async function growDaemon(
  qmp: QmpClient,
  request: GrowRequest,
  logger: Logger,
): Promise<void> {
  const nodes = await queryNodes(qmp);
  const present = nodes.get(rawNodeName);
  if (present === undefined)
    throw new VolumeError('INTERNAL', 'grow: the daemon has no node of the volume');
  if (present < request.sizeBytes) await swapNode(qmp, request, [...nodes.keys()]);
  await removeUnusedNodes(qmp, logger);
}

async function swapNode(
  qmp: QmpClient,
  request: GrowRequest,
  names: readonly string[],
): Promise<void> {
  const nodeName = nbdNodeName(Math.max(0, ...names.map((name) => nbdNodeNumber(name) ?? 0)) + 1);
  const { uri, readOnly, reconnectDelaySeconds } = request;
  await qmp.execute(
    'blockdev-add',
    nbdNodeOptions({ uri, nodeName, readOnly, reconnectDelaySeconds }),
  );
  const offered = (await queryNodes(qmp)).get(nodeName) ?? 0;
  if (offered < request.sizeBytes) {
    await qmp.execute('blockdev-del', { 'node-name': nodeName });
    const why = `the export has ${offered} bytes, not ${request.sizeBytes}`;
    throw new VolumeError('OUT_OF_RANGE', `grow the device: ${why}`);
  }
  await qmp.execute('blockdev-reopen', { options: [rawNodeOptions({ file: nodeName, readOnly })] });
}

/** The node in use refuses to be removed; the daemon does not tell which one that is. */
async function removeUnusedNodes(qmp: QmpClient, logger: Logger): Promise<void> {
  const names = [...(await queryNodes(qmp)).keys()].filter((name) => nbdNodeNumber(name) !== null);
  if (names.length < 2) return;
  for (const name of names) {
    try {
      await qmp.execute('blockdev-del', { 'node-name': name });
    } catch (error) {
      if (!(error instanceof VolumeError) || error.code !== 'INTERNAL') throw error;
      logger.debug('block node stays in use', { node: name, error });
    }
  }
}

async function queryNodes(qmp: QmpClient): Promise<Map<string, number>> {
  const parsed = nodesSchema.safeParse(
    await qmp.execute('query-named-block-nodes', { flat: true }),
  );
  if (!parsed.success) {
    throw new VolumeError(
      'PROTOCOL_ERROR',
      'QMP query-named-block-nodes: the answer has the wrong form',
    );
  }
  return new Map(parsed.data.map((node) => [node['node-name'], node.image['virtual-size']]));
}
