/** The story with real block devices and filesystems: what a pod on a Kubernetes node would see. Needs root. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { BackgroundWriter } from './background-writer.ts';
import type { MountedVolume } from './csi.ts';
import { checksumTree, packTree, removeFile, unpackTree, vandalize } from './file-tree.ts';
import { MountedVolumes } from './mounted-volumes.ts';
import { formatMebibytes, formatSeconds } from './narrator.ts';
import { may } from './obstacles.ts';
import { cloneSnapshot, deleteAll, takeSnapshot, type Stage } from './story.ts';

const gibibyte = 1024 ** 3;
const recordsBeforeKill = 100;
const recordsAfterKill = 100;

export async function tellMountStory(stage: Stage): Promise<void> {
  const { narrator, sandbox, driver } = stage;
  const { csi } = driver;
  const before = driver.listStore();
  const mounts = new MountedVolumes(sandbox.folder, csi, narrator);

  narrator.step('Create a volume, mount it and fill it');
  let volume = await narrator.timed('volume created, staged and mounted', () =>
    create(stage, mounts, 'xfs'),
  );
  const original = await unpack(stage, volume);

  narrator.step('Take a snapshot, then change the files');
  const snapshotId = await takeSnapshot(narrator, csi, volume.id);
  const damage = await narrator.work(
    'Changing files',
    () => vandalize(volume.targetPath),
    (what) => `Changed: ${what}`,
  );
  const changed = await checksum(stage, 'the changed tree', volume.targetPath);
  if (changed === original) throw new Error(`${damage}, but the checksum is the same`);

  narrator.step('Kill the volumedriver while a program writes');
  volume = await killWhileWriting(stage, mounts, volume);

  narrator.step('Clone the snapshot');
  const request = { name: 'demo-clone', sizeBytes: gibibyte, use: 'xfs', snapshotId } as const;
  const cloneId = await cloneSnapshot(narrator, csi, request);
  const clone = await narrator.timed('clone staged and mounted', () =>
    mounts.mount(cloneId, 'xfs', 'clone'),
  );
  const cloned = await checksum(stage, 'the clone', clone.targetPath);
  expectSame(cloned, original, 'the clone has not what the snapshot had');
  const now = await checksum(stage, 'the volume', volume.targetPath);
  expectSame(now, changed, 'the volume has not what was written to it');
  narrator.say('The clone has the files as they were, the volume as they were changed.');

  narrator.step('Grow the volume while it is in use');
  await mounts.grow(volume, 2 * gibibyte);
  const ext4 = await growExt4(stage, mounts);

  narrator.step('Delete everything');
  for (const mounted of [ext4, clone, volume]) await mounts.unmount(mounted);
  await deleteAll(stage, { volumes: [volume.id, ext4.id], cloneId, snapshotId, before });
}

async function create(
  { narrator, driver }: Stage,
  mounts: MountedVolumes,
  use: 'xfs' | 'ext4',
): Promise<MountedVolume> {
  const id = await narrator.work(
    'CreateVolume',
    () => driver.csi.createVolume({ name: `demo-${use}`, sizeBytes: gibibyte, use }),
    () => 'CreateVolume: 1 GiB, of which nothing is allocated yet',
  );
  return await mounts.mount(id, use, use);
}

/** Resolves with the checksum of the files, which is the same on the volume and on this machine's own disk. */
async function unpack({ narrator, sandbox }: Stage, volume: MountedVolume): Promise<string> {
  const archive = join(sandbox.folder, 'tree.tar');
  const originals = join(sandbox.folder, 'originals');
  mkdirSync(originals);
  const { files, bytes } = await packTree(archive, originals);
  await narrator.work(
    `Unpacking ${files} files`,
    () => unpackTree(archive, volume.targetPath),
    () => `Unpacked ${files} files, ${formatMebibytes(bytes)}, and synced them`,
    `${files} files unpacked and synced`,
  );
  return await narrator.work(
    'Comparing with the originals',
    async () => {
      const checksums = await Promise.all([
        checksumTree(volume.targetPath),
        checksumTree(originals),
      ]);
      expectSame(...checksums, 'the files differ from the originals');
      return checksums[0];
    },
    (sum) => `They are what they should be: ${short(sum)}`,
  );
}

async function checksum({ narrator }: Stage, what: string, folder: string): Promise<string> {
  return await narrator.work(
    `Reading ${what}`,
    () => checksumTree(folder),
    (sum) => `Checksum of ${what}: ${short(sum)}`,
  );
}

async function killWhileWriting(
  { narrator, driver }: Stage,
  mounts: MountedVolumes,
  volume: MountedVolume,
): Promise<MountedVolume> {
  const path = join(volume.targetPath, 'records');
  const writer = new BackgroundWriter(path);
  await narrator.work(
    'A program appends records of 16 KiB, each with fsync',
    () => writer.reach(recordsBeforeKill),
    () => `A program appends records of 16 KiB, each with fsync: ${writer.records} so far`,
  );
  const killed = await driver.killVolumedriver();
  writer.longestWaitMs = 0;
  const safe = writer.records;
  narrator.say(`kill -9 ${killed}: the volumedriver is gone, with ${safe} records safe.`);
  await narrator.work(
    'The writer waits for a new volumedriver',
    async () => {
      const pid = await driver.replacementOf(killed);
      await writer.reach(writer.records + recordsAfterKill);
      await writer.finish();
      return pid;
    },
    (pid) => `Process ${pid} took over, and the writer went on: ${writer.records} records`,
  );
  narrator.say(`The writer saw a pause of ${formatSeconds(writer.longestWaitMs)} and no error.`);
  narrator.keepTime('pause of the writer at kill -9', writer.longestWaitMs);
  narrator.say('Now mount again, so that nothing comes from the memory of this machine:');
  await mounts.unmount(volume);
  const again = await mounts.mount(volume.id, volume.use, volume.use);
  await narrator.work(
    'Reading the records again',
    () => writer.verify(),
    () => `All ${writer.records} records that were promised are there`,
  );
  await removeFile(path);
  return again;
}

/** The same with ext4, which the kernel lets grow in use only with a capability. Resolves with the mounted volume. */
async function growExt4(stage: Stage, mounts: MountedVolumes): Promise<MountedVolume> {
  stage.narrator.say('And the same with ext4:');
  const volume = await create(stage, mounts, 'ext4');
  if (may('growMountedExt4')) {
    await mounts.grow(volume, 2 * gibibyte);
    return volume;
  }
  stage.narrator.say('This machine keeps CAP_SYS_RESOURCE from us, which the kernel wants for');
  stage.narrator.say('growing a mounted ext4: so it is mounted again.');
  return await mounts.growOverRemount(volume, 'ext4', 2 * gibibyte);
}

function expectSame(left: string, right: string, problem: string): void {
  if (left !== right) throw new Error(`${problem}: ${short(left)} is not ${short(right)}`);
}

function short(checksum: string): string {
  return `sha256 ${checksum.slice(0, 12)}…`;
}
