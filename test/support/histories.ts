/** The written histories: short, and between them with every kind of change that an engine goes through. */
import type { HistoryOptions, Script } from './scripted-history.ts';

export interface WrittenHistory {
  readonly name: string;
  readonly history: (script: Script) => Promise<void>;
  readonly options: HistoryOptions;
  /** It has crashes of its own. */
  readonly crashes?: boolean;
}

const small = { tlogBytesMax: 400, replayBytesMax: 2 ** 20 };
const files: HistoryOptions = { memory: false, limits: {} };
const memory: HistoryOptions = { memory: true, limits: {} };

export const histories: readonly WrittenHistory[] = [
  {
    name: 'writes, a flush and more writes into the same object',
    options: files,
    history: async (script: Script): Promise<void> => {
      const volume = await script.create();
      await script.write(volume, [0, 3, 1], [10, 2, 2]);
      await script.flush(volume);
      await script.write(volume, [1, 1, 3], [20, 2, 4]);
      await script.writeThrough(volume, 2, 5);
      await script.write(volume, [0, 2, 0], [11, 1, 6]);
    },
  },
  {
    name: 'TLogs that roll and are uploaded',
    options: { memory: true, limits: small },
    history: async (script: Script): Promise<void> => {
      const volume = await script.create();
      for (let i = 1; i <= 9; i++) {
        await script.write(volume, [i, 2, i], [30 + i, 1, i]);
        if (i % 3 === 0) await script.flush(volume);
        if (i === 5) await script.settle();
      }
    },
  },
  {
    name: 'a snapshot, a rollback, a checkpoint and the same places again',
    options: memory,
    history: async (script: Script): Promise<void> => {
      const volume = await script.create();
      await script.write(volume, [0, 4, 1]);
      const snapshot = await script.snapshot(volume);
      await script.write(volume, [1, 2, 2]);
      await script.rollBack(snapshot);
      await script.write(volume, [2, 2, 3]);
      await script.checkpoint(volume);
      await script.write(volume, [1, 2, 4], [5, 1, 5]);
      await script.rollBack(snapshot);
      await script.write(volume, [0, 1, 6]);
    },
  },
  {
    name: 'clones that outlive their source',
    options: files,
    history: async (script: Script): Promise<void> => {
      const volume = await script.create();
      await script.write(volume, [0, 3, 1]);
      const snapshot = await script.snapshot(volume);
      const clone = await script.clone({ snapshot });
      await script.write(clone, [1, 1, 2]);
      const second = await script.clone({ volume: clone });
      await script.removeSnapshot(snapshot);
      await script.removeVolume(volume);
      await script.write(second, [2, 1, 3]);
      await script.removeVolume(clone);
      await script.flush(second);
    },
  },
  {
    name: 'checkpoints with writes under way, and removals behind them',
    options: { memory: true, limits: small },
    history: async (script: Script): Promise<void> => {
      const volume = await script.create();
      await script.write(volume, [0, 6, 1]);
      const first = await script.snapshot(volume);
      await script.writeAndCheckpoint(volume, 2, 2);
      const second = await script.snapshot(volume);
      await script.write(volume, [0, 6, 3]);
      await script.removeSnapshot(first);
      await script.writeAndCheckpoint(volume, 4, 4);
      await script.removeSnapshot(second);
      await script.checkpoint(volume);
      await script.grow(volume);
      await script.write(volume, [256, 1, 5]);
    },
  },
  {
    name: 'a volume that is closed, opened and removed',
    options: files,
    history: async (script: Script): Promise<void> => {
      const volume = await script.create();
      await script.write(volume, [0, 2, 1]);
      await script.closeVolume(volume);
      await script.write(volume, [1, 2, 2]);
      await script.restart();
      await script.write(volume, [0, 1, 3]);
      await script.snapshot(volume);
      await script.removeVolume(volume);
    },
  },
  {
    name: 'a recovery of flushed and unflushed writes',
    crashes: true,
    options: { memory: false, limits: small },
    history: async (script: Script): Promise<void> => {
      const volume = await script.create();
      await script.write(volume, [0, 3, 1]);
      await script.flush(volume);
      await script.write(volume, [1, 3, 2]);
      await script.write(volume, [2, 3, 3]);
      await script.crash('process');
      await script.write(volume, [3, 3, 4]);
      await script.crash('power');
    },
  },
];
