/**
 * An ordinary program that knows nothing of volumes. `writer.ts write FILE` appends numbered records, each with fsync,
 * until it is told to end by SIGTERM, and prints one line of JSON for each record that is safe. `writer.ts check FILE
 * COUNT` says whether so many records are there, whole. A process of its own, because a file that does not answer
 * blocks whoever asks.
 */
import { closeSync, fsyncSync, openSync, readSync, writeSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';

const recordBytes = 16 * 1024;

/** Every byte of a record follows from its number. */
function record(number: number): Buffer {
  const bytes = Buffer.alloc(recordBytes, `record ${number}, `);
  bytes.writeUInt32LE(number, 0);
  return bytes;
}

async function write(path: string): Promise<void> {
  const stop = new AbortController();
  process.on('SIGTERM', () => {
    stop.abort();
  });
  const fd = openSync(path, 'wx', 0o600);
  for (let number = 0; !stop.signal.aborted; number++) {
    const startedMs = performance.now();
    writeSync(fd, record(number));
    fsyncSync(fd);
    const waitedMs = Math.round(performance.now() - startedMs);
    process.stdout.write(`${JSON.stringify({ records: number + 1, waitedMs })}\n`);
    await setImmediate(); // signals are delivered here
  }
  closeSync(fd);
}

function check(path: string, count: number): void {
  const fd = openSync(path, 'r');
  const found = Buffer.alloc(recordBytes);
  for (let number = 0; number < count; number++) {
    const length = readSync(fd, found, 0, recordBytes, number * recordBytes);
    if (length !== recordBytes || !found.equals(record(number))) {
      throw new Error(`record ${number} of ${count} is missing or damaged`);
    }
  }
  closeSync(fd);
}

const [command = '', path = '', count = ''] = process.argv.slice(2);
if (command === 'write') await write(path);
else if (command === 'check') check(path, Number(count));
else throw new Error('usage: writer.ts write FILE | check FILE COUNT');
