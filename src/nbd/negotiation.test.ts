import { beforeEach, describe, expect, test } from '@jest/globals';
import { MemoryExports, MemoryStorage } from '../../test/support/memory-device.ts';
import { silentLogger } from '../base/logger.ts';
import type { ExportProvider } from '../volumes/block-device.ts';
import { errorCodes, isErrorCode, VolumeError } from '../volumes/errors.ts';
import { encodeInfoRequest, encodeMetaContextRequest } from './handshake-codec.ts';
import { Negotiation, type NegotiationStep } from './negotiation.ts';
import { optionReplies, options } from './protocol.ts';

let exports: MemoryExports;
let negotiation: Negotiation;

beforeEach(() => {
  exports = new MemoryExports();
  exports.add('vol', new MemoryStorage(2 ** 20));
  exports.add('other', new MemoryStorage(2 ** 20, { readOnly: true }));
  negotiation = new Negotiation(exports, silentLogger);
});

const empty = Buffer.alloc(0);
const go = (exportName: string, infos: number[] = []): Buffer =>
  encodeInfoRequest({ exportName, infos });
const contexts = (exportName: string, ...queries: string[]): Buffer =>
  encodeMetaContextRequest({ exportName, queries });

async function ask(option: number, data: Buffer): Promise<NegotiationStep> {
  return await negotiation.handle({ kind: 'option', option, data });
}

/** Types of the replies, in order. */
function types(step: NegotiationStep): number[] {
  const bytes = Buffer.concat(step.send);
  const found: number[] = [];
  for (let at = 0; at < bytes.length; at += 20 + bytes.readUInt32BE(at + 16)) {
    found.push(bytes.readUInt32BE(at + 12));
  }
  return found;
}

async function expectTypes(option: number, data: Buffer, expected: number[]): Promise<void> {
  expect(types(await ask(option, data))).toEqual(expected);
}

const { ACK, SERVER, INFO, META_CONTEXT } = optionReplies;
const { ERR_UNSUP, ERR_INVALID, ERR_UNKNOWN, ERR_TOO_BIG } = optionReplies;

describe('options', () => {
  test.each<[string, number, Buffer, number[]]>([
    ['LIST', options.LIST, empty, [SERVER, SERVER, ACK]],
    ['LIST with data', options.LIST, Buffer.alloc(1), [ERR_INVALID]],
    ['STARTTLS', options.STARTTLS, empty, [ERR_UNSUP]],
    ['STARTTLS with data', options.STARTTLS, Buffer.alloc(1), [ERR_INVALID]],
    ['PEEK_EXPORT', 4, empty, [ERR_UNSUP]],
    ['EXTENDED_HEADERS', 11, empty, [ERR_UNSUP]],
    ['an unknown option', 0xdead, Buffer.alloc(9), [ERR_UNSUP]],
    ['STRUCTURED_REPLY', options.STRUCTURED_REPLY, empty, [ACK]],
    ['STRUCTURED_REPLY with data', options.STRUCTURED_REPLY, Buffer.alloc(1), [ERR_INVALID]],
    ['INFO', options.INFO, go('vol'), [INFO, INFO, ACK]],
    [
      'INFO with all texts',
      options.INFO,
      go('vol', [0, 1, 2, 3, 99]),
      [INFO, INFO, INFO, INFO, ACK],
    ],
    ['INFO of no export', options.INFO, go('none'), [ERR_UNKNOWN]],
    ['INFO with bad data', options.INFO, empty, [ERR_INVALID]],
    ['GO', options.GO, go('vol'), [INFO, INFO, ACK]],
    ['GO with its name', options.GO, go('vol', [1]), [INFO, INFO, INFO, ACK]],
    ['GO to no export', options.GO, go('none'), [ERR_UNKNOWN]],
    ['GO with bad data', options.GO, Buffer.alloc(3), [ERR_INVALID]],
    [
      'contexts without structured replies',
      options.SET_META_CONTEXT,
      contexts('vol'),
      [ERR_INVALID],
    ],
  ])('%s', async (_, option, data, expected) => {
    await expectTypes(option, data, expected);
  });

  test('an option with too much data is TOO_BIG, except EXPORT_NAME, which closes', async () => {
    const step = await negotiation.handle({ kind: 'tooBig', option: options.LIST });
    expect(types(step)).toEqual([ERR_TOO_BIG]);
    const name = await negotiation.handle({ kind: 'tooBig', option: options.EXPORT_NAME });
    expect(name.next).toBe('close');
  });

  test('ABORT is acknowledged and closes', async () => {
    const step = await ask(options.ABORT, empty);
    expect(step.next).toBe('close');
    expect(types(step)).toEqual([ACK]);
  });

  test('EXPORT_NAME opens, or closes without a word', async () => {
    const opened = await ask(options.EXPORT_NAME, Buffer.from('vol'));
    expect(opened.next).toBe('transmission');
    expect(Buffer.concat(opened.send)).toHaveLength(134);
    for (const name of [Buffer.from('none'), Buffer.from([0xff])]) {
      expect(await ask(options.EXPORT_NAME, name)).toMatchObject({ next: 'close', send: [] });
    }
  });

  test('NO_ZEROES shortens the answer to EXPORT_NAME', async () => {
    await negotiation.handle({ kind: 'flags', noZeroes: true });
    const opened = await ask(options.EXPORT_NAME, Buffer.from('vol'));
    expect(Buffer.concat(opened.send)).toHaveLength(10);
  });
});

