/** Rules about the repository that ESLint, Prettier and the compiler cannot check. */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { status } from '@grpc/grpc-js';
import { suiteOf } from '../scripts/suites.ts';
import { toCsiStatus } from '../src/csi/status.ts';
import { replyErrorOf } from '../src/nbd/errors.ts';
import { commands, nbdErrors } from '../src/nbd/protocol.ts';
import { errorCodes, isErrorCode, VolumeError } from '../src/volumes/errors.ts';

const root = resolve(import.meta.dirname, '..');
const linesMax = 500;

const codeFiles = glob('{src,test,scripts,bench,bin,.ci}/**/*').filter(isOurCode);
const typescriptFiles = codeFiles.filter((path) => path.endsWith('.ts'));
const testFiles = typescriptFiles.filter((path) => path.endsWith('.test.ts'));
const sourceFiles = typescriptFiles.filter((path) => path.startsWith('src/') && !isTestCode(path));
const texts = [
  ...codeFiles,
  ...glob('*').filter((path) => path !== 'package-lock.json' && !path.endsWith('.log')),
  ...glob('{docs,proto,deploy}/**/*'),
];

describe('source files', () => {
  test(`have at most ${linesMax} lines`, () => {
    const tooLong = codeFiles
      .map((path) => ({ path, lines: read(path).split('\n').length - 1 }))
      .filter(({ lines }) => lines > linesMax);
    expect(tooLong).toEqual([]);
  });

  test('open with a comment', () => {
    const opensWithComment = /^(#!.*\n)?(\/\*\*|\/\/|#|import .*\n)/;
    expect(codeFiles.filter((path) => !opensWithComment.test(read(path)))).toEqual([]);
  });

  test('are named in kebab-case', () => {
    const kebab = /^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+)*$/;
    expect(typescriptFiles.filter((path) => !kebab.test(basename(path)))).toEqual([]);
  });

  test('live in folders that say what they are about', () => {
    const vague = /(^|\/)(utils?|common|helpers?|misc)(\/|\.ts$)|(^|\/)index\.ts$/;
    expect(typescriptFiles.filter((path) => vague.test(path))).toEqual([]);
  });

  test('are used by something other than their own test', () => {
    const launched = glob('bin/*').flatMap((path) =>
      Array.from(read(path).matchAll(/dist\/(\S+)\.js\b/g), (match) => `src/${match[1] ?? ''}.ts`),
    );
    const used = new Set([...launched, 'src/main.ts']);
    for (const path of typescriptFiles) {
      for (const target of [...importsOf(path), ...startsOf(path)]) {
        if (path !== target.replace(/\.ts$/, '.test.ts')) used.add(target);
      }
    }
    expect(sourceFiles.filter((path) => !used.has(path))).toEqual([]);
  });
});

