/**
 * The attacher's process dies after each step that others can see, of each of its operations; the next process has
 * what was saved, and the kernel. The same with a kernel that keeps no identifiers.
 */
import { describe, expect, test } from '@jest/globals';
import { KernelWorld, type Life } from '../../../test/support/kernel-world.ts';
import type { Target, TargetExport } from '../strategy.ts';

type ExportTarget = Target & { export: TargetExport };

interface Operation {
  readonly prepare?: (world: KernelWorld) => Promise<void>;
  readonly run: (life: Life, target: ExportTarget) => Promise<unknown>;
  /** What the next process does, and how it must be then. */
  readonly recover: (life: Life, target: ExportTarget, world: KernelWorld) => Promise<void>;
}

const reason = 'no volumedriver for 3600 s';

async function expectNothing(
  { strategy }: Life,
  target: ExportTarget,
  world: KernelWorld,
): Promise<void> {
  expect(world.model.bound).toEqual([1]);
  expect(await strategy.list()).not.toContain(target.key);
}

const operations: Record<string, Operation> = {
  attach: {
    prepare: async (world) => {
      world.model.disconnect(0);
      await Promise.resolve();
    },
    run: (life, target) => life.strategy.attach(target, life.save),
    recover: async (life, target, world) => {
      await life.strategy.detach(target, life.details, life.save);
      await expectNothing(life, target, world);
      expect(await life.strategy.attach(target, life.save)).toMatchObject({ state: 'attached' });
      await life.strategy.detach(target, life.details, life.save);
      await expectNothing(life, target, world);
    },
  },
  heal: {
    prepare: (world) => world.restartServer(),
    run: (life, target) => life.strategy.heal(target, life.details ?? {}, life.save),
    recover: async (life, target, world) => {
      const healed = await life.strategy.heal(target, life.details ?? {}, life.save);
      expect(healed).toMatchObject({ path: '/dev/nbd0', state: 'attached' });
      expect(world.model.liveSockets(0)).toHaveLength(1);
      await life.strategy.detach(target, life.details, life.save);
      await expectNothing(life, target, world);
    },
  },
  fail: {
    prepare: (world) => world.stopServer(),
    run: (life, target) =>
      life.strategy.fail(target, life.details ?? {}, { reason, save: life.save }),
    recover: async (life, target, world) => {
      const user = world.model.hold(0);
      const healed = await life.strategy.heal(target, life.details ?? {}, life.save);
      expect(['broken', 'waiting']).toContain(healed.state);
      if (healed.state === 'waiting')
        await life.strategy.fail(target, life.details ?? {}, { reason, save: life.save });
      const inspection = await life.strategy.inspect(target, life.details ?? {});
      expect(inspection).toMatchObject({ state: 'broken', reason });
      await user.close();
      await expectNothing(life, target, world);
      await life.strategy.detach(target, life.details, life.save);
      expect(world.model.device(0)).toMatchObject({ pid: null, holders: 0 });
    },
  },
  detach: {
    run: (life, target) => life.strategy.detach(target, life.details, life.save),
    recover: async (life, target, world) => {
      await life.strategy.detach(target, life.details, life.save);
      await expectNothing(life, target, world);
    },
  },
  grow: {
    prepare: (world) => {
      world.volume('vol', { sizeBytes: 2 ** 21 });
      return Promise.resolve();
    },
    run: (life, target) =>
      life.strategy.resize(target, life.details ?? {}, { sizeBytes: 2 ** 21, save: life.save }),
    recover: async (life, target, world) => {
      const grown = await life.strategy.resize(target, life.details ?? {}, {
        sizeBytes: 2 ** 21,
        save: life.save,
      });
      expect(grown).toMatchObject({ state: 'attached', sizeBytes: 2 ** 21 });
      await life.strategy.heal(target, life.details ?? {}, life.save);
      const timeouts = { requestSeconds: 0, deadSeconds: 3600 };
      expect(world.model.device(0)).toMatchObject({ timeouts, ioTimeoutMs: 2000 });
      await life.strategy.detach(target, life.details, life.save);
      await expectNothing(life, target, world);
    },
  },
};

describe.each([
  ['with identifiers', true],
  ['without identifiers', false],
])('a process that dies, on a kernel %s', (_name, hasIdentifiers) => {
  test.each(Object.entries(operations))('at any step of %s', async (name, operation) => {
    for (let stepsLeft = 0; ; stepsLeft++) {
      const world = await KernelWorld.open({ hasIdentifiers });
      try {
        const target = world.volume('vol');
        // Another volume of ours, which nothing here may touch.
        const bystander = await world.live();
        const first = await world.live();
        await first.strategy.attach(target, first.save);
        await bystander.strategy.attach(world.volume('bystander'), bystander.save);
        const details = name === 'attach' ? null : first.details;
        await first.strategy.close();
        await operation.prepare?.(world);
        const victim = await world.live({ details, stepsLeft });
        const isDone = await operation.run(victim, target).then(
          () => true,
          () => false,
        );
        await victim.strategy.close();
        const next = await world.live({ details: victim.details });
        await operation.recover(next, target, world);
        if (name !== 'heal' && name !== 'fail') expect(world.model.liveSockets(1)).toHaveLength(1);
        if (isDone && victim.steps < stepsLeft) break;
      } finally {
        await world.close();
      }
      expect(stepsLeft).toBeLessThan(50);
    }
  });
});
