import { describe, expect, test } from '@jest/globals';
import { CommandError } from '../base/command.ts';
import { silentLogger, type Logger } from '../base/logger.ts';
import { VolumeError } from '../volumes/errors.ts';
import { chooseStrategy, startStrategies, type NodeKernel } from './choose-strategy.ts';
import type { DeviceStrategy } from './strategy.ts';

interface FakeKernel extends NodeKernel {
  readonly commands: string[];
}

interface KernelFacts {
  nbd?: 'there' | 'loadable' | 'absent' | 'hidden' | 'unreachable';
  hasIdentifiers?: boolean;
  release?: string;
}

function fakeKernel({
  nbd = 'there',
  hasIdentifiers = true,
  release = '6.1.0-28-amd64',
}: KernelFacts): FakeKernel {
  const commands: string[] = [];
  let there = nbd === 'there';
  return {
    release,
    commands,
    findNbd: async () => {
      if (nbd === 'unreachable') throw new VolumeError('UNAVAILABLE', 'netlink: no answer');
      if (!there) throw new VolumeError('NOT_CAPABLE', 'netlink: no family nbd');
      return { hasIdentifiers };
    },
    runCommand: async (command, args) => {
      commands.push([command, ...args].join(' '));
      if (nbd === 'absent') {
        const stderr = 'modprobe: FATAL: Module nbd not found in directory /lib/modules/6.1\n';
        const cause = new CommandError('failed', 'modprobe failed', { exitCode: 1, stderr });
        throw new VolumeError('INTERNAL', 'modprobe failed: exit code 1', { cause });
      }
      if (nbd === 'loadable') there = true;
      return { stdout: '', stderr: '', exitCode: 0 };
    },
  };
}

const modprobe = 'modprobe nbd nbds_max=0 max_part=0';

describe('the choice', () => {
  test.each<[string, KernelFacts, 'kernel' | 'fuse', string]>([
    ['a kernel with nbd', {}, 'kernel', 'has an NBD client'],
    ['one that can load it', { nbd: 'loadable' }, 'kernel', 'has an NBD client'],
    ['one without', { nbd: 'absent' }, 'fuse', 'Module nbd not found'],
    ['another network namespace', { nbd: 'hidden' }, 'fuse', 'no family nbd'],
    ['a netlink that does not answer', { nbd: 'unreachable' }, 'fuse', 'no answer'],
    ['Linux 5.4', { hasIdentifiers: false, release: '5.4.0-1' }, 'fuse', 'needs 5.7'],
    ['Linux 4.18 as RHEL has it', { release: '4.18.0-553.el8' }, 'kernel', 'NBD client'],
    ['Linux 5.7', { hasIdentifiers: false, release: '5.7.0' }, 'kernel', 'NBD client'],
    ['Linux 5.10', { hasIdentifiers: false, release: '5.10.0' }, 'kernel', 'NBD client'],
    ['Linux 6.0', { hasIdentifiers: false, release: '6.0.1' }, 'kernel', 'NBD client'],
    ['a nameless kernel', { hasIdentifiers: false, release: '' }, 'fuse', 'needs 5.7'],
  ])('on %s', async (_, facts, name, reason) => {
    const kernel = fakeKernel(facts);
    const choice = await chooseStrategy('auto', kernel);
    expect(choice).toEqual({ name, reason: expect.stringContaining(reason) });
  });

  test.each<[NonNullable<KernelFacts['nbd']>, string[]]>([
    ['there', []],
    ['loadable', [modprobe]],
    ['absent', [modprobe]],
    ['unreachable', []],
  ])('loads the module only where it may help: nbd is %s', async (nbd, commands) => {
    const kernel = fakeKernel({ nbd });
    await chooseStrategy('auto', kernel);
    expect(kernel.commands).toEqual(commands);
  });

  test('fuse asks for nothing', async () => {
    const kernel = fakeKernel({ nbd: 'unreachable' });
    expect(await chooseStrategy('fuse', kernel)).toMatchObject({ name: 'fuse' });
    expect(kernel.commands).toEqual([]);
  });

  test('kernel is taken where it can be', async () => {
    const choice = await chooseStrategy('kernel', fakeKernel({ nbd: 'loadable' }));
    expect(choice).toEqual({ name: 'kernel', reason: 'it was asked for' });
  });

  test.each<[string, KernelFacts, RegExp]>([
    ['no module', { nbd: 'absent' }, /not found.*; run "modprobe nbd" on the node, or use --str/],
    ['a namespace of its own', { nbd: 'hidden' }, /; run .* host's network namespace, or use --s/],
    ['no answer', { nbd: 'unreachable' }, /: no answer; use --strategy fuse$/],
    [
      'an old kernel',
      { hasIdentifiers: false, release: '4.19.0' },
      /needs 5.7; run a newer kernel, or use --strategy fuse$/,
    ],
  ])('kernel is refused, with what helps, where there is %s', async (_, facts, says) => {
    await expect(chooseStrategy('kernel', fakeKernel(facts))).rejects.toMatchObject({
      code: 'NOT_CAPABLE',
      message: expect.stringMatching(says),
    });
  });
});

describe('the strategies that run', () => {
  const identity = { driverName: 'test', instanceId: 'i' };

  /** Strategies are asked for nothing but their start here. */
  function strategy(name: string, refusal?: VolumeError): DeviceStrategy {
    const start = async (): Promise<void> => {
      if (refusal !== undefined) throw refusal;
    };
    return { name, start } as unknown as DeviceStrategy;
  }

  function recorder(): { logger: Logger; lines: string[] } {
    const lines: string[] = [];
    const log = (level: string) => (message: string) => void lines.push(`${level} ${message}`);
    return { logger: { ...silentLogger, info: log('info'), warn: log('warn') }, lines };
  }

  const missing = new VolumeError('NOT_CAPABLE', 'no nbd here');

  test.each<[string, string[], string]>([
    ['nobody misses', [], 'info strategy not available here'],
    [
      'has devices',
      ['kernel'],
      'warn devices of a strategy that does not run here cannot be served',
    ],
  ])('leave out the second one that is not capable and %s', async (_, recorded, line) => {
    const { logger, lines } = recorder();
    const started = await startStrategies([strategy('fuse'), strategy('kernel', missing)], {
      identity,
      recorded: new Set(recorded),
      logger,
    });
    expect(started.map(({ name }) => name)).toEqual(['fuse']);
    expect(lines).toEqual([line]);
  });

  test.each<[string, [DeviceStrategy, DeviceStrategy]]>([
    ['the first is not capable', [strategy('kernel', missing), strategy('fuse')]],
    [
      'the second fails otherwise',
      [strategy('fuse'), strategy('kernel', new VolumeError('INTERNAL', 'oh'))],
    ],
  ])('are no choice when %s', async (_, strategies) => {
    const context = { identity, recorded: new Set<string>(), logger: silentLogger };
    await expect(startStrategies(strategies, context)).rejects.toThrow(VolumeError);
  });
});
