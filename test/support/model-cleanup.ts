/** What must hold of the space that an engine uses: at any time, and when everything has been removed. */
import type { ModelChanges } from './model-changes.ts';
import { settle } from './model-lives.ts';
import { accountProblems, strayObjects } from './model-space.ts';
import type { ModelWorld } from './model-world.ts';
import type { ModelWrites } from './model-writes.ts';

export async function checkAccounts(world: ModelWorld, writes: ModelWrites): Promise<void> {
  const { lives } = world;
  world.note('check the accounts');
  const problems = await lives.live(accountProblems(lives.engine));
  if (problems.length > 0) throw new Error(`space accounts: ${problems.join('; ')}`);
  if (lives.powerWasCut) return; // deletions that were not synced may have come back
  for (const volume of world.model.all) {
    const { position } = volume.content;
    await lives.live(writes.checkpointOf(volume));
    volume.content.markDurable(position);
  }
  await lives.live(settle());
  const stray = await lives.live(strayObjects(lives.engine));
  if (stray.length > 0) throw new Error(`objects that nothing knows: ${stray.join(', ')}`);
}

/** In any order; then nothing is left, neither in the backend nor on the local disk. */
export async function removeEverything(world: ModelWorld, changes: ModelChanges): Promise<void> {
  const { lives, model, random } = world;
  while (model.all.size > 0) {
    const snapshot = world.pick(model.snapshots);
    const volume = world.pick(model.volumes);
    if (snapshot !== undefined && (volume === undefined || random.chance(0.5))) {
      await changes.removeSnapshot(snapshot);
    } else if (volume !== undefined) await changes.removeVolume(volume);
    else throw new Error('a volume stays that nothing needs');
  }
  for (let turn = 0; turn < 3; turn++) {
    await settle();
    lives.engine.clock.wakeAll(); // maintenance finishes what could not be finished at once
  }
  await settle();
  const stored = await lives.engine.store.list('');
  const left = stored.map(({ key }) => key).filter((key) => !/^(backend|writers\/.*)$/.test(key));
  if (left.length > 0 && !lives.powerWasCut) throw new Error(`left over: ${left.join(', ')}`);
  const local = lives.disk.list('/data/volumes').map((volume) => {
    const names = lives.disk.list(`/data/volumes/${volume}`);
    return `${volume} with ${names.join(' ') || 'nothing'}`;
  });
  if (local.length > 0) throw new Error(`left over on the disk: ${local.join(', ')}`);
}
