/** What both stories take and do: the stage that main.ts sets, and the parts of the plot that need no device. */
import type { Sandbox } from '../../scripts/leftovers.ts';
import type { CsiClient } from './csi.ts';
import { waitFor, type Driver } from './driver.ts';
import { formatMebibytes, type Narrator } from './narrator.ts';

export interface Stage {
  readonly narrator: Narrator;
  readonly sandbox: Sandbox;
  readonly driver: Driver;
}

export type StoreListing = ReturnType<Driver['listStore']>;

const snapshotMs = 60_000;
const deletionMs = 30_000;

/** Takes a snapshot and waits until it is in the backend. Resolves with its id. */
export async function takeSnapshot(
  narrator: Narrator,
  csi: CsiClient,
  volumeId: string,
): Promise<string> {
  const { snapshotId } = await narrator.work(
    'CreateSnapshot',
    () => csi.createSnapshot(volumeId, 'before'),
    () => 'CreateSnapshot: no data is copied, whatever the size',
    'snapshot taken',
  );
  await narrator.work(
    'Waiting until it is in the backend',
    () =>
      waitFor('the snapshot to be in the backend', snapshotMs, async () => {
        const [snapshot] = await csi.listSnapshots(snapshotId);
        return snapshot?.readyToUse ?? false;
      }),
    () => 'All of it is in the backend (ready_to_use)',
    'snapshot complete in the backend',
  );
  return snapshotId;
}

export async function cloneSnapshot(
  narrator: Narrator,
  csi: CsiClient,
  request: Parameters<CsiClient['createVolume']>[0],
): Promise<string> {
  return await narrator.work(
    'CreateVolume from the snapshot',
    () => csi.createVolume(request),
    () => `CreateVolume from the snapshot: a clone of ${formatMebibytes(request.sizeBytes)}`,
    'clone created',
  );
}

/** Deletes in the order that asks most of the driver: the source first, what depends on it afterwards. */
export async function deleteAll(
  { narrator, driver }: Stage,
  ids: { volumes: readonly string[]; cloneId: string; snapshotId: string; before: StoreListing },
): Promise<void> {
  const { csi } = driver;
  narrator.say('The volume goes first, although the snapshot and the clone need its data.');
  for (const id of ids.volumes) {
    await narrator.work(
      'DeleteVolume',
      () => csi.deleteVolume(id),
      () => 'DeleteVolume',
    );
  }
  await narrator.work(
    'DeleteSnapshot',
    () => csi.deleteSnapshot(ids.snapshotId),
    () => 'DeleteSnapshot: its data stays while the clone needs it',
  );
  await narrator.work(
    'DeleteVolume of the clone',
    () => csi.deleteVolume(ids.cloneId),
    () => 'DeleteVolume of the clone: now nothing needs the data',
  );
  if ((await csi.listVolumes()).length > 0) throw new Error('a volume is still listed');
  if ((await csi.listSnapshots()).length > 0) throw new Error('a snapshot is still listed');
  let last: StoreListing = { keys: [], writers: 0 };
  await narrator
    .work(
      'Waiting until the backend is as it was',
      () =>
        waitFor('the backend to be as it was', deletionMs, () => {
          last = driver.listStore();
          return Promise.resolve(last.keys.join('\n') === ids.before.keys.join('\n'));
        }),
      () => 'The backend lists exactly what it listed at first',
    )
    .catch((error: unknown) => {
      const extra = last.keys.filter((key) => !ids.before.keys.includes(key));
      throw new Error(`left in the backend: ${extra.slice(0, 10).join(', ')}`, { cause: error });
    });
  if (last.writers > 0) {
    narrator.say(
      `(apart from ${last.writers} numbers of writers, which are taken once and never used again).`,
    );
  }
}