describe('metadata contexts', () => {
  beforeEach(async () => {
    await ask(options.STRUCTURED_REPLY, empty);
  });

  const { LIST_META_CONTEXT, SET_META_CONTEXT } = options;
  test.each<[string, number, Buffer, number[]]>([
    ['list everything', LIST_META_CONTEXT, contexts('vol'), [META_CONTEXT, ACK]],
    ['list a namespace', LIST_META_CONTEXT, contexts('vol', 'base:'), [META_CONTEXT, ACK]],
    ['list by name', LIST_META_CONTEXT, contexts('vol', 'base:allocation'), [META_CONTEXT, ACK]],
    ['list another', LIST_META_CONTEXT, contexts('vol', 'qemu:'), [ACK]],
    ['set', SET_META_CONTEXT, contexts('vol', 'x:y', 'base:allocation'), [META_CONTEXT, ACK]],
    ['set nothing', SET_META_CONTEXT, contexts('vol'), [ACK]],
    ['set a wildcard', SET_META_CONTEXT, contexts('vol', 'base:'), [ACK]],
    ['set for no export', SET_META_CONTEXT, contexts('none', 'base:'), [ERR_UNKNOWN]],
    ['bad data', SET_META_CONTEXT, Buffer.alloc(5), [ERR_INVALID]],
  ])('%s', async (_, option, data, expected) => {
    await expectTypes(option, data, expected);
  });

  async function idAfterGo(exportName: string): Promise<number | null> {
    const step = await ask(options.GO, go(exportName));
    if (step.next !== 'transmission') throw new Error('not opened');
    return step.agreement.allocationContextId;
  }

  test('hold for the export they were chosen for', async () => {
    await ask(SET_META_CONTEXT, contexts('vol', 'base:allocation'));
    expect(await idAfterGo('other')).toBeNull();
    expect(await idAfterGo('vol')).toBe(1);
  });

  test('are dropped by a later choice, even one that fails', async () => {
    await ask(SET_META_CONTEXT, contexts('vol', 'base:allocation'));
    await ask(SET_META_CONTEXT, Buffer.alloc(1));
    expect(await idAfterGo('vol')).toBeNull();
  });
});

describe('exports that fail', () => {
  function failing(error: Error): ExportProvider {
    const fail = (): Promise<never> => Promise.reject(error);
    return { open: fail, info: fail, list: fail };
  }

  test.each(Object.keys(errorCodes).filter(isErrorCode))(
    '%s is an error with a text',
    async (code) => {
      negotiation = new Negotiation(failing(new VolumeError(code, 'open: why')), silentLogger);
      const step = await ask(options.GO, go('vol'));
      expect(types(step)[0]).toBeGreaterThan(0x8000_0000);
      expect(Buffer.concat(step.send).toString('utf8', 20)).toBe('open: why');
      expect((await ask(options.LIST, empty)).next).toBe('continue');
    },
  );

  test('the text of an unknown error stays inside', async () => {
    negotiation = new Negotiation(failing(new Error('secret')), silentLogger);
    const step = await ask(options.GO, go('vol'));
    expect(Buffer.concat(step.send).toString('utf8', 20)).toBe('internal error');
  });

  test('a device that was revoked while it was opened is closed, not served', async () => {
    const opened = exports.open('vol');
    (await opened).revoke();
    negotiation = new Negotiation({ ...failing(new Error()), open: () => opened }, silentLogger);
    expect((await ask(options.GO, go('vol'))).next).toBe('continue');
    expect((await opened).closeCalls).toBe(1);
  });
});
