/** What is kept of a cluster on which something failed: objects, events and logs, in a folder that outlives it. */
import { cpSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { KubernetesObject, V1Pod } from '@kubernetes/client-node';
import { describeError } from '../../../src/base/logger.ts';
import type { Kube } from './kube.ts';

const kinds = [
  ['v1', 'Node'],
  ['v1', 'Pod'],
  ['v1', 'Event'],
  ['v1', 'PersistentVolumeClaim'],
  ['v1', 'PersistentVolume'],
  ['v1', 'ConfigMap'],
  ['storage.k8s.io/v1', 'VolumeAttachment'],
  ['storage.k8s.io/v1', 'CSINode'],
  ['storage.k8s.io/v1', 'CSIStorageCapacity'],
  ['snapshot.storage.k8s.io/v1', 'VolumeSnapshot'],
  ['snapshot.storage.k8s.io/v1', 'VolumeSnapshotContent'],
] as const;

export interface ReportOptions {
  readonly folder: string;
  /** Whose pods' logs are wanted, and told from. */
  readonly namespaces: readonly string[];
  /** The provider's own logs. */
  readonly logDirectory: string | undefined;
}

/** Resolves with the lines that most likely say what happened. Never rejects: what cannot be had is left out. */
export async function collectReport(kube: Kube, options: ReportOptions): Promise<string[]> {
  mkdirSync(options.folder, { recursive: true });
  const telling: string[] = [];
  for (const [apiVersion, kind] of kinds) {
    await attempt(telling, kind, async () => {
      const objects = await kube.list<KubernetesObject>(apiVersion, kind);
      for (const { metadata } of objects) delete metadata?.managedFields;
      writeFileSync(join(options.folder, `${kind}.json`), JSON.stringify(objects, null, 2));
      if (kind === 'Pod') telling.push(...unwell(objects));
    });
  }
  await attempt(telling, 'logs', async () => {
    telling.push(...(await collectLogs(kube, options)));
  });
  const { logDirectory } = options;
  if (logDirectory !== undefined && existsSync(logDirectory)) {
    await attempt(telling, 'the provider’s logs', async () => {
      cpSync(logDirectory, join(options.folder, 'provider'), {
        recursive: true,
        filter: (source) => !source.endsWith('.sock'),
      });
    });
  }
  return telling;
}

async function collectLogs(kube: Kube, { folder, namespaces }: ReportOptions): Promise<string[]> {
  const telling: string[] = [];
  for (const namespace of namespaces) {
    for (const pod of await kube.list<V1Pod>('v1', 'Pod', { namespace })) {
      const name = pod.metadata?.name ?? '';
      for (const status of pod.status?.containerStatuses ?? []) {
        const which = status.restartCount > 0 ? [false, true] : [false];
        for (const previous of which) {
          const title = `${name}.${status.name}${previous ? '.previous' : ''}`;
          await attempt(telling, title, async () => {
            const text = await kube.logs({ namespace, name }, { container: status.name, previous });
            writeFileSync(join(folder, `${title}.log`), text);
            telling.push(...tellingLines(title, text));
          });
        }
      }
    }
  }
  return telling;
}

/** The last errors of a log; of one that was ended by an error, its end. */
function tellingLines(title: string, text: string): string[] {
  const lines = text.trimEnd().split('\n');
  const errors = lines.filter((line) => /"level":"(error|warn)"|^E\d{4} |panic:|fatal/i.test(line));
  const chosen = title.endsWith('.previous') ? lines.slice(-5) : errors.slice(-4);
  return chosen.map((line) => `${title}: ${line.slice(0, 400)}`);
}

function unwell(pods: readonly V1Pod[]): string[] {
  return pods.flatMap(({ metadata, status }) => {
    const { containerStatuses = [], phase = '?' } = status ?? {};
    const containers = containerStatuses.flatMap(({ name, ready, restartCount, state }) =>
      ready && restartCount === 0
        ? []
        : [`${name} restarted ${restartCount}x ${state?.waiting?.reason ?? ''}`],
    );
    if (containers.length === 0 && phase !== 'Pending' && phase !== 'Failed') return [];
    return [`pod ${metadata?.namespace}/${metadata?.name}: ${phase} ${containers.join(', ')}`];
  });
}

async function attempt(
  telling: string[],
  what: string,
  action: () => Promise<void>,
): Promise<void> {
  try {
    await action();
  } catch (error) {
    telling.push(`(${what}: ${describeError(error).slice(0, 200)})`);
  }
}
