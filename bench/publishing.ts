/** How long a pod waits for a new volume: from CreateVolume to the published mount, by `volumedriver-csi all`. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Pods, type PodTimes } from './pods.ts';
import { startDaemon } from './processes.ts';
import { volumedriverBinary } from './servers.ts';
import { median, short, spread, table } from './statistics.ts';

/** mkfs.xfs wants 300 MiB at least. */
const sizeBytes = 2 ** 30;
const nodeId = 'bench';

export interface PublishingResult {
  /** Per filesystem, one for each repetition; null: not measured, since mounts need root. */
  pods: Record<string, PodTimes[]> | null;
}

export async function measurePublishing(
  repetitions: number,
  directory: string,
): Promise<PublishingResult> {
  if (process.getuid?.() !== 0) return { pods: null };
  const state = join(directory, 'all');
  await mkdir(state, { recursive: true });
  const socket = join(state, 'csi.sock');
  const daemon = await startDaemon(
    [
      ...[volumedriverBinary, 'all', '--data-dir', join(state, 'data'), '--grace', '1'],
      ...['--backend', `file:${join(state, 'backend')}`],
      ...['--csi', `unix:${socket}`, '--node-id', nodeId],
    ],
    { socket, log: join(directory, 'all.log') },
  );
  const pods = new Pods(socket, { nodeId, directory: state });
  try {
    const times: Record<string, PodTimes[]> = {};
    for (let n = 0; n < repetitions; n++) {
      for (const fsType of ['ext4', 'xfs']) {
        const started = await pods.start(`bench-${fsType}-${n}`, { fsType, sizeBytes });
        (times[fsType] ??= []).push(started.times);
        await pods.remove(started.pod);
      }
    }
    return { pods: times };
  } finally {
    pods.close();
    await daemon.stop();
  }
}

export function describePublishing({ pods }: PublishingResult): string {
  if (pods === null) return 'Not measured: mounting needs root.\n';
  const header = ['milliseconds', 'total', 'min..max', 'create', 'grant', 'stage', 'publish'];
  const rows = Object.entries(pods).map(([fsType, times]) => {
    const total = spread(times.map(({ totalMs }) => totalMs));
    const of = (field: keyof PodTimes): string => short(median(times.map((one) => one[field])));
    return [
      `${fsType}, 1 GiB, median of ${times.length}`,
      of('totalMs'),
      `${short(total.min)}..${short(total.max)}`,
      ...[of('createMs'), of('controllerPublishMs'), of('stageMs'), of('publishMs')],
    ];
  });
  return table([header, ...rows]);
}
