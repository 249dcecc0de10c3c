/**
 * What every VolumeService does, whoever implements it and however it is reached. `open` gives an empty service;
 * the tests use nothing but the contract's own methods.
 */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { ErrorCode } from '../../src/volumes/errors.ts';
import type { Page, VolumeService } from '../../src/volumes/volume-service.ts';

export interface OpenService {
  service: VolumeService;
  close(): Promise<void>;
}

const mib = 1024 * 1024;

export function describeVolumeService(name: string, open: () => Promise<OpenService>): void {
  let opened: OpenService;
  let service: VolumeService;

  beforeEach(async () => {
    opened = await open();
    service = opened.service;
  });
  afterEach(async () => {
    await opened.close();
  });

  const fails = async (call: Promise<unknown>, code: ErrorCode): Promise<void> => {
    await expect(call).rejects.toMatchObject({ name: 'VolumeError', code });
    // The text is for people: what failed, then why.
    await expect(call).rejects.toHaveProperty('message', expect.stringContaining(': '));
  };
  const create = (volumeName: string) => service.createVolume({ name: volumeName, sizeBytes: mib });
  const cut = (volume: string, snapshot: string) =>
    service.createSnapshot({ volume, name: snapshot, timeoutSeconds: 10 });

  describe(`${name}: volumes`, () => {
    test('are made once, found by id and name, and removed', async () => {
      const volume = await service.createVolume({
        name: 'été 🏖',
        sizeBytes: 5000,
        flushTo: 'local',
      });
      expect(volume).toMatchObject({
        name: 'été 🏖',
        sizeBytes: 8192,
        source: null,
        flushTo: 'local',
        grants: [],
        generation: 0,
        written: false,
        formatting: null,
        clients: 0,
        halted: null,
      });
      expect(volume.id).toMatch(/^[^.]+\.[0-9A-HJKMNP-TV-Z]{26}$/);
      const again = await service.createVolume({
        name: 'été 🏖',
        sizeBytes: 5000,
        flushTo: 'local',
      });
      expect(again.id).toBe(volume.id);
      expect((await service.getVolume('été 🏖')).id).toBe(volume.id);
      expect(await service.getVolume(volume.id)).toEqual(again);
      await service.removeVolume(volume.id, 'strict');
      await fails(service.getVolume(volume.id), 'VOLUME_NOT_FOUND');
      await fails(service.removeVolume('été 🏖', 'deferred'), 'VOLUME_NOT_FOUND');
    });

    test('are not made twice with different properties', async () => {
      await create('a');
      await fails(service.createVolume({ name: 'a', sizeBytes: 2 * mib }), 'ALREADY_EXISTS');
    });

    test.each<[string, { name: string; sizeBytes: number }]>([
      ['an empty name', { name: '', sizeBytes: mib }],
      ['a name of 129 bytes', { name: 'é'.repeat(64) + 'x', sizeBytes: mib }],
      ['a control character', { name: 'a\nb', sizeBytes: mib }],
      ['no size', { name: 'a', sizeBytes: 0 }],
      ['a negative size', { name: 'a', sizeBytes: -4096 }],
      ['half a byte', { name: 'a', sizeBytes: 4096.5 }],
      ['a size beyond 2^53', { name: 'a', sizeBytes: 2 ** 60 }],
    ])('are refused with %s', async (_, request) => {
      await fails(service.createVolume(request), 'INVALID_ARGUMENT');
    });

    test('grow and never shrink', async () => {
      await create('a');
      expect((await service.growVolume('a', 2 * mib + 1)).sizeBytes).toBe(2 * mib + 4096);
      expect((await service.growVolume('a', 2 * mib + 1)).sizeBytes).toBe(2 * mib + 4096);
      await fails(service.growVolume('a', mib), 'OUT_OF_RANGE');
      await fails(service.growVolume('b', mib), 'VOLUME_NOT_FOUND');
    });

    test('are listed in pages that survive a removal between them', async () => {
      const names = ['a', 'b', 'c', 'd', 'e'];
      for (const one of names) await create(one);
      const first = await service.listVolumes({ limit: 2 });
      expect(first.items).toHaveLength(2);
      const seen = first.items.map((volume) => volume.name);
      await service.removeVolume(seen[1] ?? '', 'strict');
      let page: Page<{ name: string }> = first;
      while (page.nextToken !== undefined) {
        page = await service.listVolumes({ limit: 2, startToken: page.nextToken });
        seen.push(...page.items.map((volume) => volume.name));
      }
      expect(seen.toSorted()).toEqual(names);
      expect((await service.listVolumes({})).items).toHaveLength(4);
      await fails(service.listVolumes({ startToken: 'garbage' }), 'BAD_PAGE_TOKEN');
    });
  });

  describe(`${name}: snapshots and clones`, () => {
    test('are cut, found, listed oldest first and removed', async () => {
      const volume = await create('a');
      const one = await cut('a', 'one');
      expect(one).toMatchObject({ name: 'one', volumeId: volume.id, sizeBytes: mib, synced: true });
      const two = await cut(volume.id, 'two');
      await fails(cut('a', 'one'), 'ALREADY_EXISTS');
      expect(await service.getSnapshot({ snapshot: one.id })).toEqual(one);
      expect(await service.getSnapshot({ volume: 'a', snapshot: 'two' })).toEqual(two);
      expect((await service.listSnapshots({ volume: 'a' }, {})).items).toEqual([one, two]);
      expect((await service.listSnapshots({ snapshot: two.id }, {})).items).toEqual([two]);
      await service.removeSnapshot({ volume: 'a', snapshot: 'one' }, 'strict');
      await fails(service.getSnapshot({ snapshot: one.id }), 'SNAPSHOT_NOT_FOUND');
      await fails(service.getSnapshot({ volume: 'x', snapshot: 'one' }), 'VOLUME_NOT_FOUND');
    });

    test('claim their name everywhere when asked to', async () => {
      await create('a');
      await create('b');
      const request = { volume: 'a', name: 's', timeoutSeconds: 10, claimName: true };
      const snapshot = await service.createSnapshot(request);
      expect((await service.createSnapshot(request)).id).toBe(snapshot.id);
      await fails(service.createSnapshot({ ...request, volume: 'b' }), 'ALREADY_EXISTS');
      expect((await service.listSnapshots({ snapshot: 's' }, {})).items).toEqual([snapshot]);
    });

    test('outlive their volume, and feed clones that hold them strictly', async () => {
      await create('a');
      const snapshot = await cut('a', 's');
      await service.removeVolume('a', 'deferred');
      expect((await service.getSnapshot({ snapshot: snapshot.id })).name).toBe('s');
      const source = { kind: 'snapshot', snapshotId: snapshot.id } as const;
      await fails(service.createVolume({ name: 'c', sizeBytes: 4096, source }), 'OUT_OF_RANGE');
      const clone = await service.createVolume({ name: 'c', sizeBytes: mib, source });
      expect(clone.source).toEqual(source);
      await fails(service.removeSnapshot({ snapshot: snapshot.id }, 'strict'), 'HAS_CLONES');
      await service.removeSnapshot({ snapshot: snapshot.id }, 'deferred');
      await fails(service.getSnapshot({ snapshot: snapshot.id }), 'SNAPSHOT_NOT_FOUND');
      expect((await service.getVolume('c')).source).toEqual(source);
    });

    test('are not cloned when they do not exist', async () => {
      const snapshot = { kind: 'snapshot', snapshotId: 'no.such' } as const;
      await fails(
        service.createVolume({ name: 'c', sizeBytes: mib, source: snapshot }),
        'SNAPSHOT_NOT_FOUND',
      );
      const volume = { kind: 'volume', volumeId: 'no.such' } as const;
      await fails(
        service.createVolume({ name: 'c', sizeBytes: mib, source: volume }),
        'VOLUME_NOT_FOUND',
      );
    });

    test('roll back, which drops newer ones unless they have clones', async () => {
      await create('a');
      await cut('a', 'one');
      const two = await cut('a', 'two');
      const source = { kind: 'snapshot', snapshotId: two.id } as const;
      await service.createVolume({ name: 'c', sizeBytes: mib, source });
      await fails(service.rollbackSnapshot({ volume: 'a', snapshot: 'one' }), 'HAS_CLONES');
      await service.removeVolume('c', 'strict');
      await service.rollbackSnapshot({ volume: 'a', snapshot: 'one' });
      expect(
        (await service.listSnapshots({ volume: 'a' }, {})).items.map((one) => one.name),
      ).toEqual(['one']);
    });

    test('are waited for', async () => {
      await create('a');
      await service.createSnapshot({ volume: 'a', name: 's', timeoutSeconds: -1 });
      expect((await service.waitSnapshot({ volume: 'a', snapshot: 's' }, 10)).synced).toBe(true);
      await fails(service.waitSnapshot({ volume: 'a', snapshot: 't' }, 1), 'SNAPSHOT_NOT_FOUND');
    });
  });

  describe(`${name}: grants`, () => {
    test('give a generation, exclude others, and can be repeated', async () => {
      await create('a');
      const generation = await service.grant('a', 'n1', { readOnly: false });
      expect(generation).toBeGreaterThan(0);
      expect(await service.grant('a', 'n1', { readOnly: false })).toBe(generation);
      await fails(service.grant('a', 'n1', { readOnly: true }), 'ALREADY_EXISTS');
      await fails(service.grant('a', 'n2', { readOnly: false }), 'VOLUME_IN_USE');
      await fails(service.grant('a', 'n2', { readOnly: true }), 'VOLUME_IN_USE');
      await fails(service.removeVolume('a', 'deferred'), 'VOLUME_IN_USE');
      const address = await service.getExport({ kind: 'granted', volume: 'a', generation });
      expect(address).toMatchObject({ sizeBytes: mib, readOnly: false });
      expect(address.exportName).toMatch(/^[A-Za-z0-9._-]+#\d+$/);
      await service.revoke('a', 'n1');
      await service.revoke('a', 'n1');
      await fails(service.getExport({ kind: 'granted', volume: 'a', generation }), 'FENCED');
      const next = await service.grant('a', 'n2', { readOnly: false });
      expect(next).toBeGreaterThan(generation);
      expect((await service.getVolume('a')).grants).toEqual([
        { node: 'n2', readOnly: false, generation: next },
      ]);
      await service.revoke('a', null);
      expect((await service.getVolume('a')).grants).toEqual([]);
    });

    test('are shared between readers', async () => {
      await create('a');
      const one = await service.grant('a', 'n1', { readOnly: true });
      await service.grant('a', 'n2', { readOnly: true });
      await fails(service.grant('a', 'n3', { readOnly: false }), 'VOLUME_IN_USE');
      await service.revoke('a', 'n2');
      const address = await service.getExport({ kind: 'granted', volume: 'a', generation: one });
      expect(address.readOnly).toBe(true);
    });

    test('let only their holder format, and only a volume that was never written', async () => {
      await create('a');
      const old = await service.grant('a', 'n1', { readOnly: false });
      await service.revoke('a', 'n1');
      const generation = await service.grant('a', 'n1', { readOnly: false });
      await fails(service.beginFormatting('a', old, 'ext4'), 'FENCED');
      await service.beginFormatting('a', generation, 'ext4');
      expect((await service.getVolume('a')).formatting).toBe('ext4');
      await service.beginFormatting('a', generation, 'ext4');
      await service.endFormatting('a', generation);
      await service.endFormatting('a', generation);
      expect((await service.getVolume('a')).formatting).toBeNull();
      await service.syncVolume('a');
    });

    test('are not needed for plain and snapshot exports', async () => {
      await create('a');
      await cut('a', 's');
      const plain = await service.getExport({ kind: 'plain', volume: 'a' });
      expect(plain).toMatchObject({ sizeBytes: mib, readOnly: false });
      const frozen = await service.getExport({
        kind: 'snapshot',
        snapshot: { volume: 'a', snapshot: 's' },
      });
      expect(frozen).toMatchObject({ sizeBytes: mib, readOnly: true });
      expect(frozen.exportName).toContain('@');
    });
  });

  test(`${name}: tells who it is`, async () => {
    const info = await service.info();
    expect(info).toMatchObject({ ready: true, shared: expect.any(Boolean) });
    expect(info.backendId).not.toBe('');
    const { totalBytes, availableBytes } = await service.capacity();
    expect(availableBytes).toBeLessThanOrEqual(totalBytes);
  });
}
