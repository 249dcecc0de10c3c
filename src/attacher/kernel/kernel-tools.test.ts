import { expect, test } from '@jest/globals';
import { openUnixSocket, socketInode } from '../../base/ffi-sockets.ts';
import { VolumeError } from '../../volumes/errors.ts';
import { LentSockets } from './kernel-tools.ts';
import { Link } from './links.ts';

function newLink(): Link {
  const fd = openUnixSocket();
  return new Link(fd, socketInode(fd) ?? '');
}

test('sockets of a command that was carried out stay as they are', async () => {
  const [lent, link] = [new LentSockets(), newLink()];
  expect(await lent.during([link], () => Promise.resolve(7))).toBe(7);
  expect(socketInode(link.fd)).toBe(link.inode);
  expect(lent.inodes).toEqual([]);
  link.close();
});

test('sockets of a command that was refused are closed', async () => {
  const [lent, link] = [new LentSockets(), newLink()];
  const refused = lent.during([link], () =>
    Promise.reject(new VolumeError('PATH_NOT_FOUND', 'reconfigure nbd0: it is not connected')),
  );
  await expect(refused).rejects.toMatchObject({ code: 'PATH_NOT_FOUND' });
  expect(socketInode(link.fd)).not.toBe(link.inode);
  expect(lent.inodes).toEqual([]);
});

test('sockets of a command that was not answered keep their numbers, for nobody’s use', async () => {
  const [lent, link] = [new LentSockets(), newLink()];
  const unknown = lent.during([link], () =>
    Promise.reject(new VolumeError('UNAVAILABLE', 'reconfigure nbd0: no answer')),
  );
  await expect(unknown).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  expect(socketInode(link.fd)).toBe(link.inode);
  expect(link.isDead).toBe(true);
  expect(lent.inodes).toEqual([link.inode]);
  lent.close();
  expect(socketInode(link.fd)).not.toBe(link.inode);
});
