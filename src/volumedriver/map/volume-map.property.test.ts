/**
 * Random commands against a plain model, in pools so small that pages are spilled and loaded all the time. A quiet
 * point checks contents, every frozen and persisted version, and the exact account of releases. fast-check prints the
 * seed and the shortest commands that fail.
 */
import { describe, test } from '@jest/globals';
import fc from 'fast-check';
import { MapWorld } from '../../../test/support/map-world.ts';
import { VolumeError } from '../../volumes/errors.ts';

const sizeClusters = 100_000;
const unavailable = new VolumeError('UNAVAILABLE', 'reading: told to fail');

/** Clusters near the beginning, so that commands meet, or anywhere; often at the edge of a leaf. */
const cluster = fc.oneof(
  fc.integer({ min: 0, max: 2000 }),
  fc.integer({ min: 0, max: 380 }).map((leaf) => leaf * 256),
  fc.integer({ min: 0, max: sizeClusters - 1 }),
);
const count = fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 1500 }));
const choice = fc.nat(1000);

interface Command {
  toString(): string;
  readonly name: string;
  run(world: MapWorld): void | Promise<void>;
}

function command(name: string, run: Command['run']): Command {
  return { name, run, toString: () => name };
}

const commands: fc.WeightedArbitrary<Command>[] = [
  {
    weight: 10,
    arbitrary: fc.tuple(cluster, count).map(([at, n]) =>
      command(`set(${at}, ${n})`, (world) => {
        world.set(at, n);
      }),
    ),
  },
  {
    // A scatter over many leaves: more dirty pages than frames.
    weight: 3,
    arbitrary: fc.tuple(choice, fc.integer({ min: 1, max: 120 })).map(([first, n]) =>
      command(`scatter(${first}, ${n})`, (world) => {
        for (let leaf = 0; leaf < n; leaf++) world.set(((first + leaf * 7) % 390) * 256, 1);
      }),
    ),
  },
  {
    weight: 4,
    arbitrary: fc
      .tuple(cluster, fc.oneof(count, fc.integer({ min: 1, max: sizeClusters })))
      .map(([at, n]) =>
        command(`clear(${at}, ${n})`, (world) => {
          world.clear(at, n);
        }),
      ),
  },
  {
    weight: 6,
    arbitrary: fc.tuple(cluster, count).map(([at, n]) =>
      command(`read(${at}, ${n})`, (world) => {
        world.read(at, n);
      }),
    ),
  },
  {
    weight: 3,
    arbitrary: fc
      .tuple(choice, cluster, count)
      .map(([of, at, n]) =>
        command(`readVersion(${of}, ${at}, ${n})`, (world) => world.readVersion(of, at, n)),
      ),
  },
  {
    weight: 4,
    arbitrary: fc.boolean().map((snapshot) =>
      command(`freeze(${String(snapshot)})`, (world) => {
        world.freeze(snapshot);
      }),
    ),
  },
  {
    weight: 3,
    arbitrary: choice.map((of) =>
      command(`release(${of})`, (world) => {
        world.release(of);
      }),
    ),
  },
  {
    weight: 4,
    arbitrary: fc.nat(255).map((mask) =>
      command(`persist(${mask})`, (world) => {
        world.persist(mask);
      }),
    ),
  },
  {
    weight: 1,
    arbitrary: choice.map((of) => command(`rollback(${of})`, (world) => world.rollback(of))),
  },
  {
    weight: 1,
    arbitrary: fc.integer({ min: 1, max: 60_000 }).map((n) =>
      command(`grow(${n})`, (world) => {
        world.grow(n);
      }),
    ),
  },
  {
    weight: 6,
    arbitrary: fc.integer({ min: 1, max: 12 }).map((steps) =>
      command(`step(${steps})`, async (world) => {
        for (let n = 0; n < steps; n++) await world.clock.step();
      }),
    ),
  },
  {
    weight: 2,
    arbitrary: fc.boolean().map((failing) =>
      command(`failReads(${String(failing)})`, (world) => {
        world.backend.failure = failing ? unavailable : undefined;
      }),
    ),
  },
  {
    weight: 1,
    arbitrary: fc.boolean().map((failing) =>
      command(`failWrites(${String(failing)})`, (world) => {
        world.backend.writeFailure = failing ? unavailable : undefined;
      }),
    ),
  },
  { weight: 1, arbitrary: fc.constant(command('quiet()', (world) => world.quiet())) },
  {
    weight: 1,
    arbitrary: fc
      .boolean()
      .map((fresh) => command(`reopen(${String(fresh)})`, (world) => world.reopen(fresh))),
  },
];

const listOfCommands = fc.array(fc.oneof(...commands), {
  minLength: 10,
  maxLength: 90,
  size: 'max',
});
const numRuns = Number(process.env['MAP_RUNS'] ?? 60);
const timeoutMs = 300_000;

describe('VolumeMap against a model', () => {
  test.each([
    { frames: 64, delayMs: 0 },
    { frames: 64, delayMs: 20 },
    { frames: 300, delayMs: 20 },
  ])(
    '$frames frames, reads of up to $delayMs ms',
    async ({ frames, delayMs }) => {
      await fc.assert(
        fc.asyncProperty(fc.nat(), listOfCommands, async (seed, list) => {
          const world = new MapWorld(seed, { frames, sizeClusters, delayMs });
          for (const next of list) await next.run(world);
          await world.close();
        }),
        { numRuns },
      );
    },
    timeoutMs,
  );

  test(
    'two volumes in one pool',
    async () => {
      const commandsOfTwo = fc.array(fc.tuple(fc.boolean(), fc.oneof(...commands)), {
        minLength: 20,
        maxLength: 90,
        size: 'max',
      });
      await fc.assert(
        fc.asyncProperty(fc.nat(), commandsOfTwo, async (seed, list) => {
          const options = { frames: 64, sizeClusters, delayMs: 20 };
          const first = new MapWorld(seed, options);
          const second = new MapWorld(seed + 1, { ...options, neighbour: first });
          for (const [isFirst, next] of list) await next.run(isFirst ? first : second);
          // Closing the second works even while the first one's backend is away.
          await second.close();
          await first.close();
        }),
        { numRuns },
      );
    },
    timeoutMs,
  );
});
