/** Control records: every kind as it is stored, and that nothing else passes. */
import { describe, expect, test } from '@jest/globals';
import { VolumeError } from '../../volumes/errors.ts';
import { parseControl } from './control.ts';

const [a, b, c] = ['01ARZ3NDEKTSV4RRFFQ69G5FAV', '01ARZ3NDEKTSV4RRFFQ69G5FAW', 'N'.repeat(26)];

// As they are on disk: a field that is renamed, added or dropped makes volumes of today unreadable.
const stateText = `{"id":"${a}","name":"été","sizeBytes":8192,"createdSizeBytes":4096,
  "createdAtMs":1700000000000,"flushTo":"backend","source":{"kind":"snapshot","snapshotId":"x.${b}"},
  "parent":{"volume":"${b}","snapshot":"${c}"},
  "grants":[{"node":"n1","readOnly":false,"generation":3,"exportGeneration":5}],"generation":5,
  "written":true,"formatting":"ext4","snapshotNumber":7,
  "snapshots":[{"id":"${c}","name":"s","number":7,"createdAtMs":1,"sizeBytes":4096,"claimed":true,
    "hidden":false,"written":false,"formatting":null,"clones":["${b}"]}],"removed":false}`;
const root = '{"objectId":1048577,"index":4095,"checksum":4294967295,"level":4}';

const texts = [
  `{"kind":"checkpoint","replayFrom":9,"state":${stateText},"root":${root},
    "snapshotRoots":[{"number":7,"root":${root}},{"number":8,"root":null}],
    "accounts":"volumes/x/accounts/1","doomed":[1048576,1048577]}`,
  `{"kind":"created","state":${stateText},"root":null}`,
  '{"kind":"resized","sizeBytes":4096}',
  `{"kind":"snapshotTaken","id":"${a}","name":"s","createdAtMs":1,"claimed":false,"hidden":true}`,
  `{"kind":"snapshotHidden","id":"${a}"}`,
  `{"kind":"snapshotRemoved","id":"${a}"}`,
  `{"kind":"rolledBack","id":"${a}"}`,
  `{"kind":"cloneLinked","snapshot":"${a}","clone":"${b}"}`,
  `{"kind":"cloneUnlinked","snapshot":"${a}","clone":"${b}"}`,
  '{"kind":"granted","node":"n1","readOnly":true,"generation":1}',
  '{"kind":"revoked","node":null,"generation":2}',
  '{"kind":"generationRaised","generation":3,"reason":"a cut"}',
  '{"kind":"formattingBegun","filesystem":"xfs"}',
  '{"kind":"formattingEnded"}',
  '{"kind":"removed"}',
];

type Json = Record<string, unknown>;

function refused(payload: unknown): void {
  let caught: unknown;
  try {
    parseControl(payload);
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeInstanceOf(VolumeError);
  expect(caught).toMatchObject({ code: 'CORRUPT' });
  expect((caught as Error).message).toMatch(/^reading a control record: [^\n]+$/);
}

/** Every object in a payload, itself first, with how to put another in its place. */
function* objectsIn(value: unknown): Generator<Json> {
  if (typeof value !== 'object' || value === null) return;
  if (!Array.isArray(value)) yield value as Json;
  for (const inner of Object.values(value)) yield* objectsIn(inner);
}

function parse(text: string): Json {
  return JSON.parse(text) as Json;
}

describe.each(texts.map((text) => ({ kind: String(parse(text)['kind']), text })))(
  'a $kind record',
  ({ text }) => {
    test('is read as it was written', () => {
      expect(parseControl(parse(text))).toEqual(parse(text));
    });

    test('is refused without any one of its fields, at any depth', () => {
      const count = [...objectsIn(parse(text))].length;
      for (let nth = 0; nth < count; nth++) {
        for (const key of Object.keys([...objectsIn(parse(text))][nth] ?? {})) {
          const payload = parse(text);
          const object = [...objectsIn(payload)][nth] ?? {};
          Reflect.deleteProperty(object, key);
          refused(payload);
        }
      }
    });

    test('is refused with a field that this version does not know, at any depth', () => {
      const count = [...objectsIn(parse(text))].length;
      for (let nth = 0; nth < count; nth++) {
        const payload = parse(text);
        Object.assign([...objectsIn(payload)][nth] ?? {}, { later: 1 });
        refused(payload);
      }
    });

    test('is refused with another type in any field', () => {
      const wrongs: Record<string, unknown[]> = {
        number: [-1, 0.5, 2 ** 53, '1', null],
        boolean: [0, 'true', null],
        string: [7, ['removed']],
        object: [7, 'text', [[]]],
      };
      for (const [key, right] of Object.entries(parse(text))) {
        for (const wrong of wrongs[typeof right] ?? []) {
          if (right === null && typeof wrong === 'string') continue; // a text is the alternative
          refused({ ...parse(text), [key]: wrong });
        }
      }
    });
  },
);

test.each<[string, unknown]>([
  ['nothing', undefined],
  ['null', null],
  ['a number', 1],
  ['a text', 'removed'],
  ['a list', [{ kind: 'removed' }]],
  ['no kind', { id: a }],
  ['an unknown kind', { kind: 'compacted' }],
  ['a kind of another case', { kind: 'Removed' }],
  ['a negative size', { kind: 'resized', sizeBytes: -1 }],
  ['half a byte', { kind: 'resized', sizeBytes: 0.5 }],
  ['an inexact size', { kind: 'resized', sizeBytes: 2 ** 53 }],
  ['a lower-case ULID', { kind: 'rolledBack', id: a.toLowerCase() }],
  ['a public id for a ULID', { kind: 'rolledBack', id: `x.${a}` }],
  ['a letter that no ULID has', { kind: 'rolledBack', id: 'I'.repeat(26) }],
])('%s is no control record', (_, payload) => {
  refused(payload);
});
