/** The story without root, devices and mounts: the same calls of the CSI controller, and data through our NBD client. */
import { createHash, randomBytes } from 'node:crypto';
import pLimit from 'p-limit';
import type { CsiClient } from './csi.ts';
import { formatMebibytes, formatSeconds, type Narrator } from './narrator.ts';
import { PatientClient } from './patient-client.ts';
import { cloneSnapshot, deleteAll, takeSnapshot, type Stage } from './story.ts';

const gibibyte = 1024 ** 3;
const imageBytes = 64 * 1024 * 1024;
const requestBytes = 128 * 1024;
const inFlight = 8;
/** A flush after so many requests. */
const flushEvery = 32;

export async function tellNbdStory(stage: Stage): Promise<void> {
  const { narrator, driver } = stage;
  const { csi } = driver;
  const before = driver.listStore();

  narrator.step('Create a volume and write to it');
  const volumeId = await narrator.work(
    'CreateVolume',
    () => csi.createVolume({ name: 'demo', sizeBytes: gibibyte, use: 'block' }),
    () => 'CreateVolume: 1 GiB, of which nothing is allocated yet',
    'volume created',
  );
  const client = await open(narrator, csi, volumeId);
  const original = randomBytes(imageBytes);
  await narrator.work(
    'Writing',
    () => writeImage(client, original),
    () => `Wrote and flushed ${formatMebibytes(imageBytes)} of random data`,
    `${formatMebibytes(imageBytes)} written and flushed`,
  );
  await compare(narrator, { what: 'the volume', client, expected: original });

  narrator.step('Take a snapshot, then kill the volumedriver while new data is written');
  const snapshotId = await takeSnapshot(narrator, csi, volumeId);
  const changed = randomBytes(imageBytes);
  await killWhileWriting(stage, client, changed);
  await compare(narrator, { what: 'the volume', client, expected: changed });

  narrator.step('Clone the snapshot');
  const request = { name: 'demo-clone', sizeBytes: gibibyte, use: 'block', snapshotId } as const;
  const cloneId = await cloneSnapshot(narrator, csi, request);
  const clone = await open(narrator, csi, cloneId);
  await compare(narrator, { what: 'the clone', client: clone, expected: original });
  await compare(narrator, { what: 'the volume', client, expected: changed });
  narrator.say('The clone has the old data, the volume the new.');

  narrator.step('Grow the volume while it is open');
  await grow(narrator, { csi, client, volumeId });

  narrator.step('Delete everything');
  for (const [id, opened] of [
    [volumeId, client],
    [cloneId, clone],
  ] as const) {
    await opened.disconnect();
    await csi.controllerUnpublish(id);
  }
  await deleteAll(stage, { volumes: [volumeId], cloneId, snapshotId, before });
}

/** Publishes the volume to this node, and connects to the export that the answer names. */
async function open(narrator: Narrator, csi: CsiClient, volumeId: string): Promise<PatientClient> {
  const { uri = '' } = await narrator.work(
    'ControllerPublishVolume',
    () => csi.controllerPublish(volumeId, 'block'),
    () => 'ControllerPublishVolume: this node, and no other, may write',
  );
  const client = await PatientClient.connect(uri);
  narrator.say(`Connected to ${uri}`);
  return client;
}

/** Writes all of it, several requests at a time; before each it waits for `before`. */
async function writeImage(
  client: PatientClient,
  image: Buffer,
  before: (offset: number) => Promise<void> = () => Promise.resolve(),
): Promise<number> {
  const limit = pLimit(inFlight);
  let requests = 0;
  let longestMs = 0;
  const offsets = Array.from({ length: imageBytes / requestBytes }, (_, n) => n * requestBytes);
  await Promise.all(
    offsets.map((offset) =>
      limit(async () => {
        await before(offset);
        const startedMs = performance.now();
        await client.write(offset, image.subarray(offset, offset + requestBytes));
        if (++requests % flushEvery === 0) await client.flush();
        longestMs = Math.max(longestMs, performance.now() - startedMs);
      }),
    ),
  );
  await client.flush();
  return longestMs;
}

async function killWhileWriting(
  { narrator, driver }: Stage,
  client: PatientClient,
  image: Buffer,
): Promise<void> {
  const third = Promise.withResolvers<void>();
  const killed = Promise.withResolvers<void>();
  const writing = writeImage(client, image, async (offset) => {
    if (offset >= imageBytes / 3) third.resolve();
    // However fast the machine is: this much is left when the kill comes.
    if (offset >= (2 * imageBytes) / 3) await killed.promise;
  });
  await narrator.work(
    'Writing new data over the old',
    () => Promise.race([third.promise, writing]),
    () => 'Writing new data over the old: a third is done',
  );
  const pid = await driver.killVolumedriver();
  killed.resolve();
  narrator.say(`kill -9 ${pid}: the volumedriver is gone, with requests on their way.`);
  const [, longestMs] = await narrator.work(
    'The writer waits for a new volumedriver',
    () => Promise.all([driver.replacementOf(pid), writing]),
    ([next]) => `Process ${next} took over, and the writer went on: all is written and flushed`,
  );
  if (client.losses === 0) throw new Error('the connection was not lost');
  narrator.say(`The longest request took ${formatSeconds(longestMs)}, and none failed.`);
  narrator.keepTime('pause of the writer at kill -9', longestMs);
}

interface Comparison {
  readonly what: string;
  readonly client: PatientClient;
  readonly expected: Buffer;
}

async function compare(narrator: Narrator, { what, client, expected }: Comparison): Promise<void> {
  await narrator.work(
    `Reading ${what}`,
    async () => {
      const hash = createHash('sha256');
      for (let offset = 0; offset < imageBytes; offset += requestBytes) {
        hash.update(await client.read(offset, requestBytes));
      }
      const found = hash.digest('hex');
      const wanted = createHash('sha256').update(expected).digest('hex');
      if (found !== wanted) throw new Error(`${what} has sha256 ${found} instead of ${wanted}`);
      return found;
    },
    (sum) => `Checksum of ${what}: sha256 ${sum.slice(0, 12)}…, as it should be`,
  );
}

async function grow(
  narrator: Narrator,
  { csi, client, volumeId }: { csi: CsiClient; client: PatientClient; volumeId: string },
): Promise<void> {
  await narrator.work(
    'ControllerExpandVolume',
    () => csi.controllerExpand(volumeId, 2 * gibibyte, 'block'),
    () => 'ControllerExpandVolume: from 1 GiB to 2 GiB',
    'volume grown, in use',
  );
  const end = randomBytes(requestBytes);
  const offset = 2 * gibibyte - requestBytes;
  await client.write(offset, end);
  if (!(await client.read(offset, requestBytes)).equals(end))
    throw new Error('what was written to the new end does not read back');
  narrator.say('Wrote to the new end, over the connection that was open all along.');
}
