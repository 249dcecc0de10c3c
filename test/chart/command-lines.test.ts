/** The command lines of the chart, read by the code that reads them in a pod. */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { expect, test } from '@jest/globals';
import {
  parseAttacher,
  parseController,
  parseNode,
  parseVolumedriver,
  type RawOptions,
} from '../../src/config.ts';
import { describeRequires } from '../support/requires.ts';
import { containers, renderObjects, valuesFile } from './render.ts';

const full = { files: [valuesFile('full')] };
const second = { files: [valuesFile('second')], release: 'second' };

describeRequires(['helm'], "the chart's command lines", () => {
  const parsers = {
    volumedriver: parseVolumedriver,
    attacher: parseAttacher,
    node: parseNode,
    controller: parseController,
  };
  const main = readFileSync(resolve(import.meta.dirname, '../../src/main.ts'), 'utf8');

  test.each([
    ['by default', {}],
    ['with everything', full],
    ['of a second installation', second],
  ])('are understood by every role, %s', (_when, rendering) => {
    const ours = containers(renderObjects(rendering)).filter(
      ({ command }) => command?.[0] === 'volumedriver-csi',
    );
    expect(ours.map(({ command }) => command?.[1]).sort()).toEqual(Object.keys(parsers).sort());
    for (const { command, args = [] } of ours) {
      const flags = args.map((arg) => arg.replace(/=.*/s, ''));
      expect(flags.filter((flag) => !main.includes(`'${flag} <`))).toEqual([]);
      const parser = parsers[command?.[1] as keyof typeof parsers];
      expect(() => parser(optionsOf(args))).not.toThrow();
    }
  });

  test('use variables that are there', () => {
    for (const { args = [], env = [] } of containers(renderObjects(full))) {
      const used = args.flatMap((arg) => Array.from(arg.matchAll(/\$\(([^)]*)\)/g), (m) => m[1]));
      const issuer = 'VOLUMEDRIVER_CSI_ISSUER_SERVICE';
      const known = [...env.map(({ name }) => name), `${issuer}_HOST`, `${issuer}_PORT`];
      expect(used.filter((name) => !known.includes(name ?? ''))).toEqual([]);
    }
  });
});

/** As commander makes them, with the variables that the kubelet fills in. */
function optionsOf(args: readonly string[]): RawOptions {
  return Object.fromEntries(
    args.map((arg) => {
      const [, flag = '', value = ''] = /^--([a-z-]+)=(.*)$/s.exec(arg) ?? [];
      const option = flag.replace(/-([a-z])/g, (_match, letter: string) => letter.toUpperCase());
      return [
        option,
        value.replace(/\$\(([A-Z_]*)\)/g, (_match, name: string) =>
          name.endsWith('PORT') ? '9443' : name.endsWith('NAME') ? 'node1' : '10.0.0.1',
        ),
      ];
    }),
  );
}
