/**
 * An attacher process for crash tests: node attach-child.ts STATE_DIR OPERATION JSON [DEATH]. Prints "go" when the
 * operation begins and "done" after it. DEATH is before:COMMAND or after:COMMAND: it kills itself there.
 */
import { AttacherService } from '../../src/attacher/attacher-service.ts';
import { FuseStrategy } from '../../src/attacher/fuse/fuse-strategy.ts';
import { systemClock } from '../../src/base/clock.ts';
import { silentLogger } from '../../src/base/logger.ts';
import { runCommand, type RunCommand } from '../../src/volumes/command.ts';

const [stateDirectory = '', operation = '', json = '{}', death = ''] = process.argv.slice(2);
const request = JSON.parse(json) as {
  volumeId: string;
  uri: string;
  readOnly: boolean;
  sizeBytes: number;
};

function dieAt(point: string): void {
  if (point === death) process.kill(process.pid, 'SIGKILL');
}

const dyingRun: RunCommand = async (command, args, options) => {
  dieAt(`before:${command}`);
  const result = await runCommand(command, args, options);
  dieAt(`after:${command}`);
  return result;
};

const common = { stateDirectory, clock: systemClock, logger: silentLogger };
const strategy = new FuseStrategy({ ...common, runCommand: dyingRun });
const service = new AttacherService({ ...common, driverName: 'test', strategies: [strategy] });
await service.start();
process.stdout.write('go\n');
if (operation === 'attach') await service.attach(request);
else if (operation === 'detach') await service.detach(request.volumeId);
else await service.resize(request.volumeId, request.sizeBytes);
process.stdout.write('done\n');
await service.close();
