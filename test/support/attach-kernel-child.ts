/**
 * An attacher process with kernel devices for crash tests: node attach-kernel-child.ts JSON. Prints "go" when the
 * operation begins and "done N" after it, N being how many calls of node:fs/promises it made: everything that the
 * attacher does to the kernel lies between two of them. Kills itself before the call of number `death`.
 */
import files from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';

export interface KernelChildInput {
  readonly stateDirectory: string;
  readonly driverName: string;
  readonly operation: 'attach' | 'heal' | 'detach';
  readonly request: { volumeId: string; uri: string; readOnly: boolean };
  /** 0 for never. */
  readonly death: number;
}

const input = JSON.parse(process.argv[2] ?? '') as KernelChildInput;
const { stateDirectory, driverName, operation, request, death } = input;
let calls = 0;
let counting = false;

const table = files as unknown as Record<string, (...args: unknown[]) => unknown>;
for (const [name, original] of Object.entries(table)) {
  if (typeof original !== 'function') continue;
  table[name] = (...args) => {
    if (counting && ++calls === death) process.kill(process.pid, 'SIGKILL');
    return original(...args);
  };
}
syncBuiltinESMExports();

const { AttacherService } = await import('../../src/attacher/attacher-service.ts');
const { KernelStrategy } = await import('../../src/attacher/kernel/kernel-strategy.ts');
const { systemClock } = await import('../../src/base/clock.ts');
const { silentLogger } = await import('../../src/base/logger.ts');
const { runCommand } = await import('../../src/volumes/command.ts');

const common = { clock: systemClock, logger: silentLogger };
const strategy = new KernelStrategy({ ...common, runCommand });
const service = new AttacherService({
  ...{ ...common, stateDirectory, driverName },
  strategies: [strategy],
});
// Healing begins with the start.
counting = operation === 'heal';
if (counting) process.stdout.write('go\n');
await service.start();
counting = true;
if (operation !== 'heal') process.stdout.write('go\n');
if (operation === 'attach') await service.attach(request);
else if (operation === 'detach') await service.detach(request.volumeId);
else {
  while ((await service.getDevice(request.volumeId)).state !== 'attached')
    await systemClock.sleep(20);
}
counting = false;
process.stdout.write(`done ${calls}\n`);
await service.close();
