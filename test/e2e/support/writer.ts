/**
 * A pod that appends numbered lines to a file and syncs each, and ends at the first error: what it wrote tells
 * whether anything failed, is missing, or how long writing paused. It also notes each number that was synced in a
 * place outside of the volume: that is what must be found again.
 */
import type { V1Pod } from '@kubernetes/client-node';
import type { Scratch, ScratchPod } from './scratch.ts';
import { statusOf } from './driver.ts';
import { until } from './waiting.ts';
import { checkLines, type WrittenLines } from './written-lines.ts';

/** $n and seconds since boot, in one line. `sync -d` ends when the line is on the device. */
const script = `
trap 'exit 0' TERM
n=$(grep -c . /data/log 2>/dev/null) || n=0
while :; do
  n=$((n + 1))
  read now rest < /proc/uptime
  echo "$n $now" >> /data/log || { echo "write $n failed"; exit 1; }
  sync -d /data/log || { echo "sync $n failed"; exit 1; }
  echo "$n" > /note/last
  usleep 20000
done`;

export class Writer {
  readonly #scratch: Scratch;
  readonly name: string;
  #restarts = 0;

  constructor(scratch: Scratch, name: string) {
    this.#scratch = scratch;
    this.name = name;
  }

  /** On an existing claim; resolves once it has written something. */
  static async start(
    scratch: Scratch,
    name: string,
    wish: { claim: string; node?: string; restartPolicy?: 'Always' | 'Never' },
  ): Promise<Writer> {
    const pod: ScratchPod = {
      script: `mkdir -p /note; ${script}`,
      mounts: { '/data': wish.claim },
      restartPolicy: wish.restartPolicy ?? 'Never',
      ...(wish.node === undefined ? {} : { node: wish.node }),
    };
    const writer = new Writer(scratch, name);
    const ready = await scratch.podReady(name, pod);
    writer.#restarts = statusOf(ready, 'main')?.restartCount ?? 0;
    await writer.untilWrites();
    return writer;
  }

  /** The last line that was synced. */
  async acknowledged(): Promise<number> {
    const text = await this.#scratch.shell(this.name, 'cat /note/last 2>/dev/null || echo 0');
    // The shell empties the file before it writes to it.
    return text === '' ? await this.acknowledged() : Number(text);
  }

  /** That it goes on: `more` lines from now on. */
  async untilWrites(more = 5, limitMs = 90_000): Promise<void> {
    const before = await this.acknowledged();
    await until(
      `${this.name} writes ${more} more lines`,
      async () => {
        await this.checkRuns();
        return (await this.acknowledged()) >= before + more ? true : undefined;
      },
      { limitMs },
    );
  }

  /** Throws when it met an error: it ends then, and is not started again. */
  async checkRuns(): Promise<void> {
    const { kube } = this.#scratch.cluster;
    const pod = await kube.get<V1Pod>(this.#scratch.reference('Pod', this.name));
    const status = statusOf(pod, 'main');
    if (status?.state?.running !== undefined && status.restartCount === this.#restarts) return;
    const printed = await kube
      .logs({ namespace: this.#scratch.namespace, name: this.name })
      .catch(String);
    throw new Error(`${this.name} met an error: ${printed} ${JSON.stringify(status?.state)}`);
  }

  /** For devices that are lost: resolves with the last line that was synced before it met its error. */
  async untilFails(limitMs = 120_000): Promise<number> {
    const { kube } = this.#scratch.cluster;
    await kube.untilIs<V1Pod>(
      this.#scratch.reference('Pod', this.name),
      'fails',
      ({ status }) => status?.phase === 'Failed',
      { limitMs },
    );
    const printed = await kube.logs({ namespace: this.#scratch.namespace, name: this.name });
    const failed = /^(?:write|sync) (\d+) failed$/m.exec(printed)?.[1];
    if (failed === undefined) throw new Error(`${this.name} ended otherwise: ${printed}`);
    return Number(failed) - 1;
  }

  /** Reads its file through its own mount, and checks that all is there. */
  async check(): Promise<WrittenLines> {
    await this.checkRuns();
    const acknowledged = await this.acknowledged();
    const text = await this.#scratch.shell(this.name, 'cat /data/log');
    return checkLines(text, acknowledged);
  }
}
