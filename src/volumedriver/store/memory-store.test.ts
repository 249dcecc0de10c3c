import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LinuxDisk } from '../disk/linux-disk.ts';
import { MemoryStore } from './memory-store.ts';
import { describeStore } from './store-contract.ts';

describeStore('MemoryStore', () => {
  const directory = fs.mkdtempSync(join(tmpdir(), 'volumedriver-store-'));
  let count = 0;
  return Promise.resolve({
    store: new MemoryStore(new LinuxDisk()),
    makeFile: (content) => {
      const path = join(directory, `file-${count++}`);
      fs.writeFileSync(path, content);
      return Promise.resolve(path);
    },
    cleanUp: () => {
      fs.rmSync(directory, { recursive: true, force: true });
    },
  });
});
