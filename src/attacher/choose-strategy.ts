/**
 * How this node makes new devices: with the kernel's NBD client where it has one that can wait for a lost volumedriver,
 * else through FUSE and loop. Devices that exist are served by the strategy that made them, whatever is chosen here.
 */
import { describeError, type Logger } from '../base/logger.ts';
import { commandErrorOf, type RunCommand } from '../volumes/command.ts';
import { hasCode, VolumeError } from '../volumes/errors.ts';
import type { AttacherIdentity, DeviceStrategy } from './strategy.ts';

export const strategyWishes = ['auto', 'kernel', 'fuse'] as const;
export type StrategyWish = (typeof strategyWishes)[number];

/** What the choice depends on. */
export interface NodeKernel {
  /** Such as 6.1.0-28-amd64. */
  readonly release: string;
  /**
   * Asks the kernel for its NBD client, and whether that knows devices by an identifier. NOT_CAPABLE when there is no
   * such client (yet).
   */
  findNbd(): Promise<{ readonly hasIdentifiers: boolean }>;
  readonly runCommand: RunCommand;
}

export interface Choice {
  readonly name: 'kernel' | 'fuse';
  readonly reason: string;
}

/** Links of one kernel device at the most: more than one has ever had use for. */
export const connectionsMax = 16;

const modprobeMs = 10_000;
/** No devices before they are needed, and no search for partitions on what holds a volume's bytes. */
const moduleArguments = ['nbd', 'nbds_max=0', 'max_part=0'];

/** NOT_CAPABLE when `kernel` is wished for and the node cannot do it. */
export async function chooseStrategy(wish: StrategyWish, kernel: NodeKernel): Promise<Choice> {
  if (wish === 'fuse') return { name: 'fuse', reason: 'it was asked for' };
  const obstacle = await whyNotKernel(kernel);
  if (obstacle === null) {
    const reason = wish === 'kernel' ? 'it was asked for' : 'the kernel has an NBD client';
    return { name: 'kernel', reason };
  }
  const { problem, advice } = obstacle;
  if (wish === 'auto') return { name: 'fuse', reason: problem };
  const ways = advice === null ? 'use --strategy fuse' : `${advice}, or use --strategy fuse`;
  throw new VolumeError('NOT_CAPABLE', `attach with the kernel's NBD client: ${problem}; ${ways}`);
}

/** Why not, and what would help where the reason does not say it. */
interface Obstacle {
  readonly problem: string;
  readonly advice: string | null;
}

/** Null when nothing speaks against it. */
async function whyNotKernel(kernel: NodeKernel): Promise<Obstacle | null> {
  const found = await findOrLoadNbd(kernel);
  if ('problem' in found) return found;
  // Before 5.7 the kernel never sends again what was under way on a connection that was lost. What has identifiers
  // (5.14, and older ones that distributions bring up to date) is new enough.
  const version = /^(\d+)\.(\d+)/.exec(kernel.release);
  const [major, minor] = [Number(version?.[1] ?? 0), Number(version?.[2] ?? 0)];
  if (found.hasIdentifiers || major > 5 || (major === 5 && minor >= 7)) return null;
  const problem = `the NBD client of Linux ${kernel.release} cannot take up lost connections: it needs 5.7`;
  return { problem, advice: 'run a newer kernel' };
}

async function findOrLoadNbd(kernel: NodeKernel): Promise<{ hasIdentifiers: boolean } | Obstacle> {
  try {
    return await kernel.findNbd();
  } catch (error) {
    if (!hasCode(error, 'NOT_CAPABLE')) return { problem: describeError(error), advice: null };
  }
  try {
    await kernel.runCommand('modprobe', moduleArguments, { timeoutMs: modprobeMs });
  } catch (error) {
    const said = commandErrorOf(error)?.stderr.trim() ?? '';
    const why = said === '' ? describeError(error) : said;
    const problem = `the kernel has no NBD client: ${why}`;
    return { problem, advice: 'run "modprobe nbd" on the node' };
  }
  try {
    return await kernel.findNbd();
  } catch (error) {
    // With the module there, one way is left not to see its netlink family.
    const isHidden = hasCode(error, 'NOT_CAPABLE');
    const advice = isHidden ? "run the attacher in the host's network namespace" : null;
    return { problem: describeError(error), advice };
  }
}

/**
 * Starts the strategies and returns those that run here. The first, which makes new devices, must; another one is only
 * there for devices that it may have made.
 */
export async function startStrategies(
  strategies: readonly [DeviceStrategy, ...DeviceStrategy[]],
  context: { identity: AttacherIdentity; recorded: ReadonlySet<string>; logger: Logger },
): Promise<DeviceStrategy[]> {
  const { identity, recorded, logger } = context;
  const [first, ...others] = strategies;
  await first.start(identity);
  const started = [first];
  for (const strategy of others) {
    try {
      await strategy.start(identity);
      started.push(strategy);
    } catch (error) {
      if (!hasCode(error, 'NOT_CAPABLE')) throw error;
      const fields = { strategy: strategy.name, reason: describeError(error) };
      if (recorded.has(strategy.name))
        logger.warn('devices of a strategy that does not run here cannot be served', fields);
      else logger.info('strategy not available here', fields);
    }
  }
  return started;
}