describe('tests', () => {
  test('are never focused or skipped by hand', () => {
    const byHand =
      /\b(describe|test|it)\.(only|skip|todo)\b|\b(fdescribe|fit|xdescribe|xit|xtest)\(/;
    const allowed = [
      'test/support/requires.ts',
      'test/support/jest-reporter.test.ts',
      'test/e2e/support/step.ts',
    ];
    const found = typescriptFiles.filter(
      (path) => !allowed.includes(path) && byHand.test(read(path)),
    );
    expect(found).toEqual([]);
  });

  test('never replace modules', () => {
    expect(testFiles.filter((path) => /\bjest\.(unstable_)?(do)?mock/i.test(read(path)))).toEqual(
      [],
    );
  });

  test('have nothing to put outside of the temp folder', () => {
    const fixedPath = new RegExp(`${['', 'tmp', ''].join('/')}[a-z0-9-]{2,}`, 'i');
    const found = typescriptFiles.filter((path) => fixedPath.test(read(path)));
    expect(found).toEqual([]);
  });

  test('each have a suite', () => {
    for (const path of testFiles) expect(suiteOf(path).budgetMinutes).toBeGreaterThan(0);
  });
});

describe('texts', () => {
  // Written apart, or this file would find itself.
  const notes = ['TO DO', 'FIX ME', 'X XX'].map((word) => word.replace(' ', ''));
  const banned = [
    { what: 'notes to self', pattern: new RegExp(`\\b(${notes.join('|')})\\b`) },
    { what: 'ticket numbers', pattern: /\bissues? #\d/i },
    { what: 'folders of one machine', pattern: /(^|[\s"'`=(])\/(work|home\/[a-z])\b/m },
  ];
  test.each(banned)('hold no $what', ({ pattern }) => {
    expect(texts.filter((path) => pattern.test(read(path)))).toEqual([]);
  });

  test('of the README name commands that exist', () => {
    const targets = new Set(Array.from(read('Makefile').matchAll(/^([a-z0-9-]+):/gm), (m) => m[1]));
    const named = texts
      .filter((path) => path.endsWith('.md'))
      .flatMap((path) =>
        Array.from(read(path).matchAll(/(?:`|^ *(?:sudo )?)make ([a-z0-9-]+)/gm), (m) => m[1]),
      );
    expect(named).toContain('demo');
    expect(named.filter((name) => !targets.has(name))).toEqual([]);
  });

  test('link to files that exist', () => {
    const broken = texts
      .filter((path) => path.endsWith('.md'))
      .flatMap((path) =>
        Array.from(read(path).matchAll(/\]\(([^)#:]+)(#[^)]*)?\)/g), (match) => ({
          path,
          target: match[1] ?? '',
        })),
      )
      .filter(({ path, target }) => !existsSync(join(root, dirname(path), target)));
    expect(broken).toEqual([]);
  });
});

describe('docs/errors.md', () => {
  const rows = Array.from(
    read('docs/errors.md').matchAll(/^\| ([A-Z_]+) \| (\w+) \| (\w+) \| (\w+) \|/gm),
    ([, code, errno, grpc, nbd]) => ({ code, errno, grpc, nbd }),
  );

  test('lists every code, in the order of the source', () => {
    expect(rows.map(({ code }) => code)).toEqual(Object.keys(errorCodes));
  });

  test.each(rows)('tells what $code becomes at each edge', ({ code, errno, grpc, nbd }) => {
    if (!isErrorCode(code)) throw new Error(`${String(code)} is no error code`);
    const error = new VolumeError(code, 'read the volume: a test');
    expect({ errno, grpc, nbd }).toEqual({
      errno: error.errno,
      grpc: status[toCsiStatus('', error).code],
      nbd: nameOf(nbdErrors, replyErrorOf(error, commands.READ)),
    });
  });
});

describe('docs/dependencies.md', () => {
  const packageJson = JSON.parse(read('package.json')) as Record<string, Record<string, string>>;
  const installed = ['dependencies', 'devDependencies', 'optionalDependencies'].flatMap((kind) =>
    Object.keys(packageJson[kind] ?? {}),
  );
  const rows = Array.from(
    read('docs/dependencies.md').matchAll(/^\| (.*?) \|/gm),
    (m) => m[1] ?? '',
  );
  const explained = rows.flatMap((cell) => Array.from(cell.matchAll(/`([^`]+)`/g), (m) => m[1]));

  test('explains every npm package, and none that is not there', () => {
    expect(explained.filter((name) => name?.startsWith('apt:') !== true).sort()).toEqual(
      installed.sort(),
    );
  });

  test('explains every Debian package', () => {
    const table = /packages='\n([^']*)'/.exec(read('scripts/install-missing'))?.[1] ?? '';
    const packages = table.split('\n').flatMap((line) => line.split(/ +/)[1] ?? []);
    expect(packages).toContain('nodejs');
    expect(packages.filter((name) => !explained.includes(`apt:${name}`))).toEqual([]);
  });
});

function glob(pattern: string): string[] {
  return globSync(pattern, { cwd: root, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1))
    .sort();
}

function isOurCode(path: string): boolean {
  if (path.startsWith('src/api/generated/')) return false;
  return /\.(ts|js|sh|py)$/.test(path) || read(path).startsWith('#!');
}

function isTestCode(path: string): boolean {
  return path.endsWith('.test.ts') || path.endsWith('-contract.ts');
}

function read(path: string): string {
  return readFileSync(join(root, path), 'utf8');
}

/** Files that the given one imports, relative to the repository. */
function importsOf(path: string): string[] {
  return Array.from(read(path).matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g), (match) =>
    join(dirname(path), match[1] ?? ''),
  );
}

/** Files that it starts as worker threads or processes: `new URL('./x.ts', import.meta.url)`. */
function startsOf(path: string): string[] {
  return Array.from(read(path).matchAll(/new URL\(\s*[`']([^`']+)[`']/g), (match) =>
    join(dirname(path), match[1] ?? '').replace(/\.js$/, '.ts'),
  );
}

function nameOf(table: Readonly<Record<string, number>>, value: number): string | undefined {
  return Object.keys(table).find((name) => table[name] === value);
}
