/**
 * `make demo`: plays the story, and leaves nothing behind, however it ends. Exits 0 when all of it was true, 1 when
 * anything was not, and 130 after Ctrl-C.
 */
import type { Sandbox } from '../../scripts/leftovers.ts';
import { describeError } from '../../src/base/logger.ts';
import { Driver } from './driver.ts';
import { tellMountStory } from './mount-story.ts';
import { Narrator } from './narrator.ts';
import { tellNbdStory } from './nbd-story.ts';
import { obstacleToMounts } from './obstacles.ts';
import { closeSandbox, createDemoSandbox, endPrograms, removeEarlierDemos } from './sandbox.ts';
import type { Stage } from './story.ts';

class Interrupted extends Error {
  readonly exitCode = 130;
}

async function main(): Promise<number> {
  const narrator = new Narrator(process.stdout);
  // Whoever reads may go away (`| head`, a closed terminal): the story goes on, and cleans up.
  process.stdout.on('error', () => undefined);
  const obstacle = await obstacleToMounts();
  if (obstacle === 'root') {
    narrator.epilogue(
      'The demo attaches and mounts block devices, so it needs root; nothing was changed.',
    );
    narrator.epilogue('  sudo make demo         runs it');
    narrator.epilogue('  make demo DEMO=nbd     does without devices and mounts');
    return 1;
  }
  const earlier = await removeEarlierDemos();
  if (earlier.length > 0)
    narrator.epilogue('An earlier demo was killed. It left this, now removed:');
  for (const line of earlier) narrator.epilogue(`  ${line.slice(0, 90)}`);
  narrator.headline('volumedriver-csi: the whole story on this machine');
  if (obstacle !== null)
    narrator.epilogue(`${obstacle}: so it is played over NBD, without devices and mounts.`);
  return await play(narrator, obstacle === null);
}

async function play(narrator: Narrator, attaches: boolean): Promise<number> {
  const broken = breakOfTheStory(narrator);
  const sandbox = await createDemoSandbox();
  // Every process of the story carries the mark, ordinary programs included.
  Object.assign(process.env, sandbox.environment);
  narrator.epilogue(`All of it happens in ${sandbox.folder}, which is removed at the end.`);
  const running: { driver: Driver | null } = { driver: null };
  const tellAll = async (): Promise<void> => {
    narrator.step('Start the driver');
    const driver = new Driver({ ...sandbox, attaches });
    running.driver = driver;
    await driverIsReady(narrator, driver, attaches);
    const stage = { narrator, sandbox, driver };
    await (attaches ? tellMountStory(stage) : tellNbdStory(stage));
    await nothingIsLeft(stage);
    narrator.step('In numbers');
    narrator.summary();
  };
  try {
    await Promise.race([tellAll(), broken]);
    narrator.epilogue('');
    narrator.epilogue(`That was the whole story, in ${narrator.seconds}.`, 'green');
    return 0;
  } catch (error) {
    narrator.stop(error instanceof Error ? error : new Error(String(error)));
    narrator.epilogue('');
    if (error instanceof Interrupted) {
      narrator.epilogue(`${error.message}: cleaning up.`, 'yellow');
      await cleanUp(sandbox, running.driver);
    } else {
      narrator.epilogue(`FAILED at "${narrator.currentStep}": ${describeError(error)}`, 'red');
      for (const line of running.driver?.lastWords() ?? []) narrator.epilogue(`  log: ${line}`);
      for (const line of await cleanUp(sandbox, running.driver))
        narrator.epilogue(`removed ${line}`);
    }
    narrator.epilogue('Everything is cleaned up.');
    return error instanceof Interrupted ? error.exitCode : 1;
  }
}

async function driverIsReady(narrator: Narrator, driver: Driver, all: boolean): Promise<void> {
  await narrator.work(
    `Starting volumedriver-csi${all ? ' all' : ''}`,
    () => driver.ready(),
    () => `The driver is up: ${all ? 'one supervisor, and ' : ''}a process for each role`,
  );
  if (!all) narrator.say('volumedriver holds the data, controller speaks CSI.');
  else
    narrator.say('volumedriver holds the data, attacher makes block devices, plugin speaks CSI.');
}

async function nothingIsLeft({ narrator, sandbox, driver }: Stage): Promise<void> {
  narrator.step('Stop the driver and look for anything that is left');
  await narrator.work(
    'Stopping the driver',
    () => driver.stop(),
    () => 'The driver has ended',
  );
  const sockets = driver.sockets();
  if (sockets.length > 0) throw new Error(`sockets are left: ${sockets.join(', ')}`);
  await narrator.work(
    'Looking',
    async () => {
      const left = await closeSandbox(sandbox);
      if (left.length > 0) throw new Error(`this was left: ${left.join(', ')}`);
    },
    () => 'No process, mount, loop device, FUSE daemon or socket is left',
  );
}

/** Ends what still runs in good order, and then whatever carries the sandbox's mark: resolves with what that was. */
async function cleanUp(sandbox: Sandbox, driver: Driver | null): Promise<string[]> {
  await endPrograms(sandbox, driver?.pids ?? []);
  try {
    await driver?.stop();
  } catch {
    // It was killed, and what it left is found now.
  }
  return await closeSandbox(sandbox, 0);
}

/** Rejects on a signal, and on an error that nobody waits for. */
function breakOfTheStory(narrator: Narrator): Promise<never> {
  return new Promise((_resolve, reject) => {
    const stop = (error: Error): void => {
      narrator.stop(error);
      reject(error);
    };
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.on(signal, () => {
        stop(new Interrupted(`Interrupted by ${signal}`));
      });
    }
    process.on('uncaughtException', stop);
  });
}

process.exit(await main());
